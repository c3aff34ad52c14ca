"""One table's section of the results page, in Markdown; every figure in it is computed from the saved rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from outcome import FinishedRow, Outcome, auc_name
from plots import by_stage, trajectories
from scoring import Difference, Interval, VariantScores


def cell(value: Interval) -> str:
    """A score with its interval."""
    return f"{value[0]:.3f} ({value[1]:.3f}-{value[2]:.3f})"


def signed(difference: float, interval: tuple[float, float]) -> str:
    """A difference with its interval."""
    value, low, high = (round(number, 4) + 0.0 for number in (difference, *interval))  # + 0.0: no "-0.0000"
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f})"


def counted(number: int, word: str) -> str:
    """Such as "1 seed", "3 seeds"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


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
    names = [auc_name(name) for name in outcome.columns] if outcome.few else ["balanced accuracy"]
    names = [*names, "mean AUC"]
    lines = [
        f"| variant | {' | '.join(names)} | {outcome.headline} of each seed | within folds | over |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for variant in outcome.own:
        s = scores[variant]
        if s is None:
            lines.append(f"| {variant} | {' | '.join('' for _ in names)} | | | no row finished yet |")
            continue
        seeds = ", ".join(f"{value:.3f}" for value in s.seeds.values())
        if len(s.seeds) > 1:
            seeds += f"; mean {statistics.mean(s.seeds.values()):.4f}"
        cells = " | ".join(cell(s.averaged[name]) for name in names)
        lines.append(f"| {variant} | {cells} | {seeds} | {s.within:.3f} | {s.images} images, {s.block} |")
    return "\n".join(lines)


def difference_table(outcome: Outcome, differences: Sequence[Difference]) -> str:
    """Each variant minus the one that it is compared with, with a plain sentence each."""
    names = outcome.columns if outcome.few else ()
    head = ["difference", f"{outcome.headline}, seeds averaged"]
    head += [f"{outcome.headline}, one network", *(f"{auc_name(name)} (DeLong)" for name in names), "over"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for d in differences:
        cells = [d.name, signed(d.averaged.difference, d.averaged.interval)]
        cells.append(signed(d.single.difference, d.single.interval))
        for name in names:
            result = d.tasks[name]
            cells.append(f"{signed(result.difference, result.interval)}, p {result.p_value:.2g}")
        lines.append(f"| {' | '.join(cells)} | {d.images} images, {d.block} |")
    return "\n".join([*lines, "", *(f"- {verdict(d)}" for d in differences)])


def learning_table(outcome: Outcome, scores: Mapping[str, VariantScores | None]) -> str:
    """Scores by the number of training images, where variants train on a share; else empty."""
    points = learning_curve(outcome, scores)
    if len(points) < 2:
        return ""
    lines = [f"| training images | {outcome.headline} | over |", "|---|---|---|"]
    lines += [f"| {images} | {cell(s.averaged[outcome.headline])} | {s.block} |" for images, s in points]
    return "\n".join(lines)


def learning_curve(outcome: Outcome, scores: Mapping[str, VariantScores | None]) -> list[tuple[int, VariantScores]]:
    """(mean number of training images, scores) of the variants that train on a share, and of the reference."""
    points = []
    for variant, s in scores.items():
        rows = outcome.finished[variant]
        shares = {row.row.settings.share for row in rows.values()}
        if s is not None and (variant == outcome.reference or shares != {1.0}):
            counted_in = [rows[seed, split] for seed in s.block.seeds for split in s.block.splits]
            points.append((round(statistics.mean(row.content["splits"]["train"]["count"] for row in counted_in)), s))
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
    lines = [
        "| variant | rows | wall time, median s | processor time, median s | of the reference's | energy, median kJ |",
        "|---|---|---|---|---|---|",
    ]
    compared = list(outcome.finished[outcome.reference].values())
    reference = _cpu_seconds(compared)
    for variant in outcome.own:
        rows = list(outcome.finished[variant].values())
        if not rows:
            continue
        cpu = _cpu_seconds(rows)
        wall = statistics.median(float(row.content["seconds"]) for row in rows)
        alike = {row.precision for row in (*rows, *compared)}
        share = f"{cpu / reference:.2f}" if reference and cpu and len(alike) == 1 else "-"
        joules = [row.content.get("joules") for row in rows]
        known = [float(value) for value in joules if value is not None]
        energy = f"{statistics.median(known) / 1000:.1f} ({counted(len(known), 'row')})" if known else "no counter"
        lines.append(f"| {variant} | {len(rows)} | {wall:.0f} | {cpu or 0:.0f} | {share} | {energy} |")
    return "\n".join([*lines, "", made_on([row for v in outcome.own for row in outcome.finished[v].values()])])


def _cpu_seconds(rows: Sequence[FinishedRow]) -> float | None:
    return statistics.median(float(row.content["cpu_seconds"]) for row in rows) if rows else None


def made_on(rows: Sequence[FinishedRow]) -> str:
    """Machine, versions and starting weights of the rows, each kind with its number of rows."""

    def kinds(values: list[str]) -> str:
        counts = {value: values.count(value) for value in sorted(set(values))}
        return ", ".join(value if len(counts) == 1 else f"{value} ({n} rows)" for value, n in counts.items())

    contents = [row.content for row in rows]
    weights = [
        f"{c['pretrained']['file']} (SHA-256 {c['pretrained']['sha256'][:12]})" if c["pretrained"] else "none"
        for c in contents
    ]
    what = {
        "Made on": [c["processor"] if c["device"] == "cpu" else c["device"] for c in contents],
        "threads": [str(c["threads"]) for c in contents],
        "torch": [c["torch"] for c in contents],
        "precision": [c["recipe"]["precision"] for c in contents],
        "weights at the start": weights,
        "fold list SHA-256": [c["folds_sha256"][:12] for c in contents],
    }
    return "; ".join(f"{name}: {kinds(values)}" for name, values in what.items()) + "."


def growth_table(outcome: Outcome) -> str:
    """Alpha and attention energy a stage, after the first and after the last epoch; empty without attention."""
    lines = [
        "| variant | stage | size of alpha, first -> last epoch | energy, first -> last epoch |",
        "|---|---|---|---|",
    ]
    for variant in outcome.own:
        rows = list(outcome.finished[variant].values())
        alpha, energy = (by_stage(trajectories(rows, kind)) for kind in ("alpha", "energy"))
        for stage, (first, last) in alpha.items():
            of_energy = f"{energy[stage][0]:.1e} -> {energy[stage][1]:.1e}" if stage in energy else ""
            lines.append(f"| {variant} | {stage} | {first:.4f} -> {last:.4f} | {of_energy} |")
    return "\n".join(lines) if len(lines) > 2 else ""
