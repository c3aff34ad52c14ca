"""Paired tests of two classifiers on the same images: DeLong's for an AUC, the bootstrap for anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pesi.stats.intervals import Z95, bootstrap, percentile_interval

Floats = NDArray[np.float64]
FEW = 10  # of 1, 3 and 5 positives, two equal classifiers would be told apart by DeLong in 73, 12 and 9 % of sets


@dataclass(frozen=True)
class PairedResult:
    """A minus B, with its 95 % interval.

    Attributes:
        a, b: The score of each.
        difference: a - b.
        interval: 95 % interval of the difference.
        p_value: Two-sided, of no difference.
        method: "DeLong" or "paired bootstrap".
        few: Whether there are fewer than `FEW` images with or without a class: then intervals are too narrow by far,
            and nothing is shown.
    """

    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    method: str
    few: bool = False

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero, and there are images enough to say so."""
        return not self.few and (self.interval[0] > 0 or self.interval[1] < 0)


def structural_components(labels: NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """DeLong's V10 of the positives and V01 of the negatives, by mid-ranks (Sun and Xu, IEEE SPL 21(11), 2014)."""
    positive, negative = scores[labels], scores[~labels]
    m, n = len(positive), len(negative)
    if not m or not n:
        raise ValueError("An AUC needs images with and without the class.")
    joint = rankdata(np.concatenate([positive, negative]))
    v10 = (joint[:m] - rankdata(positive)) / n
    v01 = 1 - (joint[m:] - rankdata(negative)) / m
    return np.asarray(v10), np.asarray(v01)


def delong(labels: NDArray[np.bool_], scores_a: Floats, scores_b: Floats) -> PairedResult:
    """Paired test of two AUCs on the same images (DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988).

    Args:
        labels: (N,); no two images of one patient or lesion, which it takes for independent: see `paired_bootstrap`.
        scores_a, scores_b: (N,), of the same images.
    """
    v10_a, v01_a = structural_components(labels, scores_a)
    v10_b, v01_b = structural_components(labels, scores_b)
    difference = float(v10_a.mean() - v10_b.mean())
    deviation = math.sqrt(_variance(v10_a - v10_b) + _variance(v01_a - v01_b))
    p_value = 2 * float(norm.sf(abs(difference) / deviation)) if deviation > 0 else float(difference == 0)
    return PairedResult(
        float(v10_a.mean()),
        float(v10_b.mean()),
        difference,
        (difference - Z95 * deviation, difference + Z95 * deviation),
        p_value,
        "DeLong",
    )


def _variance(components: Floats) -> float:
    """Variance of the mean of the components."""
    return float(np.var(components, ddof=1) / len(components)) if len(components) > 1 else 0.0


def paired_bootstrap(
    statistic: Callable[[int, NDArray], Floats],
    strata: NDArray,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> PairedResult:
    """Bootstrap of a difference: both classifiers are scored on the same resamples.

    Args:
        statistic: (0 for A or 1 for B, weights (r, N)) -> scores (r,).
        strata: Stratum of each image, (N,).
        replicates: How many resamples.
        rng: The generator.
        groups: Group of each image, (N,), drawn as a whole; None: each image is drawn by itself.
    """
    ones = np.ones((1, len(strata)))
    a, b = float(statistic(0, ones)[0]), float(statistic(1, ones)[0])
    draws = bootstrap(
        lambda w: {"difference": statistic(0, w) - statistic(1, w)},
        strata,
        replicates=replicates,
        rng=rng,
        groups=groups,
    )["difference"]
    tail = min(float(np.mean(draws <= 0)), float(np.mean(draws >= 0)))
    p_value = min(1.0, 2 * max(tail, 1 / (replicates + 1)))
    return PairedResult(a, b, a - b, percentile_interval(draws), p_value, "paired bootstrap")
