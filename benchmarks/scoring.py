"""Scores of a table's variants with intervals, and paired differences between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from crops import segmenter_saw
from numpy.typing import NDArray
from outcome import Block, FinishedRow, Outcome, Pooled

from pesi.errors import PesiError
from pesi.stats import metrics
from pesi.stats.intervals import bootstrap, percentile_interval
from pesi.stats.paired import PairedResult, delong, paired_bootstrap

Floats = NDArray[np.float64]
Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class VariantScores:
    """Scores of a variant over a block.

    Attributes:
        averaged: Of the probabilities averaged over the seeds: measure -> value and 95 % interval.
        seeds: The headline measure of each seed's pooled predictions.
        within: The headline measure within each split, averaged over splits and seeds: nothing is pooled.
        points: Class name -> accuracy, sensitivity and specificity at 0.5, where the classes are few.
    """

    block: Block
    images: int
    averaged: dict[str, Interval]
    seeds: dict[int, float]
    within: float
    points: dict[str, tuple[float, float, float]]


def variant_scores(
    outcome: Outcome, variant: str, *, replicates: int, seed: int, block: Block | None = None
) -> VariantScores | None:
    """Scores of a variant over a block, its largest unless given; None where nothing is finished."""
    block = outcome.block(variant) if block is None else block
    if not block:
        return None
    pooled = outcome.pooled(variant, block)
    ones = np.ones((1, len(pooled.classes)))
    averaged, points = scored(outcome, pooled, pooled.averaged, replicates=replicates, seed=seed)
    within = [
        float(outcome.headline_value(pooled, one, (pooled.folds == fold)[None].astype(float))[0])
        for one in pooled.scores
        for fold in np.unique(pooled.folds)
    ]
    return VariantScores(
        block,
        len(pooled.classes),
        averaged,
        {s: float(outcome.headline_value(pooled, pooled.scores[i], ones)[0]) for i, s in enumerate(block.seeds)},
        float(np.mean(within)),
        points,
    )


def scored(
    outcome: Outcome, pooled: Pooled, scores: Floats, *, replicates: int, seed: int
) -> tuple[dict[str, Interval], dict[str, tuple[float, float, float]]]:
    """Scores of probabilities (N, K) of a block's images.

    Returns:
        Measure -> value and 95 % interval; class name -> accuracy, sensitivity and specificity at 0.5, where the
        classes are few.
    """
    point = outcome.measures(pooled, scores, np.ones((1, len(pooled.classes))))
    draws = bootstrap(
        lambda weights: outcome.measures(pooled, scores, weights),
        pooled.classes,
        replicates=replicates,
        rng=np.random.default_rng(seed),
        groups=pooled.groups,
    )
    points = {}
    for k, name in enumerate(outcome.columns if outcome.few else ()):
        values = metrics.binary_scores(outcome.labels(pooled, name), scores[:, k])
        accuracy, sensitivity, specificity = (float(values[n][0]) for n in ("accuracy", "sensitivity", "specificity"))
        points[name] = (accuracy, sensitivity, specificity)
    return {name: (float(point[name][0]), *percentile_interval(values)) for name, values in draws.items()}, points


@dataclass(frozen=True)
class Unseen:
    """A difference over the images that the segmenter which cropped had not learned from.

    Attributes:
        saw: How many of the block's images it had.
        images: How many are left.
        averaged: As the difference's; None where a class is not among them.
    """

    saw: int
    images: int
    averaged: PairedResult | None


@dataclass(frozen=True)
class Difference:
    """A variant minus the one that it is compared with, `reference`, over the block that both have.

    Attributes:
        averaged: The headline measure of the probabilities averaged over the seeds.
        single: Mean over the seeds of the difference of each seed's headline: one network against one network.
        tasks: Class name -> DeLong's test of the averaged probabilities, where the classes are few.
        seeds: The difference of each seed.
        same_networks: Whether both are the same networks, so that no luck of a training lies between them.
        precisions: Theirs, (variant's, reference's), where they were not trained in the same arithmetic.
        unseen: Where one of them crops and its segmenter had learned from some of these images.
    """

    variant: str
    reference: str
    block: Block
    images: int
    averaged: PairedResult
    single: PairedResult
    tasks: dict[str, PairedResult]
    seeds: dict[int, float]
    same_networks: bool = False
    precisions: tuple[str, str] | None = None
    unseen: Unseen | None = None

    @property
    def name(self) -> str:
        """What is subtracted from what."""
        return f"{self.variant} minus {self.reference}"

    @property
    def apart(self) -> bool:
        """Whether both intervals exclude zero, on the same side."""
        same_side = self.averaged.difference * self.single.difference > 0
        return self.averaged.shown and self.single.shown and same_side

    @property
    def shown(self) -> bool:
        """Whether what differs by name is shown to make the difference: more than `apart`.

        Not by one training against one, not where the arithmetic differs too, and where a segmenter had learned from
        images, not without those that it had not.
        """
        lucky = len(self.seeds) == 1 and not self.same_networks
        without = self.unseen is None or (self.unseen.averaged is not None and self.unseen.averaged.shown)
        return self.apart and not lucky and self.precisions is None and without


def difference(
    outcome: Outcome, variant: str, reference: str, *, replicates: int, seed: int, block: Block | None = None
) -> Difference | None:
    """Paired difference of two variants over a block, by default the largest of both; None where they share none."""
    block = outcome.block(variant, reference) if block is None else block
    if not block:
        return None
    both = [outcome.pooled(name, block) for name in (variant, reference)]
    if both[0].image_ids != both[1].image_ids:
        raise PesiError(
            f"{outcome.table.name}: {variant} and {reference} held out different images.",
            "Delete the rows that were made with another fold list.",
        )
    classes = both[0].classes
    rows = [[outcome.finished[name][cell] for cell in block.cells] for name in (variant, reference)]

    def averaged(which: int, weights: NDArray) -> Floats:
        return outcome.headline_value(both[which], both[which].averaged, weights)

    def single(which: int, weights: NDArray) -> Floats:
        each = [outcome.headline_value(both[which], scores, weights) for scores in both[which].scores]
        return np.asarray(np.mean(each, axis=0))

    tests = [
        paired_bootstrap(
            statistic, classes, replicates=replicates, rng=np.random.default_rng(seed), groups=both[0].groups
        )
        for statistic in (averaged, single)
    ]
    ones = np.ones((1, len(classes)))
    return Difference(
        variant,
        reference,
        block,
        len(classes),
        tests[0],
        tests[1],
        {
            name: delong(outcome.labels(both[0], name), both[0].averaged[:, k], both[1].averaged[:, k])
            for k, name in enumerate(outcome.columns if outcome.few else ())
        },
        {
            s: float(
                outcome.headline_value(both[0], both[0].scores[i], ones)[0]
                - outcome.headline_value(both[1], both[1].scores[i], ones)[0]
            )
            for i, s in enumerate(block.seeds)
        },
        all(a.network == b.network for a, b in zip(*rows, strict=True)),
        _precisions(*rows),
        _unseen(outcome, rows, both, replicates=replicates, seed=seed),
    )


def _precisions(variant: list[FinishedRow], reference: list[FinishedRow]) -> tuple[str, str] | None:
    """What each was trained in, where a pair of rows differs in it."""
    if all(a.precision == b.precision for a, b in zip(variant, reference, strict=True)):
        return None
    first, second = (", ".join(sorted({row.precision for row in rows})) for rows in (variant, reference))
    return first, second


def _unseen(
    outcome: Outcome, rows: list[list[FinishedRow]], both: list[Pooled], *, replicates: int, seed: int
) -> Unseen | None:
    """The difference without what the segmenter had learned from, where only one of the two crops."""
    if rows[0][0].crops == rows[1][0].crops:
        return None
    saw = segmenter_saw(outcome.records)
    unseen = np.array([image_id not in saw for image_id in both[0].image_ids])
    if unseen.all():
        return None
    left = [pooled.take(unseen) for pooled in both]
    if set(left[0].classes) != set(both[0].classes):
        return Unseen(int((~unseen).sum()), int(unseen.sum()), None)
    result = paired_bootstrap(
        lambda which, weights: outcome.headline_value(left[which], left[which].averaged, weights),
        left[0].classes,
        replicates=replicates,
        rng=np.random.default_rng(seed),
        groups=left[0].groups,
    )
    return Unseen(int((~unseen).sum()), int(unseen.sum()), result)
