"""The parts of a picture that a network looks at: the whole image, or a square around the lesion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pesi.images.correction import CorrectionName, correct
from pesi.images.decode import decode_image
from pesi.images.transforms import Geometry, Image, fit_square, framed

RegionName = Literal["image", "lesion"]
FindLesion = Callable[[Image], "NDArray[np.bool_] | None"]
FindSeen = Callable[["Seen", int, Geometry], "NDArray[np.bool_] | None"]

_SMALLEST = 0.2  # of the image's side: a smaller box would be mostly pixels that enlargement invented
_SHORT_SIDE = 768  # pixels that are left of an image at least, see `reading_side`


class Seen:
    """A decoded image (H, W, 3), and what was made of it for one region and serves the next: squares, lesions."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._squares: dict[tuple[int, Geometry], Image] = {}
        self._masks: dict[tuple[str, int, Geometry], NDArray[np.bool_] | None] = {}

    def square(self, size: int, geometry: Geometry) -> Image:
        """The image brought to a square (`fit_square`); not to be written to."""
        if (size, geometry) not in self._squares:
            self._squares[size, geometry] = fit_square(self.image, size, geometry)
        return self._squares[size, geometry]

    def lesion(self, box: LesionBox) -> NDArray[np.bool_] | None:
        """What `box.find` finds in the square."""
        key = box.finder, box.size, box.geometry
        if key not in self._masks:
            self._masks[key] = (
                box.find(self.square(box.size, box.geometry))
                if box.find_seen is None
                else box.find_seen(self, box.size, box.geometry)
            )
        return self._masks[key]


def seen(image: Image | Seen) -> Seen:
    """An image as regions take it."""
    return image if isinstance(image, Seen) else Seen(image)


class Region(Protocol):
    """From a decoded image (H, W, 3) to a square (size, size, 3); `key` names what it does, for caches.

    Several regions of one image cost less where they are given the same `Seen`.
    """

    @property
    def key(self) -> str:
        """What it does, in one word."""
        ...

    @property
    def size(self) -> int:
        """Side of the square, pixels."""
        ...

    def __call__(self, image: Image | Seen) -> Image:
        """The square; not to be written to."""
        ...


@dataclass(frozen=True)
class WholeImage:
    """The whole image, brought to a square (`fit_square`)."""

    size: int
    geometry: Geometry

    @property
    def key(self) -> str:
        """Such as "256-squeeze"."""
        return f"{self.size}-{self.geometry}"

    def __call__(self, image: Image | Seen) -> Image:
        """(H, W, 3) -> (size, size, 3)."""
        return seen(image).square(self.size, self.geometry)


@dataclass(frozen=True)
class LesionBox:
    """A square around the lesion with a margin; the whole image where no lesion is found.

    Args:
        size: Side of the result, pixels.
        geometry: How the whole image is squared before, see `fit_square`.
        margin: Added on each side, as a share of the lesion's longer side.
        find: Gives the lesion's mask (S, S) in the squared image, or None.
        finder: Names `find`, for caches.
        find_seen: The same of an image that others look at too, given with `size` and `geometry`: what found its lesion
            for them need not look again. It is preferred where it is given.
    """

    size: int
    geometry: Geometry
    margin: float
    find: FindLesion
    finder: str
    find_seen: FindSeen | None = None

    @property
    def key(self) -> str:
        """Such as "256-squeeze-lesion0.25-segmenter@1234"."""
        return f"{self.size}-{self.geometry}-lesion{self.margin:g}-{self.finder}"

    def __call__(self, image: Image | Seen) -> Image:
        """(H, W, 3) -> (size, size, 3), cut from the full resolution."""
        image = seen(image)
        mask = image.lesion(self)
        square = image.square(self.size, self.geometry)
        if mask is None:
            return square
        # The box is found in the square and cut from what that was scaled from, unless it is smaller.
        large = framed(image.image, self.geometry)
        if min(large.shape[:2]) < self.size:
            large = square
        rows, columns = (
            slice(round(a * side), max(round(a * side) + 1, round(b * side)))
            for (a, b), side in zip(lesion_box(mask, self.margin), large.shape[:2], strict=True)
        )
        return fit_square(large[rows, columns], self.size, "squeeze")


@dataclass(frozen=True)
class Corrected:
    """A region whose square is corrected.

    Args:
        region: What is cut.
        corrections: What is then done to it, in this order; see `images.correction`.
    """

    region: Region
    corrections: tuple[CorrectionName, ...]

    @property
    def key(self) -> str:
        """Such as "256-squeeze-hair_removal"."""
        return "-".join([self.region.key, *self.corrections])

    @property
    def size(self) -> int:
        """Side of the square, pixels."""
        return self.region.size

    def __call__(self, image: Image | Seen) -> Image:
        """(H, W, 3) -> (size, size, 3)."""
        return correct(self.region(image), self.corrections)


class Box(NamedTuple):
    """A square, as shares of the picture's sides: (from, to) downwards and rightwards."""

    y: tuple[float, float]
    x: tuple[float, float]


def lesion_box(mask: NDArray[np.bool_], margin: float) -> Box:
    """The square around a mask (S, S), widened by `margin`, moved into the picture, never larger than it.

    Args:
        mask: Where the lesion is; at least one pixel.
        margin: Added on each side, as a share of the longer side of the lesion's bounding box.

    Raises:
        ValueError: The mask is empty.
    """
    if not mask.any():
        raise ValueError("The mask is empty.")
    size = mask.shape[0]
    ends = []
    for axis in (1, 0):
        hit = np.flatnonzero(mask.any(axis))
        ends.append((hit[0] / size, (hit[-1] + 1) / size))
    side = min(1.0, max(_SMALLEST, (1 + 2 * margin) * max(b - a for a, b in ends)))
    starts = [min(max((a + b - side) / 2, 0.0), 1.0 - side) for a, b in ends]
    return Box(*((start, start + side) for start in starts))


def finds_lesion(region: Region, image: Image | Seen) -> bool:
    """Whether the region is a lesion's that is found in (H, W, 3), so that the whole image need not stand in."""
    box = region.region if isinstance(region, Corrected) else region
    return isinstance(box, LesionBox) and seen(image).lesion(box) is not None


def reading_side(regions: Sequence[Region]) -> int:
    """The `min_side` with which an image is decoded (`images.decode`) of which these regions are cut.

    A large JPEG is decoded reduced while its shorter side stays at least three times a region's, and 768 pixels: then a
    lesion of a third of the side is still seen in all pixels that its network takes. At half of that probabilities
    would change by 0.01 (measured with the shipped classifier).
    """
    return max(_SHORT_SIDE, *(3 * region.size for region in regions)) // 2


def read_region(path: str | Path | bytes, region: Region) -> Image:
    """Decode one image and cut a region: the one way to pixels for training and prediction.

    Raises:
        ImageError: The image is refused.
    """
    return region(decode_image(path, min_side=reading_side([region])))
