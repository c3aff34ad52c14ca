"""A folder of classes: one folder a class, with or without train, val and test above; the names are the labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pesi.datasets.diagnosis_names import diagnosis_code
from pesi.datasets.image_files import has_images, image_paths, subfolders
from pesi.datasets.inputs import image_ids
from pesi.datasets.readers.reading import Reading
from pesi.errors import DataError
from pesi.taxonomy import DIAGNOSES

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
# Where data sets keep all their images, also in parts: "imgs_part_1".
_NO_CLASS = re.compile(
    r"(.*_)?(images?|imgs?|masks?|jpe?gs?|pngs?|photos?|pictures?)([_ -]?part)?[_ -]?\d*", re.IGNORECASE
)


def matches(root: Path) -> bool:
    """Whether `root` holds folders of pictures, of two classes or more: one folder of pictures says nothing."""
    parents = _split_folders(root) or [root]
    classes = {folder.name for parent in parents for folder in _class_folders(parent) if has_images(folder)}
    return len(classes) >= 2


def named_as_diagnoses(root: Path) -> bool:
    """Whether a class is named as a diagnosis is; else a table of labels beside the folders says more than they."""
    parents = _split_folders(root) or [root]
    return any(diagnosis_code(path.name) in DIAGNOSES for parent in parents for path in _class_folders(parent))


def read_folder(root: Path, reading: Reading) -> list[dict[str, Any]]:
    """Read `root/<class>/*.jpg` or `root/{train,val,test}/<class>/*.jpg`.

    A class that is an ISIC abbreviation or a full name, in any case, becomes the abbreviation; others stay as they
    are. Pictures directly in `test/` have no diagnosis. An image's id is its file name without the ending; images
    whose names are equal have the paths below `root` instead, with `_` between their parts.

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
            found += [(image, None, split) for image in image_paths(path, reading.closed)]
            found += _labelled(path, split, reading)
    else:
        found = _labelled(root, None, reading)
    ids = image_ids([path for path, _, _ in found], root=root)
    return [
        {"image_id": image_id, "path": str(path), "diagnosis": diagnosis, "split": split, "source": "folder"}
        for image_id, (path, diagnosis, split) in zip(ids, found, strict=True)
    ]


def _labelled(folder: Path, split: str | None, reading: Reading) -> list[tuple[Path, str | None, str | None]]:
    return [
        (image, diagnosis_code(path.name), split)
        for path in _class_folders(folder)
        for image in image_paths(path, reading.closed)
    ]


def _split_folders(root: Path) -> list[Path]:
    return [path for path in subfolders(root) if path.name.lower() in SPLIT_NAMES]


def _class_folders(folder: Path) -> list[Path]:
    inner = subfolders(folder)
    return [path for path in inner if path.name.lower() not in SPLIT_NAMES and not _NO_CLASS.fullmatch(path.name)]
