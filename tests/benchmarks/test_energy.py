from __future__ import annotations

from pathlib import Path

import pytest
from energy import EnergyMeter

from benchmarks.conftest import BENCHMARKS

assert BENCHMARKS.is_dir()  # importing it puts the scripts on the path


def counter(root: Path, name: str, microjoules: int) -> None:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        counter(tmp_path, name, 5_000_000)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 7_500_000)
    counter(tmp_path, "intel-rapl:1", 6_000_000)
    counter(tmp_path, "intel-rapl:0:0", 100_000_000)
    assert meter.joules() == pytest.approx(3.5)
    assert meter.joules() == 0


def test_a_counter_that_began_anew(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 262_143_000_000)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 1_000_000)
    assert meter.joules() == pytest.approx(1.32885)


def test_without_a_readable_counter_nothing_is_claimed(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "none").joules() is None
    counter(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert EnergyMeter(tmp_path).joules() is None
