"""Decoded, squared images in one memory-mapped file, so that epochs after the first are not bound by decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pesi.errors import DataError, ImageError
from pesi.files import default_cache_dir, made_by_one, whole_file
from pesi.images.masks import read_mask_square
from pesi.images.regions import Region, read_region
from pesi.images.transforms import Geometry
from pesi.machine import available_cores

# Raise when decoding or a region gives other pixels, so that old caches are not used.
_VERSION = 2
_MASK_VERSION = 2  # the same of masks


def cached_squares(
    paths: Sequence[str | Path],
    region: Region,
    *,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """All images as one read-only memory-mapped array, decoded on the first call only, by one process.

    A changed, added or removed file (by path, size or time) makes another cache.

    Args:
        paths: Image files.
        region: What is cut from each.
        cache_dir: Where caches are kept; default `default_cache_dir()`.
        workers: Decoding threads; default one a core.
        progress: Called with (done, total).

    Returns:
        (N, size, size, 3) uint8, in the order of `paths`.

    Raises:
        DataError: Some images cannot be read; all of them are named (the first ten in the message).
        StorageError: The cache cannot be written.
    """
    return cached_array(
        paths,
        lambda index: read_region(paths[index], region),
        shape=(region.size, region.size, 3),
        name=f"squares-{region.size}",
        key=[_VERSION, region.key],
        what="images",
        cache_dir=cache_dir,
        workers=workers,
        progress=progress,
    )


def cached_masks(
    paths: Sequence[str | Path],
    images: Sequence[str | Path],
    *,
    size: int,
    geometry: Geometry,
    cache_dir: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """All masks as one read-only memory-mapped array, read on the first call only; see `cached_squares`.

    Args:
        paths: Mask files.
        images: Their images, in the same order.
        size: Side of the squares, pixels.
        geometry: See `fit_square`.
        cache_dir: Where caches are kept; default `default_cache_dir()`.
        progress: Called with (done, total).

    Returns:
        (N, size, size) uint8, see `images.masks.read_mask_square`.

    Raises:
        DataError: Some masks cannot be read or are not their images'; all are counted, the first ten named.
        StorageError: The cache cannot be written.
    """
    if len(paths) != len(images):
        raise ValueError(f"{len(paths)} masks but {len(images)} images.")
    return cached_array(
        paths,
        lambda index: read_mask_square(paths[index], images[index], size, geometry),
        shape=(size, size),
        name=f"masks-{size}",
        key=[_MASK_VERSION, size, geometry],
        what="masks",
        stamped=images,
        cache_dir=cache_dir,
        progress=progress,
    )


def cached_array(
    paths: Sequence[str | Path],
    read: Callable[[int], NDArray[np.uint8]],
    *,
    shape: tuple[int, ...],
    name: str,
    key: Sequence[object],
    what: str,
    stamped: Sequence[str | Path] = (),
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """What is read from files as one read-only memory-mapped array, read on the first call only.

    Args:
        paths: The files, one an item.
        read: Gives item i, of `shape`; raises ImageError to refuse it.
        shape: Of an item.
        name: How the cache's file name begins.
        key: Whatever else makes another cache.
        what: What the files are called in errors.
        stamped: Further files whose change makes another cache.
        cache_dir, workers, progress: See `cached_squares`.

    Returns:
        (N, *shape) uint8.

    Raises:
        DataError, StorageError: See `cached_squares`.
    """
    if not paths:
        raise DataError(f"There are no {what} to read.", "Check the data folder and the split.")
    stamps = [_stamp(path) for path in (*paths, *stamped)]
    digest = hashlib.sha256(json.dumps([*key, stamps]).encode()).hexdigest()[:24]
    target = (Path(cache_dir) if cache_dir else default_cache_dir()) / f"{name}-{digest}.npy"
    if not target.exists():
        with made_by_one(target):
            if not target.exists():  # another process may have made it meanwhile
                _read_all(paths, read, shape, target, what, workers or available_cores(), progress)
    array: NDArray[np.uint8] = np.load(target, mmap_mode="r", allow_pickle=False)
    return array


def _stamp(path: str | Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise DataError(f"Cannot open {path}: {error.strerror}.", "Check the data with: pesi data check") from error
    return str(Path(path).resolve()), stat.st_size, stat.st_mtime_ns


def _read_all(
    paths: Sequence[str | Path],
    read: Callable[[int], NDArray[np.uint8]],
    shape: tuple[int, ...],
    target: Path,
    what: str,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    refused: list[str] = []

    def attempt(index: int) -> NDArray[np.uint8] | ImageError:
        try:
            return read(index)
        except ImageError as error:
            return error

    with whole_file(target) as temporary, ThreadPoolExecutor(workers) as pool:
        # Written by ordinary writes, not through the map: a full disk must be an error, not a killed process.
        with temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for done, (path, item) in enumerate(zip(paths, pool.map(attempt, range(len(paths))), strict=True), start=1):
                if isinstance(item, ImageError):
                    refused.append(item.problem if str(path) in item.problem else f"{path}: {item.problem}")
                elif not refused:
                    file.write(item.tobytes())
                if progress:
                    progress(done, len(paths))
        if refused:
            more = f"\n  ... and {len(refused) - 10} more" if len(refused) > 10 else ""
            raise DataError(
                f"{len(refused)} of {len(paths)} {what} cannot be read:\n  " + "\n  ".join(refused[:10]) + more,
                "Repair or remove them; `pesi data check` lists all.",
            )
