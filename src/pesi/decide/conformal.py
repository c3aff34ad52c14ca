"""Mondrian conformal prediction: sets that hold the true class as often as wanted, whichever class it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.stats import binomtest

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


def cross_fitted_sets(
    probabilities: Floats,
    classes: NDArray[np.int64],
    class_names: Sequence[str],
    folds: NDArray[np.int64],
    *,
    coverage: float,
) -> NDArray[np.bool_]:
    """The set of each image by the quantiles of the other folds, (N, K).

    Args:
        probabilities: (N, K).
        classes: The true classes, (N,).
        class_names: (K,).
        folds: Fold of each image, (N,).
        coverage: Wanted, between 0 and 1.
    """
    sets = np.zeros(probabilities.shape, bool)
    for fold in np.unique(folds):
        held = folds == fold
        config = fit_conformal(probabilities[~held], classes[~held], class_names, coverage=coverage, on="other folds")
        assert config is not None  # None is for multi-label heads alone
        sets[held] = prediction_sets(probabilities[held], config)
    return sets


@dataclass(frozen=True)
class Proportion:
    """A share of some images, with the exact binomial 95 % interval (Clopper and Pearson, Biometrika 26, 1934)."""

    successes: int
    trials: int

    @property
    def share(self) -> float | None:
        """None where there is no image."""
        return self.successes / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 %; 0 to 1 where there is no image."""
        if not self.trials:
            return 0.0, 1.0
        limits = binomtest(self.successes, self.trials).proportion_ci(0.95, method="exact")
        return float(limits.low), float(limits.high)

    def against(self, wanted: float) -> str:
        """Whether the interval lies "below" or "above" the wanted share, or the share "within" it."""
        low, high = self.interval
        return "below" if high < wanted else "above" if low > wanted else "within"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"count": self.successes, "of": self.trials, "share": self.share, "ci": list(self.interval)}


@dataclass(frozen=True)
class SetCoverage:
    """How often prediction sets held the true class, and how much they told.

    Attributes:
        overall: Of all images.
        classes: Class name -> of its images.
        mean_size: Classes in a set, on average.
        singletons, empty: Sets of exactly one class, and of none.
        certain_and_right: Of the singletons, those that are the true class.
    """

    overall: Proportion
    classes: dict[str, Proportion]
    mean_size: float
    singletons: Proportion
    empty: Proportion
    certain_and_right: Proportion

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "overall": self.overall.to_dict(),
            "classes": {name: value.to_dict() for name, value in self.classes.items()},
            "mean_size": self.mean_size,
            "singletons": self.singletons.to_dict(),
            "empty": self.empty.to_dict(),
            "certain_and_right": self.certain_and_right.to_dict(),
        }


def set_coverage(sets: NDArray[np.bool_], classes: NDArray[np.int64], class_names: Sequence[str]) -> SetCoverage:
    """Measure prediction sets on images that did not set their quantiles.

    Args:
        sets: (N, K), N at least 1.
        classes: The true classes, (N,).
        class_names: (K,).
    """
    held = sets[np.arange(len(classes)), classes]
    sizes = sets.sum(1)

    def proportion(of: NDArray[np.bool_]) -> Proportion:
        return Proportion(int(of.sum()), len(of))

    return SetCoverage(
        overall=proportion(held),
        classes={name: proportion(held[classes == index]) for index, name in enumerate(class_names)},
        mean_size=float(sizes.mean()),
        singletons=proportion(sizes == 1),
        empty=proportion(sizes == 0),
        certain_and_right=proportion(held[sizes == 1]),
    )


def no_result_reason(chosen: NDArray[np.bool_], class_names: Sequence[str], coverage: float) -> str | None:
    """Why a prediction set is no answer, in words; None where it is one class.

    Args:
        chosen: The set of one image, (K,).
        class_names: (K,).
        coverage: The set's, as in `ConformalConfig`.
    """
    names = [name for name, inside in zip(class_names, chosen, strict=True) if inside]
    if len(names) == 1:
        return None
    if not names:
        return f"at {coverage:.0%} coverage no class fits: the image is unlike the calibration images of each"
    return f"at {coverage:.0%} coverage {len(names)} classes remain: {', '.join(names)}"
