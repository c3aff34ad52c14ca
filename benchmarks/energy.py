"""The processor's energy counters (RAPL), as Linux shows them; many virtual machines have none."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules that the processor packages have taken since the meter was last read.

    It reads what all processes take together, and nothing of a GPU.

    Args:
        root: Where the counters are.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # A package is intel-rapl:N (AMD's too); intel-rapl:N:M is a part of one.
        packages = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._counters = {path: _joules(path / "energy_uj") for path in packages}

    def joules(self) -> float | None:
        """Since the last call, or since the meter was made; None where no counter can be read."""
        if not self._counters or None in self._counters.values():
            return None
        spent = 0.0
        for path, before in self._counters.items():
            now = _joules(path / "energy_uj")
            if now is None or before is None:
                return None
            if now < before:  # the counter began anew
                spent += _joules(path / "max_energy_range_uj") or 0.0
            spent += now - before
            self._counters[path] = now
        return spent


def _joules(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):  # on many systems only root may read them
        return None
