"""How far two ways of measuring the same images agree: Spearman's correlation, and Bland and Altman's limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pesi.stats.intervals import Estimate, bootstrap, percentile_interval

Floats = NDArray[np.float64]

_LIMITS = 1.96  # standard deviations: 95 % of a normal distribution


@dataclass(frozen=True)
class Agreement:
    """Method A against method B on the same images.

    Attributes:
        images: How many.
        spearman: Rank correlation, -1..1; None where one of the two is the same on every image.
        bias: Mean of A minus B.
        lower, upper: Bland and Altman's limits of agreement: bias -+ 1.96 standard deviations of the difference.
    """

    images: int
    spearman: Estimate | None
    bias: Estimate
    lower: Estimate
    upper: Estimate


def agreement(
    a: Floats, b: Floats, *, replicates: int, rng: np.random.Generator, groups: NDArray | None = None
) -> Agreement:
    """Agreement of two measurements of the same images, with 95 % bootstrap intervals.

    After J. M. Bland and D. G. Altman, Lancet 327, 1986.

    Args:
        a, b: (N,), N at least 3; without NaN.
        replicates: Bootstrap resamples.
        rng: The generator.
        groups: Group of each image, (N,), drawn as a whole.
    """
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"Agreement needs at least three pairs, not {len(a)} and {len(b)} values.")
    difference = np.asarray(a - b, np.float64)

    def statistics(weights: NDArray) -> dict[str, Floats]:
        w = weights.astype(np.float64) / weights.sum(1, keepdims=True)
        mean = w @ difference
        # As numpy's ddof=1 of the resample.
        spread = np.sqrt(np.maximum(w @ difference**2 - mean**2, 0) * len(a) / (len(a) - 1))
        rho = [spearman(np.repeat(a, row), np.repeat(b, row)) for row in weights]
        return {
            "bias": mean,
            "lower": mean - _LIMITS * spread,
            "upper": mean + _LIMITS * spread,
            "spearman": np.array(rho),
        }

    value = {name: float(v[0]) for name, v in statistics(np.ones((1, len(a)), np.int32)).items()}
    draws = bootstrap(statistics, np.zeros(len(a)), replicates=replicates, rng=rng, groups=groups)
    rho = draws["spearman"][~np.isnan(draws["spearman"])]  # a resample of equal values has none
    return Agreement(
        len(a),
        None if np.isnan(value["spearman"]) else Estimate(value["spearman"], *percentile_interval(rho)),
        *(Estimate(value[name], *percentile_interval(draws[name])) for name in ("bias", "lower", "upper")),
    )


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation with mid-ranks for ties; NaN where a or b is constant."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")
