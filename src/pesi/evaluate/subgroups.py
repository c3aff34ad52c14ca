"""Scores of subgroups of the images (sex, age, site, skin tone, artefacts), and whether the worst is worse than chance.

A gap between the best and the worst of several groups is never zero, because the two were picked. So each gap comes
with a permutation test that picks in the same way, and all tests of one call are adjusted together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pesi.evaluate.subgroup_attributes import Attribute
from pesi.stats.intervals import bootstrap, newcombe_interval, percentile_interval, share_interval, units
from pesi.stats.metrics import auc, curve

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CHUNK = 8_000_000  # permuted labels held at a time


@dataclass(frozen=True)
class Target:
    """A one-vs-rest task that is scored in every group.

    Attributes:
        name: Such as "melanoma".
        labels: (N,).
        scores: Probabilities, (N,).
        threshold: `score >= threshold` is positive; None: sensitivity and specificity are not measured.
    """

    name: str
    labels: NDArray[np.bool_]
    scores: Floats
    threshold: float | None = None


@dataclass(frozen=True)
class GroupScores:
    """The scores of one group; an interval is of 95 %.

    Attributes:
        name: The group's.
        images, positives: How many.
        small: Whether it has too few positives or negatives to be compared.
        auc: None without positives or negatives.
        sensitivity, specificity: At the target's threshold.
        calibration: Mean probability minus observed share: above 0, the probabilities are too high.
    """

    name: str
    images: int
    positives: int
    small: bool
    auc: float | None
    auc_ci: Interval | None
    sensitivity: float | None
    sensitivity_ci: Interval | None
    specificity: float | None
    specificity_ci: Interval | None
    calibration: float
    calibration_ci: Interval


@dataclass(frozen=True)
class Gap:
    """The AUC of the best minus that of the worst of an attribute's groups that are large enough.

    Attributes:
        best, worst: The groups' names.
        difference: Of their AUCs.
        interval: 95 %, of the difference between these two groups; that they were picked is not in it.
        p_value: Of a gap at least as large where groups do not differ; that they were picked is in it.
        adjusted: The same, adjusted for all gaps measured together (Holm).
    """

    best: str
    worst: str
    difference: float
    interval: Interval
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class AttributeScores:
    """All groups of one attribute for one target; `gap` is None with fewer than two groups large enough."""

    attribute: str
    target: str
    groups: tuple[GroupScores, ...]
    gap: Gap | None


def measure_subgroups(
    targets: Sequence[Target],
    attributes: Sequence[Attribute],
    *,
    rng: np.random.Generator,
    smallest: int = 10,
    replicates: int = 1000,
    groups: NDArray | None = None,
) -> tuple[AttributeScores, ...]:
    """Score every group of every attribute for every target, and test each attribute's gap.

    Args:
        targets: What is scored.
        attributes: How the images are divided.
        rng: Of the bootstrap and the permutations.
        smallest: A group with fewer positives or fewer negatives is scored but not compared.
        replicates: Bootstrap resamples, and permutations.
        groups: Patient or lesion of each image, (N,), drawn and exchanged as a whole; `smallest` counts these.

    Returns:
        One entry a target and attribute, targets outermost.
    """
    results = []
    for target in targets:
        for attribute in attributes:
            scored = tuple(
                _group_scores(target, attribute.members == index, name, smallest, replicates, rng, groups)
                for index, name in enumerate(attribute.groups)
            )
            gap = _gap(target, attribute, scored, replicates, rng, groups)
            results.append(AttributeScores(attribute.name, target.name, scored, gap))
    tested = [result.gap for result in results if result.gap is not None]
    adjusted = iter(holm([gap.p_value for gap in tested]))
    return tuple(
        result if result.gap is None else replace(result, gap=replace(result.gap, adjusted=next(adjusted)))
        for result in results
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for all being looked at (S. Holm, Scand. J. Statist. 6, 1979), in the given order."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def permutation_p_value(
    labels: NDArray[np.bool_],
    scores: Floats,
    members: NDArray[np.int64],
    *,
    permutations: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> float:
    """p-value of the gap between the best and the worst AUC, were membership nothing to do with the scores.

    The images with the class exchange their groups among themselves, and so do those without it: every group keeps its
    counts, and only the scores that it got are drawn anew. Images of one patient or lesion, class and group of the
    attribute move together.

    Args:
        labels: (N,).
        scores: (N,).
        members: Group of each image, (N,); each group has positives and negatives.
        permutations: How many.
        rng: The generator.
        groups: Patient or lesion of each image, (N,); None: each image moves by itself.
    """
    moving = np.arange(len(labels)) if groups is None else groups
    _, first, unit = np.unique(np.stack([moving, labels, members]), axis=1, return_index=True, return_inverse=True)

    def gaps(codes: NDArray[np.int64]) -> Floats:
        areas = [auc(curve(labels, scores, codes == group)) for group in np.unique(members)]
        return np.asarray(np.max(areas, axis=0) - np.min(areas, axis=0))

    observed = gaps(members[None])[0]
    extreme, step = 0, max(1, _CHUNK // len(members))
    for start in range(0, permutations, step):
        codes = np.tile(members[first], (min(step, permutations - start), 1))
        for part in (labels[first], ~labels[first]):
            codes[:, part] = rng.permuted(codes[:, part], axis=1)
        extreme += int(np.sum(gaps(codes[:, unit]) >= observed - 1e-12))
    return (1 + extreme) / (1 + permutations)


def auc_interval(
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> tuple[float, float, float]:
    """AUC and its 95 % interval: stratified bootstrap; Newcombe's where the classes are wholly apart.

    Where the AUC is 0 or 1 every resample gives the same, which would claim certainty from a handful of images.
    """
    area = float(auc(curve(labels, scores))[0])
    if 0 < area < 1:
        draws = bootstrap(
            lambda w: {"auc": auc(curve(labels, scores, w))}, labels, replicates=replicates, rng=rng, groups=groups
        )
        return area, *percentile_interval(draws["auc"])
    return area, *newcombe_interval(area, units(groups, labels), units(groups, ~labels))


def _group_scores(
    target: Target,
    chosen: NDArray[np.bool_],
    name: str,
    smallest: int,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None,
) -> GroupScores:
    labels, scores = target.labels[chosen], target.scores[chosen]
    own = None if groups is None else groups[chosen]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    area, low, high = (
        auc_interval(labels, scores, replicates=replicates, rng=rng, groups=own)
        if positives and negatives
        else (None, 0.0, 1.0)
    )
    predicted = float(scores.mean())
    share_low, share_high = share_interval(labels, own)
    rates: list[tuple[float | None, Interval | None]] = []
    for right, of in ((scores >= (target.threshold or 0.0), labels), (scores < (target.threshold or 0.0), ~labels)):
        if target.threshold is None or not of.any():
            rates.append((None, None))
        else:
            rates.append((float(right[of].mean()), share_interval(right[of], None if own is None else own[of])))
    return GroupScores(
        name=name,
        images=len(labels),
        positives=positives,
        small=min(units(own, labels), units(own, ~labels)) < smallest,
        auc=area,
        auc_ci=None if area is None else (low, high),
        sensitivity=rates[0][0],
        sensitivity_ci=rates[0][1],
        specificity=rates[1][0],
        specificity_ci=rates[1][1],
        calibration=predicted - positives / len(labels),
        # By the observed share's interval: a bootstrap of a group without positives would have no width.
        calibration_ci=(predicted - share_high, predicted - share_low),
    )


def _gap(
    target: Target,
    attribute: Attribute,
    scored: Sequence[GroupScores],
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None,
) -> Gap | None:
    compared = [(g.auc, g.auc_ci, index) for index, g in enumerate(scored) if not g.small and g.auc is not None]
    if len(compared) < 2:
        return None
    best, worst = max(compared, key=lambda entry: entry[0]), min(compared, key=lambda entry: entry[0])
    if best[2] == worst[2]:  # all AUCs are equal
        worst = next(entry for entry in compared if entry[2] != best[2])
    kept = np.isin(attribute.members, [index for *_, index in compared])
    p_value = permutation_p_value(
        target.labels[kept],
        target.scores[kept],
        attribute.members[kept],
        permutations=replicates,
        rng=rng,
        groups=None if groups is None else groups[kept],
    )
    difference = best[0] - worst[0]
    # From the two groups' own intervals, as even an AUC of 1 has one (G. Y. Zou, A. Donner, Stat. Med. 27, 2008).
    (best_low, best_high), (worst_low, worst_high) = best[1] or (0.0, 1.0), worst[1] or (0.0, 1.0)
    interval = (
        difference - math.hypot(best[0] - best_low, worst_high - worst[0]),
        difference + math.hypot(best_high - best[0], worst[0] - worst_low),
    )
    return Gap(scored[best[2]].name, scored[worst[2]].name, difference, interval, p_value, p_value)
