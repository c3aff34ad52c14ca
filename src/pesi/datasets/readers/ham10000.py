"""HAM10000: seven diagnoses, several photographs of some lesions, no official split."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pesi.datasets.readers.csv_file import read_csv, rows_by
from pesi.datasets.readers.image_files import file_in, folders_in, image_of, images_by_id, masks_by_id
from pesi.datasets.records import record_table

LOOKS_FOR = "HAM10000_metadata.csv (Harvard Dataverse also names it HAM10000_metadata, without ending)"

_FILES = ("HAM10000_metadata.csv", "HAM10000_metadata")
_IMAGES = (
    "images",
    "HAM10000_images",
    "HAM10000_images_part_1",
    "HAM10000_images_part_2",
    "HAM10000_images_part1",
    "HAM10000_images_part2",
    "ISIC2018_Task3_Training_Input",
)
_MASKS = ("masks", "HAM10000_segmentations_lesion_tschandl")
# akiec is "actinic keratoses and intraepithelial carcinoma / Bowen's disease" (Tschandl et al. 2018).
_CODES = {"akiec": "AK", "bcc": "BCC", "bkl": "BKL", "df": "DF", "mel": "MEL", "nv": "NV", "vasc": "VASC"}


def matches(root: Path) -> bool:
    """Whether `root` is a folder of HAM10000."""
    return any((root / name).is_file() for name in _FILES)


def read_ham10000(root: Path) -> pd.DataFrame:
    """Read HAM10000 (Tschandl, Rosendahl, Kittler: Scientific Data 5, 180161, 2018); `split` is missing.

    Raises:
        DataError: An unknown `dx`, a bad age or sex, or an image in the metadata that is not there.
    """
    file = file_in(root, *_FILES) or root / _FILES[0]
    folders = folders_in(root, *_IMAGES)
    images, masks = images_by_id(folders), masks_by_id(folders_in(root, *_MASKS))
    table = rows_by(read_csv(file, needed=("lesion_id", "image_id", "dx")), "image_id")
    return record_table(
        {
            "image_id": image_id,
            "path": str(image_of(images, row, "image_id", folders or [root / "images"])),
            "diagnosis": row.one_of("dx", _CODES),
            "lesion_id": row.needed("lesion_id"),
            "mask_path": str(masks[image_id]) if image_id in masks else None,
            "age": row.age("age"),
            "sex": row.sex("sex"),
            "site": row.site("localization"),
            "source": "ham10000",
        }
        for image_id, row in table.items()
    )
