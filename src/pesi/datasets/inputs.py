"""What the commands that take images were given: files, and the images in folders; each with an id of its own."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

from pesi.datasets.image_files import SUFFIXES, is_image, walk
from pesi.errors import DataError
from pesi.files import utf8

# Pictures in formats that are not read: they are refused by name, and not passed over.
_UNREAD = (
    *(".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dcm", ".dicom", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"),
)
# A file name has 255 bytes at most (ext4, APFS, NTFS); an id with "_segmentation.png" behind it, and with what
# `files.whole_file` puts around a name that is being written, must be one.
_ID_BYTES = 200


def image_files(inputs: Sequence[Path]) -> list[Path]:
    """The given files, and the images in the given folders (to any depth, also behind links), sorted, each once.

    In folders, hidden files, the folders of systems (`.ipynb_checkpoints`, `@eaDir`, `__MACOSX`), masks, superpixels
    and pictures that Pesi-CNN drew are passed over. Pictures in formats that are not read, and folders that may not be
    read, are among the results, to be refused by name.

    Raises:
        DataError: A path does not exist, or a folder holds no images.
    """
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


def _inside(root: Path) -> list[Path]:
    closed: list[Path] = []
    found = [
        folder / name
        for folder, names in walk(root, lambda error: closed.append(Path(str(error.filename))))
        for name in names
        if is_image(name) or (name.lower().endswith(_UNREAD) and not name.startswith("."))
    ]
    return found + closed


def image_ids(paths: Sequence[Path], *, root: Path | None = None) -> list[str]:
    """An id for each file: its name without the ending.

    Files whose ids would be equal have the paths below the folder that they share instead, with `_` between the parts,
    as for a folder of classes; the others keep theirs. Bytes of a name that are no UTF-8 are written as escapes. An id
    that is too long for a file's name with an ending of ours is cut and ends in eight digits of its SHA-256.

    Args:
        paths: The files.
        root: The folder that ids are told from. Default: for each group of equal names, the one that they share.

    Raises:
        DataError: A file is given twice.
    """
    absolute = [path.absolute() for path in paths]
    twice = next((path for path, count in Counter(absolute).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{twice} is given twice.", "Give each image once.")
    return distinct_ids([path.stem for path in absolute], absolute, root=root and root.absolute())


def distinct_ids(stems: Sequence[str], paths: Sequence[PurePath], *, root: PurePath | None = None) -> list[str]:
    """`image_ids` of stems that are known; the paths are distinct, and need not be those of files."""
    ids = list(stems)
    groups: dict[str, list[int]] = defaultdict(list)
    for index, stem in enumerate(stems):
        groups[stem].append(index)
    changed: dict[int, str] = {}  # what a file is called below the shared folder
    for stem, group in groups.items():
        if len(group) == 1:
            continue
        parents = [paths[index].parent.parts for index in group]
        shared = len(root.parts) if root is not None else _shared(parents)
        below = [tuple(part for part in parts[shared:] if part not in ("/", "..")) for parts in parents]
        changed |= {i: "/".join((*parts, paths[i].name)) for i, parts in zip(group, below, strict=True)}
        named = ["_".join((*parts, stem)) for parts in below]
        if len(set(named)) < len(group):  # a.jpg and a.png in one folder
            named = ["_".join((*parts, paths[index].name)) for parts, index in zip(below, group, strict=True)]
        for index, name in zip(group, named, strict=True):
            ids[index] = name
    counts = Counter(ids)
    for index, name in changed.items():
        if counts[ids[index]] > 1:  # a_b/c and a/b_c, or a file that is called a_b_c itself
            ids[index] += f"-{_digits(os.fsencode(name))}"
    return [_short(utf8(image_id)) for image_id in ids]


def _shared(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all begin with."""
    return next((n for n, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths)))


def _short(image_id: str) -> str:
    whole = image_id.encode()
    if len(whole) <= _ID_BYTES:
        return image_id
    return f"{whole[: _ID_BYTES - 9].decode(errors='ignore')}-{_digits(whole)}"


def _digits(name: bytes) -> str:
    return hashlib.sha256(name).hexdigest()[:8]
