"""Graphs that are ready for this machine, kept in the user's cache: a header of JSON in front of a library's bytes."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pesi.files import default_cache_dir, whole_file
from pesi.machine import processor_kind

_MAGIC = b"pesi graph 1\n"
_ALIGNED = 4096  # a page: where the library's bytes begin


class Graph(NamedTuple):
    """What was kept."""

    header: dict[str, Any]
    data: memoryview


def graph_path(key: str, runtime: str, precision: str) -> Path:
    """Where the graph of a program (`Program.key`) is kept."""
    return default_cache_dir() / "graphs" / f"{key[:24]}-{runtime}-{precision}-{processor_kind()}.graph"


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
