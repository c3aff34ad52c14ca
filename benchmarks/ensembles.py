"""Ensembles: the held-out probabilities of several tables' variants averaged, on the images that all held out."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from outcome import Block, Outcome, auc_name
from scoring import Floats, Interval, scored
from sections import cell, counted, signed

from pesi.errors import PesiError
from pesi.stats.paired import PairedResult, paired_bootstrap

Member = tuple[Outcome, str]  # a table, and one of its variants


@dataclass(frozen=True)
class EnsembleResult:
    """An ensemble's scores.

    Attributes:
        name: Its name.
        members: Table and variant of each; a member's seeds are averaged first.
        splits: The splits that all members held out.
        images: How many images these hold.
        networks: How many networks predicted each image.
        averaged: Measure -> value and 95 % interval.
        points: Class name -> accuracy, sensitivity and specificity at 0.5.
        best: The member with the best headline measure on the same images.
        gain: The ensemble minus that member. It was chosen on the same images, so the gain is not flattered.
    """

    name: str
    members: tuple[Member, ...]
    splits: tuple[str, ...]
    images: int
    networks: int
    averaged: dict[str, Interval]
    points: dict[str, tuple[float, float, float]]
    best: Member
    gain: PairedResult


def read_ensembles(path: Path, outcomes: Mapping[str, Outcome]) -> dict[str, tuple[Member, ...]]:
    """The ensembles of a file whose tables are all among the outcomes.

    Args:
        path: The TOML file; where there is none, there are no ensembles.
        outcomes: Table name -> outcome.

    Raises:
        PesiError: The file is damaged, or names a variant that its table does not have.
    """
    if not path.is_file():
        return {}
    try:
        entries = {name: list(entry["members"]) for name, entry in tomllib.loads(path.read_text("utf-8")).items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise PesiError(
            f"{path} cannot be read: {error}.", 'Write [NAME] and members = ["TABLE VARIANT", ...].'
        ) from error
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


def ensemble_result(name: str, members: Sequence[Member], *, replicates: int, seed: int) -> EnsembleResult | None:
    """Score an ensemble; None where its members share no finished split."""
    blocks = [outcome.block(variant) for outcome, variant in members]
    splits = tuple(s for s in blocks[0].splits if all(s in block.splits for block in blocks))
    if not splits:
        return None
    outcome = members[0][0]
    pooled = [
        member.pooled(variant, Block(splits, block.seeds))
        for (member, variant), block in zip(members, blocks, strict=True)
    ]
    if any(
        p.image_ids != pooled[0].image_ids or member.columns != outcome.columns
        for p, (member, _) in zip(pooled, members, strict=True)
    ):
        raise PesiError(f"Ensemble {name!r}: its members held out different images or classes.", "Use one fold list.")
    mean = np.asarray(np.mean([p.averaged for p in pooled], axis=0))
    averaged, points = scored(outcome, pooled[0], mean, replicates=replicates, seed=seed)
    ones = np.ones((1, len(mean)))
    alone = [float(outcome.headline_value(p, p.averaged, ones)[0]) for p in pooled]
    best = int(np.argmax(alone))

    def headline(which: int, weights: NDArray) -> Floats:
        return outcome.headline_value(pooled[0], mean if which == 0 else pooled[best].averaged, weights)

    rng = np.random.default_rng(seed)
    gain = paired_bootstrap(headline, pooled[0].classes, replicates=replicates, rng=rng, groups=pooled[0].groups)
    networks = sum(len(block.seeds) for block in blocks)
    return EnsembleResult(name, tuple(members), splits, len(mean), networks, averaged, points, members[best], gain)


def ensemble_tables(results: Sequence[EnsembleResult]) -> str:
    """All ensembles, each beside its best member; a table for each set of classes."""
    classes = dict.fromkeys(result.members[0][0].columns for result in results)
    alike = [[r for r in results if r.members[0][0].columns == columns] for columns in classes]
    return "\n\n".join(_ensemble_table(group) for group in alike)


def _ensemble_table(results: Sequence[EnsembleResult]) -> str:
    outcome = results[0].members[0][0]
    measures = [auc_name(name) for name in outcome.columns] if outcome.few else [outcome.headline]
    measures = [*measures, "mean AUC"]
    head = ["ensemble", "members", *measures, f"{outcome.headline} minus its best member's", "over"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for result in results:
        cells = [result.name, "<br>".join(member_name(member) for member in result.members)]
        cells += [cell(result.averaged[measure]) for measure in measures]
        shown = "shown" if result.gain.shown else "not shown"
        gain = signed(result.gain.difference, result.gain.interval)
        cells.append(f"{gain}, {shown}; best: {member_name(result.best)}")
        cells.append(f"{result.images} images, {', '.join(result.splits)}, {counted(result.networks, 'network')} each")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def member_name(member: Member) -> str:
    """Such as "isic2017/shipped both"."""
    outcome, variant = member
    return f"{outcome.table.name} {variant}"
