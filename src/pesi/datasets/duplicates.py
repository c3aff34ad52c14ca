"""Pairs of images of the same photograph: copies, also re-compressed, resized, turned, recoloured, a little cropped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pesi.errors import DataError
from pesi.images.decode import decode_image

Floats = NDArray[np.float32]

# On ISIC 2017 this is where pairs of the same photograph end and pairs begin that have only a frame, a ruler or a
# reflex in common: of the 56 pairs below it, 51 are the same photograph or lesion when looked at.
THRESHOLD = 0.28

_SIDE = 96  # pictures are compared at 96 x 96 pixels, squeezed to a square so that quarter turns stay comparable
_LOW = 8  # the hash: the lowest 8 x 8 DCT coefficients, as in imagehash.phash, but not reduced to signs
_ALIKE = 0.75  # hashes with at least this cosine are compared pixel by pixel
_BLOCK = 512
# On ISIC 2017's images the coefficients' deviations fall as 1 / frequency, and those of odd frequency are half as large
# (a lesion in the middle is symmetric). The mean brightness, frequency 0, has no weight.
_ODD = np.arange(_LOW) % 2 == 1
_WEIGHTS = np.hypot(*np.indices((_LOW, _LOW))) * np.where(_ODD[:, None] | _ODD, 2.0, 1.0)
_EVERYWHERE = np.ones((_SIDE, _SIDE), dtype=np.uint8)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def near_duplicates(
    records: pd.DataFrame,
    *,
    against: pd.DataFrame | None = None,
    threshold: float = THRESHOLD,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Find the pairs of images that are (nearly) the same photograph, in any of the eight turns and flips.

    First every pair's perceptual hashes are compared: the lowest DCT coefficients (Zauner 2010), weighted so that
    each counts alike. Then the few pairs that remain are aligned (affine, by enhanced correlation: Evangelidis and
    Psarakis 2008) and their details correlated, from which brightness, contrast and the lesion's coarse shape are
    filtered out: a dark spot on skin resembles every other one. Contrast is evened out locally, or else dark corners,
    which are the same on all pictures of a camera, would outweigh the lesion.

    Args:
        records: A record table.
        against: Another record table: only pairs of one of its images with one of `records` are looked for.
        threshold: Largest distance of a pair: 1 - correlation of the details, 0 for equal pictures.
        progress: Called with the number of images read.

    Returns:
        Frame with columns image_a, image_b (of `against`, or further down in `records`) and distance, nearest pairs
        first.

    Raises:
        ImageError: An image cannot be read.
        DataError: `threshold` is not between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise DataError(f"The threshold is {threshold}.", "Give a number between 0 and 1.")
    both = records if against is None else pd.concat([records, against], ignore_index=True)
    pictures = np.empty((len(both), _SIDE, _SIDE), dtype=np.uint8)
    for index, path in enumerate(both["path"]):
        pictures[index] = _small(decode_image(path, min_side=_SIDE))
        if progress is not None:
            progress(index + 1)
    best: dict[tuple[int, int], float] = {}
    for a, b, turn in _candidates(_hashes(pictures), apart=None if against is None else len(records)):
        distance = _distance(pictures[a], _turned(pictures[b], turn))
        if distance <= threshold and distance < best.get((a, b), 1.0):
            best[a, b] = distance
    ids = both["image_id"].to_numpy()
    found = sorted((distance, a, b) for (a, b), distance in best.items())
    return pd.DataFrame(
        {
            "image_a": pd.Series([ids[a] for _, a, _ in found], dtype="object"),
            "image_b": pd.Series([ids[b] for _, _, b in found], dtype="object"),
            "distance": pd.Series([distance for distance, _, _ in found], dtype="float64"),
        }
    )


def clusters(records: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    """The near-duplicate cluster of each image: images joined by pairs, also by way of others.

    Args:
        records: A record table.
        pairs: Columns image_a, image_b, as `near_duplicates` gives them.

    Returns:
        Series "cluster" with the image ids as index: integers from 0; an image of no pair has a cluster of its own.

    Raises:
        DataError: A pair names an image that the table does not hold.
    """
    ids = pd.Index(records["image_id"])
    ends = [ids.get_indexer(pd.Index(pairs[column])) for column in ("image_a", "image_b")]
    for column, place in zip(("image_a", "image_b"), ends, strict=True):
        if (place < 0).any():
            stranger = pairs[column].iloc[int(np.argmax(place < 0))]
            raise DataError(f"{stranger!r} in the pairs is no image of the table.", "Find the pairs in this table.")
    graph = coo_matrix((np.ones(len(pairs), dtype=bool), (ends[0], ends[1])), shape=(len(ids), len(ids)))
    return pd.Series(connected_components(graph, directed=False)[1], index=ids, name="cluster")


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gray, 96 x 96."""
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(small @ _LUMA), dtype=np.uint8)


def _turned(picture: NDArray, turn: int) -> NDArray:
    """One of the eight turns and flips: 1 flips top and bottom, 2 left and right, 4 transposes first."""
    picture = picture.swapaxes(-2, -1) if turn & 4 else picture
    picture = picture[..., ::-1, :] if turn & 1 else picture
    return np.ascontiguousarray(picture[..., ::-1] if turn & 2 else picture)


def _hashes(pictures: NDArray[np.uint8]) -> Floats:
    """(N, 8, 8) DCT coefficients of the low frequencies, each picture's of length 1 together, 0 for a flat one."""
    low = np.empty((len(pictures), _LOW, _LOW), dtype=np.float32)
    for start in range(0, len(pictures), _BLOCK):
        block = pictures[start : start + _BLOCK].astype(np.float32)
        low[start : start + _BLOCK] = dctn(block, axes=(1, 2), norm="ortho")[:, :_LOW, :_LOW]
    low *= _WEIGHTS
    length = np.linalg.norm(low, axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(low, length, out=np.zeros_like(low), where=length > 1.0), dtype=np.float32)


def _candidates(hashes: Floats, apart: int | None) -> Iterator[tuple[int, int, int]]:
    """(a, b, turn) with a < b whose hashes agree when b is turned; with `apart`, only those with a < apart <= b.

    A flip changes the signs of the odd coefficients and a transposition transposes them, so no pixel is needed.
    """
    odd = np.where(_ODD, -1.0, 1.0).astype(np.float32)
    flat = hashes.reshape(len(hashes), -1)
    for turn in range(8):
        turned = hashes.swapaxes(1, 2) if turn & 4 else hashes
        turned = turned * (odd[:, None] if turn & 1 else 1.0) * (odd[None, :] if turn & 2 else 1.0)
        turned = np.ascontiguousarray(turned.reshape(len(hashes), -1), dtype=np.float32)
        last = len(flat) if apart is None else apart
        for start in range(0, last, _BLOCK):
            first = start if apart is None else apart
            alike = flat[start : min(start + _BLOCK, last)] @ turned[first:].T >= _ALIKE
            rows, columns = np.nonzero(np.triu(alike, k=1) if apart is None else alike)
            for a, b in zip(rows.tolist(), columns.tolist(), strict=True):
                yield start + a, first + b, turn


def _distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """1 - correlation of the details of two small pictures, as they are or aligned, whichever is less."""
    fine_one, fine_other = _even(_details(one, 1.0, 3.0)), _even(_details(other, 1.0, 3.0))
    plain = 1.0 - _correlation(fine_one, fine_other, _EVERYWHERE > 0)
    if plain < 0.01:
        return plain
    warp = np.eye(2, 3, dtype=np.float32)
    broad_one, broad_other = _details(one, 1.5, 6.0), _details(other, 1.5, 6.0)
    for steps in (6, 14):
        if not _align(broad_one, broad_other, warp, steps):
            return plain
        # After a few steps two pictures that have nothing in common but a spot are still far from each other.
        if _correlation(broad_one, *_warped(broad_other, warp)) < 0.6:
            return plain
    return min(plain, 1.0 - _correlation(fine_one, *_warped(fine_other, warp)))


def _align(one: Floats, other: Floats, warp: Floats, steps: int) -> bool:
    """Improve `warp` (2, 3), in place; False where it has become no small crop, shift or squeeze."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-4)
    # An exception here also means that there is nothing left to improve: `warp` is as good as it got.
    with contextlib.suppress(cv2.error):
        cv2.findTransformECC(one, other, warp, cv2.MOTION_AFFINE, stop, _EVERYWHERE, 3)
    return bool(np.abs(warp[:, :2] - np.eye(2)).max() < 0.2 and np.abs(warp[:, 2]).max() < 0.25 * _SIDE)


def _warped(picture: Floats, warp: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The picture under the warp, and where it has pixels."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, warp, (_SIDE, _SIDE), flags=flags)
    return np.asarray(moved, dtype=np.float32), cv2.warpAffine(
        np.ones_like(picture), warp, (_SIDE, _SIDE), flags=flags
    ) > 0.999


def _correlation(one: Floats, other: Floats, inside: NDArray[np.bool_]) -> float:
    """Pearson's; -1 where the two overlap in less than half of the picture, or one is flat."""
    a, b = one[inside], other[inside]
    if len(a) < 0.5 * inside.size:
        return -1.0
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else -1.0


def _details(picture: NDArray[np.uint8], fine: float, coarse: float) -> Floats:
    """What a blur by `fine` pixels leaves and one by `coarse` pixels would take away."""
    values = picture.astype(np.float32)
    band = cv2.GaussianBlur(values, (0, 0), fine) - cv2.GaussianBlur(values, (0, 0), coarse)
    return np.asarray(band, dtype=np.float32)


def _even(details: Floats) -> Floats:
    """Details of about the same strength everywhere; those below 4 gray levels, mostly noise, stay weaker."""
    strength = np.sqrt(cv2.GaussianBlur(details * details, (0, 0), 6.0))
    return np.asarray(details / (strength + 4.0), dtype=np.float32)
