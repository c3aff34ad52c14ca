"""How well a novelty score tells pictures that are no dermoscopy from real dermoscopy.

A family of outliers (one source picture and its crops) is the unit: intervals resample families and dermoscopy images,
and the mean over families counts each family once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pesi.stats.intervals import percentile_interval, wilson_interval

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
) -> NoveltyResult:
    """Score a novelty score.

    Args:
        dermoscopy: Scores of held-out dermoscopy images, (N,).
        outliers: Family -> scores of its pictures, (m,).
        threshold: Above it a picture is refused.
        replicates: Bootstrap resamples: of the dermoscopy images, of the families, and of the pictures in each.
        rng: The generator.
    """
    if not len(dermoscopy) or not outliers:
        raise ValueError("A novelty result needs dermoscopy images and outliers.")
    names = list(outliers)
    order = np.sort(dermoscopy)
    drawn = np.empty((replicates, len(names)))
    shares = np.empty((replicates, len(names)))
    for row in range(replicates):
        sample = np.sort(order[rng.integers(len(order), size=len(order))])
        for column, name in enumerate(names):
            values = outliers[name][rng.integers(len(outliers[name]), size=len(outliers[name]))]
            low, high = np.searchsorted(sample, values, "left"), np.searchsorted(sample, values, "right")
            drawn[row, column] = float(np.mean(low + high)) / (2 * len(sample))
            shares[row, column] = float(np.mean(values > threshold))
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
    rows = np.arange(replicates)[:, None]
    false = int((dermoscopy > threshold).sum())
    return NoveltyResult(
        len(dermoscopy),
        float(np.mean([family.auroc for family in families.values()])),
        percentile_interval(drawn[rows, chosen].mean(1)),
        float(np.mean([family.refused for family in families.values()])),
        percentile_interval(shares[rows, chosen].mean(1)),
        false / len(dermoscopy),
        wilson_interval(false, len(dermoscopy)),
        families,
    )


def crossed_choice(
    candidates: Mapping[str, tuple[Sequence[Floats], Mapping[str, Floats]]], *, folds: int, rng: np.random.Generator
) -> tuple[dict[str, tuple[str, Floats]], dict[str, str]]:
    """Choose a score on some families of outliers and read it on the others.

    Args:
        candidates: Score's name -> its scores of each source of dermoscopy, and family -> scores.
        folds: Parts of the families.
        rng: Draws the parts.

    Returns:
        Family -> the chosen score's name and, for each source, the family's AUROC (S,); and fold -> chosen name.
    """
    families = sorted(next(iter(candidates.values()))[1])
    parts = np.array_split(rng.permutation(len(families)), folds)
    table = {
        name: np.array([[below_shares(source, scores[family]).mean() for source in sources] for family in families])
        for name, (sources, scores) in candidates.items()
    }
    read: dict[str, tuple[str, Floats]] = {}
    chosen: dict[str, str] = {}
    for index, part in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(families)), part)
        best = max(table, key=lambda name: float(table[name][rest].mean()))
        chosen[str(index)] = best
        read.update({families[i]: (best, table[best][i]) for i in part})
    return read, chosen
