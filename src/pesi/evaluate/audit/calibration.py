"""The audit's calibration: do probabilities mean what they say, before and after each way of calibrating."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.calibration import (
    TemperatureConfig,
    calibrated_probabilities,
    fit_isotonic,
    fit_temperature,
    fit_vector_scaling,
    view_probabilities,
)
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import percentile_interval
from pesi.stats.reliability import CalibrationScores, ReliabilityBin, calibration_scores, reliability_diagram

Floats = NDArray[np.float64]

METHODS = {
    "none": "uncalibrated",
    "temperature": "temperature scaling",
    "vector": "vector scaling",
    "isotonic": "isotonic regression",
    "shipped": "as the bundle ships",
}
_SCORES = {"nll": "negative log likelihood", "brier": "Brier score"}


def audit_targets(data: AuditData, classifier: Classifier) -> Floats:
    """Which images have each of the network's outputs, (N, K), 0 or 1."""
    return np.column_stack([data.labels(name) for name in classifier.config.outputs]).astype(np.float64)


def crossfitted_probabilities(data: AuditData, classifier: Classifier, options: AuditOptions) -> dict[str, Floats]:
    """Method -> probabilities (N, K), each image calibrated by what was fitted on the other folds' images."""
    head, targets = classifier.config.task.head, audit_targets(data, classifier)
    plain = view_probabilities(data.logits, head)
    found = {"none": plain} | {name: np.empty_like(plain) for name in ("temperature", "vector", "isotonic")}
    folds = data.folds(options.folds, options.seed)
    for fold in np.unique(folds):
        held, other = folds == fold, folds != fold
        logits, truth = data.logits[other], targets[other]
        temperature = fit_temperature(logits, truth, head, on="the other folds")
        vector = fit_vector_scaling(logits, truth, head, on="the other folds")
        isotonic = fit_isotonic(plain[other], truth, head)
        found["temperature"][held] = calibrated_probabilities(data.logits[held], head, temperature)
        found["vector"][held] = calibrated_probabilities(data.logits[held], head, TemperatureConfig(), vector)
        found["isotonic"][held] = isotonic.probabilities(plain[held])
    return found


def calibration_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Calibration error, Brier score with its parts and likelihood of each method, cross-fitted, with intervals.

    Where the bundle was not fitted on these images, also what its own calibration comes to here as it is.
    """
    config = classifier.config
    names, head = config.outputs, config.task.head
    targets = audit_targets(data, classifier)
    probabilities = crossfitted_probabilities(data, classifier, options)
    if not data.fitted_on:
        probabilities["shipped"] = data.probabilities
    scores: dict[str, CalibrationScores] = {}
    for done, (method, values) in enumerate(probabilities.items(), 1):
        scores[method] = calibration_scores(
            values, targets, head, names=names, replicates=options.replicates, seed=options.seed
        )
        progress(f"calibration on {data.name}", done, len(probabilities))
    ours = "vector" if config.vector is not None else "temperature"
    key = "ece_top" if head == "multiclass" else "ece_classes"
    differences = {
        method: {name: _difference(scores[method], scores["none"], name) for name in _SCORES}
        for method in scores
        if method != "none"
    }
    diagrams = _diagrams(data, classifier, probabilities, scores[ours].bins)
    return Section(
        key="calibration",
        title="Calibration: do probabilities mean what they say",
        summary=_summary(data, scores, differences, ours, key, names),
        meaning="Of the patients who are told 30 %, about 30 in 100 should have the disease; the calibration error is "
        "how far from it such a statement is on average.",
        method=(
            f"Calibrations are fitted on {options.folds - 1} of {options.folds} folds and measured on the one left "
            "out, pooled; images of one patient or lesion stay in one fold. Temperature and vector scaling after Guo "
            "et al. 2017, isotonic regression after Zadrozny and Elkan 2002 as a comparison. Expected calibration "
            f"error in {scores[ours].bins} bins of equal counts (Nixon et al. 2019); Brier score with Murphy's parts "
            "(1973), summed over the classes: reliability less resolution plus uncertainty plus what the bins leave "
            "within them. 95 % intervals by bootstrap within each class, corrected for what noise adds to calibration "
            "errors. The perfect model's figures come from labels drawn from the probabilities themselves "
            "(Broecker and Smith 2007)."
        ),
        values={
            "images": len(data),
            "bins": scores[ours].bins,
            "method": ours,
            "ece": key,
            "methods": {method: score.to_dict() for method, score in scores.items()},
            "differences_from_none": differences,
            "diagrams": {
                title: {method: [vars(point) for point in points] for method, points in curves.items()}
                for title, curves in diagrams.items()
            },
        },
        tables=_tables(scores, differences, ours, key, names),
        plots=tuple(
            Plot(
                _figure(title, curves),
                "Each point is a bin of images of similar probability, with Wilson's 95 % interval; on the grey line "
                "the disease is as frequent as predicted.",
                "Where the points lie below the line patients are worried more than they need be; above it, they are "
                "reassured more than they should be."
                if title != "most probable class"
                else "Where the points lie below the line the classifier is surer of its answer than it is right.",
            )
            for title, curves in diagrams.items()
        ),
    )


def _difference(a: CalibrationScores, b: CalibrationScores, name: str) -> dict[str, Any]:
    draws = a.draws[name] - b.draws[name]  # the same seed: the same resamples
    return {"value": a.values[name] - b.values[name], "ci": list(percentile_interval(draws))}


def _perfect(score: CalibrationScores, key: str) -> str:
    mean, low, high = score.perfect[key]
    return figure_text(mean, (low, high))


def _found(score: CalibrationScores, key: str, names: tuple[str, ...]) -> str:
    """Calibration error in words: of the most probable class or all, and of the class that stands out most."""
    of = "for the most probable class" if key == "ece_top" else "over the classes"
    worst = max(names, key=lambda name: score.values[f"ece/{name}"] - score.perfect[f"ece/{name}"][0])
    parts = []
    for name, what in ((key, of), (f"ece/{worst}", f"for {worst.replace('_', ' ')}, which stands out most")):
        chance = "within" if score.values[name] <= score.perfect[name][2] else "more than"
        low, high = score.perfect[name][1:]
        parts.append(
            f"{figure_text(score.values[name], score.intervals[name])} {what}, {chance} what chance gives a perfectly "
            f"calibrated model on as many images ({low:.3f} to {high:.3f})"
        )
    return " and ".join(parts)


def _summary(
    data: AuditData,
    scores: Mapping[str, CalibrationScores],
    differences: dict[str, Any],
    ours: str,
    key: str,
    names: tuple[str, ...],
) -> str:
    text = (
        f"On {len(data)} images, {METHODS[ours]} fitted on other images leaves a calibration error of "
        f"{_found(scores[ours], key, names)}."
    )
    better = [
        METHODS[method] for method, found in differences.items() if method != "shipped" and found["nll"]["ci"][1] < 0
    ]
    if better:
        text += f" Better likelihood than uncalibrated is shown for: {', '.join(better)}."
        best = min(differences, key=lambda method: float(differences[method]["nll"]["value"]))
        if best != ours:
            left = figure_text(scores[best].values[key], scores[best].intervals[key])
            text += f" The best likelihood has {METHODS[best]} (not compared with the next best), which leaves {left}."
    else:
        text += " No calibration is shown to give a better likelihood than none."
    if "shipped" in scores:
        text += (
            " With the calibration that the bundle ships with, the error here is "
            f"{_found(scores['shipped'], key, names)}."
        )
    return text


def _tables(
    scores: Mapping[str, CalibrationScores], differences: dict[str, Any], ours: str, key: str, names: tuple[str, ...]
) -> tuple[Table, ...]:
    def cell(score: CalibrationScores, name: str) -> str:
        return figure_text(score.values[name], score.intervals[name])

    errors = Table(
        "Calibration error of each method, what a perfectly calibrated model would show on as many images, and the "
        "same in bins of equal width.",
        ("calibration", "calibration error", "a perfect model's", "mean over the classes", "in bins of equal width"),
        tuple(
            (
                METHODS[m], cell(s, key), _perfect(s, key), cell(s, "ece_classes"), cell(s, f"{key}_equal_width")
            )
            for m, s in scores.items()
        ),
    )  # fmt: skip
    proper = Table(
        "Brier score (0 is perfect) and negative log likelihood, with their differences from uncalibrated on the same "
        "resamples; below 0 is better.",
        ("calibration", "Brier score", "difference", "negative log likelihood", "difference"),
        tuple(
            (
                METHODS[m],
                *(
                    text
                    for name in ("brier", "nll")
                    for text in (
                        cell(s, name),
                        figure_text(differences[m][name]["value"], differences[m][name]["ci"]) if m != "none" else "",
                    )
                ),
            )
            for m, s in scores.items()
        ),
    )
    parts = ("reliability", "resolution", "uncertainty", "within")
    murphy = Table(
        "Parts of the Brier score: reliability (lower is better), less resolution (higher is better), plus uncertainty "
        "(of these images, the same for all), plus what the bins leave within them.",
        ("calibration", *parts),
        tuple((METHODS[m], *(cell(s, part) for part in parts)) for m, s in scores.items()),
    )
    ours_score = scores[ours]
    classes = Table(
        f"Calibration error and Brier score of each class against the rest, with {METHODS[ours]}.",
        ("class", "calibration error", "a perfect model's", "Brier score"),
        tuple(
            (
                name.replace("_", " "),
                cell(ours_score, f"ece/{name}"),
                _perfect(ours_score, f"ece/{name}"),
                cell(ours_score, f"brier/{name}"),
            )
            for name in names
        ),
    )
    return errors, proper, murphy, classes


def _diagrams(
    data: AuditData, classifier: Classifier, probabilities: Mapping[str, Floats], bins: int
) -> dict[str, dict[str, tuple[ReliabilityBin, ...]]]:
    """Title -> method -> reliability diagram: of the malignant probability (if there is one), and of the top class."""
    shown = ["shipped" if "shipped" in probabilities else "none", "temperature", "vector"]
    diagrams: dict[str, dict[str, tuple[ReliabilityBin, ...]]] = {}
    malignant = {method: classifier.malignant_probability(probabilities[method]) for method in shown}
    if data.malignant.any() and all(values is not None for values in malignant.values()):
        diagrams["malignant"] = {
            method: reliability_diagram(values, data.malignant, bins)
            for method, values in malignant.items()
            if values is not None
        }
    if classifier.config.task.head == "multiclass":
        diagrams["most probable class"] = {
            method: reliability_diagram(
                probabilities[method].max(1), probabilities[method].argmax(1) == data.classes, bins
            )
            for method in shown
        }
    return diagrams


def _figure(title: str, curves: Mapping[str, tuple[ReliabilityBin, ...]]) -> str:
    figure, axes = figures.new_axes()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for index, (method, points) in enumerate(curves.items()):
        observed = np.array([point.observed for point in points])
        limits = np.array([point.interval for point in points]).T
        axes.errorbar(
            [point.confidence for point in points],
            observed,
            yerr=np.maximum([observed - limits[0], limits[1] - observed], 0),
            fmt="os^"[index] + figures.STYLES[index],
            color=figures.COLOURS[index],
            label=METHODS[method],
            capsize=2,
            linewidth=1,
            markersize=4,
        )
    axes.set(xlabel=f"predicted probability, {title}", ylabel="observed frequency")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title="Reliability")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return figures.svg_text(figure)
