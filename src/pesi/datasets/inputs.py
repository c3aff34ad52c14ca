"""What the commands that take images were given: files, and the images in folders; each with an id of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pesi.errors import DataError
from pesi.files import utf8

# Pictures in formats that are not read: they are refused by name, and not passed over.
_UNREAD = (".heic", ".heif", ".avif", ".gif", ".jp2", ".dcm", ".dicom", ".dng", ".cr2", ".nef", ".arw", ".psd")


def image_files(inputs: Sequence[Path]) -> list[Path]:
    """The given files, and the images in the given folders (to any depth, also behind links), sorted, each once.

    In folders, hidden files, masks, superpixels and pictures that Pesi-CNN drew are passed over. Pictures in formats
    that are not read are among the results, to be refused by name.

    Raises:
        DataError: A path does not exist, or a folder holds no images or cannot be read.
    """
    from pesi.datasets.readers.image_files import SUFFIXES

    found: dict[Path, None] = {}
    for path in inputs:
        if path.is_dir():
            inside = sorted(_inside(path))
            if not inside:
                raise DataError(f"{path} holds no images.", f"Images end in: {', '.join(sorted(SUFFIXES))}.")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise DataError(f"There is no {path}.", "Check the path.")
    return list(found)


def _inside(root: Path) -> Iterator[Path]:
    from pesi.datasets.readers.image_files import is_image

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.", "Change its permissions, or move it.")

    seen = set()
    for folder, folders, names in os.walk(root, onerror=stop, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it, or to one that another link leads to
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            unread = name.lower().endswith(_UNREAD) and not name.startswith(".")
            if is_image(name) or unread:
                yield Path(folder, name)


def image_ids(paths: Sequence[Path]) -> list[str]:
    """An id for each file: its name without the ending.

    Where that is not unique, all ids are the paths below the folder that they share, with `_` between their parts, as
    for a folder of classes. Bytes of a name that are no UTF-8 are written as escapes.

    Raises:
        DataError: Even so, two files would have one id.
    """
    parents = {str(path.parent.absolute()) for path in paths}
    root = os.path.commonpath(parents) if parents else ""
    below = [Path(os.path.relpath(path, root)) for path in paths]
    choices = (
        [path.stem for path in paths],
        ["_".join(path.with_suffix("").parts) for path in below],
        ["_".join(path.parts) for path in below],
    )
    for ids in choices:
        if len(set(ids)) == len(ids):
            return [utf8(image_id) for image_id in ids]
    twice = next(image_id for image_id, count in Counter(choices[-1]).items() if count > 1)
    first, second = (str(path) for path, image_id in zip(paths, choices[-1], strict=True) if image_id == twice)
    raise DataError(f"Two images have the id {twice!r}: {first} and {second}.", "Rename one of them.")
