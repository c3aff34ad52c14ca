"""Which artefacts a picture shows, as people labelled them: the file `artefacts.csv` beside a data set.

The labels of ISIC images are those of A. Bissoto, E. Valle, S. Avila, "Debiasing Skin Lesion Datasets and Models? Not
So Fast", CVPR Workshops 2020: seven kinds, 0 or 1.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pesi.datasets.readers.csv_file import read_csv, rows_by

FILE_NAME = "artefacts.csv"
ARTEFACTS: tuple[str, ...] = ("dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches")

_LEVELS_UP = 4  # DATA/images/val/ISIC_x.jpg: the file lies two folders above the image's; official layouts one


def find_artefact_labels(records: pd.DataFrame) -> tuple[Path, ...]:
    """The files `artefacts.csv` in the folders above a record table's images, each once; empty where there are none.

    Args:
        records: Record table; of each image's folders the nearest file is taken.
    """
    found: dict[Path, None] = {}
    for folder in dict.fromkeys(Path(path).resolve().parent for path in records["path"]):
        places = (folder, *folder.parents)[:_LEVELS_UP]
        file = next((place / FILE_NAME for place in places if (place / FILE_NAME).is_file()), None)
        if file is not None:
            found[file] = None
    return tuple(found)


def read_artefact_labels(path: str | Path) -> pd.DataFrame:
    """Read one file of artefact labels.

    Args:
        path: CSV with the columns `image_id` and all of `ARTEFACTS`.

    Returns:
        A frame of booleans, index `image_id`, columns `ARTEFACTS`.

    Raises:
        DataError: The file cannot be read, lacks a column, has an image twice or a label that is not 0 or 1.
    """
    rows = rows_by(read_csv(Path(path), needed=("image_id", *ARTEFACTS)), "image_id")
    return pd.DataFrame(
        [[row.flag(name) for name in ARTEFACTS] for row in rows.values()],
        index=pd.Index(list(rows), name="image_id", dtype=object),
        columns=list(ARTEFACTS),
        dtype=bool,
    )


def artefact_table(records: pd.DataFrame) -> pd.DataFrame | None:
    """The artefact labels of a record table's images, found beside their data set.

    Args:
        records: Record table.

    Returns:
        A frame of the records' length and order, columns `ARTEFACTS`: True, False, or None where an image is not
        labelled. None where no image is labelled.

    Raises:
        DataError: See `read_artefact_labels`.
    """
    files = find_artefact_labels(records)
    if not files:
        return None
    labels = pd.concat([read_artefact_labels(file) for file in files])
    labels = labels[~labels.index.duplicated()].astype(object)
    table = labels.reindex(records["image_id"]).reset_index(drop=True)
    table = table.where(table.notna(), None)
    return table if table.notna().to_numpy().any() else None
