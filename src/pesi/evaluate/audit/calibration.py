"""The audit's calibration: do probabilities mean what they say, before and after each way of calibrating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from pesi.decide.calibration import (
    TemperatureConfig,
    calibrated_probabilities,
    fit_temperature,
    fit_vector_scaling,
    view_probabilities,
)
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
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


@dataclass(frozen=True)
class IsotonicCalibration:
    """A monotone map of each class's probability; a comparison only, no bundle keeps one.

    Attributes:
        maps: One a class.
        head: `multiclass` (the mapped probabilities are divided by their sum) or `multilabel`.
    """

    maps: tuple[IsotonicRegression, ...] = field(repr=False)
    head: str

    def probabilities(self, probabilities: Floats) -> Floats:
        """Probabilities (N, K) -> calibrated ones, (N, K)."""
        mapped = np.column_stack([m.predict(column) for m, column in zip(self.maps, probabilities.T, strict=True)])
        return np.asarray(mapped / mapped.sum(1, keepdims=True) if self.head == "multiclass" else mapped)


def fit_isotonic(probabilities: Floats, targets: Floats, head: str) -> IsotonicCalibration:
    """Isotonic regression of each class against the rest (Zadrozny and Elkan 2002).

    No value goes below 1 / (N + 2) or above (N + 1) / (N + 2): N images cannot show that a probability is 0 or 1, and
    the likelihood of a 0 would be none.

    Args:
        probabilities: Before calibration, (N, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
    """
    least = 1 / (len(probabilities) + 2)
    maps = tuple(
        IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(column, target)
        for column, target in zip(probabilities.T, targets.T, strict=True)
    )
    return IsotonicCalibration(maps, head)


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
    # Of several networks the logits come calibrated, each network's by itself.
    methods = METHODS | ({"none": "each network calibrated by itself"} if len(config.members) > 1 else {})
    targets = audit_targets(data, classifier)
    probabilities = crossfitted_probabilities(data, classifier, options)
    if not data.fitted_on:
        probabilities["shipped"] = data.probabilities
    scores: dict[str, CalibrationScores] = {}
    for done, (method, values) in enumerate(probabilities.items(), 1):
        scores[method] = calibration_scores(
            values, targets, head, names=names, replicates=options.replicates, seed=options.seed, groups=data.groups
        )
        progress(f"calibration on {data.name}", done, len(probabilities))
    ours = "vector" if config.vector is not None else "temperature"
    differences = {
        method: {name: _difference(scores[method], scores["none"], name) for name in ("nll", "brier")}
        for method in scores
        if method != "none"
    }
    diagrams = _diagrams(data, classifier, probabilities, scores[ours].bins)
    return Section(
        "calibration",
        data,
        options,
        {
            "images": len(data),
            "bins": scores[ours].bins,
            "method": ours,
            "ece": "ece_top" if head == "multiclass" else "ece_classes",
            "methods": {method: score.to_dict() for method, score in scores.items()},
            "differences_from_none": differences,
            "diagrams": {
                title: {method: [vars(point) for point in points] for method, points in curves.items()}
                for title, curves in diagrams.items()
            },
        },
        {
            title: figures.reliability_figure(
                {methods[method]: points for method, points in curves.items()},
                xlabel=f"predicted probability, {title}",
            )
            for title, curves in diagrams.items()
        },
        shown={
            "methods": methods,
            "classes": names,
            # The class whose error is most above what a perfect model would show.
            "worst": {
                method: max(names, key=lambda name: s.values[f"ece/{name}"] - s.perfect[f"ece/{name}"][0])
                for method, s in scores.items()
            },
            "better": [methods[m] for m, found in differences.items() if m != "shipped" and found["nll"]["ci"][1] < 0],
            "best": min(differences, key=lambda method: float(differences[method]["nll"]["value"])),
        },
    )


def _difference(a: CalibrationScores, b: CalibrationScores, name: str) -> dict[str, Any]:
    draws = a.draws[name] - b.draws[name]  # the same seed: the same resamples
    return {"value": a.values[name] - b.values[name], "ci": list(percentile_interval(draws))}


def _diagrams(
    data: AuditData, classifier: Classifier, probabilities: Mapping[str, Floats], bins: int
) -> dict[str, dict[str, tuple[ReliabilityBin, ...]]]:
    """Title -> method -> reliability diagram: of the malignant probability (if there is one), and of the top class."""
    shown = ["shipped" if "shipped" in probabilities else "none", "temperature", "vector"]
    diagrams: dict[str, dict[str, tuple[ReliabilityBin, ...]]] = {}
    malignant = {method: classifier.malignant_probability(probabilities[method]) for method in shown}
    if data.malignant.any() and all(values is not None for values in malignant.values()):
        diagrams["malignant"] = {
            method: reliability_diagram(values, data.malignant, bins, groups=data.groups)
            for method, values in malignant.items()
            if values is not None
        }
    if classifier.config.task.head == "multiclass":
        diagrams["most probable class"] = {
            method: reliability_diagram(
                probabilities[method].max(1),
                probabilities[method].argmax(1) == data.classes,
                bins,
                groups=data.groups,
            )
            for method in shown
        }
    return diagrams
