"""The arithmetic of a Pesi block's tail by `tail.c`, which the user's own C compiler compiles once; see `nn.fused`.

As `torch.compile` does for its code. The library is kept in the user's cache; where there is no compiler, or no cache
to write to, torch's operations do the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from pesi.errors import PesiError
from pesi.files import default_cache_dir, whole_file
from pesi.machine import processor_kind
from pesi.nn.kernels import Affine, Settings, Softmax, memory_format

_SOURCE = Path(__file__).with_name("tail.c")
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
NATIVE = {torch.float32: "float", torch.bfloat16: "bfloat16"}
_LANES = 1024  # of tail.c
_SECONDS = 120.0  # for the compiler, which takes two or three


class _Tail(ctypes.Structure):
    """`Tail` of tail.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("z", "s", "grad", "out", "of_o", "of_s")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "s_scale", "s_shift", "alpha")),
        *((name, ctypes.c_void_p) for name in ("log_sum", "peak", "terms")),
        *((name, ctypes.c_int64) for name in ("images", "channels", "positions", "block")),
        *((name, ctypes.c_int32) for name in ("channels_last", "alphas", "relu", "threads")),
        *((name, ctypes.c_float) for name in ("inverse_temperature", "gain")),
    )


@cache
def native_kernels() -> NativeKernels | None:
    """The kernels; None where they cannot be had."""
    try:
        return NativeKernels()
    except (PesiError, OSError, subprocess.SubprocessError):
        return None


def compiled() -> Path:
    """The library in the user's cache, compiled if it is not there: of this source, processor and compiler.

    Raises:
        FileNotFoundError: There is no C compiler: neither $CC nor `cc`.
        CalledProcessError, TimeoutExpired: It failed.
        PesiError: The cache cannot be written.
    """
    words = shlex.split(os.environ.get("CC", "")) or ["cc"]
    compiler = shutil.which(words[0])
    if compiler is None:
        raise FileNotFoundError(f"No C compiler: {words[0]} is not there.")
    command = [compiler, *words[1:], *_FLAGS]
    told = [_SOURCE.read_text(encoding="utf-8"), processor_kind(), *command, str(Path(compiler).stat().st_mtime_ns)]
    library = default_cache_dir() / "native" / f"{hashlib.sha256(chr(0).join(told).encode()).hexdigest()[:24]}.so"
    if not library.is_file():
        with whole_file(library) as file:
            subprocess.run(
                [*command, "-o", file, _SOURCE, "-lm"],
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
            )
    return library


class NativeKernels:
    """Maps in one of `NATIVE`, in z's memory format.

    Raises:
        OSError, SubprocessError, PesiError: See `compiled`.
    """

    needs_result = False

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(compiled()))

    def forward(
        self, z: Tensor, a: Affine | None, s: Tensor, b: Affine | None, alpha: Tensor, settings: Settings
    ) -> tuple[Tensor, Softmax]:
        """See `Kernels`."""
        form = memory_format(z)
        z, s = z.contiguous(memory_format=form), s.contiguous(memory_format=form)
        y = torch.empty_like(z, memory_format=form)
        softmax = Softmax(*(z.new_empty(z.shape[:2], dtype=torch.float32) for _ in range(2)))
        self._call("forward", {"z": z, "s": s, "out": y}, a, b, alpha, softmax, settings)
        return y, softmax

    def backward(
        self,
        grad: Tensor,
        y: Tensor | None,
        z: Tensor,
        a: Affine | None,
        s: Tensor,
        b: Affine | None,
        alpha: Tensor,
        softmax: Softmax,
        settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernels`."""
        form = memory_format(z)
        z, s, grad = (t.contiguous(memory_format=form) for t in (z, s, grad))
        of_o, of_s = (torch.empty_like(z, memory_format=form) for _ in range(2))
        terms = torch.empty_like(softmax.log_sum)
        maps = {"z": z, "s": s, "grad": grad, "of_o": of_o, "of_s": of_s, "terms": terms}
        self._call("backward", maps, a, b, alpha, softmax, settings)
        return of_o, of_s, terms

    def _call(
        self,
        name: str,
        maps: dict[str, Tensor],
        a: Affine | None,
        b: Affine | None,
        alpha: Tensor,
        softmax: Softmax,
        settings: Settings,
    ) -> None:
        z = maps["z"]
        vectors = {"alpha": alpha.float(), "log_sum": softmax.log_sum, "peak": softmax.peak}
        for norm, prefix in ((a, ""), (b, "s_")):
            if norm is not None:
                vectors |= {f"{prefix}scale": norm.scale, f"{prefix}shift": norm.shift}
        given = {key: each.contiguous() for key, each in vectors.items() if each is not None}  # alive until it returns
        images, channels, height, width = z.shape
        tail = _Tail(
            **{key: each.data_ptr() for key, each in (maps | given).items()},
            images=images,
            channels=channels,
            positions=height * width,
            block=min(_LANES, max(64, -(-images * channels // torch.get_num_threads()))),
            channels_last=memory_format(z) == torch.channels_last,
            alphas=alpha.numel() > 1,
            relu=settings.relu,
            threads=torch.get_num_threads(),
            inverse_temperature=1 / settings.temperature,
            gain=settings.gain,
        )
        getattr(self._library, f"{name}_{NATIVE[z.dtype]}")(ctypes.byref(tail))
