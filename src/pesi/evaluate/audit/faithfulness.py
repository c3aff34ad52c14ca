"""The audit's section on explanations: do the maps show what the network used, more than chance and the middle do?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.report import words
from pesi.explain.faithfulness import (
    BASELINES,
    BLUR,
    CENTRE,
    RANDOM,
    SCATTERED,
    TOLERANCE,
    Faithfulness,
    explaining_maps,
    measure_faithfulness,
)
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import mean_interval

Floats = NDArray[np.float64]

MOST_IMAGES = 60  # for the curves: about a hundred forward passes each
STEPS = 8
_EXAMPLES = 3

MEASURES: dict[str, str] = {
    "deletion": "deletion area (low is good)",
    "insertion": "insertion area (high is good)",
    "pointing": "pointing game",
    "inside": "mass inside the lesion",
}

# Key of a difference in the values -> the baseline that it is to, and the baseline in words.
AGAINST: dict[str, tuple[str, str]] = {
    "against_random": (RANDOM, "the random map"),
    "against_scattered": (SCATTERED, "random pixels"),
    "against_centre": (CENTRE, "the middle of the picture"),
}


def faithfulness_section(
    data: AuditData,
    classifier: Classifier,
    *,
    options: AuditOptions,
    progress: Progress = silent,
    most_images: int = MOST_IMAGES,
    steps: int = STEPS,
) -> Section:
    """Deletion and insertion curves, pointing game and mass inside the lesion of every map, against three baselines.

    Args:
        data: The images; those with a lesion mask are taken where there are any.
        classifier: The classifier.
        options: `stress_images` and `most_images` both bound the images.
        progress: Told what is done.
        most_images: See `options`.
        steps: Of the curves.
    """
    # A classifier whose first region is the lesion's box sees another picture than the mask belongs to.
    masked = bool(data.has_mask.any()) and classifier.config.preprocess.regions[0] == "image"
    part = data.take(np.flatnonzero(data.has_mask)) if masked else data
    part = part.take(part.sample(min(options.stress_images, most_images), options.seed))
    result = measure_faithfulness(
        classifier,
        part.images,
        part.masks if masked else None,
        rng=np.random.default_rng(options.seed),
        folds=[None if fold < 0 else int(fold) for fold in part.made_fold],
        steps=steps,
        progress=lambda done, total: progress(f"deleting and inserting pixels of {data.name}", done, total),
    )
    values = faithfulness_values(result, replicates=options.replicates, seed=options.seed, groups=part.groups)
    measures = [name for name in MEASURES if name in next(iter(values["maps"].values()))]
    shown = {
        "masked": masked,
        "measures": measures,
        "names": MEASURES,
        "against": {key: text for key, (_, text) in AGAINST.items()},
        "blur": BLUR,
        "tolerance": TOLERANCE,
        # Map -> the baselines that it beats by both curves.
        "beaten": {
            name: [
                text
                for key, (_, text) in AGAINST.items()
                if entry["deletion"][key]["ci"][1] < 0 and entry["insertion"][key]["ci"][0] > 0
            ]
            for name, entry in values["maps"].items()
            if name not in BASELINES
        },
    }
    plots = {"curves": curves_figure(result), "differences": _differences_figure(values, measures)}
    return Section(
        "faithfulness", data, options, values, plots, (_examples(part, classifier, masked, options.seed),), shown
    )


def faithfulness_values(
    result: Faithfulness, *, replicates: int, seed: int, groups: NDArray | None = None
) -> dict[str, Any]:
    """Mean of every measure of every map, and its paired differences to the baselines, with 95 % intervals.

    Args:
        result: The measurements.
        replicates: Bootstrap resamples; every measure and difference is taken on the same.
        seed: Of the bootstrap.
        groups: Patient or lesion of each image, (N,), drawn as a whole.

    Returns:
        Plain values: images, steps, lesion_area, maps (name -> measure -> value, ci, and, but for the baselines,
        the keys of `AGAINST`, each difference, ci, shown), curves.
    """
    measured: dict[str, Floats] = {"deletion": result.deletion_area, "insertion": result.insertion_area}
    if result.pointing is not None and result.inside is not None:
        measured |= {"pointing": result.pointing, "inside": result.inside}

    def interval(values: Floats) -> tuple[float, list[float]]:
        mean, low, high = mean_interval(values, replicates=replicates, rng=np.random.default_rng(seed), groups=groups)
        return mean, [low, high]

    maps: dict[str, Any] = {}
    for index, name in enumerate(result.maps):
        maps[name] = {}
        for measure, values in measured.items():
            mean, limits = interval(values[:, index])
            entry: dict[str, Any] = {"value": mean, "ci": limits}
            for key, (baseline, _) in AGAINST.items():
                if name not in BASELINES and baseline in result.maps:
                    difference, limits = interval(values[:, index] - values[:, result.maps.index(baseline)])
                    shown = limits[0] > 0 or limits[1] < 0
                    entry[key] = {"difference": difference, "ci": limits, "shown": shown}
            maps[name][measure] = entry
    return {
        "images": len(result.classes),
        "steps": len(result.fractions) - 1,
        "lesion_area": None if result.area is None else float(result.area.mean()),
        "maps": maps,
        "curves": {
            "fractions": result.fractions.tolist(),
            "deletion": dict(zip(result.maps, result.deletion.mean(0).tolist(), strict=True)),
            "insertion": dict(zip(result.maps, result.insertion.mean(0).tolist(), strict=True)),
        },
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


def _differences_figure(values: Mapping[str, Any], measures: list[str]) -> str:
    """Forest plot of every map's differences to the baselines, one panel a measure; better is to the right."""
    names = [name for name in values["maps"] if name not in BASELINES]

    def marks(measure: str) -> list[figures.Mark]:
        sign = -1 if measure == "deletion" else 1
        found = []
        for key, (_, text) in AGAINST.items():
            for row, name in enumerate(names):
                entry = values["maps"][name][measure][key]
                estimate = (sign * entry["difference"], *sorted(sign * limit for limit in entry["ci"]))
                found.append(figures.Mark(row, estimate, f"against {text}"))
        return found

    panels = [
        figures.Panel(
            marks(measure),
            lines=[0],
            title=MEASURES[measure].partition(" (")[0] + (", sign turned" if measure == "deletion" else ""),
        )
        for measure in measures
    ]
    return figures.forest_figure(names, panels, width=9.4)


def _examples(part: AuditData, classifier: Classifier, masked: bool, seed: int) -> tuple[str, bytes]:
    """A few pictures with every map over them: a caption and the PNG."""
    count = min(_EXAMPLES, len(part))
    rng = np.random.default_rng(seed)
    rows = []
    for index in np.linspace(0, len(part) - 1, count).round().astype(int):
        picture, class_name, maps = explaining_maps(classifier, part.images[index], rng=rng)
        outline = part.masks[index] if masked and 0 < part.masks[index].mean() < 1 else None
        truth = part.task.class_names[part.classes[index]]
        titles = [words(f"said: {class_name}\nis: {truth}"), *map(_two_lines, maps)]
        drawn = [
            partial(_overlay, picture=picture, values=values, outline=outline) for values in (None, *maps.values())
        ]
        rows.append(list(zip(titles, drawn, strict=True)))
    outlines = "; the white line is the lesion's border" if masked else ""
    png = figures.picture_grid(rows, cell=(1.65, 1.9))
    return f"{count} of the images with every map over them (bright is high){outlines}.", png


def _overlay(axes: Axes, *, picture: NDArray, values: NDArray | None, outline: NDArray[np.bool_] | None) -> None:
    """A picture, a map over it, and the lesion's outline."""
    axes.imshow(picture)
    if values is not None:
        top = max(float(np.quantile(values, 0.995)), 1e-12)  # else one bright pixel leaves the rest black
        axes.imshow(values, cmap="inferno", alpha=0.6, vmin=0, vmax=top)
    if outline is not None:
        extent = (-0.5, picture.shape[1] - 0.5, -0.5, picture.shape[0] - 0.5)
        axes.contour(outline, levels=[0.5], colors="white", linewidths=0.8, extent=extent)


def _two_lines(name: str) -> str:
    """A name broken at the comma, or else in the middle."""
    first, comma, second = name.partition(", ")
    if not comma:
        words = name.split()
        first, second = " ".join(words[: (len(words) + 1) // 2]), " ".join(words[(len(words) + 1) // 2 :])
    return f"{first}\n{second}"
