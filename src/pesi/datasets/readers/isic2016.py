"""ISIC 2016 (ISBI 2016, Part 3): malignant or benign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, image_of, images_by_id, masks_by_id
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "ISBI2016_ISIC_Part3_Training_GroundTruth.csv or ISBI2016_ISIC_Part3_Test_GroundTruth.csv (also Part3B)"

_PARTS = {"train": "Training", "test": "Test"}
# "malignant" is melanoma in this challenge: "malignant (melanoma) or non-malignant (non-melanoma)", its task 3.
_CODES = {"benign": "BENIGN", "malignant": "MEL", "0.0": "BENIGN", "1.0": "MEL", "0": "BENIGN", "1": "MEL"}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of ISIC 2016 Part 3."""
    return any(file_in(root, *_truth_files(part)) for part in _PARTS.values())


def read_isic2016(root: Path) -> pd.DataFrame:
    """Read ISIC 2016 Part 3 (or 3B) with its official splits; there is no validation part.

    The ground-truth files have no header: `id,benign` or `id,malignant` in training, `id,0.0` or `id,1.0` in test.
    Malignant is melanoma in this challenge (MEL); benign says no more than that (BENIGN). Masks are those of Part 1
    or 3B (`*_Segmentation.png`).

    Raises:
        DataError: A bad label, or an image in the ground truth that is not there.
    """
    rows: list[dict[str, Any]] = []
    for split, part in _PARTS.items():
        names = [f"ISBI2016_ISIC_{task}_{part}_Data" for task in ("Part3", "Part3B")]
        folders = folders_in(root, *names)
        images = images_by_id(folders)
        masks = masks_by_id([*folders, *folders_in(root, f"ISBI2016_ISIC_Part1_{part}_GroundTruth")])
        file = file_in(root, *_truth_files(part))
        truth = rows_by(read_csv(file, header=("image_id", "label")), "image_id") if file else {}
        for row in truth.values():
            image_of(images, row, "image_id", folders or [root / names[0]])
        rows += [
            {
                "image_id": image_id,
                "path": str(images[image_id]),
                "diagnosis": truth[image_id].one_of("label", _CODES) if image_id in truth else None,
                "split": split,
                "mask_path": str(masks[image_id]) if image_id in masks else None,
                "source": "isic2016",
            }
            for image_id in sorted(images)
        ]
    if not rows:
        raise DataError(f"{root} holds no images of ISIC 2016.", f"It was looked for: {LOOKS_FOR}.")
    return record_table(rows)


def _truth_files(part: str) -> list[str]:
    return [f"ISBI2016_ISIC_{task}_{part}_GroundTruth.csv" for task in ("Part3", "Part3B")]
