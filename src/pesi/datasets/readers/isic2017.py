"""ISIC 2017 (Part 3): melanoma, seborrheic keratosis, nevus; the official layout, and ours of smaller pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import Row, read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, has_images, image_of, images_by_id, masks_by_id
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "ISIC-2017_*_Part3_GroundTruth.csv or ISIC-2017_*_Data/, or images/{train,val,test}/ISIC_*.jpg"

_PARTS = {"train": ("Training",), "val": ("Validation",), "test": ("Test_v2", "Test")}
_LABELS = {"melanoma": "MEL", "seborrheic_keratosis": "SK"}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of ISIC 2017."""
    names = [part for parts in _PARTS.values() for part in parts]
    if any(file_in(root, f"ISIC-2017_{n}_Part3_GroundTruth.csv") or folders_in(root, _data(n)) for n in names):
        return True
    return any(has_images(root / "images" / split) and _named_isic(root / "images" / split) for split in _PARTS)


def read_isic2017(root: Path) -> pd.DataFrame:
    """Read ISIC 2017 with its official splits.

    Two layouts:

    - the official zip files, unpacked: `ISIC-2017_{Training,Validation,Test_v2}_Data/`, `..._Part3_GroundTruth.csv`,
      and optionally `..._Part1_GroundTruth/` (masks) and `..._Data_metadata.csv` (age, sex);
    - compact: `images/{train,val,test}/`, `masks/`, the same ground-truth files, `metadata.csv` with age, sex, site.

    A row of two zeros is a nevus (the challenge has three diagnoses). A split without a ground-truth file, such as a
    test set whose labels are held apart, has no diagnoses. A compact folder without any ground-truth file, such as
    `isic2017_512`, takes the files (labels and metadata, by image id) of the folder `isic2017` beside it if there is
    one, because it holds the same images in another size; rows for images that it does not hold are then left out.

    Raises:
        DataError: A bad label, or an image in the ground truth that is not there.
    """
    compact = (root / "images").is_dir()
    names = [f"ISIC-2017_{part}_Part3_GroundTruth.csv" for parts in _PARTS.values() for part in parts]
    subset = compact and not any(file_in(root, name) for name in names)
    tables = root.parent / "isic2017" if subset and (root.parent / "isic2017").is_dir() else root
    rows: list[dict[str, Any]] = []
    for split, parts in _PARTS.items():
        files = [f"ISIC-2017_{part}_Part3_GroundTruth.csv" for part in parts]
        if compact:
            folders, mask_folders = folders_in(root / "images", split), folders_in(root, "masks")
        else:
            folders = folders_in(root, *(_data(part) for part in parts))
            mask_folders = folders_in(root, *(f"ISIC-2017_{part}_Part1_GroundTruth" for part in parts))
        images, masks = images_by_id(folders), masks_by_id(mask_folders)
        truth_file = file_in(tables, *files)
        truth = rows_by(read_csv(truth_file, needed=("image_id", *_LABELS)), "image_id") if truth_file else {}
        persons = _persons(tables, folders, parts)
        if not subset:
            for row in truth.values():
                image_of(images, row, "image_id", folders or [root])
        for image_id in sorted(images):
            label = truth.get(image_id)
            rows.append(
                {
                    "image_id": image_id,
                    "path": str(images[image_id]),
                    "diagnosis": label.one_hot(_LABELS, otherwise="NV") if label else None,
                    "split": split,
                    "mask_path": str(masks[image_id]) if image_id in masks else None,
                    "source": "isic2017",
                }
                | _person(persons.get(image_id))
            )
    if not rows:
        raise DataError(f"{root} holds no images of ISIC 2017.", f"It was looked for: {LOOKS_FOR}.")
    return record_table(rows)


def _data(part: str) -> str:
    return f"ISIC-2017_{part}_Data"


def _named_isic(folder: Path) -> bool:
    return any(path.suffix.lower() == ".jpg" for path in folder.glob("ISIC_*"))


def _persons(root: Path, folders: list[Path], parts: tuple[str, ...]) -> dict[str, Row]:
    names = [f"{_data(part)}_metadata.csv" for part in parts]
    places = [file_in(place, *names) for place in (root, *folders)] + [file_in(root, "metadata.csv")]
    file = next((place for place in places if place), None)
    return rows_by(read_csv(file, needed=("image_id",)), "image_id") if file else {}


def _person(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {}
    return {
        "age": row.age("age_approximate"),
        "sex": row.sex("sex"),
        "site": row.site("anatom_site_general"),
    }
