"""How much of a map falls on the lesion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from pesi.data.decode import image_size
from pesi.data.transforms import Geometry, fit_square
from pesi.errors import ImageError
from pesi.explain.maps import explain
from pesi.predict.classifier import Classifier


def read_mask(
    path: str | Path, *, size: int, geometry: Geometry, expected: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """A lesion mask as (size, size) booleans, in the geometry that the network sees.

    Args:
        path: A PNG of 0 and 255 (ISIC Part 1), in its image's geometry.
        size: Side of the result.
        geometry: As the image's.
        expected: Width and height of its image, checked for the same aspect if given.

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
    if expected is not None and abs(width / height - expected[0] / expected[1]) > 0.02:
        raise ImageError(
            f"The mask {path} is {width} x {height}, its image {expected[0]} x {expected[1]}: another shape.",
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


def localise(
    classifier: Classifier, records: pd.DataFrame, *, progress: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Share of every map inside the lesion, for each image that has a mask.

    Args:
        classifier: The classifier.
        records: Record table; rows without `mask_path` are passed over.
        progress: Called with the number of images done.

    Returns:
        A frame: image_id, area (the lesion's share of the picture), then one column a map: "class activation",
        "stage 1" .., "blended".
    """
    preprocess = classifier.config.preprocess
    rows = []
    masked = records[records["mask_path"].notna()]
    for image_id, path, mask_path in zip(masked["image_id"], masked["path"], masked["mask_path"], strict=True):
        explanation = explain(classifier, path)
        mask = read_mask(mask_path, size=preprocess.size, geometry=preprocess.geometry, expected=image_size(path))
        maps = {"class activation": explanation.cam, **explanation.attention, "blended": explanation.blended}
        shares = {name: attention_inside(values, mask) for name, values in maps.items()}
        rows.append({"image_id": image_id, "area": float(mask.mean()), **shares})
        if progress:
            progress(len(rows))
    return pd.DataFrame(rows)
