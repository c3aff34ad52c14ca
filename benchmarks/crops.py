"""Which images the segmenter that ships, which crops the lesion in the tables' rows, had learned from."""

from __future__ import annotations

import pandas as pd

from pesi.bundle.segmenter import read_segmenter_config
from pesi.datasets.splits import id_hash
from pesi.predict.segmenter import shipped_segmenter_folder


def segmenter_saw(records: pd.DataFrame) -> set[str]:
    """The images whose masks it was trained with or that chose its epoch, recognised by the hash of their ids.

    Args:
        records: Record table with the official splits.
    """
    saw: set[str] = set()
    folder = shipped_segmenter_folder()
    splits = read_segmenter_config(folder).provenance["splits"] if folder else {}
    for split, part in splits.items():
        ids = records["image_id"][(records["split"] == split) & records["mask_path"].notna()]
        if id_hash(ids) == part["sha256"]:
            saw |= set(ids)
    return saw
