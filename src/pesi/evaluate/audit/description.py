"""The audit's section on the ABCD description and on similar cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.description_view import (
    agreement_plot,
    agreement_table,
    retrieval_plot,
    retrieval_table,
    separation_plot,
    separation_table,
)
from pesi.evaluate.audit.section import Section, figure_text
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
_PART = 4  # times `stress_images`: at most so many images are described, each twice
_FEW = 10  # of either kind: an AUROC of fewer says nothing

METHOD = (
    "Measures after the ABCD rule of dermatoscopy (Stolz et al., Eur. J. Dermatol. 4, 1994; Nachbar et al., J. Am. "
    "Acad. Dermatol. 30, 1994), from the segmenter's mask. An axis is asymmetric where more than "
    f"{SHAPE_ABOVE:.0%} of the area has no mirror image (after Seidenari, Pellacani and Grana) or colour differs by "
    f"more than Delta E {COLOUR_ABOVE:g}; an eighth ends abruptly above Delta E {ABRUPT_ABOVE:g}; a colour is present "
    f"above {PRESENT_ABOVE:.0%} of the lesion. The last three thresholds and the colours' reference values are ours; "
    f"there were no dermatologist's scores to check them by. {NO_TOTAL} AUROC of each measure alone, intervals by the "
    "stratified bootstrap. Agreement of the measures from the segmenter's mask with those from the reference mask: "
    "Spearman's correlation, Bland and Altman's limits (Lancet 327, 1986). Similar cases: cosine of the network's "
    "features among the audited images themselves, the images of one lesion (where known) left out; chance is the "
    "class's share among the others; intervals allow for neighbours being mutual. Where the files do not keep the "
    "aspect of the photograph, shapes and sizes are distorted with it."
)


@dataclass(frozen=True)
class Described:
    """The audited images that have a mask, described twice.

    Attributes:
        automatic, reference: One row an image, one column a measure: from the segmenter's and the reference mask.
        target: Which are of the class that the measures are compared on.
        images: How many have a mask, found or not.
        examples: Pictures, with captions.
    """

    automatic: pd.DataFrame
    reference: pd.DataFrame
    target: NDArray[np.bool_]
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
    separation = separations(described.automatic, described.target, options)
    agreed = agreements(described.automatic, described.reference, options)
    near = {k: _retrieval(data, k) for k in NEAREST}
    return Section(
        key="description",
        title="ABCD description and similar cases",
        summary=_summary(described, separation, agreed, near, name),
        meaning="The description tells in words and numbers what can be seen in the picture. It makes no diagnosis and "
        "never enters the network's probability; a lesion that looks regular in it can still be a melanoma.",
        method=METHOD,
        values={
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
        },
        tables=tuple(
            table
            for table in (
                separation_table(described.automatic, described.target, separation, name),
                agreement_table(agreed),
                retrieval_table(near),
            )
            if table.rows
        ),
        plots=tuple(
            plot
            for plot in (
                separation_plot(separation, name),
                agreement_plot(described.automatic, described.reference, agreed),
                retrieval_plot(near),
            )
            if plot is not None
        ),
        pictures=described.examples,
    )


def compared(data: AuditData) -> tuple[str, NDArray[np.bool_]]:
    """What the measures are compared on: melanoma where the images have it, otherwise the malignant classes."""
    melanoma = data.records["diagnosis"].eq("MEL").to_numpy(bool)
    return ("melanoma", melanoma) if melanoma.any() else ("malignant", data.malignant)


def separations(measures: pd.DataFrame, target: NDArray[np.bool_], options: AuditOptions) -> dict[str, list[float]]:
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
        )["auc"]
        result[name] = [float(auc(curve(labels, scores))[0]), *percentile_interval(draws)]
    return result


def agreements(a: pd.DataFrame, b: pd.DataFrame, options: AuditOptions) -> dict[str, Agreement]:
    """Measure -> agreement of two descriptions of the same images (same index), where both have it."""
    result = {}
    for name in a.columns:
        pairs = np.stack([a[name].to_numpy(np.float64), b[name].to_numpy(np.float64)])
        pairs = pairs[:, ~np.isnan(pairs).any(0)]
        if pairs.shape[1] >= _FEW:
            rng = np.random.default_rng(options.seed)
            result[name] = agreement(pairs[0], pairs[1], replicates=options.replicates, rng=rng)
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
    return Described(automatic, reference, kinds, len(chosen), tuple(examples))


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
    records = data.records
    groups = pd.factorize(records["lesion_id"].fillna(records["image_id"]))[0]
    kinds = np.unique(data.classes)
    if len(kinds) < 2 or len(groups) - int(np.bincount(groups).max()) < k:
        return {}
    found = retrieval(data.features, data.classes, groups, k=k)
    return {
        "all classes, each counted alike" if kind is None else data.task.class_names[kind]: value
        for kind, value in found.items()
    }


def _summary(
    described: Described,
    separation: dict[str, list[float]],
    agreed: dict[str, Agreement],
    near: dict[int, dict[str, Retrieval]],
    name: str,
) -> str:
    parts = [
        f"A lesion was found and described in {len(described.automatic)} of the {described.images} images with a mask."
    ]
    if separation:
        best = max(separation, key=lambda measure: abs(separation[measure][0] - 0.5))
        value, low, high = separation[best]
        way = "higher"
        if value < 0.5:
            way, value, low, high = "lower", 1 - value, 1 - high, 1 - low
        parts.append(
            f"Of single measures, {best} ({way} in {name}) tells it from the rest best: AUROC "
            f"{figure_text(value, (low, high))}, the best of {len(separation)} on the same images and so flattered."
        )
    else:
        parts.append(f"Too few images to compare {name} with the rest.")
    ranked = {measure: value.spearman for measure, value in agreed.items() if value.spearman is not None}
    if ranked:
        most, least = (pick(ranked, key=lambda measure: ranked[measure][0]) for pick in (max, min))
        parts.append(
            f"Between the segmenter's and the reference mask, {most} agrees best (Spearman "
            f"{figure_text(ranked[most][0], ranked[most][1:])}) and {least} least "
            f"({figure_text(ranked[least][0], ranked[least][1:])})."
        )
    if near[NEAREST[0]]:
        first = near[NEAREST[0]]["all classes, each counted alike"]
        parts.append(
            f"The most similar other image has the same diagnosis in {first.share[0]:.0%} ({first.share[1]:.0%} to "
            f"{first.share[2]:.0%}), mean over the classes; by chance it would be {first.chance:.0%}."
        )
    return " ".join(parts)
