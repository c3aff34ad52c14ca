"""Images that a list names (.csv, .parquet) or that lie in object storage, by the addresses of fsspec (`s3://...`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from pesi.datasets.image_files import is_image, is_system_folder
from pesi.datasets.inputs import distinct_ids, image_files
from pesi.errors import DataError, ImageError

LISTS = (".csv", ".tsv", ".parquet")
_COLUMNS = ("path", "url", "file", "image")  # of a list, the first that is there
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: c:// is a drive


@dataclass(frozen=True)
class StoredImage:
    """An image by its address, which is read when it is its turn; `images.pixels` takes it as it takes an open file.

    Attributes:
        name: The address, such as `s3://bucket/mole.jpg`.
    """

    name: str

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: The store does not give them.
        """
        import fsspec

        try:
            with fsspec.open(self.name, "rb") as file:
                data: bytes = file.read()
        except Exception as error:  # each store's library raises its own
            cure = "Check the address and who may read it."
            raise ImageError(f"{self.name} cannot be read: {_told(error)}.", cure) from error
        return data


def is_address(text: str) -> bool:
    """Whether a text is an address of a store and no path."""
    return _ADDRESS.match(text) is not None


def opened_later(text: str) -> Path | StoredImage:
    """An image by its path or address."""
    return StoredImage(text) if is_address(text) else Path(text)


def listed_images(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images of files, folders, addresses and lists, each once; and an id for each, as of `inputs.image_ids`.

    A list is a table with a column path, url, file or image; paths in it are relative to its folder. Of an address that
    is no image's, all images below it are taken.

    Raises:
        DataError: Something is not there, holds no images, is no list, or cannot be reached.
    """
    found: list[str] = []
    for text in inputs:
        if PurePosixPath(text).suffix.lower() in LISTS:
            found += _of_list(text)
        elif is_address(text):
            found += _of_store(text)
        else:
            found += map(str, image_files([Path(text)]))
    found = list(dict.fromkeys(found))
    places: list[PurePath] = [PurePosixPath(text) if is_address(text) else Path(text).absolute() for text in found]
    twice = next((place for place, count in Counter(places).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{twice} is given twice.", "Give each image once.")
    return found, distinct_ids([place.stem for place in places], places)


def _of_list(text: str) -> list[str]:
    """What a table names."""
    import fsspec
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]]
    try:
        if PurePosixPath(text).suffix.lower() == ".parquet":
            with fsspec.open(text, "rb") as file:
                known = [name for name in _COLUMNS if name in pq.read_schema(file).names]
                file.seek(0)
                rows = pq.read_table(file, columns=known[:1]).to_pylist()
        elif is_address(text):
            raise DataError(f"{text} is a .csv in a store.", "Take a .parquet list, or copy it here.")
        else:
            from pesi.datasets.readers.csv_file import read_csv  # brings pandas along

            rows = [dict(row.values) for row in read_csv(Path(text))]
    except DataError:
        raise
    except Exception as error:  # a store's own, or pyarrow's
        raise DataError(f"The list {text} cannot be read: {_told(error)}.", "Check the path.") from error
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise DataError(f"{text} has no column {', '.join(_COLUMNS[:-1])} or {_COLUMNS[-1]}, or no rows.", "Add one.")
    folder = text.rpartition("/")[0] if is_address(text) else str(Path(text).absolute().parent)
    names = [str(row[column] or "").strip() for row in rows]
    if "" in names:
        raise DataError(f"{text}, row {names.index('') + 1}: the column {column} is empty.", "Name a file in each row.")
    return [name if is_address(name) or name.startswith("/") else f"{folder}/{name}" for name in names]


def _of_store(text: str) -> list[str]:
    """An address, or what lies below it."""
    import fsspec

    try:
        store, root = fsspec.url_to_fs(text)
        if not store.isdir(root):
            return [text]
        below = [path for path in store.find(root) if is_image(path.rpartition("/")[2])]
    except Exception as error:  # each store's library raises its own; or none is installed for that kind of address
        cure = "Check the address; s3:// needs s3fs, gs:// gcsfs."
        raise DataError(f"{text} cannot be reached: {_told(error)}.", cure) from error
    parts = len(PurePosixPath(root).parts)
    images = [path for path in below if not any(map(is_system_folder, PurePosixPath(path).parts[parts:-1]))]
    if not images:
        raise DataError(f"{text} holds no images.", "Name the folder that holds them.")
    return [store.unstrip_protocol(path) for path in sorted(images)]


def _told(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
