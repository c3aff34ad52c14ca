"""PH2: 200 melanocytic lesions (common nevus, atypical nevus, melanoma) with masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pesi.datasets.readers.csv_file import Row, rows_by
from pesi.datasets.readers.reading import Reading
from pesi.errors import DataError

LOOKS_FOR = "PH2_dataset.txt beside 'PH2 Dataset images/' (PH2_dataset.xlsx is not read)"

_FILE = "PH2_dataset.txt"
_IMAGES = "PH2 Dataset images"
_CODES = {"0": "NV", "1": "NV", "2": "MEL"}  # common nevus, atypical nevus, melanoma
_NAME, _DIAGNOSIS = "Name", "Clinical Diagnosis"


def matches(root: Path) -> bool:
    """Whether `root` is the folder of PH2."""
    return (root / _FILE).is_file()


def read_ph2(root: Path, reading: Reading) -> list[dict[str, Any]]:
    """Read PH2 (Mendonca et al. 2013): `PH2_dataset.txt`, a table with `||` between its columns; no official split.

    Image and mask of IMD003 are `PH2 Dataset images/IMD003/IMD003_Dermoscopic_Image/IMD003.bmp` and
    `.../IMD003_lesion/IMD003_lesion.bmp`. The clinical diagnosis is 0 common nevus, 1 atypical nevus (both NV) or 2
    melanoma (MEL).

    Raises:
        DataError: The table cannot be read, an unknown diagnosis, or an image twice.
    """
    rows = []
    for image_id, row in rows_by(_table(root / _FILE), _NAME).items():
        image = root / _IMAGES / image_id / f"{image_id}_Dermoscopic_Image" / f"{image_id}.bmp"
        mask = root / _IMAGES / image_id / f"{image_id}_lesion" / f"{image_id}_lesion.bmp"
        if reading.image({image_id: image} if image.is_file() else {}, row, _NAME, [image.parent]) is not None:
            rows.append(
                {
                    "image_id": image_id,
                    "path": str(image),
                    "diagnosis": row.one_of(_DIAGNOSIS, _CODES),
                    "mask_path": str(mask) if mask.is_file() else None,
                    "source": "ph2",
                }
            )
    return rows


def _table(file: Path) -> list[Row]:
    """The rows between the header and the legend; single bars divide the fields of a column further."""
    names: list[str] = []
    rows = []
    # Its few letters that matter are ASCII; Latin-1 reads any byte.
    for number, line in enumerate(file.read_text(encoding="latin-1").splitlines(), start=1):
        fields = [field.strip() for field in line.split("||")]
        if not line.lstrip().startswith("||") or len(fields) < 4:
            continue
        if not names:
            names = fields
            missing = [name for name in (_NAME, _DIAGNOSIS) if name not in names]
            if missing:
                raise DataError(f"{file}, row {number}: no column {missing[0]!r}.", "Use the official file, unchanged.")
        elif fields[1]:
            rows.append(Row(file, number, dict(zip(names, fields, strict=False))))
    if not rows:
        raise DataError(f"{file} holds no rows that begin with '||'.", "Use the official file, unchanged.")
    return rows
