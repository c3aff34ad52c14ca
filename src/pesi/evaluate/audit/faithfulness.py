"""The audit's section on explanations: do the maps show what the network used, more than chance and the middle do?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.faithfulness_figures import (
    AGAINST,
    MEASURES,
    curves_figure,
    differences_figure,
    examples_png,
)
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
from pesi.explain.faithfulness import BASELINES, BLUR, TOLERANCE, Faithfulness, measure_faithfulness
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import mean_interval

Floats = NDArray[np.float64]

MOST_IMAGES = 60  # for the curves: about a hundred forward passes each
STEPS = 8


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
        steps=steps,
        progress=lambda done, total: progress(f"deleting and inserting pixels of {data.name}", done, total),
    )
    values = faithfulness_values(result, replicates=options.replicates, seed=options.seed)
    measures = [name for name in MEASURES if name in next(iter(values["maps"].values()))]
    plots = [
        Plot(
            curves_figure(result),
            "Left: the pixels that a map marks most are replaced by the picture's mean colour; a good map's curve "
            "falls early. Right: they are put into a blurred picture; a good map's curve rises early.",
            "A map whose curve is no better than that of the random map shows a doctor nothing of why the network "
            "decided so.",
        ),
        Plot(
            differences_figure(values, measures),
            "Each map minus the random map (circle), random pixels (triangle) and the middle of the picture (square), "
            "on the same images, with 95 % intervals; to the right of the line the map is better.",
            "Lesions lie in the middle of a picture: a map that is no better than the middle tells a doctor nothing "
            "that the photographer did not.",
        ),
    ]
    return Section(
        key="faithfulness",
        title="Do the maps show what the network used?",
        summary=_summary(values, data.name, masked),
        meaning="A map is a hint of where the network looked, not a proof that it looked at the disease; read it "
        "beside the picture, never instead of it.",
        method=_method(steps),
        values=values,
        tables=_tables(values, measures),
        plots=tuple(plots),
        pictures=(examples_png(part, classifier, masked, options.seed),),
    )


def faithfulness_values(result: Faithfulness, *, replicates: int, seed: int) -> dict[str, Any]:
    """Mean of every measure of every map, and its paired differences to the baselines, with 95 % intervals.

    Args:
        result: The measurements.
        replicates: Bootstrap resamples; every measure and difference is taken on the same.
        seed: Of the bootstrap.

    Returns:
        Plain values: images, steps, lesion_area, maps (name -> measure -> value, ci, and, but for the baselines,
        the keys of `AGAINST`, each difference, ci, shown), curves.
    """
    measured: dict[str, Floats] = {"deletion": result.deletion_area, "insertion": result.insertion_area}
    if result.pointing is not None and result.inside is not None:
        measured |= {"pointing": result.pointing, "inside": result.inside}

    def interval(values: Floats) -> tuple[float, list[float]]:
        mean, low, high = mean_interval(values, replicates=replicates, rng=np.random.default_rng(seed))
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


def _method(steps: int) -> str:
    return (
        "RISE (Petsiuk, Das, Saenko, BMVC 2018): the probability of the most probable class, one view, as pixels are "
        f"replaced in {steps} equal steps; deletion to the picture's mean colour, insertion into the picture blurred "
        f"by {BLUR:.0%} of its side. Pointing game (Zhang et al., IJCV 2018): the map's maximum within {TOLERANCE:.0%} "
        "of the side of the lesion. Grad-CAM (Selvaraju et al., ICCV 2017) at the last block of stage 3. Random map: "
        "smooth noise as coarse as the class activation map; random pixels: because scattered damage confuses a "
        "network more than a whole area does, whatever it hits. Middle: a Gaussian of a quarter of the side. "
        "Intervals: bootstrap over the images, paired for the differences, not adjusted for their number."
    )


def _tables(values: Mapping[str, Any], measures: list[str]) -> tuple[Table, ...]:
    maps = values["maps"]
    area = values["lesion_area"]
    even = "" if area is None else f" The lesion covers {area:.0%} of the picture: so much an even map has inside."
    headings = tuple(MEASURES[measure][0] for measure in measures)
    tables = [
        Table(
            f"Every map on {values['images']} images, means with 95 % intervals.{even}",
            ("map", *headings),
            tuple((n, *(figure_text(e[m]["value"], e[m]["ci"]) for m in measures)) for n, e in maps.items()),
        )
    ]
    for key, (_, baseline) in AGAINST.items():
        rows = tuple(
            (name, *(_difference(entry[measure][key], MEASURES[measure][1]) for measure in measures))
            for name, entry in maps.items()
            if name not in BASELINES
        )
        caption = f"The same minus {baseline}, on the same images; better or worse where the interval excludes 0."
        tables.append(Table(caption, ("map", *headings), rows))
    return tuple(tables)


def _difference(entry: Mapping[str, Any], more_is_better: bool) -> str:
    low, high = entry["ci"]
    verdict = "not shown" if not entry["shown"] else "better" if (low > 0) == more_is_better else "worse"
    return f"{entry['difference']:+.3f} ({low:+.3f} to {high:+.3f}): {verdict}"


def _summary(values: Mapping[str, Any], name: str, masked: bool) -> str:
    """Which baselines every map beats by both curves."""
    sentences = []
    for label, entry in values["maps"].items():
        if label in BASELINES:
            continue
        deletion, insertion = entry["deletion"], entry["insertion"]
        beaten = [
            baseline
            for key, (_, baseline) in AGAINST.items()
            if deletion[key]["ci"][1] < 0 and insertion[key]["ci"][0] > 0
        ]
        verdict = f"beats {', '.join(beaten)} by both curves" if beaten else "beats no baseline by both curves"
        figures_ = (
            f"deletion {figure_text(deletion['value'], deletion['ci'])}, "
            f"insertion {figure_text(insertion['value'], insertion['ci'])}"
        )
        sentences.append(f"{label}: {verdict} ({figures_})")
    better = "the middle of the picture" in "".join(sentences)
    text = (
        f"On {values['images']} images of {name} {'a' if better else 'no'} map beats the middle of the picture by both "
    )
    text += f"curves (deletion, insertion). In detail, {'; '.join(sentences)}."
    return text if masked else text + " There are no lesion masks for what the network sees, so no pointing game."
