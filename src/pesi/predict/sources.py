"""One image or many: which of them was given, and the ids of many, made as the command line makes them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import SourceError
from pesi.images.pixels import TAKEN, ImageSource, is_source, source_path


def many_sources(images: Any) -> list[ImageSource] | Iterator[ImageSource] | None:
    """The images of a folder, a list (or of folders in it) or a generator; None where one image was given.

    Raises:
        SourceError: It is none of these, or a list holds something that is no image.
        DataError: A folder holds no images or cannot be read.
    """
    if isinstance(images, str | Path) and Path(images).is_dir():
        return list(image_files([Path(images)]))
    if is_source(images):
        return None
    tables = tuple(pandas.DataFrame for pandas in [sys.modules.get("pandas")] if pandas is not None)
    if isinstance(images, (Mapping, *tables)) or not isinstance(images, Iterable):
        raise SourceError(f"A {type(images).__name__} is no image.", f"{TAKEN} Or a list of these, or a folder.")
    found = chain.from_iterable(_checked(number, image) for number, image in enumerate(images))
    return found if isinstance(images, Iterator) else list(found)


def _checked(number: int, image: Any) -> Sequence[ImageSource]:
    if not is_source(image):
        raise SourceError(f"Item {number} is a {type(image).__name__}, which is no image.", TAKEN)
    if isinstance(image, str | Path) and Path(image).is_dir():
        return list(image_files([Path(image)]))
    return [image]


def source_ids(paths: Sequence[str | None]) -> list[str]:
    """An id for each image: that of `image_ids`, `image` where no path is known; repeated ones get `_2` and so on."""
    files = list(dict.fromkeys(Path(path) for path in paths if path is not None))
    names = dict(zip(files, image_ids(files), strict=True))
    taken: set[str] = set()
    return [_untaken("image" if path is None else names[Path(path)], taken) for path in paths]


def with_ids(sources: Iterable[ImageSource]) -> Iterator[tuple[ImageSource, str]]:
    """Each image with its id: of a list by `source_ids`, of a generator by its own name, `_2` where that was there."""
    if isinstance(sources, Iterator):
        taken: set[str] = set()
        for source in sources:
            yield source, _untaken(source_ids([source_path(source)])[0], taken)
    else:
        listed = list(sources)
        yield from zip(listed, source_ids([source_path(source) for source in listed]), strict=True)


def _untaken(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
