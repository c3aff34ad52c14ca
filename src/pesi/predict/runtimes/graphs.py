"""Graphs that are ready for this machine, kept in the user's cache: a header of JSON in front of a library's bytes."""

from __future__ import annotations

import hashlib
import json
import mmap
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pesi.datasets.cache import default_cache_dir
from pesi.files import whole_file

_MAGIC = b"pesi graph 1\n"
_ALIGNED = 4096  # a page: where the library's bytes begin


class Graph(NamedTuple):
    """What was kept."""

    header: dict[str, Any]
    data: memoryview


@cache
def machine() -> str:
    """A digest of the processor's kind: what was made for one may not run on another that shares the cache."""
    told = [platform.machine(), platform.system()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        told += sorted({line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "Features")})
    except OSError:
        told.append(platform.processor())  # on Linux it would start a program to ask
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def graph_path(key: str, runtime: str, precision: str) -> Path:
    """Where the graph of a program (`Program.key`) is kept."""
    return default_cache_dir() / "graphs" / f"{key[:24]}-{runtime}-{precision}-{machine()}.graph"


def keep_graph(path: Path, header: Mapping[str, Any], data: bytes) -> None:
    """Keep a graph, whole or not at all.

    Raises:
        StorageError: The system refused to write.
    """
    told = dict(header) | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    start = _MAGIC + json.dumps(told).encode() + b"\n"
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(start.ljust(-(-len(start) // _ALIGNED) * _ALIGNED, b"\0"))
        file.write(data)


def kept_graph(path: Path, wanted: Mapping[str, Any]) -> Graph | None:
    """A graph that was kept, mapped into memory; None where there is none, or a damaged one, or another's.

    Args:
        path: See `graph_path`.
        wanted: What its header must say.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            header = json.loads(file.readline())
            start = -(-file.tell() // _ALIGNED) * _ALIGNED
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start:]
    except (OSError, ValueError):
        return None
    if not isinstance(header, dict) or any(header.get(name) != value for name, value in wanted.items()):
        return None
    whole = len(data) == header.get("bytes") and hashlib.sha256(data).hexdigest() == header.get("sha256")
    return Graph(header, data) if whole else None
