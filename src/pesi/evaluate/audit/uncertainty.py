"""The audit's section on uncertainty: prediction sets, what the views disagree about, and what "no result" costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.decide.conformal import ConformalConfig, fit_conformal, prediction_sets
from pesi.decide.uncertainty import entropy, entropy_split, sample_spread
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.report import words
from pesi.predict.classifier import Classifier
from pesi.stats.coverage import SetCoverage, set_coverage
from pesi.stats.intervals import mean_interval
from pesi.stats.logistic import logit
from pesi.stats.selective import (
    REFERENCE,
    compare_measures,
    optimal_aurc,
    rest_of,
    risk_at,
    risk_band,
    risk_coverage,
    wrong_answers,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COVERAGES = (0.90, 0.95)
WITHHELD = (0.05, 0.10, 0.20)
ERROR = "error of the most probable class"
_WRONG = {"multiclass": "the most probable class", "multilabel": "a class called at 0.5, or not called,"}
MISSED = "answered benign, of all malignant"
REASSURED = "answered benign, of all benign"
NEAREST = "no result nearest the threshold"
FEW = 50  # below so many images of a class its figures are said to be of few

_GRID = np.linspace(0.1, 1.0, 91)  # the error of fewer than a tenth of the images tells nothing


class Question(NamedTuple):
    """A decision whose errors are measured.

    Attributes:
        title: What is decided, in words.
        wrong: Which images are decided wrongly, (N,).
        measures: Confidences to put the wrong ones last, name -> (N,), `REFERENCE` among them.
    """

    title: str
    wrong: Bools
    measures: Mapping[str, Floats]


class Rate(NamedTuple):
    """A rate among the answered images, as `rest_of` takes it."""

    happened: Bools
    among: Bools
    confidence: Floats
    of_all: bool = False


def cross_fitted_sets(
    probabilities: Floats,
    classes: NDArray[np.int64],
    class_names: Sequence[str],
    folds: NDArray[np.int64],
    *,
    coverage: float,
) -> NDArray[np.bool_]:
    """The set of each image by the quantiles of the other folds, (N, K).

    Args:
        probabilities: (N, K).
        classes: The true classes, (N,).
        class_names: (K,).
        folds: Fold of each image, (N,).
        coverage: Wanted, between 0 and 1.
    """
    sets = np.zeros(probabilities.shape, bool)
    for fold in np.unique(folds):
        held = folds == fold
        config = fit_conformal(probabilities[~held], classes[~held], class_names, coverage=coverage, on="other folds")
        assert config is not None  # None is for multi-label heads alone
        sets[held] = prediction_sets(probabilities[held], config)
    return sets


def confidence_measures(
    samples: Floats,
    head: str,
    *,
    sets: NDArray[np.bool_] | None = None,
    scores: Mapping[str, Floats] | None = None,
    weights: Floats | None = None,
) -> dict[str, Floats]:
    """Name -> confidence of each image, (N,), higher is surer.

    `maximum_probability`; `margin` (first less second); `negative_entropy`; `negative_mutual_information`;
    `negative_spread` (the largest standard deviation of an output over the samples); `negative_set_size` (an empty set
    counts as the least sure); and the caller's own. Multi-label: maximum probability and margin of the output that is
    nearest to 0.5, with the margin p - (1 - p).

    Args:
        samples: Calibrated probabilities of the views (and members), (N, S, K).
        head: `multiclass` or `multilabel`.
        sets: Prediction sets, (N, K), of images that did not set their quantiles.
        scores: More confidences, each (N,): negate a novelty score.
        weights: Of the samples, (S,).
    """
    p = np.average(samples, axis=1, weights=weights)
    ranked = np.sort(p, axis=1)
    if head == "multiclass":
        largest, margin = ranked[:, -1], ranked[:, -1] - ranked[:, -2]
    else:
        largest = np.maximum(p, 1 - p).min(1)
        margin = 2 * largest - 1
    measures = {
        "maximum_probability": largest,
        "margin": margin,
        "negative_entropy": -entropy(p, head),
        "negative_mutual_information": -entropy_split(samples, head, weights).mutual_information,
        "negative_spread": -sample_spread(samples, weights).deviation.max(1),
    }
    if sets is not None:
        sizes = sets.sum(1)
        measures["negative_set_size"] = -np.where(sizes == 0, sets.shape[1] + 1, sizes).astype(np.float64)
    return measures | {name: np.asarray(values, np.float64) for name, values in (scores or {}).items()}


def uncertainty_section(
    data: AuditData,
    classifier: Classifier,
    *,
    options: AuditOptions,
    progress: Progress = silent,
    scores: Mapping[str, Floats] | None = None,
    conformal: Sequence[ConformalConfig] | None = None,
) -> Section:
    """Conformal coverage, entropy split, risk-coverage and abstention.

    Args:
        data: The images.
        classifier: Who predicted them.
        options: Folds, replicates and seed.
        progress: Told what is done.
        scores: More confidences to compare, each (N,), higher is surer; None: the novelty score negated, if the bundle
            has one.
        conformal: Prediction sets to measure where `data` did not set them; None: the bundle's own.
    """
    if scores is None and data.novelty is not None:
        scores = {"familiarity (novelty negated)": -data.novelty}
    conformal = classifier.config.conformal if conformal is None else conformal
    head = classifier.config.task.head
    names = classifier.config.outputs
    samples = classifier.view_probabilities(data.logits)
    targets = np.column_stack([data.labels(name) for name in names])
    progress(f"prediction sets on {data.name}", 0, 3)
    sets: dict[float, Bools] = {}
    if head == "multiclass":
        folds = data.folds(options.folds, options.seed)
        sets = {c: cross_fitted_sets(data.probabilities, data.classes, names, folds, coverage=c) for c in COVERAGES}
    coverages = {f"{c:.2f}": set_coverage(chosen, data.classes, names, data.groups) for c, chosen in sets.items()}
    own = {
        f"{config.coverage:.2f}": set_coverage(
            prediction_sets(data.probabilities, config), data.classes, names, data.groups
        )
        for config in (() if data.fitted_on or head != "multiclass" else conformal)
    }
    wrong = wrong_answers(data.probabilities, targets, head)
    measures = confidence_measures(samples, head, sets=sets.get(COVERAGES[0]), scores=scores)
    surest = measures[REFERENCE]
    what = _WRONG[head]
    questions = {"most_probable_class": Question(f"{what} is wrong", wrong, measures)}
    rates = {ERROR: Rate(wrong, np.ones(len(data), bool), surest)}
    malignant = classifier.malignant_probability(data.probabilities)
    threshold, how = malignant_threshold(classifier)
    decided = malignant is not None and data.malignant.any() and not data.malignant.all()
    if malignant is not None and decided:
        called, distance = malignant >= threshold, np.abs(_logit(malignant) - _logit(threshold))
        title = f"malignant or benign is wrong at the threshold {threshold:.3f}"
        more = measures | {"distance_to_threshold": distance}
        questions["malignant_at_threshold"] = Question(title, called != data.malignant, more)
        rates |= {
            "sensitivity for malignant": Rate(called, data.malignant, surest),
            "specificity for malignant": Rate(~called, ~data.malignant, surest),
            MISSED: Rate(~called, data.malignant, surest, of_all=True),
            f"{MISSED}; {NEAREST}": Rate(~called, data.malignant, distance, of_all=True),
            REASSURED: Rate(~called, ~data.malignant, surest, of_all=True),
            f"{REASSURED}; {NEAREST}": Rate(~called, ~data.malignant, distance, of_all=True),
        }
    progress(f"risk and coverage on {data.name}", 1, 3)
    drawing: Any = {"replicates": options.replicates, "seed": options.seed, "groups": data.groups}
    compared = {key: compare_measures(q.wrong, q.measures, data.classes, **drawing) for key, q in questions.items()}
    progress(f"no result on {data.name}", 2, 3)
    rests = {
        name: rest_of(*rate[:3], (0.0, *WITHHELD), data.classes, of_all=rate.of_all, **drawing)
        for name, rate in rates.items()
    }
    entropies = entropy_by_answer(samples, wrong, head, options, data.groups)
    progress(f"no result on {data.name}", 3, 3)
    values = {
        "images": len(data),
        "views": samples.shape[1],
        "networks": len(classifier.members),
        "fitted_on": data.fitted_on,
        # Multi-label heads have none.
        "conformal": {key: _coverage_values(float(key), c) for key, c in coverages.items()} or None,
        "conformal_of_the_bundle": {key: _coverage_values(float(key), c) for key, c in own.items()},
        "entropy": entropies,
        "malignant_threshold": {"value": threshold, "how": how} if decided else None,
        "selective": {
            key: {
                "error": float(q.wrong.mean()),
                "optimal_aurc": float(optimal_aurc(risk_coverage(q.wrong, measures[REFERENCE]))[0]),
                "measures": {name: result.to_dict() for name, result in compared[key].items()},
            }
            for key, q in questions.items()
        },
        "no_result": {name: [rest.to_dict() for rest in parts] for name, parts in rests.items()},
    }
    plots = {"coverage": _coverage_figure(coverages)} if coverages else {}
    plots |= {key: _risk_figure(q, data, options) for key, q in questions.items()}
    shown = {
        "questions": {key: q.title for key, q in questions.items()},
        "what": what,
        "error": ERROR,
        "missed": MISSED,
        "few": [name for name in data.task.class_names if 0 < data.labels(name).sum() < FEW],
    }
    return Section("uncertainty", data, options, values, plots, shown=shown)


def malignant_threshold(classifier: Classifier) -> tuple[float, str]:
    """The malignant probability from which the bundle refers, and how it was set; 0.5 without such a rule."""
    for level in classifier.config.triage:
        if level.level == "refer":
            return level.at_least, level.how
    return 0.5, "the bundle has no triage rule that refers: one half"


def _logit(probability: Floats | float) -> Floats:
    return np.asarray(logit(np.clip(probability, 1e-9, 1 - 1e-9)))


def entropy_by_answer(
    samples: Floats, wrong: Bools, head: str, options: AuditOptions, drawn_by: NDArray | None
) -> dict[str, Any]:
    """Mean of each part of the entropy over all, the rightly and the wrongly answered images, with intervals."""
    split = entropy_split(samples, head)
    groups = {"all": np.ones(len(wrong), bool), "right": ~wrong, "wrong": wrong}
    result: dict[str, Any] = {}
    for group, chosen in groups.items():
        result[group] = {"images": int(chosen.sum())}
        for name, values in split._asdict().items():
            mean, low, high = (
                mean_interval(
                    values[chosen],
                    replicates=options.replicates,
                    rng=np.random.default_rng(options.seed),
                    groups=None if drawn_by is None else drawn_by[chosen],
                )
                if chosen.any()
                else (None, None, None)
            )
            result[group] |= {name: mean, f"{name}_ci": None if mean is None else [low, high]}
    return result


def _coverage_values(wanted: float, c: SetCoverage) -> dict[str, Any]:
    """Plain values, and for each class whether the wanted coverage lies within its interval."""
    values = c.to_dict()
    values["overall"]["against_wanted"] = c.overall.against(wanted)
    for name, proportion in c.classes.items():
        values["classes"][name]["against_wanted"] = proportion.against(wanted)
    return values | {"wanted": wanted}


def _coverage_figure(coverages: Mapping[str, SetCoverage]) -> str:
    """Measured coverage of each class against the wanted."""
    groups = {"all": None} | dict.fromkeys(next(iter(coverages.values())).classes)
    marks = [
        figures.Mark(row, (part.share, *part.interval), f"{float(key):.0%} wanted")
        for key, c in coverages.items()
        for row, part in enumerate((c.overall, *c.classes.values()))
        if part.share is not None
    ]
    panel = figures.Panel(marks, "sets that hold the true diagnosis", [float(key) for key in coverages])
    return figures.forest_figure([words(name) for name in groups], [panel], width=5.4)


def _risk_figure(question: Question, data: AuditData, options: AuditOptions) -> str:
    """Risk-coverage curves, the reference's with its band."""
    figure, axes = figures.new_axes(5.4, 4.6)
    replicates = min(options.replicates, 500)
    value, low, high = risk_band(
        question.wrong,
        question.measures[REFERENCE],
        _GRID,
        data.classes,
        replicates=replicates,
        seed=options.seed,
        groups=data.groups,
    )
    axes.fill_between(_GRID, low, high, color=figures.COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(_GRID, value, figures.STYLES[0], color=figures.COLOURS[0], label=words(REFERENCE))
    others = [name for name in question.measures if name not in (REFERENCE, "margin", "negative_spread")]
    for index, name in enumerate(others, start=1):
        risk = risk_at(risk_coverage(question.wrong, question.measures[name]), _GRID)[0]
        style, colour = figures.STYLES[index % 4], figures.COLOURS[index % len(figures.COLOURS)]
        axes.plot(_GRID, risk, style, color=colour, linewidth=1.2, label=words(name))
    best = risk_at(risk_coverage(question.wrong, -question.wrong.astype(np.float64)), _GRID)[0]
    axes.plot(_GRID, best, color="#888888", linewidth=0.8, label="every error last")
    axes.axhline(float(question.wrong.mean()), color="#888888", linestyle=":", linewidth=0.8)
    axes.set(xlabel="share of the images answered", ylabel="error of the answers", xlim=(0.1, 1), ylim=(0, None))
    axes.set_title(question.title.capitalize(), fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figures.svg_text(figure)
