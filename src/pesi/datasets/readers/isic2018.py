"""ISIC 2018 task 3: HAM10000 as a challenge, with official validation and test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, image_of, images_by_id
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "ISIC2018_Task3_Training_GroundTruth.csv (also in a folder of that name)"

_PARTS = {"train": "Training", "val": "Validation", "test": "Test"}
_CODES = {"MEL": "MEL", "NV": "NV", "BCC": "BCC", "AKIEC": "AK", "BKL": "BKL", "DF": "DF", "VASC": "VASC"}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of ISIC 2018 task 3."""
    return file_in(root, "ISIC2018_Task3_Training_GroundTruth.csv") is not None


def read_isic2018(root: Path) -> pd.DataFrame:
    """Read ISIC 2018 task 3 with its official splits; parts that are not there are left out.

    Files: `ISIC2018_Task3_{Training,Validation,Test}_Input/`, `..._GroundTruth.csv` (image, MEL, NV, BCC, AKIEC, BKL,
    DF, VASC) and `ISIC2018_Task3_Training_LesionGroupings.csv` (image, lesion_id, diagnosis_confirm_type). Images of
    a part without ground truth have no diagnosis.

    Raises:
        DataError: A bad label, or an image in the ground truth that is not there.
    """
    lesion_file = file_in(root, "ISIC2018_Task3_Training_LesionGroupings.csv")
    lesions = rows_by(read_csv(lesion_file, needed=("image", "lesion_id")), "image") if lesion_file else {}
    rows: list[dict[str, Any]] = []
    for split, part in _PARTS.items():
        folders = folders_in(root, f"ISIC2018_Task3_{part}_Input")
        images = images_by_id(folders)
        file = file_in(root, f"ISIC2018_Task3_{part}_GroundTruth.csv")
        truth = rows_by(read_csv(file, needed=("image", *_CODES)), "image") if file else {}
        for row in truth.values():
            image_of(images, row, "image", folders or [root / f"ISIC2018_Task3_{part}_Input"])
        rows += [
            {
                "image_id": image_id,
                "path": str(images[image_id]),
                "diagnosis": truth[image_id].one_hot(_CODES) if image_id in truth else None,
                "lesion_id": lesions[image_id].needed("lesion_id") if image_id in lesions else None,
                "split": split,
                "source": "isic2018",
            }
            for image_id in sorted(images)
        ]
    if not rows:
        raise DataError(f"{root} holds no images of ISIC 2018.", f"It was looked for: {LOOKS_FOR}.")
    return record_table(rows)
