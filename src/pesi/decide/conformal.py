"""Mondrian conformal prediction: sets that hold the true class as often as wanted, whichever class it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Floats = NDArray[np.float64]


class ConformalConfig(BaseModel):
    """Class-conditional quantiles, as a bundle keeps them.

    Attributes:
        coverage: Wanted share of each class's images whose set holds the class.
        quantiles: Of each class: the class is in the set where 1 - its probability is at most this; 1: always.
        counts: Images of each class that set them.
        how: On what they were set, and which classes are always in the set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coverage: float = Field(gt=0, lt=1)
    quantiles: tuple[float, ...]
    counts: tuple[int, ...]
    how: str

    @model_validator(mode="after")
    def _one_of_each(self) -> ConformalConfig:
        if len(self.quantiles) != len(self.counts):
            raise ValueError(f"{len(self.quantiles)} quantiles but {len(self.counts)} counts")
        return self


def fit_conformal(
    probabilities: Floats,
    classes: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    coverage: float,
    on: str,
    head: str = "multiclass",
) -> ConformalConfig | None:
    """Quantiles of the score 1 - p(true class), a class at a time, on images that trained nothing.

    Split conformal prediction with the classes as categories (Vovk, Lindsay, Nouretdinov and Gammerman, "Mondrian
    confidence machine", 2003; Vovk, "Conditional validity of inductive conformal predictors", arXiv 1209.2673): a new
    image of class k, drawn as the n_k calibration images of the class were, has k in its set with a probability of at
    least `coverage`. The quantile is the ceil((n_k + 1) coverage)-th smallest score; where that is more than n_k, no
    quantile keeps the promise and the class is always in the set.

    Args:
        probabilities: (N, K).
        classes: The true classes, (N,), 0 to K - 1.
        class_names: (K,).
        coverage: Wanted, between 0 and 1.
        on: What the images were, for the record.
        head: `multiclass`; for `multilabel` heads there is no such set, and the answer is None.
    """
    if head != "multiclass":
        return None
    quantiles, counts, always = [], [], []
    for index, name in enumerate(class_names):
        scores = np.sort(1 - probabilities[classes == index, index])
        rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 20 * 0.95 is 19, whatever the rounding
        if rank > len(scores):
            always.append(f"{name} ({len(scores)})")
        quantiles.append(float(scores[rank - 1]) if rank <= len(scores) else 1.0)
        counts.append(len(scores))
    how = f"class-conditional split conformal on {on}, {len(classes)} images"
    if always:
        how += f"; too few images, so always in the set: {', '.join(always)}"
    return ConformalConfig(coverage=coverage, quantiles=tuple(quantiles), counts=tuple(counts), how=how)


def prediction_sets(probabilities: Floats, config: ConformalConfig) -> NDArray[np.bool_]:
    """Which classes are in the set of each image, (N, K) -> (N, K)."""
    return np.asarray(1 - probabilities <= np.array(config.quantiles))


def named_sets(
    probabilities: NDArray[np.float64], wanted: Sequence[ConformalConfig], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The prediction sets of one image: wanted coverage, such as "0.90" -> names of the classes that remain possible.

    Args:
        probabilities: (K,).
        wanted: Of each coverage.
        names: Of the classes, (K,).
    """
    inside = {f"{sets.coverage:.2f}": prediction_sets(probabilities[None], sets)[0] for sets in wanted}
    return {coverage: tuple(np.asarray(names)[held].tolist()) for coverage, held in inside.items()}
