"""The results page's comparison with what others published and claim."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from outcome import Outcome, auc_name
from plots import trajectories
from scoring import Difference, Interval, VariantScores
from sections import cell, counted, verdict

import pesi
from pesi.errors import PesiError
from pesi.predict.tables import ISIC2017_COLUMNS

_LEGEND = (
    "Marks: [S] read in a public source; [V] computed from the authors' published predictions; [M] as remembered from "
    "the literature, not checked."
)


def read_published(path: Path) -> dict[str, Any]:
    """Others' results and claims.

    Raises:
        PesiError: The file is missing or damaged.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PesiError(f"{path} cannot be read: {error}.", "Restore it from the repository.") from error


class OurRow(NamedTuple):
    """A model of ours beside the published ones."""

    model: str
    where: str
    averaged: Mapping[str, Interval]
    points: Mapping[str, tuple[float, float, float]]


def our_rows(outcome: Outcome, scores: Mapping[str, VariantScores | None]) -> list[OurRow]:
    """A table's variants, where they are scored as ISIC 2017 asks."""
    if outcome.columns != ISIC2017_COLUMNS:
        return []
    rows = []
    for variant in outcome.own:
        s = scores[variant]
        if s is not None:
            model = f"{outcome.table.path.stem} {variant}, {counted(len(s.block.seeds), 'seed')} averaged"
            where = held_out(s.block.splits, len(outcome.table.splits), s.images)
            rows.append(OurRow(model, where, s.averaged, s.points))
    return rows


def held_out(splits: Sequence[str], wanted: int, images: int) -> str:
    """Which images a score is over."""
    if tuple(splits) == ("official",):
        return f"validation, {images} images"
    done = len(splits)
    return (
        f"{f'{done}-fold cross-validation' if done == wanted else f'{done} of {wanted} folds so far'}, {images} images"
    )


def published_table(published: Mapping[str, Any], ours: Sequence[OurRow]) -> str:
    """Others' results on the test images, and beneath them ours by cross-validation or on the validation images."""
    point = "ACC / SEN / SPE"
    lines = [
        f"| model | images | melanoma AUC | {point} | SK AUC | {point} | mean AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    keys = ("melanoma", "melanoma_point", "sk", "sk_point", "mean")
    lines += [
        f"| {row['model']} | test | " + " | ".join(row.get(key, "") for key in keys) + " |" for row in published["rows"]
    ]
    for row in ours:
        cells = [f"**ours**: {row.model}", row.where]
        for name in ISIC2017_COLUMNS:
            cells += [cell(row.averaged[auc_name(name)]), " / ".join(f"{value:.3f}" for value in row.points[name])]
        lines.append(f"| {' | '.join(cells)} | {cell(row.averaged['mean AUC'])} |")
    note = (
        "Our rows are not on the test images, whose labels are held apart: they are out-of-fold predictions of the "
        "train and validation images, or predictions of the validation images, which are easier than the test images. "
        "They cannot be ranked against the rows above them. ACC / SEN / SPE: at probability 0.5, not calibrated."
    )
    return "\n".join([*lines, "", _LEGEND, "", note])


def claims_table(
    published: Mapping[str, Any],
    results: Sequence[tuple[Outcome, Mapping[str, VariantScores | None], Sequence[Difference]]],
) -> str:
    """Each claim, and what our rows of the published block (`spatial`) say."""
    measures = {"gain": _gain, "score": _score, "alpha": _alpha, "parameters": _parameters, "cost": _cost}
    lines = ["| claimed | measured here |", "|---|---|"]
    for claim in published["claims"]:
        found = []
        for outcome, scores, differences in results:
            variant = _published_block(outcome)
            if variant is None:
                continue
            for name in claim["measure"]:
                text = measures[name](outcome, variant, scores, differences)
                found += [f"{outcome.table.name}: {text}"] if text else []
        lines.append(f"| {claim['claim']} | {'<br>'.join(found) or 'not measured yet'} |")
    return "\n".join(lines)


def _published_block(outcome: Outcome) -> str | None:
    """The variant with the published block that has finished rows, where the reference has no attention."""
    if not outcome.finished[outcome.reference]:
        return None
    reference = next(iter(outcome.finished[outcome.reference].values())).content["recipe"]["network"]
    if reference["attention"] != "none":
        return None
    for variant in outcome.own:
        for row in outcome.finished[variant].values():
            network = row.content["recipe"]["network"]
            if network["attention"] == "spatial" and network["temperature"] == 1.0 and not network["per_channel"]:
                return variant
    return None


def _gain(outcome: Outcome, variant: str, scores: Any, differences: Sequence[Difference]) -> str:
    return next((verdict(d) for d in differences if d.variant == variant), "")


def _score(outcome: Outcome, variant: str, scores: Mapping[str, VariantScores | None], differences: Any) -> str:
    s = scores[variant]
    return f"{cell(s.averaged['mean AUC'])} on {s.block}, which is not the test set" if s else ""


def _alpha(outcome: Outcome, variant: str, scores: Any, differences: Any) -> str:
    rows = list(outcome.finished[variant].values())
    network = rows[0].content["recipe"]["network"]
    last = [series[-1] for series in trajectories(rows, "alpha").values()]
    energy = [series[-1] for series in trajectories(rows, "energy").values()]
    if not last or not energy:
        return ""
    faster = rows[0].content["recipe"]["optimizer"]["alpha_lr_scale"]
    return (
        f"from {network['alpha']:g}, the sizes of the {len(last)} alphas end between {min(last):.4f} and "
        f"{max(last):.4f} (means of {counted(len(rows), 'row')}, alpha learning {faster:g} times as fast as the "
        f"weights); the attention changes what a block adds up by {min(energy):.1e} to {max(energy):.1e} of its norm"
    )


def _parameters(outcome: Outcome, variant: str, scores: Any, differences: Any) -> str:
    counts = []
    for name in (outcome.reference, variant):
        network = dict(next(iter(outcome.finished[name].values())).content["recipe"]["network"])
        model = pesi.create_model(network.pop("name"), num_classes=len(outcome.task.classes), **network)
        counts.append((sum(p.numel() for p in model.parameters()), len(model.alphas())))
    (plain, _), (attended, blocks) = counts
    return f"{plain:,} -> {attended:,} parameters: {attended - plain} more, in {blocks} blocks"


def _cost(outcome: Outcome, variant: str, scores: Any, differences: Any) -> str:
    rows = [list(outcome.finished[name].values()) for name in (variant, outcome.reference)]
    seconds = [statistics.median(float(row.content["cpu_seconds"]) for row in each) for each in rows]
    if not seconds[1] or len({row.precision for each in rows for row in each}) > 1:
        return ""
    return f"training takes {seconds[0] / seconds[1]:.2f} times the processor time of `{outcome.reference}`"
