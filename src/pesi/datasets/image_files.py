"""Image and mask files of a data set by their ids (file names without ending)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pesi.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp"),
    *(".png", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
)
_NO_PICTURES = (
    *("_superpixels", "_segmentation"),  # ISIC's companions of an image, in the same folders
    *("_outline", "-explained", "-described"),  # what Pesi-CNN draws beside them
)
_SYSTEM = frozenset(
    {
        *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot"),  # network storage
        *("__macosx", "network trash folder", "temporary items"),
        *("$recycle.bin", "system volume information", "recycler", "recycled"),
        *("lost+found", "__pycache__", "thumbs", "thumbnails"),
    }
)


def is_image(name: str) -> bool:
    """Whether a file's name is that of a picture: not a hidden file, a mask, superpixels or drawn by us."""
    stem, suffix = Path(name.lower()).stem, Path(name.lower()).suffix
    return suffix in SUFFIXES and not stem.startswith(".") and not stem.endswith(_NO_PICTURES)


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or made by a system or program: its pictures are no images of the user's."""
    return name.startswith(".") or name.lower() in _SYSTEM


def walk(root: Path, closed: Callable[[OSError], None] = lambda error: None) -> Iterator[tuple[Path, list[str]]]:
    """A folder and the folders in it, to any depth and behind links, each once, with the sorted names of its files.

    Args:
        root: The folder; it may be a hidden one itself.
        closed: Told of each folder that may not be read; its files are passed over.
    """
    seen = set()
    for folder, folders, names in os.walk(root, onerror=closed, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it, or to one that another link leads to
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_system_folder(name))
        yield Path(folder), sorted(names)


def image_paths(folder: Path, closed: Callable[[OSError], None] = lambda error: None) -> list[Path]:
    """The pictures that lie directly in a folder, sorted by name; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    return [folder / name for name in next(walk(folder, closed), (folder, []))[1] if is_image(name)]


def has_images(folder: Path) -> bool:
    """Whether at least one picture lies directly in the folder."""
    return bool(image_paths(folder))


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and those of systems."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_system_folder(path.name))


def images_by_id(folders: Iterable[Path], closed: Callable[[OSError], None] = lambda error: None) -> dict[str, Path]:
    """Pictures by id, those in folders inside the folders too; the first folder that has an id wins.

    Raises:
        DataError: A folder holds two pictures of one id (`a.jpg` and `a.png`).
    """
    found: dict[str, Path] = {}
    for root in folders:
        for folder, names in walk(root, closed):
            here: dict[str, Path] = {}
            for path in (folder / name for name in names if is_image(name)):
                if path.stem in here:
                    raise DataError(
                        f"{folder} holds two images {path.stem!r}: {here[path.stem].name} and {path.name}.",
                        "Remove one of them.",
                    )
                here[path.stem] = path
            found = here | found
    return found


def masks_by_id(folders: Iterable[Path], closed: Callable[[OSError], None] = lambda error: None) -> dict[str, Path]:
    """Lesion masks named `<id>_segmentation.png` (in any case) by id; the first folder that has an id wins."""
    found: dict[str, Path] = {}
    for root in folders:
        for folder, names in walk(root, closed):
            for name in names:
                if name.lower().endswith("_segmentation.png"):
                    found.setdefault(name[: -len("_segmentation.png")], folder / name)
    return found


def file_in(root: Path, *names: str) -> Path | None:
    """The first of the named files (in any case of letters) that lies in `root`, or in a folder of its own name.

    The latter is how zip files unpack.
    """
    for inner in (False, True):
        for name in names:
            folder = next(iter(folders_in(root, Path(name).stem)), None) if inner else root
            entry = None if folder is None else _entries(folder).get(name.lower())
            if entry is not None and entry.is_file():
                return entry
    return None


def folders_in(root: Path, *names: str) -> list[Path]:
    """Those of the named folders (in any case of letters, also below one another) that exist in `root`."""
    found = []
    for name in names:
        place: Path | None = root
        for part in Path(name).parts:
            place = None if place is None else _entries(place).get(part.lower())
        if place is not None and place.is_dir():
            found.append(place)
    return found


def _entries(folder: Path) -> dict[str, Path]:
    """What lies in a folder by its name in lower case; nothing where it may not be read."""
    try:
        return {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True)}
    except OSError:
        return {}
