"""Scores of variants and of their averages with intervals, and paired differences between them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from outcome import Block, FinishedRow, Outcome, Pooled, segmenter_saw

from pesi.errors import PesiError
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
    """

    block: Block
    images: int
    averaged: dict[str, Interval]
    seeds: dict[int, float]
    within: float


def variant_scores(outcome: Outcome, variant: str, block: Block | None = None) -> VariantScores | None:
    """Scores of a variant over a block, its largest unless given; None where nothing is finished."""
    block = outcome.block(variant) if block is None else block
    if not block:
        return None
    pooled = outcome.pooled(variant, block)
    averaged = scored(outcome, pooled, pooled.averaged)
    folds = [pooled.folds == fold for fold in np.unique(pooled.folds)]
    within = [outcome.headline_of(pooled, one, fold) for one in pooled.scores for fold in folds]
    seeds = {seed: outcome.headline_of(pooled, one) for seed, one in zip(block.seeds, pooled.scores, strict=True)}
    return VariantScores(block, len(pooled.classes), averaged, seeds, float(np.mean(within)))


def scored(outcome: Outcome, pooled: Pooled, scores: Floats) -> dict[str, Interval]:
    """Measure -> value and 95 % interval of probabilities (N, K) of a block's images."""

    def measures(weights: NDArray) -> dict[str, Floats]:
        return outcome.measures(pooled, scores, weights)

    point, rng = measures(np.ones((1, len(scores)))), np.random.default_rng(outcome.seed)
    draws = bootstrap(measures, pooled.classes, replicates=outcome.replicates, rng=rng, groups=pooled.groups)
    return {name: (float(point[name][0]), *percentile_interval(values)) for name, values in draws.items()}


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


def difference(outcome: Outcome, variant: str, reference: str, block: Block | None = None) -> Difference | None:
    """Paired difference of two variants over a block, by default the largest of both; None where they share none."""
    block = outcome.block(variant, reference) if block is None else block
    if not block:
        return None
    both = [outcome.pooled(name, block) for name in (variant, reference)]
    if both[0].image_ids != both[1].image_ids:
        raise PesiError(
            f"{outcome.table.name}: {variant} and {reference} held out different images.",
            "Drop the rows that were made with another fold list.",
        )
    rows = [[outcome.finished[name][cell] for cell in block.cells] for name in (variant, reference)]
    averaged, scores = [pooled.averaged for pooled in both], [pooled.scores for pooled in both]
    each = [[outcome.headline_of(pooled, one) for one in pooled.scores] for pooled in both]
    names = outcome.columns if outcome.few else ()
    return Difference(
        variant,
        reference,
        block,
        len(both[0].classes),
        averaged=headline_difference(outcome, both[0], averaged[0][None], averaged[1][None]),
        single=headline_difference(outcome, both[0], *scores),
        tasks={n: delong(outcome.labels(both[0], n), *(one[:, k] for one in averaged)) for k, n in enumerate(names)},
        seeds={seed: a - b for seed, a, b in zip(block.seeds, *each, strict=True)},
        same_networks=all(a.network == b.network for a, b in zip(*rows, strict=True)),
        precisions=_precisions(*rows),
        unseen=_unseen(outcome, rows, both),
    )


class TableResult(NamedTuple):
    """All that is computed of one table: differences over the most folds, and over fewer that more seeds have."""

    outcome: Outcome
    scores: dict[str, VariantScores | None]
    differences: list[Difference]
    more_seeds: list[Difference]

    @property
    def empty(self) -> bool:
        """Whether no row of its own is finished."""
        return not any(self.outcome.finished[variant] for variant in self.outcome.own)


def headline_difference(outcome: Outcome, pooled: Pooled, a: Floats, b: Floats) -> PairedResult:
    """Paired bootstrap of the headline measure, A minus B, of probabilities (S, N, K): the mean over the first axis."""

    def headline(which: int, weights: NDArray) -> Floats:
        return np.asarray(np.mean([outcome.headline_value(pooled, one, weights) for one in (a, b)[which]], axis=0))

    rng = np.random.default_rng(outcome.seed)
    return paired_bootstrap(headline, pooled.classes, replicates=outcome.replicates, rng=rng, groups=pooled.groups)


def _precisions(variant: list[FinishedRow], reference: list[FinishedRow]) -> tuple[str, str] | None:
    """What each was trained in, where a pair of rows differs in it."""
    if all(a.precision == b.precision for a, b in zip(variant, reference, strict=True)):
        return None
    first, second = (", ".join(sorted({row.precision for row in rows})) for rows in (variant, reference))
    return first, second


def _unseen(outcome: Outcome, rows: list[list[FinishedRow]], both: list[Pooled]) -> Unseen | None:
    """The difference without what the segmenter had learned from, where only one of the two crops."""
    if rows[0][0].crops == rows[1][0].crops:
        return None
    saw = segmenter_saw(outcome.records)
    unseen = np.array([image_id not in saw for image_id in both[0].image_ids])
    if unseen.all():
        return None
    left = [pooled.take(unseen) for pooled in both]
    result = None
    if set(left[0].classes) == set(both[0].classes):
        result = headline_difference(outcome, left[0], *(pooled.averaged[None] for pooled in left))
    return Unseen(int((~unseen).sum()), int(unseen.sum()), result)


Member = tuple[Outcome, str]  # a table, and one of its variants


@dataclass(frozen=True)
class EnsembleResult:
    """The scores of an ensemble: the held-out probabilities of several tables' variants averaged.

    Attributes:
        name: Its name.
        members: Table and variant of each; a member's seeds are averaged first.
        splits: The splits that all members held out.
        images: How many images these hold.
        networks: How many networks predicted each image.
        averaged: Measure -> value and 95 % interval.
        best: The member with the best headline measure on the same images.
        gain: The ensemble minus that member. It was chosen on the same images, so the gain is not flattered.
    """

    name: str
    members: tuple[Member, ...]
    splits: tuple[str, ...]
    images: int
    networks: int
    averaged: dict[str, Interval]
    best: Member
    gain: PairedResult


def read_ensembles(path: Path, outcomes: Mapping[str, Outcome]) -> dict[str, tuple[Member, ...]]:
    """The ensembles of a TOML file, where there is one, whose tables are all among the outcomes (by table name).

    Raises:
        PesiError: The file is damaged, or names a variant that its table does not have.
    """
    if not path.is_file():
        return {}
    try:
        entries = {name: list(entry["members"]) for name, entry in tomllib.loads(path.read_text("utf-8")).items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        cure = 'Write [NAME] and members = ["TABLE VARIANT", ...].'
        raise PesiError(f"{path} cannot be read: {error}.", cure) from error
    found = {}
    for name, members in entries.items():
        pairs = [tuple(str(member).partition(" ")[::2]) for member in members]
        if len(pairs) < 2:
            raise PesiError(f"{path}: ensemble {name!r} has {len(pairs)} members.", "Name two or more.")
        if not all(table in outcomes for table, _ in pairs):
            continue
        for table, variant in pairs:
            if variant not in outcomes[table].own:
                known = ", ".join(outcomes[table].own)
                raise PesiError(f"{path}: {table} has no variant {variant!r}.", f"It has: {known}.")
        found[name] = tuple((outcomes[table], variant) for table, variant in pairs)
    return found


def ensemble_result(name: str, members: Sequence[Member]) -> EnsembleResult | None:
    """Score an ensemble; None where its members share no finished split."""
    blocks = [outcome.block(variant) for outcome, variant in members]
    splits = tuple(s for s in blocks[0].splits if all(s in block.splits for block in blocks))
    if not splits:
        return None
    outcome = members[0][0]
    pooled = [m.pooled(v, Block(splits, block.seeds)) for (m, v), block in zip(members, blocks, strict=True)]
    kinds = {(p.image_ids, member.columns) for p, (member, _) in zip(pooled, members, strict=True)}
    if len(kinds) > 1:
        raise PesiError(f"Ensemble {name!r}: its members held out different images or classes.", "Use one fold list.")
    mean = np.asarray(np.mean([p.averaged for p in pooled], axis=0))
    averaged = scored(outcome, pooled[0], mean)
    best = int(np.argmax([outcome.headline_of(p, p.averaged) for p in pooled]))
    gain = headline_difference(outcome, pooled[0], mean[None], pooled[best].averaged[None])
    networks = sum(len(block.seeds) for block in blocks)
    return EnsembleResult(name, tuple(members), splits, len(mean), networks, averaged, members[best], gain)
