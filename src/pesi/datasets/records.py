"""The record table: one row an image, the same columns whatever the data set; missing is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pesi.errors import DataError
from pesi.files import utf8

COLUMNS: tuple[str, ...] = (
    "image_id",  # str, unique
    "path",  # str, absolute or relative to the working folder; the image file
    "diagnosis",  # str, ISIC abbreviation (taxonomy.DIAGNOSES) or the user's own class name; missing: not known
    "lesion_id",  # str or missing
    "patient_id",  # str or missing
    "split",  # "train", "val", "test" or missing
    "mask_path",  # str or missing: lesion mask in the image's geometry
    "age",  # float, years, or missing
    "sex",  # "female", "male" or missing
    "site",  # str, anatomical site in the data set's own words, or missing
    "source",  # str, the data set's name
)
SPLITS: tuple[str, ...] = ("train", "val", "test")
_LISTED = 10


def record_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Make a record table of rows that may leave columns out.

    Args:
        rows: One mapping an image; `image_id`, `path` and `source` are needed, everything else may be missing.

    Returns:
        A frame with exactly `COLUMNS`; `age` is float, the others are text; missing values are NaN / None.

    Raises:
        DataError: No rows, an unknown column, a missing id or path, an id twice, a split of another name, or a file
            whose name is no UTF-8.
    """
    rows = list(rows)
    if not rows:
        raise DataError("No images were found.", "Check the folder's path and that its images are .jpg or .png files.")
    unknown = {key for row in rows for key in row} - set(COLUMNS)
    if unknown:
        raise DataError(f"Unknown record columns: {', '.join(sorted(unknown))}.", f"Use only: {', '.join(COLUMNS)}.")
    for name in (row.get(column) for row in rows for column in ("path", "mask_path", "image_id")):
        if isinstance(name, str) and utf8(name) != name:
            raise DataError(f"The file name {utf8(name)} is not UTF-8.", "Rename that file, or the folder.")
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    table["age"] = pd.to_numeric(table["age"], errors="coerce").astype("float64")
    for column in COLUMNS:
        if column != "age":
            table[column] = table[column].astype("object").where(table[column].notna(), None)
    for column in ("image_id", "path", "source"):
        missing = table.index[table[column].isna()]
        if len(missing):
            raise DataError(f"Row {int(missing[0]) + 1} has no {column}.", "Every image needs one.")
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise DataError(
            f"{len(twice)} image id(s) stand more than once, the first is {twice.iloc[0]!r}.",
            "Remove the repeated rows: an image must have one label.",
        )
    wrong = sorted(set(table["split"].dropna()) - set(SPLITS))
    if wrong:
        raise DataError(f"Unknown split {wrong[0]!r}.", f"A split is one of: {', '.join(SPLITS)}.")
    return table


def check_split(split: str) -> None:
    """Make sure that a split's name is one of `SPLITS`, or `all`.

    Raises:
        DataError: It is none.
    """
    if split not in (*SPLITS, "all"):
        raise DataError(f"Unknown split {split!r}.", f"Choose one of: {', '.join(SPLITS)}, all.")


def with_absolute_paths(records: pd.DataFrame) -> pd.DataFrame:
    """A copy of a record table whose paths hold from any working folder."""
    return records.assign(
        **{
            column: records[column].map(lambda path: str(Path(path).absolute()), na_action="ignore")
            for column in ("path", "mask_path")
        }
    )


def listed(entries: Sequence[str]) -> str:
    """The first ten entries, a line each, and how many more there are."""
    lines = [f"\n  {entry}" for entry in entries[:_LISTED]]
    return "".join(lines) + (f"\n  and {len(entries) - _LISTED} more" if len(entries) > _LISTED else "")
