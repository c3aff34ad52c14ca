"""An image with the lesion's border drawn on it."""

from __future__ import annotations

import cv2
import numpy as np

from pesi.images.masks import Mask
from pesi.images.transforms import Image


def outlined(image: Image, mask: Mask) -> Image:
    """A copy of an image (H, W, 3) with the border of a mask (H, W) in two lines that show on dark and on light."""
    picture = image.copy()
    borders, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(image.shape[:2]) / 300))
    cv2.drawContours(picture, borders, -1, (0.0, 0.0, 0.0), 3 * width)
    cv2.drawContours(picture, borders, -1, (255.0, 255.0, 255.0), width)
    return picture
