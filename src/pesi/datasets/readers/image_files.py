"""Image and mask files of a data set by their ids (file names without ending)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pesi.datasets.readers.csv_file import Row
from pesi.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_NO_PICTURES = (
    *("_superpixels", "_segmentation"),  # ISIC's companions of an image, in the same folders
    *("_outline", "-explained", "-described"),  # what Pesi-CNN draws beside them
)


def is_image(name: str) -> bool:
    """Whether a file's name is that of a picture: not a hidden file, a mask, superpixels or drawn by us."""
    stem, suffix = Path(name.lower()).stem, Path(name.lower()).suffix
    return suffix in SUFFIXES and not stem.startswith(".") and not stem.endswith(_NO_PICTURES)


def image_paths(folder: Path) -> list[Path]:
    """The pictures that lie directly in a folder, sorted by name; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries if is_image(entry.name))]


def has_images(folder: Path) -> bool:
    """Whether at least one picture lies directly in the folder."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) for entry in entries)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_by_id(folders: Iterable[Path]) -> dict[str, Path]:
    """Pictures by id, those in folders inside the folders too; the first folder that has an id wins.

    Raises:
        DataError: A folder holds two pictures of one id (`a.jpg` and `a.png`).
    """
    found: dict[str, Path] = {}
    for root in folders:
        for folder in _tree(root):
            here: dict[str, Path] = {}
            for path in image_paths(folder):
                if path.stem in here:
                    raise DataError(
                        f"{folder} holds two images {path.stem!r}: {here[path.stem].name} and {path.name}.",
                        "Remove one of them.",
                    )
                here[path.stem] = path
            found = here | found
    return found


def images_by_name(root: Path) -> dict[str, list[Path]]:
    """All pictures in a folder and in the folders in it, by file name and by id (the name without its ending)."""
    found: dict[str, list[Path]] = {}
    for folder in _tree(root):
        for path in image_paths(folder):
            for name in (path.name, path.stem):
                found.setdefault(name, []).append(path)
    return found


def masks_by_id(folders: Iterable[Path]) -> dict[str, Path]:
    """Lesion masks named `<id>_segmentation.png` (in any case) by id; the first folder that has an id wins."""
    found: dict[str, Path] = {}
    for root in folders:
        for folder in _tree(root):
            for path in sorted(folder.iterdir()):
                if path.name.lower().endswith("_segmentation.png"):
                    found.setdefault(path.name[: -len("_segmentation.png")], path)
    return found


def image_of(images: dict[str, Path], row: Row, field: str, folders: Iterable[Path]) -> Path:
    """The picture that a row names.

    Raises:
        DataError: There is none; says file, row, field and where it was looked for.
    """
    image_id = row.needed(field)
    if image_id not in images:
        places = ", ".join(str(folder) for folder in folders)
        raise row.error(
            field, f"names the image {image_id!r}, which is not in {places}", "Add the image, or remove the row."
        )
    return images[image_id]


def file_in(root: Path, *names: str) -> Path | None:
    """The first of the named files that lies in `root`, or in a folder of the file's own name (as zip files unpack)."""
    places = (root / name for name in names), (root / Path(name).stem / name for name in names)
    return next((path for group in places for path in group if path.is_file()), None)


def folders_in(root: Path, *names: str) -> list[Path]:
    """Those of the named folders that exist in `root`."""
    return [root / name for name in names if (root / name).is_dir()]


def _tree(root: Path) -> Iterator[Path]:
    for folder, inner, _ in os.walk(root):
        inner.sort()
        yield Path(folder)
