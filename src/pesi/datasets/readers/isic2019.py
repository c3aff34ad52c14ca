"""ISIC 2019: eight diagnoses, and in the test part a ninth of everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import Row, read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, image_of, images_by_id
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "ISIC_2019_Training_GroundTruth.csv or ISIC_2019_Test_Metadata.csv"

_PARTS = {"train": "Training", "test": "Test"}
_CODES = {code: code for code in ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of ISIC 2019."""
    return file_in(root, "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Test_Metadata.csv") is not None


def read_isic2019(root: Path) -> pd.DataFrame:
    """Read ISIC 2019 with its official splits; there is no validation part.

    Files: `ISIC_2019_{Training,Test}_Input/`, `..._GroundTruth.csv` (image, MEL ... SCC, UNK) and `..._Metadata.csv`
    (image, age_approx, anatom_site_general, lesion_id in training only, sex).

    Raises:
        DataError: A bad label, or an image in the ground truth or metadata that is not there.
    """
    rows: list[dict[str, Any]] = []
    for split, part in _PARTS.items():
        folders = folders_in(root, f"ISIC_2019_{part}_Input")
        images = images_by_id(folders)
        truth = _rows(root, f"ISIC_2019_{part}_GroundTruth.csv", ("image", *_CODES))
        persons = _rows(root, f"ISIC_2019_{part}_Metadata.csv", ("image",))
        for row in (*truth.values(), *persons.values()):
            image_of(images, row, "image", folders or [root / f"ISIC_2019_{part}_Input"])
        for image_id in sorted(images):
            record: dict[str, Any] = {
                "image_id": image_id,
                "path": str(images[image_id]),
                "diagnosis": truth[image_id].one_hot(_CODES) if image_id in truth else None,
                "split": split,
                "source": "isic2019",
            }
            if image_id in persons:
                person = persons[image_id]
                record["lesion_id"] = person.text("lesion_id")
                record["age"] = person.age("age_approx")
                record["sex"] = person.sex("sex")
                record["site"] = person.site("anatom_site_general")
            rows.append(record)
    if not rows:
        raise DataError(f"{root} holds no images of ISIC 2019.", f"It was looked for: {LOOKS_FOR}.")
    return record_table(rows)


def _rows(root: Path, name: str, needed: tuple[str, ...]) -> dict[str, Row]:
    file = file_in(root, name)
    return rows_by(read_csv(file, needed=needed), "image") if file else {}
