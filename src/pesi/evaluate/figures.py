"""The report's plots, as SVG text; colours by Okabe and Ito, told apart also by line style."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pesi.evaluate.evaluation import Evaluation
from pesi.stats.decision import DecisionCurve
from pesi.stats.reliability import ReliabilityBin

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def svg_text(figure: Figure) -> str:
    """A figure as SVG, its text as outlines; the same figure gives the same text."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "pesi", "svg.fonttype": "path"}):  # the same plot gives the same text
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def new_axes(width: float = 4.6, height: float = 4.2) -> tuple[Figure, Axes]:
    """A figure of one plot, sides in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def roc_figure(evaluation: Evaluation) -> str:
    """ROC curves with their pointwise 95 % bands and the operating points."""
    figure, axes = new_axes()
    for index, (name, band) in enumerate(evaluation.bands.items()):
        entry = evaluation.scores["tasks"][name]
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        curves = entry["curves"]
        axes.fill_between(band[0], band[1], band[2], color=colour, alpha=0.15, linewidth=0)
        label = f"{name}: {entry['auc']:.3f}"
        x, y = [0.0, *curves["false_positive_rate"]], [0.0, *curves["sensitivity"]]
        axes.plot(x, y, style, color=colour, label=label)
        axes.plot(1 - entry["specificity"], entry["sensitivity"], "o", color=colour, markersize=6)
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01), title="ROC (AUC)")
    axes.legend(loc="lower right", frameon=False)
    return svg_text(figure)


def precision_figure(evaluation: Evaluation) -> str:
    """Precision-recall curves; the thin lines are what chance gives."""
    figure, axes = new_axes()
    for index, name in enumerate(evaluation.bands):
        entry = evaluation.scores["tasks"][name]
        colour, style = COLOURS[index % len(COLOURS)], STYLES[index % len(STYLES)]
        label = f"{name}: {entry['average_precision']:.3f}"
        curves = entry["curves"]
        # The average precision takes each precision over the recall gained by it: the area below these steps.
        x, y = [0.0, *curves["sensitivity"]], [curves["precision"][0], *curves["precision"]]
        axes.step(x, y, style, where="pre", color=colour, label=label)
        chance = entry["positives"] / (entry["positives"] + entry["negatives"])
        axes.axhline(chance, color=colour, linewidth=0.7, alpha=0.6)
    axes.set(xlabel="sensitivity (recall)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("Precision and recall (average precision)")
    axes.legend(loc="lower left", frameon=False)
    return svg_text(figure)


def reliability_figure(curves: Mapping[str, Sequence[ReliabilityBin]], *, xlabel: str = "predicted probability") -> str:
    """Observed frequency against predicted probability, in bins of equal counts, with Wilson's intervals.

    Args:
        curves: Label -> its bins.
        xlabel: What is predicted.
    """
    figure, axes = new_axes()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for index, (label, bins) in enumerate(curves.items()):
        observed = np.array([each.observed for each in bins])
        low, high = np.array([each.interval for each in bins]).T
        axes.errorbar(
            [each.confidence for each in bins],
            observed,
            yerr=np.maximum([observed - low, high - observed], 0),
            fmt="os^Dv"[index % 5] + STYLES[index % len(STYLES)],
            color=COLOURS[index % len(COLOURS)],
            label=label,
            capsize=2,
            linewidth=1,
            markersize=4,
        )
    axes.set(xlabel=xlabel, ylabel="observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title="Reliability")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return svg_text(figure)


def confusion_figure(evaluation: Evaluation) -> str:
    """Confusion matrix: rows are the truth; shade is the share of the row."""
    matrix = evaluation.scores["multiclass"]["confusion_matrix"]
    names, counts = matrix["classes"], np.asarray(matrix["counts"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = new_axes(4.6 + 0.25 * len(names), 3.6 + 0.25 * len(names))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{counts[row, column]}\n{share[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    labels = [name.replace("_", "\n") for name in names]
    axes.set_xticks(range(len(names)), labels)
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="predicted", ylabel="truth", title="Confusion matrix (most probable class)")
    return svg_text(figure)


def histogram_figure(evaluation: Evaluation) -> str:
    """How the probabilities of images with and without each class are spread."""
    names = list(evaluation.bands)
    figure = Figure(figsize=(4.6, 2.1 * len(names) + 0.4), layout="constrained")
    edges = np.linspace(0, 1, 21)
    for index, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        labels, scores = evaluation.aligned.task_labels(evaluation.task, name), evaluation.aligned.column(name)
        for chosen, colour, text in ((~labels, "#999999", "without"), (labels, COLOURS[index % len(COLOURS)], "with")):
            weights = np.full(int(chosen.sum()), 1 / max(int(chosen.sum()), 1))
            axes.hist(scores[chosen], edges.tolist(), weights=weights, color=colour, alpha=0.65, label=f"{text} {name}")
        axes.set(xlabel="probability" if index == len(names) - 1 else "", ylabel="share", xlim=(0, 1))
        axes.legend(frameon=False, fontsize=8)
    return svg_text(figure)


def decision_figure(curve: DecisionCurve, title: str) -> str:
    """A decision curve with its band, against excising all and none."""
    figure, axes = new_axes()
    x = curve.thresholds
    axes.fill_between(x, curve.band[0], curve.band[1], color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(x, curve.model, STYLES[0], color=COLOURS[0], label="by the classifier")
    axes.plot(x, curve.excise_all, STYLES[1], color=COLOURS[1], label="excise all")
    axes.plot(x, 0 * x, STYLES[3], color=COLOURS[-1], label="excise none")
    # Beyond where excising all does as much harm as the disease could do good, there is nothing to see.
    axes.set(ylim=(-0.3 * curve.prevalence, 1.1 * curve.prevalence), xlim=(0, min(0.5, 6 * curve.prevalence)))
    axes.set(xlabel="threshold probability", ylabel="net benefit, true positives a lesion", title=title)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return svg_text(figure)


class Mark(NamedTuple):
    """A point of a forest plot with its interval: value, low and high end, its row, and which series it is of."""

    row: int
    estimate: Sequence[float]
    series: str = ""


class Panel(NamedTuple):
    """One plot of a forest: its marks, what is measured, where its lines of comparison are, and its limits."""

    marks: Sequence[Mark]
    xlabel: str = ""
    lines: Sequence[float] = ()
    xlim: tuple[float, float] | None = None
    title: str = ""


def forest_figure(
    labels: Sequence[str],
    panels: Sequence[Panel],
    *,
    width: float = 7.4,
    columns: int = 2,
    headings: Collection[int] = (),
    faint: Collection[int] = (),
    title: str = "",
) -> str:
    """A forest plot: a row each, its values as points with their intervals, in one panel or several side by side.

    Args:
        labels: Of the rows, from the top.
        panels: What is drawn over them. A row's marks of several series stand one above the other.
        width: Of the figure, inches.
        columns: Panels beside each other.
        headings: Rows that are a heading and hold nothing.
        faint: Rows in grey.
        title: Of the whole.
    """
    columns = min(columns, len(panels))
    deep = -(-len(panels) // columns)
    series = list(dict.fromkeys(mark.series for panel in panels for mark in panel.marks))
    crowded = len({(mark.row, n) for n, panel in enumerate(panels) for mark in panel.marks}) < sum(
        len(panel.marks) for panel in panels
    )
    height = (0.42 if crowded else 0.22) * len(labels) + 0.9 + 0.25 * bool(title)
    figure = Figure(figsize=(width, deep * height + 0.2 * len(series)), layout="constrained")
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(deep, columns, place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        for line in panel.lines:
            axes.axvline(line, color="#777777", linewidth=0.9, linestyle=STYLES[1])
        for index, name in enumerate(series):
            own = [mark for mark in panel.marks if mark.series == name]
            shift = 0.5 * ((index + 0.5) / len(series) - 0.5) if crowded else 0.0
            for pale in (False, True):
                chosen = [mark for mark in own if (mark.row in faint) == pale]
                if not chosen:
                    continue
                x, low, high = np.array([mark.estimate[:3] for mark in chosen], float).T
                axes.errorbar(
                    x,
                    [mark.row + shift for mark in chosen],
                    xerr=np.maximum([x - low, high - x], 0),
                    fmt="os^Dv"[index % 5],
                    color="#9a9a9a" if pale else COLOURS[index % len(COLOURS)],
                    label="" if pale else name,
                    capsize=2,
                    markersize=4,
                    linewidth=1.2,
                )
        first = place % columns == 0
        rows = range(len(labels))
        axes.set_yticks(rows, labels if first else [""] * len(labels), fontsize=8)
        for row, tick in enumerate(axes.get_yticklabels()):
            tick.set(color="#777777" if row in faint else "black", weight="bold" if row in headings else "normal")
        axes.set(xlabel=panel.xlabel, xlim=panel.xlim, ylim=(len(labels) - 0.4, -0.6))
        axes.set_title(panel.title, fontsize=9)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    if any(series):
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return svg_text(figure)


def picture_grid(
    rows: Sequence[Sequence[tuple[str, Callable[[Axes], object]]]], *, cell: tuple[float, float], fontsize: float = 7
) -> bytes:
    """Pictures in rows, each under its title, as PNG.

    Args:
        rows: Of each picture its title, and what draws it.
        cell: Width and height of each, inches.
        fontsize: Of the titles, points.
    """
    columns = max(map(len, rows))
    figure = Figure(figsize=(cell[0] * columns, cell[1] * len(rows)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for row, pictures in enumerate(rows):
        for column, (title, draw) in enumerate(pictures):
            axes = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            draw(axes)
            axes.set_title(title, fontsize=fontsize, pad=2)
            axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
