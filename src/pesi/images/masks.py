"""Lesion masks in their images' geometry: read, warped with the image, and brought back to its size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.errors import DataError, ImageError
from pesi.images.decode import decode_mask, image_size
from pesi.images.transforms import Draw, Geometry, Image, augment, fit_square, resize, warp_matrix

Mask = NDArray[np.bool_]

LESION_ABOVE = 127  # of 255, in gray squares

_ASPECT_TOLERANCE = 0.02  # of width : height; masks of reduced images are rounded to whole pixels


def read_mask(path: str | Path, image: str | Path) -> Mask:
    """A lesion mask (H, W), checked to have its image's shape.

    Args:
        path: The mask: black and white, in any format of `decode_mask`.
        image: Its image; the two may differ in size, not in aspect.

    Raises:
        ImageError: One of them cannot be read, or they do not belong together.
    """
    mask = np.asarray(decode_mask(path), np.bool_)
    width, height = image_size(image)
    if abs(np.log(mask.shape[1] / mask.shape[0] * height / width)) > _ASPECT_TOLERANCE:
        raise ImageError(
            f"The mask {path} is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height}: another shape.",
            "Give the mask that belongs to the image.",
        )
    return mask


def mask_of_another_size(path: str | Path, mask: Sequence[int], image: Sequence[int]) -> DataError:
    """The error to raise for a mask that is not as large as its image; sizes are (width, height)."""
    return DataError(
        f"The mask {path} is {mask[0]} x {mask[1]} pixels, its image {image[0]} x {image[1]}.",
        "The official score needs masks of the images' size.",
    )


def read_mask_square(path: str | Path, image: str | Path, size: int, geometry: Geometry) -> Image:
    """A mask as its image's square has it: (size, size) uint8, 255 for lesion, gray along the border.

    Raises:
        ImageError: As `read_mask`.
    """
    return fit_square(np.where(read_mask(path, image), np.uint8(255), np.uint8(0)), size, geometry)


def unfit_square(values: NDArray[np.float32], height: int, width: int, geometry: Geometry) -> NDArray[np.float32]:
    """Undo `fit_square` for a map: (S, S) -> (height, width), 0 where the square did not see the image."""
    if geometry == "squeeze":
        return _enlarged(values, height, width)
    whole = np.zeros((height, width), np.float32)
    side = min(height, width) if geometry == "center_crop" else max(height, width)
    square = _enlarged(values, side, side)
    top, left = abs(side - height) // 2, abs(side - width) // 2
    if geometry == "center_crop":
        whole[top : top + side, left : left + side] = square
    else:
        whole[:] = square[top : top + height, left : left + width]
    return whole


def _enlarged(values: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if values.shape == (height, width):
        return values.copy()
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def augment_pair(image: Image, mask: Image, draw: Draw, size: int) -> tuple[Image, Mask]:
    """Apply one draw to an image and its mask; the mask gets the warp only.

    Args:
        image: (H, W, 3).
        mask: (H, W) uint8, as `read_mask_square` gives it. Beyond its border it is mirrored, as the image is.
        draw: What happens to them.
        size: Side of the results.

    Returns:
        The image (size, size, 3) and the mask (size, size).
    """
    warped = cv2.warpAffine(
        mask,
        warp_matrix(draw, mask.shape[0], mask.shape[1], size),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return augment(image, draw, size), np.asarray(warped > LESION_ABOVE)


def mask_of_size(mask: Mask, height: int, width: int) -> Mask:
    """A mask (H, W) brought to another size of its picture: the file's own, where that was reduced when it was read."""
    if mask.shape == (height, width):
        return mask
    return np.asarray(resize(np.where(mask, np.uint8(255), np.uint8(0)), height, width) > LESION_ABOVE)


def resize_mask(mask: Image, size: int) -> Mask:
    """A gray mask (S, S) uint8 -> (size, size) booleans."""
    return np.asarray(resize(mask, size, size) > LESION_ABOVE)
