"""The audit's section on subgroups: whether the classifier serves every group of patients and pictures alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from pesi.datasets.artefact_labels import artefact_table
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.report import words
from pesi.evaluate.subgroup_attributes import attributes_of
from pesi.evaluate.subgroups import AttributeScores, GroupScores, Target, measure_subgroups
from pesi.images.masks import Mask
from pesi.images.skin_tone import SkinTone, skin_tone
from pesi.predict.classifier import Classifier
from pesi.predict.segmenter import shipped_segmenter, shipped_segmenter_folder
from pesi.stats.metrics import auc, curve

SMALLEST = 10  # positives and negatives; below, a 95 % interval of an AUC is wider than 0.3
OPERATING_POINT = "sensitivity_0.90"

_PERSON = ("sex", "age", "site", "skin tone")


def subgroups_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """AUC, sensitivity, specificity and calibration of every subgroup, and a test of each attribute's worst gap."""
    lesions, found = _lesions(data, classifier, progress)
    tones: list[SkinTone | None] = []
    for index, (image, lesion) in enumerate(zip(data.images, lesions, strict=True)):
        tones.append(None if lesion is None else skin_tone(np.asarray(image), lesion))
        progress(f"measuring skin tone of {data.name}", index + 1, len(data))
    artefacts = artefact_table(data.records)
    attributes = attributes_of(
        data.records,
        tones=tones,
        artefacts=artefacts,
        lesion_areas=[None if lesion is None else float(lesion.mean()) for lesion in lesions],
    )
    targets = targets_of(data, classifier)
    results = measure_subgroups(
        targets,
        attributes,
        rng=np.random.default_rng(options.seed),
        smallest=SMALLEST,
        replicates=options.replicates,
        groups=data.groups,
    )
    progress(f"scoring subgroups of {data.name}", 1, 1)
    angles = [tone.ita for tone in tones if tone is not None and tone.ita is not None]
    values = {
        "images": len(data),
        "fitted_on": data.fitted_on,
        "smallest": SMALLEST,
        "operating_point": OPERATING_POINT,
        "thresholds": {target.name: target.threshold for target in targets},
        "artefact_labels": artefacts is not None,
        "lesions_from_segmenter": found,
        "skin_tone": {
            "measured": len(angles),
            "ita_quartiles": np.quantile(angles, [0.25, 0.5, 0.75]).tolist() if angles else None,
        },
        "attributes": [asdict(result) for result in results],
    }
    return Section("subgroups", data, options, values, _plots(results, targets[0]) if targets else {})


def targets_of(data: AuditData, classifier: Classifier) -> tuple[Target, ...]:
    """Malignant against benign, then each scored class against the rest, at the bundle's threshold; none twice.

    A class without images, or with nothing but its images, is left out. Where one class alone is malignant, it is the
    malignant task. Several malignant classes together have no threshold: a bundle keeps one a class.
    """
    config = classifier.config
    thresholds = {t.class_name: t.value for t in config.thresholds if t.name == OPERATING_POINT}
    malignant_classes = [c.name for c in data.task.classes if c.malignant]
    probability = classifier.malignant_probability(data.probabilities)
    names = [name for name in data.task.scored_names if name in config.outputs]
    targets = []
    if len(malignant_classes) > 1 and probability is not None:
        targets.append(Target("malignant", data.malignant, probability))
    for name in sorted(names, key=lambda name: name not in malignant_classes):
        column = data.probabilities[:, config.outputs.index(name)]
        targets.append(Target(name, data.labels(name), column, thresholds.get(name)))
    return tuple(target for target in targets if target.labels.any() and not target.labels.all())


def _lesions(data: AuditData, classifier: Classifier, progress: Progress) -> tuple[list[Mask | None], int]:
    """Each image's lesion, drawn by people or else found by the shipped segmenter, and how many were found so."""
    lesions: list[Mask | None] = [mask if has else None for mask, has in zip(data.masks, data.has_mask, strict=True)]
    missing = np.flatnonzero(~data.has_mask)
    if not len(missing) or shipped_segmenter_folder() is None:
        return lesions, 0
    segmenter = shipped_segmenter(device=str(classifier.device))
    for done, index in enumerate(missing):
        lesions[index] = segmenter.find(np.asarray(data.images[index]))
        progress(f"finding lesions of {data.name}", done + 1, len(missing))
    return lesions, sum(lesions[index] is not None for index in missing)


def _plots(results: Sequence[AttributeScores], target: Target) -> dict[str, str]:
    """Forest plots of one target: one of the patients' groups, one of the pictures'."""
    overall = float(auc(curve(target.labels, target.scores))[0])
    plots = {}
    for name, patients, what in (
        ("patient", True, "who the patient is"),
        ("picture", False, "what the picture shows"),
    ):
        part = [r for r in results if r.target == target.name and (r.attribute in _PERSON) == patients]
        if part:
            plots[name] = _forest(part, overall=overall, title=f"{words(target.name)}: {what}")
    return plots


def _forest(results: Sequence[AttributeScores], *, overall: float, title: str) -> str:
    """AUC and sensitivity of every group, with intervals; groups too small to compare in grey."""
    rows: list[tuple[str, GroupScores | None]] = []
    for result in results:
        rows.append((result.attribute, None))
        rows += [(f"{group.name} ({group.positives} of {group.images})", group) for group in result.groups]

    def marks(name: str) -> list[figures.Mark]:
        found = [(n, getattr(g, name), getattr(g, f"{name}_ci")) for n, (_, g) in enumerate(rows) if g is not None]
        return [figures.Mark(n, (value, *interval)) for n, value, interval in found if value is not None]

    return figures.forest_figure(
        [label for label, _ in rows],
        [
            figures.Panel(marks("auc"), "AUC", [overall], (-0.02, 1.02)),
            figures.Panel(marks("sensitivity"), "sensitivity at the bundle's threshold", (), (-0.02, 1.02)),
        ],
        width=9.4,
        headings=[n for n, (_, group) in enumerate(rows) if group is None],
        faint=[n for n, (_, group) in enumerate(rows) if group is not None and group.small],
        title=title,
    )
