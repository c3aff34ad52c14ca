"""Tables and figures of the audit's section on the ABCD description and similar cases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pesi.evaluate.audit.section import Plot, Table, figure_text
from pesi.evaluate.figures import COLOURS, new_axes, svg_text
from pesi.evaluate.retrieval import Retrieval
from pesi.stats.agreement import Agreement

SHOWN = ("asymmetry of shape", "asymmetry of colour", "colour step at the border")


def separation_table(
    measures: pd.DataFrame, target: NDArray[np.bool_], separation: Mapping[str, list[float]], name: str
) -> Table:
    """Mean of each measure in the target and in the rest, and its AUROC."""
    return Table(
        f"Each measure in {name} ({int(target.sum())} images) and in the rest ({int((~target).sum())}); AUROC with its "
        "95 % interval, 0.5 is chance, below 0.5 the rest has the higher values.",
        ("measure", f"mean, {name}", "mean, rest", "AUROC alone"),
        tuple(
            (
                measure,
                f"{measures[measure][target].mean():.3g}",
                f"{measures[measure][~target].mean():.3g}",
                figure_text(values[0], values[1:]),
            )
            for measure, values in separation.items()
        ),
    )


def agreement_table(agreed: Mapping[str, Agreement]) -> Table:
    """Correlation, bias and limits of agreement of each measure."""
    return Table(
        "Measures from the segmenter's mask against those from the reference mask, with 95 % intervals.",
        ("measure", "Spearman", "mean difference", "lower limit of agreement", "upper limit of agreement"),
        tuple(
            (
                measure,
                "the same on every image"
                if value.spearman is None
                else figure_text(value.spearman[0], value.spearman[1:]),
                *(figure_text(part[0], part[1:]) for part in (value.bias, value.lower, value.upper)),
            )
            for measure, value in agreed.items()
        ),
    )


def retrieval_table(near: Mapping[int, Mapping[str, Retrieval]]) -> Table:
    """How many of the nearest share the class."""
    return Table(
        "Share of the most similar images of other lesions that have the same diagnosis, with 95 % intervals.",
        ("class", "images", "neighbours", "same diagnosis", "by chance", "above chance"),
        tuple(
            (
                kind,
                str(value.images),
                "the nearest" if k == 1 else f"the {k} nearest",
                figure_text(value.share[0], value.share[1:]),
                f"{value.chance:.3f}",
                figure_text(value.gain[0], value.gain[1:]),
            )
            for k, kinds in near.items()
            for kind, value in kinds.items()
        ),
    )


def separation_plot(separation: Mapping[str, list[float]], name: str) -> Plot | None:
    """AUROC of each measure with its interval; None where there is none."""
    if not separation:
        return None
    figure, axes = new_axes(6.2, 0.28 * len(separation) + 1.0)
    places = np.arange(len(separation))[::-1]
    centre, low, high = np.array(list(separation.values())).T
    errors = np.maximum([centre - low, high - centre], 0)
    axes.errorbar(centre, places, xerr=errors, fmt="o", color=COLOURS[0], capsize=2, markersize=4, linewidth=1.2)
    axes.axvline(0.5, color="#888888", linewidth=0.8)
    axes.set_yticks(places, list(separation), fontsize=8)
    axes.set(
        xlim=(min(0.2, low.min() - 0.02), max(0.8, high.max() + 0.02)), xlabel=f"AUROC for {name}, this measure alone"
    )
    return Plot(
        svg_text(figure),
        "Each measure by itself: the point is its AUROC, the line its 95 % interval; at 0.5 it tells nothing.",
        f"None of these numbers is a test for {name}: they describe the picture and decide nothing.",
    )


def agreement_plot(a: pd.DataFrame, b: pd.DataFrame, agreed: Mapping[str, Agreement]) -> Plot | None:
    """Bland and Altman's plots of three measures; None where they are not there."""
    shown = [name for name in SHOWN if name in agreed]
    if not shown:
        return None
    figure = Figure(figsize=(3.4 * len(shown), 3.2), layout="constrained")
    for index, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        value = agreed[name]
        axes.plot((a[name] + b[name]) / 2, a[name] - b[name], "o", color=COLOURS[0], markersize=3, alpha=0.6)
        for line, style in ((value.bias[0], "-"), (value.lower[0], "--"), (value.upper[0], "--")):
            axes.axhline(line, color=COLOURS[1], linestyle=style, linewidth=1.1)
        axes.axhline(0, color="#888888", linewidth=0.6)
        axes.set(xlabel="mean of both", title=name)
        axes.title.set_fontsize(10)
        if index == 0:
            axes.set_ylabel("segmenter's mask minus reference mask")
    return Plot(
        svg_text(figure),
        "Each point is an image; the solid line is the mean difference between the two masks' descriptions; between "
        "the dashed lines lie about 95 % of the differences.",
        "How far a number of the description can change only because the lesion's border was drawn otherwise.",
    )


def retrieval_plot(near: Mapping[int, Mapping[str, Retrieval]]) -> Plot | None:
    """Share of the nearest with the same class, each class against chance; None where it was not measured."""
    near = {k: values for k, values in near.items() if values}
    kinds = list(next(iter(near.values()), {}))
    if not kinds:
        return None
    figure, axes = new_axes(5.6, 0.55 * len(kinds) + 1.4)
    places = np.arange(len(kinds))[::-1]
    for row, (k, values) in enumerate(near.items()):
        centre, low, high = np.array([values[kind].share for kind in kinds]).T
        at = places + 0.14 - 0.28 * row
        errors = np.maximum([centre - low, high - centre], 0)
        label = "the nearest" if k == 1 else f"the {k} nearest"
        axes.errorbar(
            centre, at, xerr=errors, fmt="os"[row % 2], color=COLOURS[row], capsize=2, markersize=5, label=label
        )
    chance = [next(iter(near.values()))[kind].chance for kind in kinds]
    axes.plot(chance, places, "|", color="black", markersize=18, label="by chance")
    axes.set_yticks(places, [kind.replace("_", " ") for kind in kinds])
    axes.set(xlim=(0, 1.02), ylim=(-0.6, len(kinds) - 0.4), xlabel="share with the same diagnosis")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False, fontsize=8, ncols=3)
    return Plot(
        svg_text(figure),
        "How many of the most similar images of other lesions have the same diagnosis, with 95 % intervals; the bar is "
        "what images drawn by chance would give.",
        "Similar cases show what the network finds alike; some of them will have another diagnosis than the patient's "
        "lesion, so they illustrate and do not prove.",
    )
