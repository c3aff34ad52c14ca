"""Readers of data sets: each turns one data set's own files into the record table, and does nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pesi.datasets.readers import (
    derm7pt,
    folder,
    ham10000,
    isic2016,
    isic2017,
    isic2018,
    isic2019,
    isic2020,
    own_csv,
    ph2,
)
from pesi.datasets.readers.csv_file import csv_header
from pesi.errors import DataError


@dataclass(frozen=True)
class Reader:
    """One data set's reader.

    Args:
        name: The name for `read_dataset(..., dataset=name)`.
        read: Gives the record table of a folder.
        matches: Whether a folder looks like this data set.
        looks_for: What `matches` looks for, for the user.
        general: Whether it reads anybody's files; such readers are asked only where no data set's own reader matches.
    """

    name: str
    read: Callable[[Path], pd.DataFrame]
    matches: Callable[[Path], bool]
    looks_for: str
    general: bool = False


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("isic2016", isic2016.read_isic2016, isic2016.matches, isic2016.LOOKS_FOR),
        Reader("isic2017", isic2017.read_isic2017, isic2017.matches, isic2017.LOOKS_FOR),
        Reader("isic2018", isic2018.read_isic2018, isic2018.matches, isic2018.LOOKS_FOR),
        Reader("isic2019", isic2019.read_isic2019, isic2019.matches, isic2019.LOOKS_FOR),
        Reader("isic2020", isic2020.read_isic2020, isic2020.matches, isic2020.LOOKS_FOR),
        Reader("ham10000", ham10000.read_ham10000, ham10000.matches, ham10000.LOOKS_FOR),
        Reader("ph2", ph2.read_ph2, ph2.matches, ph2.LOOKS_FOR),
        Reader("derm7pt", derm7pt.read_derm7pt, derm7pt.matches, derm7pt.LOOKS_FOR),
        Reader("folder", folder.read_folder, folder.matches, folder.LOOKS_FOR, general=True),
        Reader("csv", own_csv.read_own_csv, own_csv.matches, own_csv.LOOKS_FOR, general=True),
    )
}


def read_dataset(root: str | Path, *, dataset: str | None = None) -> pd.DataFrame:
    """The record table of a data set.

    Args:
        root: The data set's folder, or a CSV file.
        dataset: One of `READERS`; None: found out by what lies in `root`.

    Returns:
        A record table (`pesi.datasets.records`) with absolute paths.

    Raises:
        DataError: There is no such folder or reader, none or several readers match, or the files are at fault.
    """
    if dataset is not None and dataset not in READERS:
        raise DataError(f"Unknown data set {dataset!r}.", f"Choose one of: {', '.join(READERS)}.")
    path = Path(root).expanduser().absolute()
    if not path.exists():
        raise DataError(f"There is no {root}.", "Check the path of the data set.")
    if dataset is not None:
        reader = READERS[dataset]
        if not reader.matches(path):
            raise DataError(f"{root} does not look like {dataset}; it {_content(path)}.", f"Needed: {reader.looks_for}")
        return reader.read(path)
    found = [reader for reader in READERS.values() if not reader.general and reader.matches(path)]
    found = found or [reader for reader in READERS.values() if reader.general and reader.matches(path)]
    if len(found) > 1:
        names = ", ".join(reader.name for reader in found)
        raise DataError(f"{root} could be any of: {names}.", f"Say which one it is (dataset: {found[0].name}, ...).")
    if not found:
        known = "".join(f"\n     {reader.name}: {reader.looks_for}" for reader in READERS.values())
        raise DataError(f"{root} is no data set that we know; it {_content(path)}.", f"It was looked for:{known}")
    return found[0].read(path)


def _content(path: Path) -> str:
    if path.is_file():
        header = csv_header(path) if path.suffix.lower() == ".csv" else []
        return f"is a file with the columns {', '.join(header)}" if header else "is a file"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir() if not entry.name.startswith("."))
    if not names:
        return "is an empty folder"
    return "holds: " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
