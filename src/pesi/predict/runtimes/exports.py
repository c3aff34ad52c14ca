"""Graphs that `pesi export` wrote: a folder for each runtime and precision, with a record of what they are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pesi.errors import BundleError
from pesi.files import default_cache_dir

GRAPHS, RECORD = "graphs", "export.json"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GraphRecord(_Part):
    """One graph: the networks that see the same pictures.

    Attributes:
        program: See `Program.key`.
        members: The networks, their places in the bundle.
        size: Side of its pictures, uint8 sRGB (N, size, size, 3).
        files: Name -> SHA-256; the first is the one to open.
        outputs: Name -> shape without the first axis.
        measured: Against PyTorch in float32, as `Session.measured`.
    """

    program: str
    members: tuple[int, ...]
    size: int
    files: dict[str, str]
    outputs: dict[str, list[int]]
    measured: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of the files."""
        return hashlib.sha256(" ".join(self.files.values()).encode()).hexdigest()


class ExportRecord(_Part):
    """A bundle's graphs for one runtime and precision.

    Attributes:
        bundle_id: Of the bundle.
        runtime, precision: What they are for.
        made_by: Versions of pesi-cnn and of the library.
        calibrated_on: The images that told what numbers int8 must hold; "" for other precisions.
        graphs: All networks, each in one of them.
        measured: The whole classifier against PyTorch in float32 on labelled images: how many of which, the largest and
            the mean change of a probability, and the scores of both with the interval of their difference
            (`Comparison.to_dict`, b: PyTorch); None: not measured.
    """

    format_version: Literal[1] = 1
    bundle_id: str
    runtime: str
    precision: str
    made_by: str
    calibrated_on: str = ""
    graphs: tuple[GraphRecord, ...]
    measured: dict[str, Any] | None = None


@dataclass(frozen=True)
class ExportedGraph:
    """A graph and its folder."""

    folder: Path
    record: GraphRecord

    def checked(self) -> Path:
        """The file to open, after a look at all.

        Raises:
            BundleError: One is missing or not the one that was written.
        """
        for name, digest in self.record.files.items():
            try:
                found = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            except OSError as error:
                raise BundleError(f"{self.folder / name} cannot be read: {error.strerror}.", _AGAIN) from error
            if found != digest:
                raise BundleError(f"{self.folder / name} is damaged.", _AGAIN)
        return self.folder / next(iter(self.record.files))


_AGAIN = "Export it again (pesi export), or remove that folder."


def export_folders(bundle: Path, bundle_id: str) -> tuple[Path, Path]:
    """Where a bundle's graphs are looked for: beside it, and in the user's cache, for one that cannot be written to.

    Args:
        bundle: Its folder.
        bundle_id: See `CommonConfig.bundle_id`.
    """
    return bundle / GRAPHS, default_cache_dir() / "exports" / bundle_id.replace("@", "-")


def name_of(runtime: str, precision: str) -> str:
    """Of the folder of a runtime's graphs."""
    return f"{runtime}-{precision}"


def read_export(folder: Path) -> ExportRecord | None:
    """The record of a folder of graphs; None: there is none.

    Raises:
        BundleError: It is damaged.
    """
    try:
        return ExportRecord.model_validate_json((folder / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise BundleError(f"{folder / RECORD} is no record of exported graphs.", _AGAIN) from error


def exported_graphs(folders: Sequence[Path], runtime: str, precision: str) -> tuple[ExportedGraph, ...]:
    """A runtime's graphs, of the first of the folders that has some."""
    for folder in folders:
        own = folder / name_of(runtime, precision)
        if (record := read_export(own)) is not None:
            return tuple(ExportedGraph(own, graph) for graph in record.graphs)
    return ()
