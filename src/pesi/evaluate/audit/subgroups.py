"""The audit's section on subgroups: whether the classifier serves every group of patients and pictures alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pesi.datasets.artefact_labels import FILE_NAME, artefact_table
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
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
_GREY = "#9a9a9a"


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
    first = [result for result in results if result.target == targets[0].name] if targets else []
    return Section(
        key="subgroups",
        title="Does it serve every group alike?",
        summary=_summary(results, data, artefacts is not None),
        meaning="A patient whose group does worse may be told the wrong thing more often than the overall figures say; "
        "of a group with few images here nobody can say how good the classifier is for it.",
        method=_method(found),
        values=values,
        tables=(_gap_table(results), *(_group_table(results, target) for target in targets)),
        plots=tuple(_plots(first, targets[0])) if targets else (),
    )


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


def forest_figure(results: Sequence[AttributeScores], *, overall: float, title: str) -> str:
    """AUC and sensitivity of every group, with intervals; groups too small to compare in grey.

    Args:
        results: Of one target.
        overall: AUC of all images, drawn as a line.
        title: The figure's.
    """
    lines = sum(len(result.groups) + 1 for result in results)
    figure = Figure(figsize=(9.4, 0.23 * lines + 1.1), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    left.axvline(overall, color="#888888", linewidth=0.8, linestyle="--")
    rows: list[int] = []
    labels: list[str] = []
    row = 0
    for result in results:
        left.text(-0.02, row, result.attribute, transform=left.get_yaxis_transform(), ha="right", va="center",
                  fontsize=8, fontweight="bold")  # fmt: skip
        row += 1
        for group in result.groups:
            colour = _GREY if group.small else figures.COLOURS[0]
            _whisker(left, row, group.auc, group.auc_ci, colour)
            _whisker(right, row, group.sensitivity, group.sensitivity_ci, colour)
            rows.append(row)
            labels.append(f"{group.name} ({group.positives} of {group.images})")
            row += 1
    left.set_yticks(rows, labels, fontsize=8)
    for tick, group in zip(left.get_yticklabels(), (g for r in results for g in r.groups), strict=True):
        tick.set_color("#777777" if group.small else "black")
    right.set_yticks(rows, [""] * len(rows))
    for axes, label in ((left, "AUC"), (right, "sensitivity at the bundle's threshold")):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=label, xlim=(-0.02, 1.02), ylim=(row - 0.5, -0.5))
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    return figures.svg_text(figure)


def _whisker(axes: Axes, row: int, value: float | None, interval: tuple[float, float] | None, colour: str) -> None:
    if value is None or interval is None:
        return
    axes.plot(interval, [row, row], color=colour, linewidth=1.5)
    axes.plot(value, row, "o", color=colour, markersize=5)


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


def _method(found: int) -> str:
    text = (
        "Intervals: AUC by bootstrap within the group, an AUC of 0 or 1 by Newcombe (Stat. Med. 2006); sensitivity and "
        "specificity at the bundle's threshold for a sensitivity of 0.90, and mean probability minus observed share, "
        f"by Wilson. A group with fewer than {SMALLEST} images with or without the class is shown in grey and not "
        "compared. The gap is the best minus the worst AUC of the other groups; its interval is that of the two groups "
        "(Zou and Donner, Stat. Med. 2008); its p-value comes from exchanging the images between the groups within "
        "each class, so it takes into account that the best and the worst were picked, and is adjusted for all gaps of "
        "this table (Holm). Groups also differ in which lesions they hold, so a difference does not tell its cause. "
        "Skin tone: individual typology angle (Chardon et al. 1991) of the skin around the lesion, groups of Del Bino "
        "and Bernerd (2013); light and white balance of a dermatoscope are unknown, so it is a proxy and not the "
        "patient's skin type."
    )
    return text + (f" {found} lesions without a drawn mask were found by the segmenter." if found else "")


def _summary(results: Sequence[AttributeScores], data: AuditData, artefacts: bool) -> str:
    tested = [result for result in results if result.gap is not None]
    small = sum(group.small for result in results for group in result.groups)
    groups = sum(len(result.groups) for result in results)
    compared = (
        f"{len(tested)} of {len(results)} divisions of {len(data)} images have two groups large enough to compare"
    )
    text = f"{compared}. "
    if tested:
        widest = min(tested, key=lambda result: result.gap.adjusted if result.gap else 1.0)
        shown = [result for result in tested if result.gap and result.gap.adjusted < 0.05]
        if shown:
            text = f"A difference is shown for {', '.join(_gap_text(result) for result in shown)}; {compared}. "
        else:
            text = f"{compared}, and none shows a difference; the least probable by chance is {_gap_text(widest)}. "
    text += f"{small} of {groups} groups are small (fewer than {SMALLEST} with or without the class): nothing follows "
    text += "from their figures, and no difference shown is not the same as no difference."
    if not artefacts:
        text += f" There are no artefact labels ({FILE_NAME}) beside these images, so artefacts are not divided."
    if data.fitted_on:
        text += " The bundle's thresholds and calibration were set on these images, so sensitivity, specificity and "
        text += "calibration flatter here."
    return text


def _gap_text(result: AttributeScores) -> str:
    gap = result.gap
    if gap is None:
        return result.attribute
    return (
        f"{result.target.replace('_', ' ')} by {result.attribute} (worst: {gap.worst}, AUC "
        f"{figure_text(gap.difference, gap.interval)} below {gap.best}; p {gap.p_value:.3f}, adjusted "
        f"{gap.adjusted:.2f})"
    )


def _gap_table(results: Sequence[AttributeScores]) -> Table:
    rows = []
    for result in results:
        gap = result.gap
        compared = sum(not group.small for group in result.groups)
        cells = (
            ("too few images", "", "", "", "")
            if gap is None
            else (
                gap.best,
                gap.worst,
                figure_text(gap.difference, gap.interval),
                f"{gap.p_value:.3f}",
                f"{gap.adjusted:.2f}",
            )
        )
        rows.append((result.target.replace("_", " "), result.attribute, f"{compared} of {len(result.groups)}", *cells))
    return Table(
        "The best and the worst group of every attribute; p without and with adjustment for all rows.",
        ("class", "divided by", "groups compared", "best", "worst", "difference of AUC", "p", "adjusted p"),
        tuple(rows),
    )


def _group_table(results: Sequence[AttributeScores], target: Target) -> Table:
    rows = tuple(
        (result.attribute, group.name + (" (small)" if group.small else ""), *_cells(group))
        for result in results
        if result.target == target.name
        for group in result.groups
    )
    at = "" if target.threshold is None else f" at the threshold {target.threshold:.3f}"
    return Table(
        f"{target.name.replace('_', ' ').capitalize()} in every group: AUC, sensitivity and specificity{at}, and by "
        "how much the mean probability exceeds the observed share.",
        ("divided by", "group", "with / images", "AUC", "sensitivity", "specificity", "probability minus observed"),
        rows,
    )


def _cells(group: GroupScores) -> tuple[str, ...]:
    return (
        f"{group.positives} / {group.images}",
        figure_text(group.auc, group.auc_ci),
        figure_text(group.sensitivity, group.sensitivity_ci, 2),
        figure_text(group.specificity, group.specificity_ci, 2),
        f"{group.calibration:+.3f} ({group.calibration_ci[0]:+.3f} to {group.calibration_ci[1]:+.3f})",
    )


def _plots(results: Sequence[AttributeScores], target: Target) -> list[Plot]:
    """Forest plots of one target: one of the patients' groups, one of the pictures'."""
    overall = float(auc(curve(target.labels, target.scores))[0])
    name = target.name.replace("_", " ")
    halves: list[tuple[str, list[AttributeScores], str]] = [
        (
            f"{name}: who the patient is",
            [result for result in results if result.attribute in _PERSON],
            "Where a group's point lies to the left, the classifier finds the disease among its patients less well.",
        ),
        (
            f"{name}: what the picture shows",
            [result for result in results if result.attribute not in _PERSON],
            "Where the presence of an artefact moves the figures, an answer hangs on how the picture was taken.",
        ),
    ]
    caption = (
        "Each point is a group (images with the class of all its images in brackets) with its 95 % interval; grey "
        "groups are too small to compare; the dashed line is the AUC of all images."
    )
    return [
        Plot(forest_figure(part, overall=overall, title=title), caption, meaning)
        for title, part, meaning in halves
        if part
    ]
