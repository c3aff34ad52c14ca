"""What this process may use of the machine: processor cores, the threads of its arithmetic, freed memory."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath


def available_cores(root: str | Path = "/") -> int:
    """The cores that this process may use: by its affinity, and by the processor time of its control groups.

    Args:
        root: Where `proc` and `sys` are mounted.

    Returns:
        At least 1. A group's share of 1.5 cores counts as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(share) for share in _group_shares(Path(root)))]))


def _group_shares(root: Path) -> list[float]:
    """How many cores' time the process's control groups, and those above them, allow (cgroups(7), versions 1 and 2)."""
    shares, own = [], root / "proc/self/cgroup"
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # In a container the path may be the host's, of which only the root is mounted: the walk up ends there.
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                folder = root / "sys/fs/cgroup" / mount / str(group).lstrip("/")
                with suppress(OSError, ValueError, ZeroDivisionError):  # "max": no limit; -1 is the same of version 1
                    quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
                    shares.append(int(quota) / int(period) if quota != "-1" else math.inf)
    return [share for share in shares if share < math.inf]


@cache
def processor_kind() -> str:
    """A digest of the processor's kind: what was made for one may not run on another that shares the cache."""
    told = [platform.machine(), platform.system()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told += sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    except OSError:
        told.append(platform.processor())  # on Linux it would start a program to ask
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def thread_count() -> int:
    """Threads for arithmetic: the first number of OMP_NUM_THREADS (OpenMP 4.5, 4.2), else `available_cores`."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else available_cores()


def tune_threads() -> None:
    """Set the environment of a command's arithmetic, where the user has not; before torch is first imported.

    As many threads as `available_cores`, and such that give their core away while they wait: with a spinning wait,
    torch crawls as soon as another program wants a core. NumPy's own products are small, and its threads spin.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "").strip() or str(available_cores())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def stream_count() -> int:
    """Images that a graph answers at once, each by its share of `thread_count`: PESI_STREAMS, else 1.

    One image is answered soonest by all threads. Of many more are answered in a second where each has threads of its
    own: those that share a layer wait for the last of them, which another program may hold up.
    """
    wanted = os.environ.get("PESI_STREAMS", "").strip()
    return min(int(wanted), thread_count()) if wanted.isdecimal() and int(wanted) else 1


def tune_streams(images: int) -> None:
    """Set the environment for so many images, where the user has not; before networks are opened.

    As many as there are threads, up to 4: each stream holds buffers of its own.
    """
    os.environ.setdefault("PESI_STREAMS", str(max(1, min(images, thread_count(), 4))))


def peak_memory() -> int | None:
    """The most memory that this process has had resident, bytes (getrusage(2)); None where no one keeps count."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
