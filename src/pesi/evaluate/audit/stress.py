"""The audit's stress tests: artefacts pasted and removed, the lesion hidden, the picture taken otherwise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

import cv2
import numpy as np
from matplotlib.axes import Axes

from pesi.evaluate import figures
from pesi.evaluate.answer_change import call_threshold
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.stress import stress_test
from pesi.images.perturb import PERTURBATIONS, Group, Perturbation
from pesi.predict.classifier import Classifier

_GROUPS: dict[Group, str] = {
    "paste": "artefact pasted",
    "remove": "artefact removed",
    "lesion": "lesion or background hidden",
    "capture": "taken otherwise",
    "geometry": "turned or scaled",
}
_CELL = 128  # side of a picture in the contact sheet, pixels
_HIDING = ("lesion replaced by skin", "lesion blackened", "lesion's box blackened")


def stress_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Stress tests on at most `options.stress_images` images, drawn stratified by class.

    Args:
        data: The images; masks are used where there are any.
        classifier: What is tested.
        options: How many images and resamples, the seed.
        progress: Told what is done.
    """
    chosen = data.take(data.sample(options.stress_images, options.seed))
    results = stress_test(
        classifier,
        chosen.images,
        chosen.classes,
        masks=chosen.masks,
        has_mask=chosen.has_mask,
        seed=options.seed,
        replicates=options.replicates,
        groups=chosen.groups,
        made_fold=chosen.made_fold,
        progress=progress,
    )
    answered = {r.perturbation: r.answers for r in results if r.answers is not None}
    means = {each: answers.auc["mean"] for each, answers in answered.items() if "mean" in answers.auc}
    lowered = {p.name: m.change.value for p, m in means.items() if p.group != "lesion" and m.change.high < 0}
    pasted = {each.name: answers.class_flips.value for each, answers in answered.items() if each.group == "paste"}
    hidden = {each.name: mean.after for each, mean in means.items() if each.name in _HIDING}
    call = call_threshold(classifier)
    values = {
        "images": len(chosen),
        "views": "single",
        "call_threshold": call.value if call else None,
        "perturbations": {result.perturbation.name: result.to_dict() for result in results},
    }
    shown = {
        "masked": int(chosen.has_mask.sum()),
        "call": call,
        "few": any(mean.few for mean in means.values()),
        "lowered": sorted(lowered, key=lambda name: lowered[name]),
        "pasted": max(pasted, key=lambda name: pasted[name], default=None),
        "hidden": list(hidden),
        "reads": any(after.low > 0.5 for after in hidden.values()),
    }
    plots = {
        "auc": _forest({each: mean.change for each, mean in means.items()}, "AUC, changed minus unchanged"),
        "flips": _forest(
            {p: (a.class_flips.value, *a.class_flips.interval) for p, a in answered.items()},
            "share whose answer changes",
        ),
    }
    pictures = (
        ("One image unchanged and under every change; gray: cannot be made of it.", _sheet(chosen, options.seed)),
    )
    return Section("stress", data, options, values, plots, pictures, shown)


def _forest(lines: Mapping[Perturbation, Sequence[float]], xlabel: str) -> str:
    """One line a change: its estimate and interval, coloured and marked by group; nothing where there is none."""
    ordered = sorted(enumerate(lines.items()), key=lambda each: list(_GROUPS).index(each[1][0].group))
    marks = [figures.Mark(row, estimate, _GROUPS[each.group]) for row, (each, estimate) in ordered]
    panel = figures.Panel(marks, xlabel, [0])
    return figures.forest_figure([each.name for each in lines], [panel]) if lines else ""


def _sheet(data: AuditData, seed: int) -> bytes:
    """One image under every perturbation, as PNG: the one of which most can be made."""
    candidates = np.flatnonzero(data.has_mask)[:4] if data.has_mask.any() else np.arange(min(len(data), 1))
    sheets = [_pictures(data, int(index), seed) for index in candidates]
    pictures = max(sheets, key=lambda sheet: sum(picture is not None for _, picture in sheet))
    gray = np.full((_CELL, _CELL, 3), 128, np.uint8)
    cells = [
        ("\n".join(textwrap.wrap(name, 20)), partial(Axes.imshow, X=gray if picture is None else picture))
        for name, picture in pictures
    ]
    return figures.picture_grid(
        [cells[start : start + 8] for start in range(0, len(cells), 8)], cell=(1.35, 1.55), fontsize=6.5
    )


def _pictures(data: AuditData, index: int, seed: int) -> list[tuple[str, np.ndarray | None]]:
    image, mask = np.ascontiguousarray(data.images[index]), data.masks[index] if data.has_mask[index] else None

    def small(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, (_CELL, _CELL), interpolation=cv2.INTER_AREA)

    def shown(perturbation: Perturbation) -> np.ndarray | None:
        changed = perturbation.apply(image, mask, perturbation.generator(seed, index))
        return None if changed is None else small(changed.image)

    return [("unchanged", small(image)), *((each.name, shown(each)) for each in PERTURBATIONS)]
