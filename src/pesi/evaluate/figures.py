"""The report's plots, as SVG text; colours by Okabe and Ito, told apart also by line style."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pesi.evaluate.evaluation import Evaluation

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


def reliability_figure(evaluation: Evaluation, bins: int = 8) -> str:
    """Observed frequency against predicted probability, in bins of equal counts, with Wilson's intervals."""
    from pesi.stats.intervals import wilson_interval

    figure, axes = new_axes()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for index, name in enumerate(evaluation.bands):
        labels, scores = evaluation.aligned.task_labels(evaluation.task, name), evaluation.aligned.column(name)
        parts = [part for part in np.array_split(np.argsort(scores), bins) if len(part)]
        x = [float(scores[part].mean()) for part in parts]
        y = [float(labels[part].mean()) for part in parts]
        limits = [wilson_interval(int(labels[part].sum()), len(part)) for part in parts]
        error = [
            [v - low for v, (low, _) in zip(y, limits, strict=True)],
            [h - v for v, (_, h) in zip(y, limits, strict=True)],
        ]
        axes.errorbar(
            x, y, yerr=np.maximum(error, 0), fmt="o" + STYLES[index % len(STYLES)], color=COLOURS[index % len(COLOURS)],
            label=name, capsize=2, linewidth=1,
        )  # fmt: skip
    axes.set(xlabel="predicted probability", ylabel="observed frequency", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title("Reliability")
    axes.legend(loc="upper left", frameon=False)
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
