"""The results page's figures, as SVG text: paired differences, and how alpha and attention energy grow."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from outcome import FinishedRow
from scoring import Difference, Interval

from pesi.evaluate.figures import COLOURS, STYLES

KINDS = {"alpha": "size of alpha", "energy": "attention energy"}


def trajectories(rows: Sequence[FinishedRow], kind: str) -> dict[str, list[float]]:
    """A logged value of each block by epoch, averaged over rows of one variant; empty where there is no attention.

    Args:
        rows: The rows.
        kind: `alpha` (its size: the absolute value of its mean over the channels) or `energy` (norm of alpha M s over
            that of s + O).
    """
    values: dict[str, list[list[float]]] = defaultdict(list)
    alphas = {
        key.partition("/")[2] for row in rows for line in row.content["log"] for key in line if key[:6] == "alpha/"
    }
    for row in rows:
        for block in sorted(alphas):
            series = [abs(line[f"{kind}/{block}"]) for line in row.content["log"] if f"{kind}/{block}" in line]
            if series:
                values[block].append(series)
    return {
        block: [float(value) for value in np.mean([one[: min(map(len, series))] for one in series], axis=0)]
        for block, series in sorted(values.items())
    }


def stage_of(block: str) -> str:
    """The stage that a block is of: its name without the number, such as `layer3`."""
    return block.rpartition(".")[0] or block


def by_stage(blocks: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Stage -> the mean over its blocks after the first and after the last epoch."""
    stages: dict[str, list[list[float]]] = defaultdict(list)
    for block, series in blocks.items():
        stages[stage_of(block)].append(series)
    return {
        stage: (float(np.mean([s[0] for s in series])), float(np.mean([s[-1] for s in series])))
        for stage, series in stages.items()
    }


def trajectory_figure(variants: Mapping[str, Sequence[FinishedRow]]) -> str:
    """A column a variant, a row each for alpha and energy, a line a block, coloured by stage."""
    figure = Figure(figsize=(2.4 * len(variants) + 1.0, 4.6), layout="constrained")
    grid = figure.subplots(len(KINDS), len(variants), squeeze=False, sharex=True, sharey="row")
    stages = sorted({stage_of(block) for rows in variants.values() for block in trajectories(rows, "alpha")})
    for column, (variant, rows) in enumerate(variants.items()):
        for place, (kind, title) in enumerate(KINDS.items()):
            axes = grid[place][column]
            axes.spines[["top", "right"]].set_visible(False)
            seen: dict[str, int] = defaultdict(int)
            for block, series in trajectories(rows, kind).items():
                stage = stages.index(stage_of(block))
                label = stage_of(block) if not seen[stage_of(block)] else None
                axes.plot(
                    np.arange(1, len(series) + 1),
                    series,
                    STYLES[seen[stage_of(block)] % len(STYLES)],
                    color=COLOURS[stage % len(COLOURS)],
                    linewidth=1.2,
                    label=label,
                )
                seen[stage_of(block)] += 1
            axes.set_yscale("log")
            if place == 0:
                axes.set_title(variant, fontsize=9)
            else:
                axes.set_xlabel("epoch")
            if column == 0:
                axes.set_ylabel(title)
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    return _svg(figure)


def difference_figure(differences: Sequence[Difference], headline: str) -> str:
    """The differences of the headline measure with their intervals, a line a variant; dots: the seeds."""
    figure = Figure(figsize=(6.4, 0.55 * len(differences) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(0, color="#888888", linewidth=0.8)
    for place, d in enumerate(reversed(differences)):
        for offset, result, colour, marker in ((0.12, d.averaged, COLOURS[0], "o"), (-0.12, d.single, COLOURS[1], "s")):
            label = {"o": "seeds averaged", "s": "one network"}[marker] if place == 0 else None
            low, high = result.interval
            axes.plot([low, high], [place + offset] * 2, color=colour, linewidth=1.6)
            axes.plot(result.difference, place + offset, marker, color=colour, markersize=6, label=label)
        axes.plot(list(d.seeds.values()), [place - 0.28] * len(d.seeds), ".", color="#666666", markersize=5)
    axes.set_yticks(range(len(differences)), [d.name for d in reversed(differences)])
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(f"difference of {headline}, 95 % interval; dots: single seeds")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return _svg(figure)


def learning_figure(points: Sequence[tuple[int, Interval]], headline: str) -> str:
    """A score with its interval against the number of training images."""
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    images = [count for count, _ in points]
    value, low, high = (np.array([interval[i] for _, interval in points]) for i in range(3))
    axes.errorbar(images, value, yerr=[value - low, high - value], fmt="o-", color=COLOURS[0], capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(images, [str(count) for count in images])
    axes.minorticks_off()
    axes.set(xlabel="training images", ylabel=f"{headline}, 95 % interval")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "pesi", "svg.fonttype": "path"}):  # the same plot gives the same text
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
