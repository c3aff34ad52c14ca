"""Any CSV file that names images and their diagnoses: a user's own, or an export of the ISIC archive and its like."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pesi.datasets.diagnosis_names import archive_code, diagnosis_code, without_code
from pesi.datasets.image_files import SUFFIXES, walk
from pesi.datasets.inputs import distinct_ids
from pesi.datasets.readers.csv_file import TABLE_SUFFIXES, Row, csv_header
from pesi.datasets.readers.folder import SPLIT_NAMES
from pesi.datasets.readers.reading import Reading
from pesi.taxonomy import DIAGNOSES

LOOKS_FOR = (
    "a .csv or .tsv file, or a folder with exactly one, with columns for the image (image_id or path) and its "
    "diagnosis (diagnosis, diagnosis_1 to diagnosis_5, benign_malignant, target, or a 0/1 column a class)"
)

# For each column of the record table the names it may have (lower case, `_` for blanks); the first that is there
# counts. `path` is looked up from the CSV's folder; the other image columns may hold ids or file names.
_NAMES: dict[str, tuple[str, ...]] = {
    "image_id": (
        *("image_id", "isic_id", "img_id", "image_name", "image", "bcn_filename", "ddi_file"),
        *("filename", "file_name", "file", "img", "id"),
    ),
    "path": ("path", "image_path", "img_path", "filepath", "file_path"),
    "diagnosis": ("diagnosis", "dx", "diagnostic", "label", "class"),
    "malignancy": ("benign_malignant", "malignant", "is_malignant", "malignancy"),
    "target": ("target",),  # 1 for malignant in ISIC 2020 and 2024, elsewhere also a number of a class
    "lesion_id": ("lesion_id", "lesion"),
    "patient_id": ("patient_id", "patient"),
    "split": ("split", "set", "partition"),
    "mask_path": ("mask_path", "mask"),
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "site": ("site", "anatom_site_general", "anatom_site_general_challenge", "localization", "location", "region"),
    "source": ("source", "dataset"),
    "image_type": ("image_type",),
    **{f"level_{n}": (f"diagnosis_{n}", f"iddx_{n}") for n in range(1, 6)},  # of the ISIC archive, of ISIC 2024
}
_LEVELS = tuple(f"level_{n}" for n in range(1, 6))
_PERSON: dict[str, Callable[[Row, str], Any]] = {
    "lesion_id": Row.text,
    "patient_id": Row.text,
    "age": Row.age,
    "sex": Row.sex,
    "site": Row.site,
}
_MALIGNANCIES: dict[str, str | None] = {
    **{"benign": "BENIGN", "malignant": "MALIGNANT", "unknown": None},
    **{"indeterminate": None, "indeterminate/benign": None, "indeterminate/malignant": None},
}
# What an image_type of the archive or the columns of PAD-UFES-20 say of the pictures.
_DERMOSCOPIC = ("dermoscopic", "dermoscopy")
_PAD_UFES_20 = {"img_id", "diagnostic", "fitspatrick"}
_DRIVE = re.compile(r"[A-Za-z]:(?=/)|^//[^/]+")


def matches(root: Path) -> bool:
    """Whether `root` is a table that names images, or a folder with exactly one such file with diagnoses."""
    if root.is_file():
        return root.suffix.lower() in TABLE_SUFFIXES and bool({"image_id", "path"} & set(columns_of(csv_header(root))))
    return len(fitting_files(root)) == 1


def fitting_files(folder: Path) -> list[Path]:
    """The tables directly in a folder that name images and diagnoses; not a Kaggle set's sample submission."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES[:-1] and path.is_file())
    found = []
    for path in (path for path in files if "submission" not in path.stem.lower()):
        header = csv_header(path)
        columns = set(columns_of(header))
        labelled = columns & {"diagnosis", "malignancy", "target", *_LEVELS} or _class_columns(header)
        if labelled and columns & {"image_id", "path"}:
            found.append(path)
    return found


def columns_of(header: Iterable[str]) -> dict[str, str]:
    """The file's own column name for each column of the record table that it has."""
    own = {re.sub(r"[\s\-]+", "_", name.lower()): name for name in reversed(list(header))}
    found = {column: next((own[name] for name in names if name in own), None) for column, names in _NAMES.items()}
    return {column: name for column, name in found.items() if name is not None}


def person(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """Lesion, patient, age, sex and site, as far as a row tells them."""
    told = {column: read(row, columns[column]) for column, read in _PERSON.items() if column in columns}
    return {column: value for column, value in told.items() if value is not None}


def read_own_csv(root: Path, reading: Reading) -> list[dict[str, Any]]:
    """Read a CSV file of the user's own; `LOOKS_FOR` and the table of names above say what it needs.

    - `path` and `mask_path` are relative to the CSV file, or absolute. Any image may be named with folders; those of
      another place or system (`C:\\data\\a.jpg`) are found by the last parts of the name. Else it is the one file of
      that name in the CSV's folder or the folders in it; with or without ending.
    - An image's id is its name without folder and ending; where that is not unique, those images have the names with
      their folders, with `_` between the parts.
    - Diagnoses that are ISIC abbreviations or full names, in any case, become the abbreviation; others stay as they
      are. An empty field is an unknown diagnosis. The ISIC archive's five levels, one column of 0 and 1 a class, and
      malignancy (`benign_malignant`, `target`: 0 or 1) are understood; where only malignancy is known, the diagnosis
      is BENIGN or MALIGNANT.
    - `split` is train, val or test (training, valid, validation, testing are understood).

    Raises:
        DataError: A row has a bad value, or names an image twice.
    """
    root = fitting_files(root)[0] if root.is_dir() else root
    header = csv_header(root)
    columns = columns_of(header)
    rows = reading.rows(root)
    field = columns.get("image_id", columns.get("path", ""))
    source = "pad_ufes_20" if set(header) >= _PAD_UFES_20 else "csv"
    named = _Named(root.parent, reading)
    ids = _ids(rows, field)
    records = []
    for row, image_id in zip(rows, ids, strict=True):
        path = named.file(image_id, row, columns.get("path", field))
        masked = row.text(columns.get("mask_path", "")) is not None
        mask = named.file(image_id, row, columns["mask_path"]) if masked else None
        record = {
            "image_id": image_id,
            "path": None if path is None else str(path),
            "diagnosis": _diagnosis(row, columns, header),
            "split": _split(row, columns.get("split", "")),
            "mask_path": None if mask is None else str(mask),
            "source": row.text(columns.get("source", "")) or source,
        }
        records.append(record | person(row, columns))
    if named.elsewhere:
        told = f"{root} names {named.elsewhere} files of another place or system"
        reading.remarks.append(f"{told}; they were found in {root.parent} by the last parts of their names.")
    types = [(row.text(columns.get("image_type", "")) or "dermoscopic").lower() for row in rows]
    others = len(rows) if source != "csv" else sum(not kind.startswith(_DERMOSCOPIC) for kind in types)
    if others:
        told = "are no dermoscopy images, for which Pesi-CNN is made, but clinical or total-body photographs"
        reading.remarks.append(f"{others} of the {len(rows)} images of {root} {told}.")
    return [record for record in records if record["path"] is not None]


def _ids(rows: list[Row], field: str) -> list[str]:
    """An id for each row.

    Raises:
        DataError: Two rows name one image.
    """
    without: list[PurePosixPath] = []
    first: dict[PurePosixPath, Row] = {}
    for row in rows:
        name = PurePosixPath(_slashes(row.name(field)))
        if name.name in ("", ".."):
            raise row.error(field, f"is {row.name(field)!r}, no file's name", "Correct it, or remove the row.")
        name = name.with_name(_stem(name.name))
        without.append(name)
        if name in first:
            told = f"names the image {name.name!r}, as row {first[name].number} does"
            raise row.error(field, told, "Keep one of the two rows.")
        first[name] = row
    return distinct_ids([name.name for name in without], without)


class _Named:
    """The files that a table names, in its folder and the folders in it.

    Args:
        folder: The table's folder.
        reading: Where missing files are noted.
    """

    def __init__(self, folder: Path, reading: Reading) -> None:
        self.folder, self.reading = folder, reading
        self.elsewhere = 0

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """All pictures by file name and by id (the name without its ending)."""
        found: dict[str, list[Path]] = {}
        for folder, names in walk(self.folder, self.reading.closed):
            for name in (name for name in names if Path(name).suffix.lower() in SUFFIXES):
                for key in dict.fromkeys((name, Path(name).stem)):
                    found.setdefault(key, []).append(folder / name)
        return found

    def file(self, image_id: str, row: Row, field: str) -> Path | None:
        """The file that a row names; None, and noted as missing, where there is none.

        Raises:
            DataError: There are several.
        """
        told = row.name(field)
        name = _slashes(told)
        # Unlike Path.is_file, this is False for a name that is too long for a file.
        if ("/" in name or Path(name).suffix) and os.path.isfile(self.folder / name):  # noqa: PTH113
            return self.folder / name
        parts = tuple(part for part in PurePosixPath(name).parts if part not in ("/", ".", ".."))
        foreign = name.startswith(("/", "../")) or name != told.replace("\\", "/")
        among: list[Path] = []
        for start in range(len(parts) if foreign else 1):
            among = self._ending_in(parts[start:])
            if among:
                break
        if len(among) > 1:
            found = [path.relative_to(self.folder).as_posix() for path in among]
            told = f"names the image {told!r}, of which there are {len(among)}: {', '.join(found[:3])}"
            raise row.error(field, told, f"Name it with its folder and ending, such as {found[0]}.")
        if not among:
            self.reading.lacks(image_id, row, field, f"names {told!r}, which is not in {self.folder}")
            return None
        self.elsewhere += foreign
        return among[0]

    def _ending_in(self, parts: tuple[str, ...]) -> list[Path]:
        """The files whose last folders and name, with or without ending, are these."""
        if not parts:
            return []
        among = self._by_name.get(parts[-1]) or self._by_name.get(_stem(parts[-1]), [])
        folders = parts[:-1]
        return [path for path in among if path.parent.parts[-len(folders) :] == folders] if folders else among


def _slashes(name: str) -> str:
    """A name with `/` between its parts, without the drive or server of another system."""
    return _DRIVE.sub("", name.replace("\\", "/"), count=1)


def _stem(name: str) -> str:
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def _class_columns(header: Iterable[str]) -> dict[str, str]:
    """The code of each 0/1 column that is named like a diagnosis; benign and malignant only where there is no other."""
    codes = {name: code for name in header if (code := diagnosis_code(name)) in DIAGNOSES}
    kinds = {name: code for name, code in codes.items() if code not in ("BENIGN", "MALIGNANT")}
    return kinds or (codes if len(codes) > 1 else {})


def _diagnosis(row: Row, columns: Mapping[str, str], header: list[str]) -> str | None:
    """What the row's columns together say.

    Raises:
        DataError: A bad label, or two columns that contradict each other.
    """
    word = row.text(columns.get("diagnosis", ""))
    code = None if word is None else diagnosis_code(word)
    finer = archive_code([row.text(columns.get(level, "")) for level in _LEVELS])
    if code is None or code == "UNK" or (finer is not None and code not in DIAGNOSES):
        code = finer or code
    told = _malignancy(row, columns.get("malignancy", ""))
    if code is None and not {"diagnosis", *_LEVELS} & set(columns):
        code = _marked(row, _class_columns(header), told)
    vague = word is not None and (without_code(word) or word.isdigit())
    known = DIAGNOSES[code].malignant if code in DIAGNOSES and code != "AK" else None  # some call AK benign
    if told is not None and known is not None and known != (told == "MALIGNANT") and not vague:
        what = f"says {told.lower()}, but the diagnosis is {code}"
        raise row.error(columns["malignancy"], what, "Correct the one or the other.")
    if code is None or code == "UNK" or vague:
        code = told or _malignancy(row, columns.get("target", "")) or code
    return code


def _marked(row: Row, classes: Mapping[str, str], told: str | None) -> str | None:
    """The class of columns of 0 and 1; None where all are empty."""
    if not any(row.text(name) for name in classes):
        return None
    if len(classes) == 1:
        ((column, code),) = classes.items()
        no = "BENIGN" if told == "BENIGN" else f"not {DIAGNOSES[code].name}"
        return code if row.flag(column) else no
    # The official file of ISIC 2017 has no column for its third class.
    return row.one_hot(classes, otherwise="NV" if set(classes.values()) == {"MEL", "SK"} else "UNK")


def _malignancy(row: Row, field: str) -> str | None:
    value = row.text(field)
    if value is None:
        return None
    if value.lower() in _MALIGNANCIES:
        return _MALIGNANCIES[value.lower()]
    return "MALIGNANT" if row.flag(field) else "BENIGN"


def _split(row: Row, field: str) -> str | None:
    value = row.text(field)
    if value is None:
        return None
    if value.lower() not in SPLIT_NAMES:
        raise row.error(field, f"is {value!r}", f"Use one of: {', '.join(SPLIT_NAMES)}, or leave it empty.")
    return SPLIT_NAMES[value.lower()]
