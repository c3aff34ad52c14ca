"""Any CSV file that names images and their diagnoses, by the record table's column names or common other ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import Row, csv_header, read_csv
from pesi.datasets.readers.diagnosis_names import diagnosis_code
from pesi.datasets.readers.folder import SPLIT_NAMES
from pesi.datasets.readers.image_files import SUFFIXES, images_by_name
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "a .csv file, or a folder with exactly one, with columns for the image (image_id or path) and diagnosis"

# For each column of the record table the names it may have, compared in lower case; the first that is there counts.
# `path` is looked up from the CSV's folder; the other image columns may hold ids or file names.
_NAMES: dict[str, tuple[str, ...]] = {
    "image_id": ("image_id", "isic_id", "image_name", "image", "filename", "file_name", "file", "id"),
    "path": ("path", "image_path", "img_path", "filepath", "file_path"),
    "diagnosis": ("diagnosis", "dx", "label", "class", "target"),
    "lesion_id": ("lesion_id", "lesion"),
    "patient_id": ("patient_id", "patient"),
    "split": ("split", "set", "partition"),
    "mask_path": ("mask_path", "mask"),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "site": ("site", "anatom_site_general", "anatom_site_general_challenge", "localization", "location"),
    "source": ("source", "dataset"),
}
# In ISIC 2020 and 2024 `target` is 1 for malignant. A `label` of 0 or 1 could mean anything and stays as it is.
_TARGETS = {"0": "BENIGN", "0.0": "BENIGN", "1": "MALIGNANT", "1.0": "MALIGNANT"}


def matches(root: Path) -> bool:
    """Whether `root` is a CSV file that names images, or a folder with exactly one such file with diagnoses."""
    if root.is_file():
        return root.suffix.lower() == ".csv" and bool({"image_id", "path"} & set(_columns(csv_header(root))))
    return len(fitting_files(root)) == 1


def fitting_files(folder: Path) -> list[Path]:
    """The CSV files directly in a folder that name images and diagnoses."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv" and path.is_file())
    found = []
    for path in files:
        columns = set(_columns(csv_header(path)))
        if "diagnosis" in columns and columns & {"image_id", "path"}:
            found.append(path)
    return found


def read_own_csv(root: Path) -> pd.DataFrame:
    """Read a CSV file of the user's own; `LOOKS_FOR` and the table of names above say what it needs.

    - `path` and `mask_path` are relative to the CSV file, or absolute. Without `path`, the image is named with its
      folder (from the CSV's), or it is the one file of that name in the CSV's folder or the folders in it; with or
      without ending.
    - An image's id is its name without folder and ending; where that is not unique, all ids are the names with their
      folders, with `_` between the parts.
    - Diagnoses that are ISIC abbreviations or full names, in any case, become the abbreviation; others stay as they
      are. An empty field is an unknown diagnosis. A column `target` must be 0 (BENIGN) or 1 (MALIGNANT).
    - `split` is train, val or test (training, valid, validation, testing are understood).

    Raises:
        DataError: A column for the image is missing, or a row has a bad value or an image that is not there.
    """
    if root.is_dir():
        files = fitting_files(root)
        if len(files) != 1:
            found = ", ".join(path.name for path in files) or "none"
            raise DataError(f"{root} should hold exactly one CSV file that fits; it holds: {found}.", "Name the file.")
        root = files[0]
    columns = _columns(csv_header(root))
    if not {"image_id", "path"} & set(columns):
        raise DataError(
            f"{root} has no column that names the image; its columns are: {', '.join(csv_header(root)) or 'none'}.",
            f"Name it one of: {', '.join((*_NAMES['image_id'], *_NAMES['path']))}.",
        )
    images = {} if "path" in columns else images_by_name(root.parent)
    field = columns["image_id"] if "image_id" in columns else columns["path"]
    rows = [_of_named_columns(row) for row in read_csv(root)]
    names = [row.needed(field).replace("\\", "/") for row in rows]
    ids = [_stem(name) for name in names]
    if len(set(ids)) < len(ids) and any("/" in name for name in names):
        ids = ["_".join((*Path(name).parts[:-1], _stem(name))).lstrip("/_") for name in names]
    first: dict[str, Row] = {}
    records = []
    for row, image_id in zip(rows, ids, strict=True):
        record = _record(row, columns, image_id, images)
        if record["image_id"] in first:
            raise row.error(
                field,
                f"names the image {record['image_id']!r}, as row {first[record['image_id']].number} does",
                "Keep one of the two rows.",
            )
        first[record["image_id"]] = row
        records.append(record)
    return record_table(records)


def _columns(header: list[str]) -> dict[str, str]:
    """The file's own column name for each column of the record table that it has."""
    own = {name.lower(): name for name in reversed(header)}
    found = {}
    for column, names in _NAMES.items():
        known = next((own[name] for name in names if name in own), None)
        if known is not None:
            found[column] = known
    return found


def _of_named_columns(row: Row) -> Row:
    """The row without the column that has no name, such as pandas' index: "" stands below for "no such column"."""
    return replace(row, values={name: value for name, value in row.values.items() if name})


def _record(row: Row, columns: dict[str, str], image_id: str, images: dict[str, list[Path]]) -> dict[str, Any]:
    folder = row.file.parent
    if "path" in columns:
        path = folder / row.needed(columns["path"])
        if not path.is_file():
            raise row.error(columns["path"], f"names {path}, which is not there", "Correct the path (from the CSV).")
    else:
        path = _named(row, columns["image_id"], images)
    mask = row.text(columns.get("mask_path", ""))
    if mask is not None and not (folder / mask).is_file():
        raise row.error(columns["mask_path"], f"names {folder / mask}, which is not there", "Correct or empty it.")
    return {
        "image_id": image_id,
        "path": str(path),
        "diagnosis": _diagnosis(row, columns.get("diagnosis", "")),
        "lesion_id": row.text(columns.get("lesion_id", "")),
        "patient_id": row.text(columns.get("patient_id", "")),
        "split": _split(row, columns.get("split", "")),
        "mask_path": None if mask is None else str(folder / mask),
        "age": row.age(columns.get("age", "")),
        "sex": row.sex(columns.get("sex", "")),
        "site": row.site(columns.get("site", "")),
        "source": row.text(columns.get("source", "")) or "csv",
    }


def _named(row: Row, field: str, images: dict[str, list[Path]]) -> Path:
    """The picture that a row names.

    Raises:
        DataError: There is none, or several.
    """
    folder, name = row.file.parent, row.needed(field).replace("\\", "/")
    if "/" in name and (folder / name).is_file():
        return folder / name
    among = images.get(Path(name).name) or images.get(_stem(name), [])
    if "/" in name:
        among = [path for path in among if path.parent == (folder / name).parent]
    if not among:
        told = f"names the image {name!r}, which is not in {folder}"
        raise row.error(field, told, "Add the image, or remove the row.")
    if len(among) > 1:
        found = [path.relative_to(folder).as_posix() for path in among]
        told = f"names the image {name!r}, of which there are {len(among)}: {', '.join(found[:3])}"
        raise row.error(field, told, f"Name it with its folder and ending, such as {found[0]}.")
    return among[0]


def _stem(name: str) -> str:
    last = Path(name.replace("\\", "/")).name
    return last[: -len(Path(last).suffix)] if Path(last).suffix.lower() in SUFFIXES else last


def _diagnosis(row: Row, field: str) -> str | None:
    value = row.text(field)
    if value is None:
        return None
    if field.lower() != "target":
        return diagnosis_code(value)
    if value not in _TARGETS:
        raise row.error(field, f"is {value!r}, neither 0 nor 1", "For named classes call the column `diagnosis`.")
    return _TARGETS[value]


def _split(row: Row, field: str) -> str | None:
    value = row.text(field)
    if value is None:
        return None
    if value.lower() not in SPLIT_NAMES:
        raise row.error(field, f"is {value!r}", f"Use one of: {', '.join(SPLIT_NAMES)}, or leave it empty.")
    return SPLIT_NAMES[value.lower()]
