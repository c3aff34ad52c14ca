"""How much of a map falls on the lesion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.errors import DataError, ImageError
from pesi.explain.maps import explain
from pesi.images.masks import LESION_ABOVE, Mask, read_mask_square
from pesi.images.transforms import Geometry
from pesi.predict.classifier import Classifier


def lesion_mask(path: str | Path, image: str | Path, *, size: int, geometry: Geometry) -> Mask:
    """A lesion mask as (size, size) booleans, in the geometry that the network sees.

    Args:
        path: The mask (ISIC Part 1: a PNG of 0 and 255), in its image's geometry.
        image: Its image.
        size: Side of the result.
        geometry: As the image's.

    Raises:
        ImageError: The mask is missing, unreadable, of another aspect than its image, or empty.
    """
    mask = np.asarray(read_mask_square(path, image, size, geometry) > LESION_ABOVE)
    if not mask.any():
        raise ImageError(f"The mask {path} is empty.", "It must mark the lesion in white.")
    return mask


def check_whole_image(classifier: Classifier) -> None:
    """Make sure that the maps of `explain` lie in the image's own geometry, as a mask does.

    Raises:
        DataError: The classifier looks at the lesion only.
    """
    if classifier.config.preprocess.regions[0] != "image":
        raise DataError(
            "This classifier looks only at a square around the lesion: a mask of the whole image does not fit.",
            "Leave the mask out, or use a bundle whose first region is the image.",
        )


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
    """Share of every map inside the lesion, for each image that has a mask, by the networks that have not seen it.

    Args:
        classifier: The classifier.
        records: Record table; rows without `mask_path` are passed over.
        progress: Called with the number of images done.

    Raises:
        DataError: The classifier looks at the lesion only.

    Returns:
        A frame: image_id, area (the lesion's share of the picture), then one column a map: "class activation",
        "stage 1" .., "blended".
    """
    check_whole_image(classifier)
    preprocess = classifier.config.preprocess
    rows: list[dict[str, object]] = []
    masked = records[records["mask_path"].notna()]
    for image_id, path, mask_path in zip(masked["image_id"], masked["path"], masked["mask_path"], strict=True):
        explanation = explain(classifier.of_fold(classifier.folds_of([image_id])[0]), path)
        mask = lesion_mask(mask_path, path, size=explanation.image.shape[0], geometry=preprocess.geometry)
        maps = {"class activation": explanation.cam, **explanation.attention, "blended": explanation.blended}
        shares = {name: attention_inside(values, mask) for name, values in maps.items()}
        rows.append({"image_id": image_id, "area": float(mask.mean()), **shares})
        if progress:
            progress(len(rows))
    return pd.DataFrame(rows)
