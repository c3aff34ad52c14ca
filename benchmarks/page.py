"""The results page's tables in Markdown; every figure in them is computed from the saved rows."""

from __future__ import annotations

import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from outcome import FinishedRow, Outcome, auc_name, counted
from plots import by_stage, trajectories
from scoring import Difference, EnsembleResult, Interval, Member, VariantScores

from pesi.errors import PesiError


def repository_path(path: Path) -> str:
    """A path as the page shows it: from the project's folder, or only the name."""
    path, root = path.resolve(), Path(__file__).resolve().parents[1]
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


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
