"""The audit's operating points: what to expect of each threshold, of the triage, and whether deciding by it helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.calibration import TemperatureConfig, calibrated_probabilities, fit_temperature, fit_vector_scaling
from pesi.decide.operating import SENSITIVITIES, SPECIFICITIES, Criterion, Interval, expected_rates, threshold_at
from pesi.decide.promises import failures
from pesi.decide.triage import TriageLevel, TriageRule, fit_triage, rule_of, triage_of
from pesi.evaluate import figures
from pesi.evaluate.audit.calibration import audit_targets
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.predict.classifier import Classifier
from pesi.stats.decision import Decision, decision_curve, decision_values, undecided
from pesi.stats.intervals import exact_interval, share_interval

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PointKey = tuple[str, Criterion, float]  # class, criterion, how much of it is wanted

PREVALENCES = (0.02, 0.10)  # of malignant lesions among those looked at: screening, and a pigmented-lesion clinic
POINTS: tuple[tuple[Criterion, float], ...] = (
    *(("sensitivity", value) for value in SENSITIVITIES),
    *(("specificity", value) for value in SPECIFICITIES),
)
CURVE_THRESHOLDS = np.round(np.arange(0.005, 0.5001, 0.005), 3)


@dataclass(frozen=True)
class _CrossFitted:
    """What is set on the other folds, applied to each fold.

    Attributes:
        labels: Name -> which images have it, (N,); only where there are images with and without it, and a score.
        malignant: Name of what the triage is about among them, None where the task does not tell.
        scores: Name -> calibrated probability, (N,), each image by a calibration fitted on the other folds.
        called: Point -> which images are called, (N,), each by a threshold of the other folds; None where the other
            folds of some fold are all with the class or all without it, and set none.
        levels: Index of each image's triage level, (N,); None where there is no triage, or it cannot be set either.
        weakest: The folds' levels, of each the one that promises least.
    """

    labels: dict[str, Bools]
    malignant: str | None
    scores: dict[str, Floats]
    called: dict[PointKey, Bools | None]
    levels: NDArray[np.int64] | None
    weakest: tuple[TriageLevel, ...]


def operating_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Cross-fitted thresholds with predictive values, number needed to excise, decision curves, and the triage.

    Where the bundle was not fitted on these images, also what its own thresholds and triage come to here.
    """
    config = classifier.config
    rule = rule_of(config.triage) or TriageRule()
    found = _crossfit(data, classifier, options, rule)
    disease = _disease(found)
    rng = np.random.default_rng([options.seed, 2])
    points: dict[PointKey, Decision] = {}
    expected: dict[PointKey, tuple[Interval | None, Interval | None]] = {}
    for done, (key, called) in enumerate(found.called.items(), 1):
        name, criterion, wanted = key
        labels = found.labels[name]
        if called is None:
            points[key], expected[key] = undecided(len(data), prevalences=PREVALENCES), (None, None)
        else:
            points[key] = decision_values(
                labels, called, prevalences=PREVALENCES, replicates=options.replicates, rng=rng, groups=data.groups
            )
            expected[key] = expected_rates(
                criterion,
                wanted,
                labels,
                found.scores[name],
                rng=rng,
                replicates=options.replicates,
                groups=data.groups,
            )
        progress(f"operating points on {data.name}", done, len(found.called))
    curves = {}
    if disease is not None:
        for label, prevalence in (("own", None), *((f"{p:g}", p) for p in PREVALENCES)):
            curves[label] = decision_curve(
                found.labels[disease],
                found.scores[disease],
                thresholds=CURVE_THRESHOLDS,
                prevalence=prevalence,
                replicates=options.replicates,
                rng=rng,
                groups=data.groups,
            )
    shipped = _shipped_points(data, classifier, found, options, rng) if not data.fitted_on else {}
    triage: dict[str, list[dict[str, Any]] | None] = {}
    promises: dict[str, list[dict[str, Any]]] = {}
    if found.malignant is not None:
        triage["cross-fitted"] = None  # too few images to set it
    if found.levels is not None:
        triage["cross-fitted"] = _triage_counts(data, [step.name for step in rule.levels], found.levels)
        promises["cross-fitted"] = _promises_kept(data, found.weakest, found.levels)
    malignant = classifier.malignant_probability(data.probabilities)
    if config.triage and malignant is not None and not data.fitted_on:
        reached = triage_of(config.triage, malignant)
        triage["as the bundle ships"] = _triage_counts(data, [level.level for level in config.triage], reached)
        promises["as the bundle ships"] = _promises_kept(data, config.triage, reached)
    values = {
        "images": len(data),
        "disease": disease,
        "points": [
            {"class": key[0], "criterion": key[1], "wanted": key[2], **decision.to_dict()}
            | {
                f"expected_{name}": None if interval is None else list(interval)
                for name, interval in zip(("sensitivity", "specificity"), expected[key], strict=True)
            }
            for key, decision in points.items()
        ],
        "shipped_points": [
            {"class": name, "name": point, "threshold": value, **decision.to_dict()}
            for (name, point, value), decision in shipped.items()
        ],
        "decision_curves": {label: curve.to_dict() for label, curve in curves.items()},
        "triage_rule": rule.model_dump(mode="json"),
        "triage": triage,
        "triage_promises": promises,
    }
    plots = {}
    if curves:
        own, rarest = curves["own"], min(curves.values(), key=lambda curve: curve.prevalence)
        plots["own"] = figures.decision_figure(own, f"Prevalence {own.prevalence:.0%}, as here")
        if rarest is not own:
            plots["rarest"] = figures.decision_figure(rarest, f"Prevalence {rarest.prevalence:.0%}")
    shown = {
        "point": None if disease is None else points[disease, "sensitivity", 0.90].to_dict(),
        "with_it": int(found.labels[disease].sum()) if disease else 0,
        "prevalences": [f"@{prevalence:g}" for prevalence in PREVALENCES],
        # The widest range of risks over which deciding by the probability is shown to be better.
        "widest": {
            label: max(curve.useful, key=lambda part: part[1] - part[0], default=None)
            for label, curve in curves.items()
        },
    }
    return Section("operating", data, options, values, plots, shown=shown)


def _crossfit(data: AuditData, classifier: Classifier, options: AuditOptions, rule: TriageRule) -> _CrossFitted:
    config = classifier.config
    head, targets = config.task.head, audit_targets(data, classifier)
    scored = data.task.scored_names
    labels = {name: data.labels(name) for name in scored}
    bad = [task_class.name for task_class in data.task.classes if task_class.malignant]
    malignant = (bad[0] if len(bad) == 1 and bad[0] in labels else "malignant") if bad else None
    if malignant is not None:
        labels[malignant] = data.malignant
    scorable = set(config.outputs)
    if classifier.malignant_probability(data.probabilities) is not None:
        scorable |= {malignant} if malignant is not None else set()
    labels = {name: truth for name, truth in labels.items() if name in scorable and truth.any() and not truth.all()}
    malignant = malignant if malignant in labels else None
    scores = {name: np.zeros(len(data)) for name in labels}
    folds = data.folds(options.folds, options.seed)
    # A fold whose others cannot set a threshold must not count as one in which nothing is called.
    settable = {
        name: all(truth[folds != fold].any() and not truth[folds != fold].all() for fold in np.unique(folds))
        for name, truth in labels.items()
    }
    called: dict[PointKey, Bools | None] = {
        (name, *point): np.zeros(len(data), bool) if settable[name] else None for name in labels for point in POINTS
    }
    levels = np.zeros(len(data), np.int64) if malignant is not None and settable[malignant] else None
    triages: list[tuple[TriageLevel, ...]] = []
    for fold in np.unique(folds):
        held, other = folds == fold, folds != fold
        on = "the other folds"
        if config.vector is not None:
            vector, temperature = (
                fit_vector_scaling(data.logits[other], targets[other], head, on=on),
                TemperatureConfig(),
            )
        else:
            vector, temperature = None, fit_temperature(data.logits[other], targets[other], head, on=on)
        probabilities = calibrated_probabilities(data.logits, head, temperature, vector)
        total = classifier.malignant_probability(probabilities)
        for name, truth in labels.items():
            if name in config.outputs:
                score = probabilities[:, config.outputs.index(name)]
            elif total is not None:
                score = total
            else:
                continue
            scores[name][held] = score[held]
            for criterion, wanted in POINTS:
                calls = called[name, criterion, wanted]
                if calls is not None:
                    point = threshold_at(criterion, wanted, truth[other], score[other], class_name=name, on=on)
                    calls[held] = score[held] >= point.value
        if levels is not None and total is not None:
            groups = None if data.groups is None else data.groups[other]
            triage = fit_triage(rule, data.malignant[other], total[other], on=on, groups=groups)
            levels[held] = triage_of(triage, total[held])
            triages.append(triage)
    weakest = tuple(min(each, key=lambda level: level.rate or 0) for each in zip(*triages, strict=True))
    return _CrossFitted(labels, malignant, scores, called, levels, weakest)


def _disease(found: _CrossFitted) -> str | None:
    """What the decisions are about: malignancy, or else the first class that can be scored."""
    return found.malignant or next(iter(found.labels), None)


def _shipped_points(
    data: AuditData, classifier: Classifier, found: _CrossFitted, options: AuditOptions, rng: np.random.Generator
) -> dict[tuple[str, str, float], Decision]:
    """The bundle's own thresholds, as they are, on these images: (class, name, threshold) -> what they come to."""
    outputs = classifier.config.outputs
    return {
        (point.class_name, point.name, point.value): decision_values(
            found.labels[point.class_name],
            data.probabilities[:, outputs.index(point.class_name)] >= point.value,
            prevalences=PREVALENCES,
            replicates=options.replicates,
            rng=rng,
            groups=data.groups,
        )
        for point in classifier.config.thresholds
        if point.class_name in found.labels and point.class_name in outputs
    }


def _triage_counts(data: AuditData, names: list[str], reached: NDArray[np.int64]) -> list[dict[str, Any]]:
    """How many images of each class come to each level, and the malignant share there."""
    counts = []
    for index, name in enumerate(names):
        inside = reached == index
        images, malignant = int(inside.sum()), int(data.malignant[inside].sum())
        interval = share_interval(data.malignant[inside], None if data.groups is None else data.groups[inside])
        counts.append(
            {
                "level": name,
                "images": images,
                "classes": {
                    each: int((data.classes[inside] == number).sum())
                    for number, each in enumerate(data.task.class_names)
                },
                "malignant": malignant,
                "malignant_share": malignant / images if images else None,
                "malignant_share_ci": list(interval) if images else None,
            }
        )
    return counts


def _promises_kept(
    data: AuditData, levels: tuple[TriageLevel, ...], reached: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Whether each level's promise holds on these images, by the exact interval of the rate on its wrong side."""
    kept = []
    for index, level in enumerate(levels):
        if level.criterion is None or level.criterion == "rest" or level.rate is None:
            continue
        failed, lesions = failures(level.criterion, -index, data.malignant, -reached.astype(np.float64), data.groups)
        (low, high), most = exact_interval(failed, lesions), 1 - level.rate
        kept.append(
            {
                "level": level.level,
                "promise": level.promise,
                "at_most": most,
                "failed": failed,
                "lesions": lesions,
                "share": failed / lesions if lesions else None,
                "share_ci": [low, high],
                "verdict": "kept" if high <= most else "broken" if low > most else "not shown to be broken",
            }
        )
    return kept
