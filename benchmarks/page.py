"""The results page's tables in Markdown; every figure in them is computed from the saved rows."""

from __future__ import annotations

import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from outcome import FinishedRow, Outcome, auc_name, counted
from plots import by_stage, trajectories
from scoring import Difference, EnsembleResult, Interval, Member, VariantScores

import pesi
from pesi.errors import PesiError
from pesi.predict.tables import ISIC2017_COLUMNS

_LEGEND = (
    "Marks: [S] read in a public source; [V] computed from the authors' published predictions; [M] as remembered from "
    "the literature, not checked."
)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(r)} |" for r in rows)])


def cell(value: Interval) -> str:
    """A score with its interval."""
    return f"{value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})"


def signed(difference: float, interval: tuple[float, float]) -> str:
    """A difference with its interval."""
    value, low, high = (round(number, 4) + 0.0 for number in (difference, *interval))  # + 0.0: no "-0.0000"
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def progress(outcome: Outcome) -> str:
    """Whether the table is complete, and if not, what is missing."""
    table = outcome.table
    rows = table.rows()
    done = sum((row.seed, row.split) in outcome.finished[row.variant] for row in rows)
    lines = []
    if done < len(rows):
        lines.append(
            f"**Incomplete: {done} of {len(rows)} rows are finished.** Scores are over the folds and seeds that a "
            "variant has, differences over those that both variants have; they stand beside each."
        )
    lines += [f"- Left out: {reason}." for reason in outcome.left_out]
    return "\n".join(lines)


def score_table(outcome: Outcome, scores: Mapping[str, VariantScores | None]) -> str:
    """Each variant's pooled scores."""
    names = [*([auc_name(name) for name in outcome.columns] if outcome.few else [outcome.headline]), "mean AUC"]
    rows = []
    for variant in outcome.own:
        s = scores[variant]
        if s is None:
            rows.append([variant, *[""] * (len(names) + 2), "no row finished yet"])
            continue
        seeds = ", ".join(f"{value:.3f}" for value in s.seeds.values())
        if len(s.seeds) > 1:
            seeds += f"; mean {statistics.mean(s.seeds.values()):.4f}"
        values = [cell(s.averaged[name]) for name in names]
        rows.append([variant, *values, seeds, f"{s.within:.3f}", f"{s.images} images, {s.block}"])
    return markdown(["variant", *names, f"{outcome.headline} of each seed", "within folds", "over"], rows)


def difference_table(outcome: Outcome, differences: Sequence[Difference]) -> str:
    """Each variant minus the one that it is compared with, with a plain sentence each."""
    names = outcome.columns if outcome.few else ()
    kinds = [f"{outcome.headline}, seeds averaged", f"{outcome.headline}, one network"]
    rows = []
    for d in differences:
        tasks = [d.tasks[name] for name in names]
        values = [signed(result.difference, result.interval) for result in (d.averaged, d.single, *tasks)]
        values[2:] = [f"{text}, p {result.p_value:.2g}" for text, result in zip(values[2:], tasks, strict=True)]
        rows.append([d.name, *values, f"{d.images} images, {d.block}"])
    table = markdown(["difference", *kinds, *(f"{auc_name(name)} (DeLong)" for name in names), "over"], rows)
    return "\n".join([table, "", *(f"- {verdict(d)}" for d in differences)])


def learning_table(outcome: Outcome, points: Sequence[tuple[int, VariantScores]]) -> str:
    """Scores by the number of training images."""
    rows = [[str(images), cell(s.averaged[outcome.headline]), str(s.block)] for images, s in points]
    return markdown(["training images", outcome.headline, "over"], rows)


def learning_curve(outcome: Outcome, scores: Mapping[str, VariantScores | None]) -> list[tuple[int, VariantScores]]:
    """(mean number of training images, scores) of the variants that train on a share, and of the reference."""
    points = []
    for variant, s in scores.items():
        rows = outcome.finished[variant]
        shares = {row.row.settings.share for row in rows.values()}
        if s is not None and (variant == outcome.reference or shares != {1.0}):
            counts = [rows[cell].content["splits"]["train"]["count"] for cell in s.block.cells]
            points.append((round(statistics.mean(counts)), s))
    return sorted(points, key=lambda point: point[0])


def verdict(d: Difference) -> str:
    """Whether a difference is shown, as a sentence that follows from its two intervals."""
    what = f"`{d.variant}` against `{d.reference}`, {counted(d.images, 'image')}, {d.block}"
    value = signed(d.averaged.difference, d.averaged.interval)
    if d.shown:
        word = "better" if d.averaged.difference > 0 else "worse"
        end = f"**shown: {word}**, {value}; both intervals exclude zero."
    elif d.apart:
        end = f"**not shown**, {value}; both intervals exclude zero, which is not enough here."
    elif d.averaged.shown != d.single.shown:
        end = f"**not shown**, {value}; only one of the two intervals excludes zero."
    else:
        end = f"**not shown**, {value}; the interval includes zero."
    if d.precisions is not None:
        end += f" They were not trained in the same arithmetic: {d.precisions[0]} against {d.precisions[1]}."
    if d.unseen is not None:
        found = d.unseen.averaged
        end += f" The segmenter that crops had learned from {d.unseen.saw} of these images; over the other "
        end += f"{d.unseen.images}: {signed(found.difference, found.interval) if found else 'too few'}."
    if d.same_networks:
        return f"{what}: {end} The same networks: no luck of a training lies between them."
    if len(d.seeds) == 1:
        return f"{what}: {end} One seed: the luck of the trainings is not in the interval."
    favour = sum(value > 0 for value in d.seeds.values())
    return f"{what}: {end} {favour} of {len(d.seeds)} seeds are in favour of `{d.variant}`."


def cost_table(outcome: Outcome) -> str:
    """Time and energy of a row, and what the rows were computed on."""
    compared = list(outcome.finished[outcome.reference].values())
    reference = median_of(compared, "cpu_seconds") if compared else None
    lines = []
    for variant in outcome.own:
        rows = list(outcome.finished[variant].values())
        if not rows:
            continue
        cpu = median_of(rows, "cpu_seconds")
        alike = {row.precision for row in (*rows, *compared)}
        share = f"{cpu / reference:.2f}" if reference and cpu and len(alike) == 1 else "-"
        known = [row for row in rows if row.content.get("joules") is not None]
        energy = f"{median_of(known, 'joules') / 1000:.1f} ({counted(len(known), 'row')})" if known else "no counter"
        lines.append([variant, f"{len(rows)}", f"{median_of(rows, 'seconds'):.0f}", f"{cpu:.0f}", share, energy])
    head = ["variant", "rows", "wall time, median s", "processor time, median s", "of the reference's"]
    made = made_on([row for v in outcome.own for row in outcome.finished[v].values()])
    return "\n\n".join([markdown([*head, "energy, median kJ"], lines), made])


def median_of(rows: Iterable[FinishedRow], what: str) -> float:
    """The median of what rows say of themselves."""
    return statistics.median(float(row.content[what]) for row in rows)


def made_on(rows: Sequence[FinishedRow]) -> str:
    """Machine, versions and starting weights of the rows, each kind with its number of rows."""
    contents = [row.content for row in rows]
    weights = [c["pretrained"] for c in contents]
    what = {
        "Made on": [c["processor"] if c["device"] == "cpu" else c["device"] for c in contents],
        "threads": [str(c["threads"]) for c in contents],
        "torch": [c["torch"] for c in contents],
        "precision": [c["recipe"]["precision"] for c in contents],
        "weights at the start": [f"{w['file']} (SHA-256 {w['sha256'][:12]})" if w else "none" for w in weights],
        "fold list SHA-256": [c["folds_sha256"][:12] for c in contents],
    }
    parts = []
    for name, values in what.items():
        counts = sorted(Counter(values).items())
        kinds = [value if len(counts) == 1 else f"{value} ({n} rows)" for value, n in counts]
        parts.append(f"{name}: {', '.join(kinds)}")
    return "; ".join(parts) + "."


def growth_table(outcome: Outcome) -> str:
    """Alpha and attention energy a stage, after the first and after the last epoch; empty without attention."""
    lines = []
    for variant in outcome.own:
        rows = list(outcome.finished[variant].values())
        alpha, energy = (by_stage(trajectories(rows, kind)) for kind in ("alpha", "energy"))
        for stage, (first, last) in alpha.items():
            of_energy = f"{energy[stage][0]:.1e} -> {energy[stage][1]:.1e}" if stage in energy else ""
            lines.append([variant, stage, f"{first:.4f} -> {last:.4f}", of_energy])
    head = ["variant", "stage", "size of alpha, first -> last epoch", "energy, first -> last epoch"]
    return markdown(head, lines) if lines else ""


def ensemble_tables(results: Sequence[EnsembleResult]) -> str:
    """All ensembles, each beside its best member; a table for each set of classes."""
    classes = dict.fromkeys(result.members[0][0].columns for result in results)
    alike = [[r for r in results if r.members[0][0].columns == columns] for columns in classes]
    return "\n\n".join(_ensemble_table(group) for group in alike)


def _ensemble_table(results: Sequence[EnsembleResult]) -> str:
    outcome = results[0].members[0][0]
    measures = [*([auc_name(name) for name in outcome.columns] if outcome.few else [outcome.headline]), "mean AUC"]
    rows = []
    for result in results:
        shown = "shown" if result.gain.shown else "not shown"
        gain = f"{signed(result.gain.difference, result.gain.interval)}, {shown}; best: {member_name(result.best)}"
        over = f"{result.images} images, {', '.join(result.splits)}, {counted(result.networks, 'network')} each"
        members = "<br>".join(member_name(member) for member in result.members)
        rows.append([result.name, members, *(cell(result.averaged[measure]) for measure in measures), gain, over])
    return markdown(["ensemble", "members", *measures, f"{outcome.headline} minus its best member's", "over"], rows)


def member_name(member: Member) -> str:
    """Such as "isic2017/shipped both"."""
    outcome, variant = member
    return f"{outcome.table.name} {variant}"


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
    what = f"{done}-fold cross-validation" if done == wanted else f"{done} of {wanted} folds so far"
    return f"{what}, {images} images"


def published_table(published: Mapping[str, Any], ours: Sequence[OurRow]) -> str:
    """Others' results on the test images, and beneath them ours by cross-validation or on the validation images."""
    point = "ACC / SEN / SPE"
    keys = ("melanoma", "melanoma_point", "sk", "sk_point", "mean")
    rows = [[row["model"], "test", *(row.get(key, "") for key in keys)] for row in published["rows"]]
    for row in ours:
        cells = [f"**ours**: {row.model}", row.where]
        for name in ISIC2017_COLUMNS:
            cells += [cell(row.averaged[auc_name(name)]), " / ".join(f"{value:.3f}" for value in row.points[name])]
        rows.append([*cells, cell(row.averaged["mean AUC"])])
    note = (
        "Our rows are not on the test images, whose labels are held apart: they are out-of-fold predictions of the "
        "train and validation images, or predictions of the validation images, which are easier than the test images. "
        "They cannot be ranked against the rows above them. ACC / SEN / SPE: at probability 0.5, not calibrated."
    )
    table = markdown(["model", "images", "melanoma AUC", point, "SK AUC", point, "mean AUC"], rows)
    return "\n\n".join([table, _LEGEND, note])


def claims_table(
    published: Mapping[str, Any],
    results: Sequence[tuple[Outcome, Mapping[str, VariantScores | None], Sequence[Difference]]],
) -> str:
    """Each claim, and what our rows of the published block (`spatial`) say."""
    measures = {"gain": _gain, "score": _score, "alpha": _alpha, "parameters": _parameters, "cost": _cost}
    rows = []
    for claim in published["claims"]:
        found = []
        for outcome, scores, differences in results:
            variant = _published_block(outcome)
            if variant is None:
                continue
            for name in claim["measure"]:
                text = measures[name](outcome, variant, scores, differences)
                found += [f"{outcome.table.name}: {text}"] if text else []
        rows.append([claim["claim"], "<br>".join(found) or "not measured yet"])
    return markdown(["claimed", "measured here"], rows)


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
    seconds = [median_of(each, "cpu_seconds") for each in rows]
    if not seconds[1] or len({row.precision for each in rows for row in each}) > 1:
        return ""
    return f"training takes {seconds[0] / seconds[1]:.2f} times the processor time of `{outcome.reference}`"
