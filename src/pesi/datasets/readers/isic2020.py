"""ISIC 2020 (SIIM-ISIC): melanoma or not, with patients; a finer diagnosis for some of the benign lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.readers.csv_file import Row, read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, image_of, images_by_id
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "ISIC_2020_Training_GroundTruth_v2.csv, ISIC_2020_Training_GroundTruth.csv or ISIC_2020_Test_Metadata.csv"

_TRAIN_FILES = ("ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv")
_TEST_FILE = "ISIC_2020_Test_Metadata.csv"
_FOLDERS = {  # the JPEG zip file of the training part unpacks to `train/`
    "train": ("ISIC_2020_Training_JPEG", "ISIC_2020_Training_Input", "train", "jpeg/train"),
    "test": ("ISIC_2020_Test_JPEG", "ISIC_2020_Test_Input", "test", "jpeg/test"),
}
# Its further words (unknown, lentigo NOS, cafe-au-lait macule, atypical melanocytic proliferation) have no code of
# their own: those lesions are BENIGN, as `benign_malignant` says.
_CODES = {
    "melanoma": "MEL",
    "nevus": "NV",
    "seborrheic keratosis": "SK",
    "lichenoid keratosis": "LK",
    "solar lentigo": "SL",
}
_MALIGNANT = {"benign": "BENIGN", "malignant": "MALIGNANT"}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of ISIC 2020."""
    return file_in(root, *_TRAIN_FILES, _TEST_FILE) is not None


def read_isic2020(root: Path) -> pd.DataFrame:
    """Read ISIC 2020 with its official splits; there is no validation part and the test part has no labels.

    The second version of the training file is taken where both are there: it has `lesion_id` too. The test file calls
    its columns image, patient and anatom_site_general, the training file image_name, patient_id and
    anatom_site_general_challenge.

    Raises:
        DataError: A bad label, `target` and `benign_malignant` at odds, or an image that is not there.
    """
    rows: list[dict[str, Any]] = []
    for split, names in (("train", _TRAIN_FILES), ("test", (_TEST_FILE,))):
        file = file_in(root, *names)
        if file is None:
            continue
        folders = folders_in(root, *_FOLDERS[split])
        images = images_by_id(folders)
        table = read_csv(file, needed=("image_name", "patient_id", "target") if split == "train" else ())
        first = table[0].values if table else {}
        own = {
            column: next((name for name in known if name in first), known[0])
            for column, known in (
                ("image", ("image_name", "image")),
                ("patient", ("patient_id", "patient")),
                ("site", ("anatom_site_general_challenge", "anatom_site_general")),
            )
        }
        rows += [
            {
                "image_id": image_id,
                "path": str(image_of(images, row, own["image"], folders or [root / _FOLDERS[split][0]])),
                "diagnosis": _diagnosis(row) if split == "train" else None,
                "lesion_id": row.text("lesion_id"),
                "patient_id": row.text(own["patient"]),
                "split": split,
                "age": row.age("age_approx"),
                "sex": row.sex("sex"),
                "site": row.site(own["site"]),
                "source": "isic2020",
            }
            for image_id, row in rows_by(table, own["image"]).items()
        ]
    if not rows:
        raise DataError(f"{root} holds no images of ISIC 2020.", f"It was looked for: {LOOKS_FOR}.")
    return record_table(rows)


def _diagnosis(row: Row) -> str:
    kind = "MALIGNANT" if row.flag("target") else "BENIGN"
    if row.text("benign_malignant") is not None and row.one_of("benign_malignant", _MALIGNANT) != kind:
        raise row.error("benign_malignant", "says another thing than target", "Use the official file, unchanged.")
    code = _CODES.get((row.text("diagnosis") or "unknown").lower(), kind)
    if (code in ("MEL", "MALIGNANT")) != (kind == "MALIGNANT"):
        raise row.error("diagnosis", "says another thing than target", "Use the official file, unchanged.")
    return code
