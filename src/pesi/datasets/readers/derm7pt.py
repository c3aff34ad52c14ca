"""Derm7pt (seven-point checklist): 1011 cases in 15 diagnoses; the dermoscopic image of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pesi.datasets.image_files import is_image, walk
from pesi.datasets.readers.csv_file import Row
from pesi.datasets.readers.reading import Reading
from pesi.errors import DataError

LOOKS_FOR = "meta/meta.csv with the columns diagnosis, derm, case_num"

_INDEXES = {"train": "train_indexes.csv", "val": "valid_indexes.csv", "test": "test_indexes.csv"}
_NEVI = ("blue", "clark", "combined", "congenital", "dermal", "recurrent", "reed or spitz")
_MELANOMAS = ("(in situ)", "(less than 0.76 mm)", "(0.76 to 1.5 mm)", "(more than 1.5 mm)", "metastasis")
_CODES = {
    "basal cell carcinoma": "BCC",
    "dermatofibroma": "DF",
    "seborrheic keratosis": "SK",
    "vascular lesion": "VASC",
    "melanoma": "MEL",
    # Benign, but of no kind that has a code: a lentigo need not be a solar one.
    "lentigo": "BENIGN",
    "melanosis": "BENIGN",
    "miscellaneous": "UNK",
    "nevus": "NV",
    **{f"{kind} nevus": "NV" for kind in _NEVI},
    **{f"melanoma {kind}": "MEL" for kind in _MELANOMAS},
}


def matches(root: Path) -> bool:
    """Whether `root` is the folder of Derm7pt."""
    return (root / "meta" / "meta.csv").is_file()


def read_derm7pt(root: Path, reading: Reading) -> list[dict[str, Any]]:
    """Read Derm7pt (Kawahara et al. 2018) with its official splits; only the dermoscopic image (`derm`) of a case.

    `meta/{train,valid,test}_indexes.csv` hold, in a column `indexes`, positions in `meta/meta.csv` counted from 0.
    `derm` names a file below `images/`, in any case of letters. An image's id is `derm7pt_<case_num>`; each case is a
    lesion of its own.

    Raises:
        DataError: An unknown diagnosis, or a bad index.
    """
    file = root / "meta" / "meta.csv"
    table = reading.rows(file, needed=("diagnosis", "derm", "case_num"))
    splits = _splits(root / "meta", len(table), reading)
    folder = root / "images"
    files = (path / name for path, names in walk(folder, reading.closed) for name in names if is_image(name))
    images = {_key(path.relative_to(folder)): path for path in files}
    rows = []
    for index, row in enumerate(table):
        name = _key(Path(row.needed("derm").replace("\\", "/")))
        case = row.needed("case_num")
        path = reading.image(images, Row(row.file, row.number, {"derm": name}), "derm", [folder])
        if path is None:
            continue
        rows.append(
            {
                "image_id": f"derm7pt_{case}",
                "path": str(path),
                "diagnosis": row.one_of("diagnosis", _CODES),
                "lesion_id": case,
                "split": splits.get(index),
                "sex": row.sex("sex"),
                "site": row.site("location"),
                "source": "derm7pt",
            }
        )
    return rows


def _key(path: Path) -> str:
    return path.with_suffix("").as_posix().lower()


def _splits(folder: Path, count: int, reading: Reading) -> dict[int, str]:
    """Split by position in meta.csv."""
    splits: dict[int, str] = {}
    for split, name in _INDEXES.items():
        if not (folder / name).is_file():
            continue
        for row in reading.rows(folder / name, needed=("indexes",)):
            value = row.needed("indexes")
            if not value.isdecimal() or int(value) >= count:
                raise row.error("indexes", f"is {value!r}, no position in meta.csv", f"They run from 0 to {count - 1}.")
            if int(value) in splits:
                raise row.error("indexes", f"{value} is in {splits[int(value)]} already", "Keep one of them.")
            splits[int(value)] = split
    if not splits:
        raise DataError(f"{folder} has no {', '.join(_INDEXES.values())}.", "Use the official download, unchanged.")
    return splits
