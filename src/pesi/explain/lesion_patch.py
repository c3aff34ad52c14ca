"""The part of an image that a description measures: the lesion and the skin around it, in CIELAB, at one size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.images.masks import Mask
from pesi.images.transforms import Image, resize

Lab = NDArray[np.float32]

# Ours: large enough for borders, small enough that an image of any size is described in some tens of milliseconds.
_LONGEST = 256
_MARGIN = 0.3  # of the lesion's longer side, on each side: the skin that it is compared with


@dataclass(frozen=True, eq=False)
class LesionPatch:
    """A lesion with the skin around it.

    Attributes:
        lab: CIELAB (D65) of each pixel, (h, w, 3): L* 0..100, a*, b*.
        mask: The lesion, (h, w).
        scale: Side of one of these pixels in pixels of the image.
        offset: (x, y) of the patch's first pixel in the image, in pixels of the image.
        open_sides: Which sides of the patch are sides of the image: top, bottom, left, right.
    """

    lab: Lab
    mask: Mask
    scale: float
    offset: tuple[int, int]
    open_sides: tuple[bool, bool, bool, bool]

    @property
    def radius(self) -> float:
        """Radius of the disc of the lesion's area, in pixels of the patch."""
        return math.sqrt(float(self.mask.sum()) / math.pi)

    def to_image(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) as (x, y), pixel centres at whole numbers, from the patch to the image."""
        return (points + 0.5) * self.scale - 0.5 + np.array(self.offset, np.float64)


def cielab(image: Image) -> Lab:
    """sRGB (H, W, 3) uint8 -> CIELAB under D65 (H, W, 3): L* 0..100, a* and b* about -100..100 (CIE 15)."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def lesion_patch(image: Image, mask: Mask) -> LesionPatch:
    """Cut the lesion with a margin of skin from an image, reduced to at most 256 pixels along the lesion.

    Args:
        image: uint8 sRGB, (H, W, 3).
        mask: The lesion, (H, W).

    Raises:
        ValueError: The mask is empty or of another shape than the image.
    """
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"A mask of shape {mask.shape} with {int(mask.sum())} pixels does not fit {image.shape}.")
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    longest = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    margin = max(2, round(_MARGIN * longest))
    top, bottom = max(0, int(rows[0]) - margin), min(mask.shape[0], int(rows[-1]) + 1 + margin)
    left, right = max(0, int(columns[0]) - margin), min(mask.shape[1], int(columns[-1]) + 1 + margin)
    picture = np.ascontiguousarray(image[top:bottom, left:right])
    cut = mask[top:bottom, left:right]
    scale = max(1.0, longest / _LONGEST)
    if scale > 1:
        height, width = (max(1, round(side / scale)) for side in picture.shape[:2])
        picture = resize(picture, height, width)
        gray = resize(np.where(cut, np.uint8(255), np.uint8(0)), height, width)
        reduced = gray > 127
        cut = reduced if reduced.any() else gray == gray.max()
    sides = (top == 0, bottom == mask.shape[0], left == 0, right == mask.shape[1])
    return LesionPatch(cielab(picture), np.ascontiguousarray(cut), scale, (left, top), sides)
