"""What a machine can do, and whether it is idle: its instruction sets, matrix products and copies a second."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pesi.errors import PesiError

# Of /proc/cpuinfo, what decides how fast a network is.
INSTRUCTIONS = (
    *("sse4_2", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
BUSY = 0.3  # load a core above which figures mean nothing
PRECISIONS = ("float32", "bfloat16", "int8")
_SIDE, _COPIED = 2048, 256 << 20  # of the matrices; bytes: more than any cache that one core has for itself


def processor() -> str:
    """The processor's name, or the kind of machine where the system does not tell it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """Those of `INSTRUCTIONS` that the processor has, a space between them."""
    known = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return " ".join(name for name in INSTRUCTIONS if name in known)


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.split("\t")[0].strip() == key), "")


def check_idle(*, anyway: bool) -> float:
    """The load a core over the last minute.

    Args:
        anyway: Whether a busy machine is measured all the same; the load stands beside each figure.

    Raises:
        PesiError: The machine is busy, and `anyway` is off.
    """
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    if load > BUSY and not anyway:
        raise PesiError(
            f"This machine is busy: a load of {load:.2f} a core over the last minute.",
            "Stop what else runs, wait two minutes, and measure then; --busy measures all the same, for a try.",
        )
    return load


def matrix_rate(precision: str, seconds: float) -> float:
    """Multiplications and additions a second of square products, the best of `seconds`.

    float32 and bfloat16 by torch, int8 by oneDNN's linear layer (uint8 times int8, rescaled to uint8), which uses
    VNNI or AMX where they are.
    """
    multiply: Callable[[], Tensor]
    if precision == "int8":
        weight = torch.randint(-127, 127, (_SIDE, _SIDE), dtype=torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(weight, [_SIDE, _SIDE])
        x = torch.randint(0, 255, (_SIDE, _SIDE), dtype=torch.uint8)
        scales, zeros = torch.full((_SIDE,), 0.01), torch.zeros(_SIDE, dtype=torch.int64)

        def multiply() -> Tensor:
            pointwise = torch.ops.onednn.qlinear_pointwise
            found: Tensor = pointwise(x, 0.01, 128, packed, scales, zeros, None, 0.1, 0, torch.uint8, "none", [], "")
            return found
    else:
        a = torch.randn(_SIDE, _SIDE, dtype=getattr(torch, precision))

        def multiply() -> Tensor:
            return a @ a

    return 2 * _SIDE**3 / _best(multiply, seconds)


def copy_rate(seconds: float) -> float:
    """Bytes read and written a second by copying large arrays, the best of `seconds`."""
    source, target = torch.ones(_COPIED // 4), torch.empty(_COPIED // 4)
    return 2 * _COPIED / _best(lambda: target.copy_(source), seconds)


def _best(work: Callable[[], object], seconds: float) -> float:
    """The shortest time of a call: a limit is what the machine can, not what it does on the average."""
    work()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while not times or time.perf_counter() < until:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
