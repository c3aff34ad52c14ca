"""The pictures of the audit's section on explanations: curves, forest plots of differences, maps over images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData
from pesi.explain.faithfulness import BASELINES, CENTRE, RANDOM, SCATTERED, Faithfulness, explaining_maps
from pesi.predict.classifier import Classifier

EXAMPLES = 3

# Measure -> heading, and whether more is better.
MEASURES: dict[str, tuple[str, bool]] = {
    "deletion": ("deletion area (low is good)", False),
    "insertion": ("insertion area (high is good)", True),
    "pointing": ("pointing game", True),
    "inside": ("mass inside the lesion", True),
}


# Key of a difference in the values -> the baseline that it is to, and the baseline in words.
AGAINST: dict[str, tuple[str, str]] = {
    "against_random": (RANDOM, "the random map"),
    "against_scattered": (SCATTERED, "random pixels"),
    "against_centre": (CENTRE, "the middle of the picture"),
}


def curves_figure(result: Faithfulness) -> str:
    """Mean deletion and insertion curve of each map, side by side."""
    figure = Figure(figsize=(9.4, 4.6), layout="constrained")
    for place, (title, curves) in enumerate((("Deletion", result.deletion), ("Insertion", result.insertion))):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        for index, name in enumerate(result.maps):
            baseline = name in BASELINES
            style = (":", "-.", "--")[BASELINES.index(name)] if baseline else "-"
            colour = "#666666" if baseline else figures.COLOURS[index % len(figures.COLOURS)]
            marker = "" if baseline else "os^Dv"[index % 5]
            axes.plot(
                result.fractions, curves[:, index].mean(0), style, marker=marker, markersize=4, color=colour,
                label=name, linewidth=1.4,
            )  # fmt: skip
        verb = "replaced" if place == 0 else "put in"
        axes.set(xlabel=f"share of the pixels {verb}", xlim=(0, 1), ylim=(0, 1), title=title)
        axes.set_ylabel("probability of the explained class")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figures.svg_text(figure)


def differences_figure(values: Mapping[str, Any], measures: list[str]) -> str:
    """Forest plot of every map's differences to the baselines, one panel a measure; better is to the right."""
    names = [name for name in values["maps"] if name not in BASELINES]
    columns = min(2, len(measures))
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(9.4, rows * (0.42 * len(names) + 1.0) + 0.3), layout="constrained")
    for place, measure in enumerate(measures):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axvline(0, color="#888888", linewidth=0.8)
        sign = 1 if MEASURES[measure][1] else -1
        for place_of_key, (key, (_, text)) in enumerate(AGAINST.items()):
            offset, marker, colour = 0.22 * (place_of_key - 1), "o^s"[place_of_key], figures.COLOURS[place_of_key]
            for row, name in enumerate(names):
                entry = values["maps"][name][measure][key]
                low, high = sorted(sign * limit for limit in entry["ci"])
                label = f"against {text}" if row == 0 else None
                axes.plot([low, high], [row + offset] * 2, color=colour, linewidth=1.4)
                axes.plot(
                    sign * entry["difference"], row + offset, marker, color=colour, markersize=5, label=label, ls=""
                )
        left = place % columns == 0
        axes.set_yticks(range(len(names)), names if left else [""] * len(names), fontsize=8)
        axes.set_ylim(len(names) - 0.5, -0.5)
        flipped = "" if MEASURES[measure][1] else ", sign turned"
        axes.set_title(f"{MEASURES[measure][0].partition(' (')[0]}{flipped}", fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figures.svg_text(figure)


def examples_png(part: AuditData, classifier: Classifier, masked: bool, seed: int) -> tuple[str, bytes]:
    """A few pictures with every map over them: a caption and the PNG."""
    count = min(EXAMPLES, len(part))
    chosen = np.linspace(0, len(part) - 1, count).round().astype(int)
    rng = np.random.default_rng(seed)
    figure: Figure | None = None
    for row, index in enumerate(chosen):
        picture, class_name, maps = explaining_maps(classifier, part.images[index], rng=rng)
        columns = len(maps) + 1
        figure = figure or Figure(figsize=(1.65 * columns, 1.9 * count), dpi=100, layout="constrained")
        truth = part.task.class_names[part.classes[index]]
        for column, (name, values) in enumerate({"": None, **maps}.items()):
            axes = figure.add_subplot(count, columns, row * columns + column + 1)
            axes.imshow(picture)
            axes.set_axis_off()
            if values is not None:
                top = max(float(np.quantile(values, 0.995)), 1e-12)  # else one bright pixel leaves the rest black
                axes.imshow(values, cmap="inferno", alpha=0.6, vmin=0, vmax=top)
            if masked:
                side = part.masks[index].shape[0]
                extent = (-0.5, picture.shape[1] - 0.5, -0.5, picture.shape[0] - 0.5)
                if 0 < part.masks[index].sum() < side * side:
                    axes.contour(part.masks[index], levels=[0.5], colors="white", linewidths=0.8, extent=extent)
            title = f"said: {class_name}\nis: {truth}".replace("_", " ") if values is None else _two_lines(name)
            axes.set_title(title, fontsize=7)
    buffer = io.BytesIO()
    if figure is not None:
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png")
    outline = "; the white line is the lesion's border" if masked else ""
    return f"{count} of the images with every map over them (bright is high){outline}.", buffer.getvalue()


def _two_lines(name: str) -> str:
    """A name broken at the comma, or else in the middle."""
    first, comma, second = name.partition(", ")
    if not comma:
        words = name.split()
        first, second = " ".join(words[: (len(words) + 1) // 2]), " ".join(words[(len(words) + 1) // 2 :])
    return f"{first}\n{second}"
