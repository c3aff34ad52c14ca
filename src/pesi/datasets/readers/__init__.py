"""Readers of data sets: each turns one data set's own files into the record table, and does nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.image_files import subfolders
from pesi.datasets.labels import of_task
from pesi.datasets.readers import derm7pt, folder, own_csv, ph2
from pesi.datasets.readers.challenges import CHALLENGES
from pesi.datasets.readers.csv_file import TABLE_SUFFIXES, csv_header, read_csv
from pesi.datasets.readers.reading import Reading
from pesi.datasets.records import listed, record_table
from pesi.errors import DataError
from pesi.taxonomy import Task


@dataclass(frozen=True)
class Reader:
    """One data set's reader.

    Args:
        name: The name for `read_dataset(..., dataset=name)`.
        read: Gives the records of a folder, and notes what is not there.
        matches: Whether a folder looks like this data set.
        looks_for: What `matches` looks for, for the user.
        general: Whether it reads anybody's files; such readers are asked only where no data set's own reader matches.
    """

    name: str
    read: Callable[[Path, Reading], list[dict[str, Any]]]
    matches: Callable[[Path], bool]
    looks_for: str
    general: bool = False


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        *(Reader(one.name, one.read, one.matches, one.looks_for) for one in CHALLENGES),
        Reader("ph2", ph2.read_ph2, ph2.matches, ph2.LOOKS_FOR),
        Reader("derm7pt", derm7pt.read_derm7pt, derm7pt.matches, derm7pt.LOOKS_FOR),
        Reader("folder", folder.read_folder, folder.matches, folder.LOOKS_FOR, general=True),
        Reader("csv", own_csv.read_own_csv, own_csv.matches, own_csv.LOOKS_FOR, general=True),
    )
}


def read_dataset(
    root: str | Path,
    *,
    dataset: str | None = None,
    skip_missing: bool = False,
    task: Task | None = None,
    skip_other_diagnoses: bool = False,
    say: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """The record table of a data set.

    Args:
        root: The data set's folder, or a CSV file.
        dataset: One of `READERS`; None: found out by what lies in `root`.
        skip_missing: Leave out images whose files are not there, and masks; else they are an error.
        task: Where given, every diagnosis must belong to one of its classes.
        skip_other_diagnoses: Leave out images of other diagnoses; else they are an error.
        say: Told what was left out, and what else a user should know of the files. Default: Python's warnings.

    Returns:
        A record table (`pesi.datasets.records`) with absolute paths.

    Raises:
        DataError: There is no such folder or reader, none or several readers match, the files are at fault, or some
            are not there; all of these are counted, and the first ten named.
    """
    say = say or (lambda text: warnings.warn(text, stacklevel=3))
    records, reading = survey_dataset(root, dataset=dataset)
    for text in (*reading.remarks, *(f"{fault.reason} What it holds is left out." for fault in reading.unreadable)):
        say(text)
    if reading.missing:
        told = f"{len(reading.missing)} file(s) of {root} are not there"
        reasons = listed([fault.reason for fault in reading.missing])
        if not skip_missing:
            cure = "Add them, or correct the names; or leave them out with --skip-missing."
            raise DataError(f"{told}:{reasons}", cure)
        say(f"{told}, and were left out:{reasons}")
    if task is not None:
        records = of_task(records, task, skip=skip_other_diagnoses, say=say)
    return records


def survey_dataset(root: str | Path, *, dataset: str | None = None) -> tuple[pd.DataFrame, Reading]:
    """The record table of the images that are there, and what else was found: see `read_dataset`.

    Raises:
        DataError: As `read_dataset`; missing files only where no image is there.
    """
    if dataset is not None and dataset not in READERS:
        raise DataError(f"Unknown data set {dataset!r}.", f"Choose one of: {', '.join(READERS)}.")
    path = Path(root).expanduser().absolute()
    if not path.exists():
        raise DataError(f"There is no {root}.", "Check the path of the data set.")
    try:
        reader = _reader(path, root, dataset)
    except PermissionError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.", "Change its permissions.") from error
    reading = Reading()
    rows = reader.read(path, reading)
    if not rows and reading.missing:
        reasons = listed([fault.reason for fault in reading.missing])
        raise DataError(f"No image of {root} is there, {len(reading.missing)} are missing:{reasons}", "Add the images.")
    return record_table(rows), reading


def _reader(path: Path, root: str | Path, dataset: str | None) -> Reader:
    if dataset is not None:
        reader = READERS[dataset]
        if not reader.matches(path):
            raise DataError(f"{root} does not look like {dataset}; it {_content(path)}.", f"Needed: {reader.looks_for}")
        return reader
    found = _matching(path)
    if len(found) > 1:
        names = ", ".join(reader.name for reader in found)
        cure = f"Say which one it is (--dataset {found[0].name}, ...)."
        raise DataError(f"{root} could be any of: {names}.", cure)
    if not found:
        tables = [path] if path.is_file() else sorted(path.iterdir())
        tables = [file for file in tables if file.suffix.lower() in TABLE_SUFFIXES and file.is_file()]
        if len(tables) == 1:
            read_csv(tables[0], remarks=[])  # says what is wrong with it
        inside = [folder for folder in subfolders(path) if len(_matching(folder)) == 1]
        known = "".join(f"\n     {reader.name}: {reader.looks_for}" for reader in READERS.values())
        known = f"Did you mean {inside[0]}?" if len(inside) == 1 else f"It was looked for:{known}"
        raise DataError(f"{root} is no data set that we know; it {_content(path)}.", known)
    return found[0]


def _matching(path: Path) -> list[Reader]:
    found = [reader for reader in READERS.values() if not reader.general and reader.matches(path)]
    found = found or [reader for reader in READERS.values() if reader.general and reader.matches(path)]
    if len(found) > 1 and all(reader.general for reader in found) and not folder.named_as_diagnoses(path):
        found = [READERS["csv"]]
    return found


def _content(path: Path) -> str:
    if path.is_file():
        header = csv_header(path) if path.suffix.lower() in TABLE_SUFFIXES else []
        return f"is a file with the columns {', '.join(header)}" if header else "is a file"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir() if not entry.name.startswith("."))
    if not names:
        return "is an empty folder"
    return "holds: " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
