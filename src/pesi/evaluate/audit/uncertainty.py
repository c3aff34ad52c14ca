"""The audit's section on uncertainty: prediction sets, what the views disagree about, and what "no result" costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from pesi.decide.conformal import (
    ConformalConfig,
    SetCoverage,
    cross_fitted_sets,
    prediction_sets,
    set_coverage,
)
from pesi.decide.novelty import novelty_score
from pesi.decide.uncertainty import confidence_measures, entropy_split
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section, figure_text
from pesi.evaluate.audit.uncertainty_view import (
    Question,
    coverage_plot,
    coverage_tables,
    entropy_table,
    measure_table,
    rest_table,
    risk_plot,
    words,
)
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import mean_interval
from pesi.stats.selective import (
    REFERENCE,
    MeasureResult,
    Rest,
    compare_measures,
    optimal_aurc,
    rest_of,
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

METHOD = (
    "Prediction sets: class-conditional (Mondrian) split conformal prediction with the score 1 - p (Vovk et al. 2003; "
    "Vovk 2012), the quantiles of each fold set on the other folds, images of one patient or lesion in one fold; exact "
    "binomial intervals (Clopper-Pearson). A calibration that was fitted on all of these images treats those that set "
    "a quantile and those that test it alike, so it does not bend the coverage. Entropy of the views' mean "
    "probability, split into the mean entropy of the views and their mutual information with the diagnosis (Houlsby "
    "et al. 2011; Depeweg et al. 2018), as shares of the largest possible; the views are crops and flips of one "
    "picture, so they say nothing of what another network would have learned. Risk-coverage curves and their area, "
    "AURC (Geifman and El-Yaniv 2017), less the smallest possible, E-AURC (Geifman et al. 2019); ties averaged over "
    "their orders. Bootstrap of images stratified by class, differences on the same resamples, not corrected for the "
    "number of measures compared."
)


@dataclass(frozen=True)
class Rate:
    """A rate among the answered images.

    Attributes:
        name: In `values` and the table.
        happened, among, confidence, of_all: As `rest_of` takes them.
    """

    name: str
    happened: Bools
    among: Bools
    confidence: Floats
    of_all: bool = False

    def rests(self, strata: NDArray, *, replicates: int, seed: int) -> tuple[Rest, ...]:
        """The rate when none and each share of `WITHHELD` gets no result."""
        return rest_of(
            self.happened,
            self.among,
            self.confidence,
            (0.0, *WITHHELD),
            strata,
            of_all=self.of_all,
            replicates=replicates,
            seed=seed,
        )


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
    if scores is None and classifier.novelty is not None:
        scores = {"familiarity (novelty negated)": -novelty_score(data.features, classifier.novelty)}
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
    coverages = {f"{c:.2f}": set_coverage(chosen, data.classes, names) for c, chosen in sets.items()}
    own = {
        f"{config.coverage:.2f}": set_coverage(prediction_sets(data.probabilities, config), data.classes, names)
        for config in (() if data.fitted_on or head != "multiclass" else conformal)
    }
    wrong = wrong_answers(data.probabilities, targets, head)
    measures = confidence_measures(samples, head, sets=sets.get(COVERAGES[0]), scores=scores)
    surest = measures[REFERENCE]
    what = _WRONG[head]
    questions = [Question("most_probable_class", f"{what} is wrong", wrong, measures)]
    rates = [Rate(ERROR, wrong, np.ones(len(data), bool), surest)]
    malignant = classifier.malignant_probability(data.probabilities)
    threshold, how = malignant_threshold(classifier)
    decided = malignant is not None and data.malignant.any() and not data.malignant.all()
    if malignant is not None and decided:
        called, distance = malignant >= threshold, np.abs(_logit(malignant) - _logit(threshold))
        title = f"malignant or benign is wrong at the threshold {threshold:.3f}"
        more = measures | {"distance_to_threshold": distance}
        questions.append(Question("malignant_at_threshold", title, called != data.malignant, more))
        rates += [
            Rate("sensitivity for malignant", called, data.malignant, surest),
            Rate("specificity for malignant", ~called, ~data.malignant, surest),
            Rate(MISSED, ~called, data.malignant, surest, of_all=True),
            Rate(f"{MISSED}; {NEAREST}", ~called, data.malignant, distance, of_all=True),
            Rate(REASSURED, ~called, ~data.malignant, surest, of_all=True),
            Rate(f"{REASSURED}; {NEAREST}", ~called, ~data.malignant, distance, of_all=True),
        ]
    progress(f"risk and coverage on {data.name}", 1, 3)
    replicates, seed = options.replicates, options.seed
    compared = {
        q.key: compare_measures(q.wrong, q.measures, data.classes, replicates=replicates, seed=seed) for q in questions
    }
    progress(f"no result on {data.name}", 2, 3)
    rests = {rate.name: rate.rests(data.classes, replicates=replicates, seed=seed) for rate in rates}
    entropies = entropy_by_answer(samples, wrong, head, options)
    progress(f"no result on {data.name}", 3, 3)
    return Section(
        key="uncertainty",
        title="Uncertainty and abstention",
        summary=_summary(data, coverages, own, rests, compared["most_probable_class"], what),
        meaning="Several diagnoses or no result mean that a doctor must look; an answer that is called sure can still "
        "be wrong.",
        method=METHOD,
        values={
            "images": len(data),
            "views": samples.shape[1],
            "fitted_on": data.fitted_on,
            "conformal": {key: _coverage_values(float(key), c) for key, c in coverages.items()}
            or None,  # multi-label heads have none
            "conformal_of_the_bundle": {key: _coverage_values(float(key), c) for key, c in own.items()},
            "entropy": entropies,
            "malignant_threshold": {"value": threshold, "how": how} if decided else None,
            "selective": {
                q.key: {
                    "error": float(q.wrong.mean()),
                    "optimal_aurc": float(optimal_aurc(risk_coverage(q.wrong, measures[REFERENCE]))[0]),
                    "measures": {name: result.to_dict() for name, result in compared[q.key].items()},
                }
                for q in questions
            },
            "no_result": {name: [rest.to_dict() for rest in parts] for name, parts in rests.items()},
        },
        tables=(
            *coverage_tables(coverages, "by the quantiles of the other folds"),
            *coverage_tables(own, "by the bundle's own quantiles"),
            entropy_table(entropies),
            *(measure_table(q, compared[q.key]) for q in questions),
            rest_table(rests, len(data)),
        ),
        plots=(
            *((coverage_plot(coverages),) if coverages else ()),
            *(risk_plot(q, data.classes, replicates=replicates, seed=seed) for q in questions),
        ),
    )


def malignant_threshold(classifier: Classifier) -> tuple[float, str]:
    """The malignant probability from which the bundle refers, and how it was set; 0.5 without such a rule."""
    for level in classifier.config.triage:
        if level.level == "refer":
            return level.at_least, level.how
    return 0.5, "the bundle has no triage rule that refers: one half"


def _logit(probability: Floats | float) -> Floats:
    return np.asarray(logit(np.clip(probability, 1e-9, 1 - 1e-9)))


def entropy_by_answer(samples: Floats, wrong: Bools, head: str, options: AuditOptions) -> dict[str, Any]:
    """Mean of each part of the entropy over all, the rightly and the wrongly answered images, with intervals."""
    split = entropy_split(samples, head)
    groups = {"all": np.ones(len(wrong), bool), "right": ~wrong, "wrong": wrong}
    result: dict[str, Any] = {}
    for group, chosen in groups.items():
        result[group] = {"images": int(chosen.sum())}
        for name, values in split._asdict().items():
            mean, low, high = (
                mean_interval(values[chosen], replicates=options.replicates, rng=np.random.default_rng(options.seed))
                if chosen.any()
                else (None, None, None)
            )
            result[group] |= {name: mean, f"{name}_ci": None if mean is None else [low, high]}
    return result


def _summary(
    data: AuditData,
    coverages: Mapping[str, SetCoverage],
    own: Mapping[str, SetCoverage],
    rests: Mapping[str, Sequence[Rest]],
    compared: Mapping[str, MeasureResult],
    what: str,
) -> str:
    parts = [
        f"The bundle's own prediction sets for {float(key):.0%} held the true diagnosis for "
        f"{figure_text(c.overall.share, c.overall.interval)} of all images; by class, "
        + ", ".join(f"{words(name)} {figure_text(p.share, p.interval)}" for name, p in c.classes.items())
        for key, c in own.items()
    ]
    for key, c in coverages.items():
        off = [words(name) for name, p in c.classes.items() if p.trials and p.against(float(key)) != "within"]
        parts.append(
            f"Prediction sets that should hold the true diagnosis for {float(key):.0%} of each class held it for "
            f"{figure_text(c.overall.share, c.overall.interval)} of all images "
            f"({'outside' if off else 'within'} the interval of {', '.join(off) or 'every class'}) and named a single "
            f"diagnosis for {figure_text(c.singletons.share, c.singletons.interval)}"
        )
    errors = {rest.withheld: rest for rest in rests[ERROR]}
    everything, tenth = errors[0.0].rate, errors[0.10]
    if everything and tenth.rate and tenth.change:
        shown = "" if tenth.change.interval[1] < 0 else ", not shown to be lower"
        parts.append(
            f"Without a result for the least sure tenth of the images, {what} was wrong for "
            f"{figure_text(tenth.rate.value, tenth.rate.interval)} of the rest, against "
            f"{figure_text(everything.value, everything.interval)} of all{shown}"
        )
    missed = {rest.withheld: rest.rate for rest in rests.get(MISSED, ())}
    before, after = missed.get(0.0), missed.get(0.10)
    if before and after:
        parts.append(
            f"Of all malignant lesions {figure_text(after.value, after.interval)} were then still answered benign, "
            f"against {figure_text(before.value, before.interval)}"
        )
    better = [words(name) for name, result in compared.items() if result.verdict == "better"]
    parts.append(
        f"Better than the maximum probability at putting wrong answers last: {', '.join(better)}"
        if better
        else "No other measure was shown to put wrong answers last better than the maximum probability"
    )
    few = [words(name) for name in data.task.class_names if 0 < data.labels(name).sum() < FEW]
    if few:
        parts.append(f"Few images of {' and '.join(few)}: the intervals are wide")
    if data.fitted_on:
        parts.append("These images also set the bundle's calibration, so the errors flatter")
    return ". ".join(parts) + "."


def _coverage_values(wanted: float, c: SetCoverage) -> dict[str, Any]:
    """Plain values, and for each class whether the wanted coverage lies within its interval."""
    values = c.to_dict()
    values["overall"]["against_wanted"] = c.overall.against(wanted)
    for name, proportion in c.classes.items():
        values["classes"][name]["against_wanted"] = proportion.against(wanted)
    return values | {"wanted": wanted}
