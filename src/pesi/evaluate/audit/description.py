"""The audit's section on the ABCD description and on similar cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, lesions_of, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.report import words
from pesi.evaluate.retrieval import Retrieval, retrieval
from pesi.explain.asymmetry import COLOUR_ABOVE, SHAPE_ABOVE
from pesi.explain.border import ABRUPT_ABOVE
from pesi.explain.colours import PRESENT_ABOVE
from pesi.explain.description import NO_TOTAL, describe_lesion
from pesi.explain.description_picture import description_png
from pesi.images.decode import image_size
from pesi.images.masks import Mask
from pesi.images.transforms import Image, resize
from pesi.predict.classifier import Classifier
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter
from pesi.stats.agreement import Agreement, agreement
from pesi.stats.intervals import bootstrap, percentile_interval
from pesi.stats.metrics import auc, curve

NEAREST = (1, 5)
_SHOWN = ("asymmetry of shape", "asymmetry of colour", "colour step at the border")
_PART = 4  # times `stress_images`: at most so many images are described, each twice
_FEW = 10  # of either kind: an AUROC of fewer says nothing


@dataclass(frozen=True)
class Described:
    """The audited images that have a mask, described twice.

    Attributes:
        automatic, reference: One row an image, one column a measure: from the segmenter's and the reference mask.
        target: Which are of the class that the measures are compared on.
        groups: Patient or lesion of each; None where no two share one.
        images: How many have a mask, found or not.
        examples: Pictures, with captions.
    """

    automatic: pd.DataFrame
    reference: pd.DataFrame
    target: NDArray[np.bool_]
    groups: NDArray[np.int64] | None
    images: int
    examples: tuple[tuple[str, bytes], ...] = field(repr=False)


def description_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """The ABCD measures of melanoma and of the rest, how far they hang on the mask, and similar cases."""
    segmenter = shipped_segmenter(device=str(classifier.device))
    name, target = compared(data)
    chosen = data.sample(_PART * options.stress_images, options.seed)
    chosen = chosen[data.has_mask[chosen]]
    described = _described(data, chosen, classifier, segmenter, target, name, progress)
    separation = separations(described.automatic, described.target, options, described.groups)
    agreed = agreements(described.automatic, described.reference, options, described.groups)
    near = {k: _retrieval(data, k) for k in NEAREST}
    values = {
        "images": described.images,
        "found": len(described.automatic),
        "segmenter": segmenter.bundle_id,
        "target": name,
        "targets": int(described.target.sum()),
        "separation": separation,
        "agreement": {measure: asdict(value) for measure, value in agreed.items()},
        "retrieval": {
            f"nearest_{k}": {kind: asdict(value) for kind, value in kinds.items()} for k, kinds in near.items()
        },
    }
    spearman = {measure: value.spearman[0] for measure, value in agreed.items() if value.spearman is not None}
    shown = {
        "limits": {
            "shape": SHAPE_ABOVE,
            "colour": COLOUR_ABOVE,
            "abrupt": ABRUPT_ABOVE,
            "present": PRESENT_ABOVE,
            "no_total": NO_TOTAL,
        },
        "best": max(separation, key=lambda measure: abs(separation[measure][0] - 0.5), default=None),
        "ranked": sorted(spearman, key=lambda measure: -spearman[measure]),
        "means": {
            measure: [
                float(described.automatic[measure][kind].mean()) for kind in (described.target, ~described.target)
            ]
            for measure in separation
        },
    }
    return Section("description", data, options, values, _plots(described, values), described.examples, shown)


def compared(data: AuditData) -> tuple[str, NDArray[np.bool_]]:
    """What the measures are compared on: melanoma where the images have it, otherwise the malignant classes."""
    melanoma = data.records["diagnosis"].eq("MEL").to_numpy(bool)
    return ("melanoma", melanoma) if melanoma.any() else ("malignant", data.malignant)


def separations(
    measures: pd.DataFrame, target: NDArray[np.bool_], options: AuditOptions, groups: NDArray | None = None
) -> dict[str, list[float]]:
    """Measure -> AUROC for the target with its 95 % interval; empty where there are too few of either kind.

    Above 0.5: the target has the higher values. Images without a value are left out.
    """
    result = {}
    for name in measures.columns:
        values = measures[name].to_numpy(np.float64)
        known = ~np.isnan(values)
        labels, scores = target[known], values[known]
        if min(labels.sum(), (~labels).sum()) < _FEW or np.ptp(scores) == 0:
            continue
        draws = bootstrap(
            lambda w, labels=labels, scores=scores: {"auc": auc(curve(labels, scores, w))},  # type: ignore[misc]
            labels,
            replicates=options.replicates,
            rng=np.random.default_rng(options.seed),
            groups=None if groups is None else groups[known],
        )["auc"]
        result[name] = [float(auc(curve(labels, scores))[0]), *percentile_interval(draws)]
    return result


def agreements(
    a: pd.DataFrame, b: pd.DataFrame, options: AuditOptions, groups: NDArray | None = None
) -> dict[str, Agreement]:
    """Measure -> agreement of two descriptions of the same images (same index), where both have it."""
    result = {}
    for name in a.columns:
        pairs = np.stack([a[name].to_numpy(np.float64), b[name].to_numpy(np.float64)])
        known = ~np.isnan(pairs).any(0)
        pairs, drawn_by = pairs[:, known], None if groups is None else groups[known]
        if pairs.shape[1] >= _FEW:
            rng = np.random.default_rng(options.seed)
            result[name] = agreement(pairs[0], pairs[1], replicates=options.replicates, rng=rng, groups=drawn_by)
    return result


def as_photographed(square: Image, path: str, geometry: str) -> Image:
    """A square picture or mask (S, S, ...) with the aspect of its file again, where squaring squeezed it."""
    if geometry != "squeeze":
        return square
    width, height = image_size(path)
    longest = square.shape[0]
    return resize(
        square, max(1, round(longest * min(1.0, height / width))), max(1, round(longest * min(1.0, width / height)))
    )


def _described(
    data: AuditData,
    chosen: NDArray[np.int64],
    classifier: Classifier,
    segmenter: LesionSegmenter,
    target: NDArray[np.bool_],
    name: str,
    progress: Progress,
) -> Described:
    geometry = classifier.config.preprocess.geometry
    rows: dict[int, tuple[dict[str, float], dict[str, float]]] = {}
    for done, index in enumerate(chosen.tolist(), start=1):
        picture, mask, lesion = _picture(data, index, geometry, segmenter)
        if lesion is not None:
            rows[index] = describe_lesion(picture, lesion).measures(), describe_lesion(picture, mask).measures()
        progress("describing lesions", done, len(chosen))
    automatic, reference = (pd.DataFrame({i: pair[k] for i, pair in rows.items()}).T for k in (0, 1))
    kinds = target[list(rows)]
    examples = []
    for wanted, text in ((True, name), (False, f"not {name}")):
        group = automatic[kinds == wanted]
        if len(group):
            middle = group["asymmetry of colour"]
            index = int((middle - middle.median()).abs().idxmin())
            picture, _, lesion = _picture(data, index, geometry, segmenter)
            assert lesion is not None
            image_id = str(data.records["image_id"].iloc[index])
            drawn = description_png(picture, lesion, describe_lesion(picture, lesion), title=f"{image_id} ({text})")
            caption = f"{image_id}, {text}: the image of median colour asymmetry of its kind, described."
            examples.append((caption, drawn))
    groups = None if data.groups is None else data.groups[list(rows)]
    return Described(automatic, reference, kinds, groups, len(chosen), tuple(examples))


def _picture(data: AuditData, index: int, geometry: str, segmenter: LesionSegmenter) -> tuple[Image, Mask, Mask | None]:
    """One image in the aspect of its file, its reference mask, and the segmenter's, None where it finds no lesion."""
    path = str(data.records["path"].iloc[index])
    square = np.asarray(data.images[index])
    lesion = segmenter.segment_many([square])[0]

    def fitted(mask: Mask) -> Mask:
        return np.asarray(as_photographed(np.where(mask, np.uint8(255), np.uint8(0)), path, geometry) > 127)

    found = fitted(lesion.mask) if lesion.found else None
    return as_photographed(square, path, geometry), fitted(data.masks[index]), found


def _retrieval(data: AuditData, k: int) -> dict[str, Retrieval]:
    """Class name -> how many of the k nearest other lesions' images share it; empty where there are too few."""
    lesions = pd.factorize(lesions_of(data.records))[0]
    kinds = np.unique(data.classes)
    if len(kinds) < 2 or len(lesions) - int(np.bincount(lesions).max()) < k:
        return {}
    # Networks of different folds have no feature in common: theirs stand side by side, so that none is like another's.
    columns = [np.where(data.made_fold[:, None] == fold, data.features, 0) for fold in np.unique(data.made_fold)]
    found = retrieval(np.concatenate(columns, axis=1), data.classes, lesions, k=k, groups=data.groups)
    return {
        "all classes, each counted alike" if kind is None else data.task.class_names[kind]: value
        for kind, value in found.items()
    }


def _plots(described: Described, values: Mapping[str, Any]) -> dict[str, str]:
    plots = {}
    if separation := values["separation"]:
        estimates = np.array(list(separation.values()))
        limits = min(0.2, float(estimates.min()) - 0.02), max(0.8, float(estimates.max()) + 0.02)
        marks = [figures.Mark(row, estimate) for row, estimate in enumerate(separation.values())]
        panel = figures.Panel(marks, f"AUROC for {values['target']}, this measure alone", [0.5], limits)
        plots["separation"] = figures.forest_figure(list(separation), [panel], width=6.2)
    if shown := [name for name in _SHOWN if name in values["agreement"]]:
        plots["agreement"] = _agreement_figure(described, {name: values["agreement"][name] for name in shown})
    found = {k: kinds for k, kinds in values["retrieval"].items() if kinds}
    if found:
        marks = []
        for k, kinds in found.items():
            label = "the nearest" if k == "nearest_1" else f"the {k.removeprefix('nearest_')} nearest"
            marks += [figures.Mark(row, kind["share"], label) for row, kind in enumerate(kinds.values())]
        first = next(iter(found.values()))
        marks += [figures.Mark(row, (kind["chance"],) * 3, "by chance") for row, kind in enumerate(first.values())]
        panel = figures.Panel(marks, "share with the same diagnosis", xlim=(0, 1.02))
        plots["retrieval"] = figures.forest_figure([words(kind) for kind in first], [panel], width=5.6)
    return plots


def _agreement_figure(described: Described, agreed: Mapping[str, Any]) -> str:
    """Bland and Altman's plots."""
    figure = Figure(figsize=(3.4 * len(agreed), 3.2), layout="constrained")
    for index, (name, value) in enumerate(agreed.items()):
        a, b = described.automatic[name], described.reference[name]
        axes = figure.add_subplot(1, len(agreed), index + 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.plot((a + b) / 2, a - b, "o", color=figures.COLOURS[0], markersize=3, alpha=0.6)
        for line, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
            axes.axhline(value[line][0], color=figures.COLOURS[1], linestyle=style, linewidth=1.1)
        axes.axhline(0, color="#888888", linewidth=0.6)
        axes.set(xlabel="mean of both", title=name)
        axes.title.set_fontsize(10)
        if index == 0:
            axes.set_ylabel("segmenter's mask minus reference mask")
    return figures.svg_text(figure)
