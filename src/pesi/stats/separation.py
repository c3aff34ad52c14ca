"""How well a novelty score tells pictures that are no dermoscopy from real dermoscopy.

A family of outliers (one source picture and its crops) is the unit: intervals resample families and dermoscopy images,
and the mean over families counts each family once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pesi.stats.intervals import bootstrap_weights, percentile_interval, share_interval, wilson_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FamilyResult:
    """One family of outliers.

    Attributes:
        count: Its pictures.
        auroc: Against all dermoscopy images, and its 95 % interval.
        refused: Share above the threshold, and its 95 % interval (Wilson; crops of one picture are not independent, so
            it is too narrow).
    """

    count: int
    auroc: float
    auroc_interval: tuple[float, float]
    refused: float
    refused_interval: tuple[float, float]


@dataclass(frozen=True)
class NoveltyResult:
    """A novelty score on dermoscopy and on families of outliers.

    Attributes:
        images: Dermoscopy images.
        auroc: Mean over the families, and its 95 % interval.
        refused: Share of outliers above the threshold, mean over the families, and its 95 % interval.
        false_refusal: Share of dermoscopy above the threshold, and its 95 % interval (Wilson).
        families: By name.
    """

    images: int
    auroc: float
    auroc_interval: tuple[float, float]
    refused: float
    refused_interval: tuple[float, float]
    false_refusal: float
    false_refusal_interval: tuple[float, float]
    families: Mapping[str, FamilyResult]


def below_shares(dermoscopy: Floats, outliers: Floats) -> Floats:
    """Share of dermoscopy scores (N,) below each outlier's (M,), ties as half; their mean is the AUROC."""
    count = len(dermoscopy)
    joint = rankdata(np.concatenate([dermoscopy, outliers]))[count:]
    return np.asarray((joint - rankdata(outliers)) / count)


def novelty_result(
    dermoscopy: Floats,
    outliers: Mapping[str, Floats],
    threshold: float,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> NoveltyResult:
    """Score a novelty score.

    Args:
        dermoscopy: Scores of held-out dermoscopy images, (N,).
        outliers: Family -> scores of its pictures, (m,).
        threshold: Above it a picture is refused.
        replicates: Bootstrap resamples: of the dermoscopy images, of the families, and of the pictures in each.
        rng: The generator.
        groups: Group of each dermoscopy image, (N,), drawn as a whole.
    """
    if not len(dermoscopy) or not outliers:
        raise ValueError("A novelty result needs dermoscopy images and outliers.")
    names = list(outliers)
    order = np.argsort(dermoscopy)
    weights = np.vstack(list(bootstrap_weights(np.zeros(len(order)), replicates, rng, groups=groups)))
    below = np.pad(np.cumsum(weights[:, order], axis=1), ((0, 0), (1, 0)))  # (R, N + 1): drawn among the k lowest
    drawn, shares = (np.empty((replicates, len(names))) for _ in range(2))
    rows = np.arange(replicates)[:, None]
    for column, name in enumerate(names):
        values = outliers[name]
        picked = rng.integers(len(values), size=(replicates, len(values)))
        low, high = (np.searchsorted(dermoscopy[order], values, side)[picked] for side in ("left", "right"))
        drawn[:, column] = (below[rows, low] + below[rows, high]).mean(1) / (2 * below[:, -1])
        shares[:, column] = (values > threshold)[picked].mean(1)
    families = {}
    for column, name in enumerate(names):
        values = outliers[name]
        above = int((values > threshold).sum())
        families[name] = FamilyResult(
            len(values),
            float(below_shares(dermoscopy, values).mean()),
            percentile_interval(drawn[:, column]),
            above / len(values),
            wilson_interval(above, len(values)),
        )
    chosen = rng.integers(len(names), size=(replicates, len(names)))
    return NoveltyResult(
        len(dermoscopy),
        float(np.mean([family.auroc for family in families.values()])),
        percentile_interval(drawn[rows, chosen].mean(1)),
        float(np.mean([family.refused for family in families.values()])),
        percentile_interval(shares[rows, chosen].mean(1)),
        float((dermoscopy > threshold).mean()),
        share_interval(dermoscopy > threshold, groups),
        families,
    )
