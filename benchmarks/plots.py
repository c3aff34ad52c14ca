"""The results page's figures, as SVG text, and how alpha and attention energy grow."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from outcome import FinishedRow
from scoring import Interval

from pesi.evaluate.figures import COLOURS
from pesi.stats.paired import PairedResult


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


def difference_figure(differences: Sequence[tuple[str, PairedResult, bool]], measure: str) -> str:
    """Differences with their intervals, a line each: what, the difference, and whether it is shown."""
    figure = Figure(figsize=(9.6, 0.26 * len(differences) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(0, color="#888888", linewidth=0.8)
    for place, (_, result, shown) in enumerate(reversed(differences)):
        colour, marker = (COLOURS[1], "s") if shown else (COLOURS[0], "o")
        axes.plot(result.interval, [place] * 2, color=colour, linewidth=1.6)
        axes.plot(result.difference, place, marker, color=colour, markersize=5)
    words = ("shown", "not shown: zero is in the interval, or the luck of one training each is not")
    for colour, marker, word in zip((COLOURS[1], COLOURS[0]), "so", words, strict=True):
        axes.plot([], [], f"{marker}-", color=colour, label=word)
    axes.set_yticks(range(len(differences)), [what for what, *_ in reversed(differences)], fontsize=8)
    axes.locator_params(axis="x", nbins=8)
    axes.set_xlim(*np.clip(axes.get_xlim(), -0.16, 0.16))  # what lies beyond stands in its label
    axes.set_xlabel(f"difference of {measure},\n95 % interval")
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
