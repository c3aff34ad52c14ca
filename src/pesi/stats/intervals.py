"""Intervals: the stratified bootstrap, Wilson's and the exact one of a proportion, Newcombe's of an AUC of few images.

Several images of one patient or lesion tell less than as many of different ones. Everything here takes `groups`, the
number of each image's patient or lesion, (N,), as `pesi.datasets.splits.repeated_groups` gives it: the bootstrap draws
whole groups, a closed form counts them. None: no two images share one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.stats.metrics import weighted_mean

Floats = NDArray[np.float64]

_CHUNK = 8_000_000  # weights held at a time
Z95 = 1.959963984540054


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high


def bootstrap_weights(
    strata: NDArray, replicates: int, rng: np.random.Generator, *, groups: NDArray | None = None
) -> Iterator[NDArray[np.int32]]:
    """How often each image stands in each resample, a chunk of replicates at a time.

    Within each stratum as many images are drawn with replacement as it has, so class counts stay as they are. Images
    of one lesion are alike: where groups are given, whole groups are drawn instead, as many as the stratum has
    (the cluster bootstrap; Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).

    Args:
        strata: Stratum of each image, (N,).
        replicates: How many resamples in all.
        rng: The generator.
        groups: Group of each image, (N,). None: each image is drawn by itself.

    Yields:
        (r, N) counts; the r add up to `replicates`.
    """
    parts = []
    for value in np.unique(strata):
        members = np.flatnonzero(strata == value)
        codes = np.arange(len(members)) if groups is None else np.unique(groups[members], return_inverse=True)[1]
        parts.append((members, codes, int(codes.max()) + 1))
    step = max(1, _CHUNK // max(len(strata), 1))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        weights = np.zeros((rows, len(strata)), np.int32)
        for members, codes, count in parts:
            drawn = rng.integers(count, size=(rows, count))
            for row in range(rows):
                weights[row, members] = np.bincount(drawn[row], minlength=count)[codes]
        yield weights


def bootstrap(
    statistics: Callable[[NDArray], dict[str, Floats]],
    strata: NDArray,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> dict[str, Floats]:
    """Bootstrap distribution of several statistics at once, from the same resamples.

    Args:
        statistics: From weights (r, N) to name -> values (r,).
        strata: Stratum of each image, (N,).
        replicates: How many resamples.
        rng: The generator.
        groups: Group of each image, (N,), drawn as a whole; None: each image is drawn by itself.

    Returns:
        Name -> (replicates,).
    """
    chunks = [statistics(weights) for weights in bootstrap_weights(strata, replicates, rng, groups=groups)]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of a bootstrap distribution."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def units(groups: NDArray | None, chosen: NDArray[np.bool_]) -> int:
    """How many patients or lesions the chosen images, (N,), are of; without groups, how many images."""
    return int(chosen.sum() if groups is None else len(np.unique(groups[chosen])))


def effective_count(happened: NDArray[np.bool_], groups: NDArray | None) -> float:
    """How many independent images would tell a share as well as these, (N,), of which some share a group.

    The images over the design effect, the variance of a share of clusters over that of as many single images (J. Rao,
    A. Scott, Biometrics 48, 1992); never more than there are images, and where it happened to all or none, the groups.
    """
    count = len(happened)
    if groups is None or not count:
        return count
    share = float(np.mean(happened))
    codes = np.unique(groups, return_inverse=True)[1]
    spread = float(np.sum(np.bincount(codes, happened - share) ** 2))
    if share in (0, 1):
        return int(codes.max()) + 1
    return min(count, share * (1 - share) * count**2 / spread) if spread > 0 else count


def share_interval(happened: NDArray[np.bool_], groups: NDArray | None = None) -> tuple[float, float]:
    """Wilson's 95 % interval of the share of images to which something happened, (N,), by their `effective_count`."""
    count = effective_count(happened, groups)
    return wilson_interval(float(np.mean(happened)) * count if count else 0.0, count)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95 % interval of a proportion (E. B. Wilson, JASA 22, 1927).

    The trials can be an effective number, which is seldom whole: scipy's `binomtest` takes none of those.
    """
    if trials == 0:
        return 0.0, 1.0
    z = Z95
    p, n = successes / trials, trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def exact_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion, which holds it at least as often as it says (Clopper and Pearson, Biometrika 26, 1934).

    For independent trials of a rate that was fixed before; (0, 1) for none.
    """
    from scipy.special import betaincinv  # slow to import

    tail, failed = (1 - level) / 2, trials - successes
    low = float(betaincinv(successes, failed + 1, tail)) if successes else 0.0
    return low, float(betaincinv(successes + 1, failed, 1 - tail)) if failed else 1.0


def newcombe_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval of an AUC of few images, whose resamples hardly vary, or not at all where it is 0 or 1.

    The bounds solve |bound - AUC| = 1.96 sqrt(V(bound)) with Hanley and McNeil's variance (R. G. Newcombe, Stat. Med.
    25, 2006, method 5).
    """
    return _newcombe_low(area, positives, negatives), 1 - _newcombe_low(1 - area, positives, negatives)


def _newcombe_low(area: float, positives: int, negatives: int) -> float:
    spare = (positives + negatives) / 2 - 1

    def excess(bound: float) -> float:
        inner = 1 + spare * (1 - bound) / (2 - bound) + spare * bound / (1 + bound)
        return (area - bound) - Z95 * math.sqrt(bound * (1 - bound) * inner / (positives * negatives))

    if area == 0:
        return 0.0
    # For an area of 1, excess(1) = 0 too: the wanted root is the other one, where 1 - bound outgrows its square root.
    from scipy.optimize import brentq  # slow to import

    return float(brentq(excess, 0.0, min(area, 1 - 1e-9)))


def mean_interval(
    values: Floats,
    strata: NDArray | None = None,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> Estimate:
    """Mean of values (N,) and its 95 % bootstrap interval, within strata (N,) where they are given."""
    strata = np.zeros(len(values)) if strata is None else strata
    draws = bootstrap(
        lambda w: {"mean": weighted_mean(values, w)}, strata, replicates=replicates, rng=rng, groups=groups
    )["mean"]
    return Estimate(float(values.mean()), *percentile_interval(draws))
