"""How much of a map falls on the lesion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from pesi.data.transforms import Geometry, fit_square
from pesi.errors import ImageError


def read_mask(
    path: str | Path, *, size: int, geometry: Geometry, image_size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """A lesion mask as (size, size) booleans, in the geometry that the network sees.

    Args:
        path: A PNG of 0 and 255 (ISIC Part 1), in its image's geometry.
        size: Side of the result.
        geometry: As the image's.
        image_size: Width and height of its image, checked for the same aspect if given.

    Raises:
        ImageError: The mask is missing, unreadable, of another aspect than its image, or empty.
    """
    try:
        with PillowImage.open(path) as file:
            mask = np.asarray(file.convert("L"))
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise ImageError(
            f"Cannot read the mask {path}: {error}.", "Give a PNG of 0 (skin) and 255 (lesion)."
        ) from error
    height, width = mask.shape
    if image_size is not None and abs(width / height - image_size[0] / image_size[1]) > 0.02:
        raise ImageError(
            f"The mask {path} is {width} x {height}, its image {image_size[0]} x {image_size[1]}: another shape.",
            "Give the mask that belongs to the image.",
        )
    binary = np.where(mask > 127, np.uint8(255), np.uint8(0))
    square = fit_square(cv2.cvtColor(binary, cv2.COLOR_GRAY2RGB).astype(np.uint8), size, geometry)[..., 0] > 127
    if not square.any():
        raise ImageError(f"The mask {path} is empty.", "It must mark the lesion with 255.")
    return np.asarray(square)


def attention_inside(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Share of a map's positive mass inside the lesion, 0..1; equals the mask's share of the area for a uniform map.

    Args:
        values: (S, S); negative values count as nothing.
        mask: (S, S), the lesion.
    """
    positive = np.clip(np.asarray(values, np.float64), 0, None)
    total = positive.sum()
    return float(positive[mask].sum() / total) if total > 0 else float(mask.mean())
