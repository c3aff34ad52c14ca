"""Lesion masks against the truth, as ISIC 2017 Part 1 and ISIC 2018 Task 1 score them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.datasets.splits import repeated_groups
from pesi.errors import DataError
from pesi.files import write_json, write_text
from pesi.images.decode import decode_image, image_size
from pesi.images.masks import Mask, mask_of_another_size, mask_of_size, read_mask
from pesi.predict.segmenter import LesionSegmenter
from pesi.stats.intervals import Estimate, mean_interval

JACCARD_THRESHOLD = 0.65  # of ISIC 2018 Task 1: a lower Jaccard counts as failed


@dataclass(frozen=True)
class MaskScores:
    """One mask against the truth, each 0..1.

    Attributes:
        jaccard: TP / (TP + FP + FN).
        thresholded_jaccard: The same, 0 below 0.65.
        dice: 2 TP / (2 TP + FP + FN).
        sensitivity: TP / (TP + FN).
        specificity: TN / (TN + FP).
        accuracy: (TP + TN) / all.
    """

    jaccard: float
    thresholded_jaccard: float
    dice: float
    sensitivity: float
    specificity: float
    accuracy: float


SCORES: tuple[str, ...] = tuple(field.name for field in fields(MaskScores))


def mask_scores(predicted: Mask, truth: Mask) -> MaskScores:
    """Score one mask (H, W). What would be 0 / 0 is 1, as the official scorer (isic-challenge-scoring) has it.

    Raises:
        ValueError: The masks have different shapes.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"The masks have different shapes: {predicted.shape} and {truth.shape}.")
    tp = int(np.count_nonzero(predicted & truth))
    fp, fn = int(np.count_nonzero(predicted)) - tp, int(np.count_nonzero(truth)) - tp
    tn = truth.size - tp - fp - fn
    jaccard = _ratio(tp, tp + fp + fn)
    return MaskScores(
        jaccard=jaccard,
        thresholded_jaccard=jaccard if jaccard >= JACCARD_THRESHOLD else 0.0,
        dice=_ratio(2 * tp, 2 * tp + fp + fn),
        sensitivity=_ratio(tp, tp + fn),
        specificity=_ratio(tn, tn + fp),
        accuracy=_ratio(tp + tn, truth.size),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True)
class SegmentationEvaluation:
    """A segmenter, scored.

    Attributes:
        per_image: One row an image: image_id, the scores, area (of the truth), predicted_area, found, reason.
        scores: Score -> mean over the images, low and high end of its 95 % interval.
        seed, replicates: Of the bootstrap.
    """

    per_image: pd.DataFrame
    scores: dict[str, Estimate]
    seed: int
    replicates: int

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`: images, found, and each score with its interval."""
        values: dict[str, Any] = {"images": len(self.per_image), "found": int(self.per_image["found"].sum())}
        for name, (mean, low, high) in self.scores.items():
            values |= {name: mean, f"{name}_ci": [low, high]}
        return values | {"bootstrap": {"replicates": self.replicates, "seed": self.seed}}

    def write(self, folder: str | Path, **provenance: Any) -> None:
        """Write `metrics.json` (with `provenance` in it) and `per_image.csv` into a folder."""
        write_text(Path(folder) / "per_image.csv", self.per_image.to_csv(index=False))
        write_json(Path(folder) / "metrics.json", self.to_dict() | provenance)


def score_images(
    per_image: pd.DataFrame, *, replicates: int = 2000, seed: int = 0, groups: NDArray | None = None
) -> SegmentationEvaluation:
    """Means over a table of one row an image, with bootstrap 95 % intervals; see `SegmentationEvaluation`.

    Args:
        per_image: The table.
        replicates, seed: Of the bootstrap.
        groups: Patient or lesion of each image, (N,), drawn as a whole.
    """
    scores = {
        name: mean_interval(
            per_image[name].to_numpy(np.float64),
            replicates=replicates,
            rng=np.random.default_rng(seed),
            groups=groups,
        )
        for name in SCORES
    }
    return SegmentationEvaluation(per_image, scores, seed, replicates)


def evaluate_segmenter(
    segmenter: LesionSegmenter,
    records: pd.DataFrame,
    *,
    replicates: int = 2000,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SegmentationEvaluation:
    """Find the lesion in every image that has a mask, and score it in the image's own geometry.

    Args:
        segmenter: The segmenter.
        records: Record table; rows without `mask_path` are passed over.
        replicates, seed: Of the bootstrap.
        progress: Called with the number of images done.

    Raises:
        DataError: No image has a mask, or a mask is not as large as its image.
        ImageError: An image or a mask cannot be read, or they do not belong together.
    """
    masked = records[records["mask_path"].notna()]
    if not len(masked):
        raise DataError("None of these images has a lesion mask.", "Name a data set with masks, or another --split.")
    rows: list[dict[str, Any]] = []
    for image_id, path, mask_path in zip(masked["image_id"], masked["path"], masked["mask_path"], strict=True):
        image, truth = decode_image(path), read_mask(mask_path, path)
        if truth.shape[::-1] != (size := image_size(path)):
            raise mask_of_another_size(mask_path, truth.shape[::-1], size)
        lesion = segmenter.segment(image)
        rows.append(
            {"image_id": image_id}
            | asdict(mask_scores(mask_of_size(lesion.mask, *truth.shape), truth))
            | {
                "area": float(truth.mean()),
                "predicted_area": lesion.area,
                "found": lesion.found,
                "reason": lesion.reason,
            }
        )
        if progress:
            progress(len(rows))
    return score_images(pd.DataFrame(rows), replicates=replicates, seed=seed, groups=repeated_groups(masked))
