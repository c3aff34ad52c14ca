"""Memory that a network frees is kept by the process, for `pesi` and for the benchmarks."""

from __future__ import annotations

import ctypes
import os


def keep_memory() -> None:
    """Have the C library keep what is freed, up to 2 GiB: a network's buffers come and go with every layer.

    Handed back to the system each time and mapped anew, they can cost as much as the arithmetic. For glibc (malloc's
    `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`, mallopt(3)); elsewhere, or where GLIBC_TUNABLES is set, nothing changes.
    """
    mmap_threshold, trim_threshold = -3, -1
    if "GLIBC_TUNABLES" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
