"""A folder of classes: one folder a class, with or without train, val and test above; the names are the labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from pesi.datasets.readers.diagnosis_names import diagnosis_code
from pesi.datasets.readers.image_files import has_images, image_paths, subfolders
from pesi.datasets.records import record_table
from pesi.errors import DataError

LOOKS_FOR = "<class>/*.jpg, or {train,val,test}/<class>/*.jpg, with at least two classes"

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_NO_CLASSES = frozenset({"images", "masks", "image", "mask", "img", "imgs"})


def matches(root: Path) -> bool:
    """Whether `root` holds folders of pictures, of two classes or more: one folder of pictures says nothing."""
    parents = _split_folders(root) or [root]
    classes = {folder.name for parent in parents for folder in _class_folders(parent) if has_images(folder)}
    return len(classes) >= 2


def read_folder(root: Path) -> pd.DataFrame:
    """Read `root/<class>/*.jpg` or `root/{train,val,test}/<class>/*.jpg`.

    A class that is an ISIC abbreviation or a full name, in any case, becomes the abbreviation; others stay as they
    are. Pictures directly in `test/` have no diagnosis. An image's id is its file name without the ending; where
    that is not unique in the whole set, all ids are the paths below `root`, with `_` between their parts.

    Raises:
        DataError: Nothing found, or class folders lie beside split folders.
    """
    splits = _split_folders(root)
    found: list[tuple[Path, str | None, str | None]] = []
    if splits:
        beside = [path.name for path in _class_folders(root) if has_images(path)]
        if beside:
            raise DataError(
                f"{root} holds split folders ({splits[0].name}, ...) and the folder of pictures {beside[0]!r} too.",
                "Move it into one of the split folders.",
            )
        for path in splits:
            split = SPLIT_NAMES[path.name.lower()]
            found += [(image, None, split) for image in image_paths(path)]
            found += _labelled(path, split)
    else:
        found = _labelled(root, None)
    unique = max(Counter(path.stem for path, _, _ in found).values(), default=0) == 1
    return record_table(
        {
            "image_id": path.stem if unique else "_".join(path.relative_to(root).with_suffix("").parts),
            "path": str(path),
            "diagnosis": diagnosis,
            "split": split,
            "source": "folder",
        }
        for path, diagnosis, split in found
    )


def _labelled(folder: Path, split: str | None) -> list[tuple[Path, str | None, str | None]]:
    return [(image, diagnosis_code(path.name), split) for path in _class_folders(folder) for image in image_paths(path)]


def _split_folders(root: Path) -> list[Path]:
    return [path for path in subfolders(root) if path.name.lower() in SPLIT_NAMES]


def _class_folders(folder: Path) -> list[Path]:
    named = {*SPLIT_NAMES, *_NO_CLASSES}
    return [path for path in subfolders(folder) if path.name.lower() not in named]
