"""Whether cross-validated probabilities can be believed, and what the patient's age would add; all cross-fitted.

Calibration and prediction sets of a fold's images are fitted on the other folds. Age enters as evidence beside the
image: the log odds of each class at an age against all ages, times one weight, are added to the log probabilities, both
learned from the other folds. An image whose patient's age is not known keeps its probabilities.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from outcome import Block, Floats, Outcome, Pooled
from page import cell, markdown, signed
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scoring import headline_difference
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from pesi.decide.calibration import calibrated_probabilities, fit_temperature
from pesi.evaluate.audit.uncertainty import cross_fitted_sets
from pesi.evaluate.subgroup_attributes import AGE_BANDS, MISSING
from pesi.predict.fitting import COVERAGES
from pesi.stats.coverage import Proportion, set_coverage
from pesi.stats.paired import PairedResult, delong
from pesi.stats.reliability import CalibrationScores, calibration_scores

FOUND = 0.9  # of all melanomas, at the threshold whose sensitivity is told by age


def cross_validated(outcome: Outcome, variant: str) -> tuple[Block, Pooled, Floats] | None:
    """A variant's probabilities of all classes, seeds averaged, (N, K).

    None where it is finished in less than two folds, or more than one class is not among the columns.
    """
    block = outcome.block(variant)
    names, columns = outcome.task.class_names, outcome.columns
    rest = [name for name in names if name not in columns]
    if len(block.splits) < 2 or len(rest) > 1:
        return None
    pooled = outcome.pooled(variant, block)
    known = dict(zip(columns, pooled.averaged.T, strict=True))
    if rest:
        known[rest[0]] = 1 - pooled.averaged.sum(axis=1)
    values = np.clip(np.column_stack([known[name] for name in names]), 1e-6, None)  # the files have five digits
    return block, pooled, np.asarray(values / values.sum(axis=1, keepdims=True))


def answers_table(outcome: Outcome) -> str:
    """Calibration and coverage of each variant that is finished in two folds or more; else empty.

    The temperature of a fold's images is fitted on the log probabilities of the other folds' (averages of four views),
    their prediction sets on the other folds' calibrated ones.
    """
    names, parts = outcome.task.class_names, []
    for variant in outcome.own:
        found = cross_validated(outcome, variant)
        if found is None:
            continue
        block, pooled, before = found
        targets = np.eye(before.shape[1])[pooled.classes]
        after = cross_fitted_temperature(before, targets, pooled.folds)
        title = f"`{variant}`, {len(pooled.classes)} images, {block}. Calibration error (ECE, equal-mass bins):"
        errors = []
        for label, values in (("as trained", before), ("temperature of the other folds", after)):
            scores = calibration_scores(
                values, targets, "multiclass", names=names, replicates=outcome.replicates, seed=0
            )
            errors.append([label, *_errors(scores)])
        rows = []
        for coverage in COVERAGES:
            sets = cross_fitted_sets(after, pooled.classes, names, pooled.folds, coverage=coverage)
            told = set_coverage(sets, pooled.classes, names)
            wanted = f"{coverage:.2f}"
            rows.append(
                ["all", wanted, _covered(told.overall, coverage), f"{told.mean_size:.2f}", _share(told.singletons)]
            )
            for name, share in told.classes.items():
                rows.append([name.replace("_", " "), wanted, _covered(share, coverage), "", ""])
        head = ["", "of the most probable class", "a perfect model would show", "mean of the classes", "melanoma's"]
        parts += [title, markdown(head, errors)]
        parts.append(markdown(["prediction sets", "wanted", "covered", "mean size", "one class only"], rows))
    return "\n\n".join(parts)


def cross_fitted_temperature(probabilities: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """Probabilities (N, K) with the temperature that the other folds' images want."""
    calibrated = np.empty_like(probabilities)
    logits = np.log(probabilities)[:, None, :]
    for fold in np.unique(folds):
        held = folds == fold
        temperature = fit_temperature(logits[~held], targets[~held], "multiclass", on="the other folds")
        calibrated[held] = calibrated_probabilities(logits[held], "multiclass", temperature)
    return calibrated


def _errors(scores: CalibrationScores) -> list[str]:
    values = {name: cell((value, *scores.intervals[name])) for name, value in scores.values.items()}
    mean, low, high = scores.perfect["ece_top"]
    return [values["ece_top"], cell((mean, low, high)), values["ece_classes"], values.get("ece/melanoma", "")]


def _share(share: Proportion) -> str:
    return "-" if share.share is None else cell((share.share, *share.interval))


def _covered(share: Proportion, wanted: float) -> str:
    low, high = share.interval
    return _share(share) + (", within" if low <= wanted <= high else ", **outside**")


class WithAges(NamedTuple):
    """A variant's probabilities (N, K) before and after they know the age (N,), and what that gives."""

    block: Block
    pooled: Pooled
    before: Floats
    after: Floats
    ages: Floats
    weights: Floats
    gain: PairedResult


def with_ages(outcome: Outcome, variant: str) -> WithAges | None:
    """What the age adds to a variant; None where folds are lacking."""
    found = cross_validated(outcome, variant)
    if found is None:
        return None
    block, pooled, before = found
    ages = outcome.records.set_index("image_id")["age"].loc[list(pooled.image_ids)].to_numpy(np.float64)
    after, weights = cross_fitted_ages(before, ages, pooled.classes, pooled.folds)
    scored = [outcome.task.class_names.index(name) for name in outcome.columns]
    gain = headline_difference(outcome, pooled, after[None, :, scored], before[None, :, scored])
    return WithAges(block, pooled, before, after, ages, weights, gain)


def ages_table(outcome: Outcome, variant: str) -> str:
    """Scores of a variant without and with the age, and the melanomas found by age; empty where folds are lacking."""
    found = with_ages(outcome, variant)
    if found is None:
        return ""
    block, pooled, before, after, ages, weights, gain = found
    names = outcome.task.class_names
    parts = [
        f"`{variant}`, {len(ages)} images, {np.isfinite(ages).sum()} of patients whose age is known, {block}. The log "
        "odds of each class at the patient's age are added to the log probabilities; curve and weight "
        f"({weights.min():.2f} to {weights.max():.2f}) are learned from the other folds.",
        f"{outcome.headline}: {gain.b:.3f} from the image, {gain.a:.3f} with the age too; "
        f"{signed(gain.difference, gain.interval)}, {'shown' if gain.shown else 'not shown'}.",
    ]
    if "melanoma" in names:
        parts += _by_age(pooled, before, after, ages, names.index("melanoma"))
    return "\n\n".join(parts)


def cross_fitted_ages(
    probabilities: Floats, ages: Floats, classes: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Probabilities (N, K), positive, that know the age (N,), years or NaN, too; and each fold's weight of it."""
    logits = np.log(probabilities)
    after, weights = np.empty_like(logits), []
    for fold in np.unique(folds):
        held = folds == fold
        odds = age_log_odds(ages[~held], classes[~held], ages, logits.shape[1])
        weights.append(_weight(logits[~held], odds[~held], classes[~held]))
        after[held] = softmax(logits[held] + weights[-1] * odds[held], axis=1)
    return after, np.array(weights)


def age_log_odds(ages: Floats, classes: NDArray[np.int64], at: Floats, count: int) -> Floats:
    """log P(class | age) - log P(class) of labelled patients, told for other ages.

    A multinomial logistic regression on a cubic spline of the age, flat beyond the youngest and the oldest.

    Args:
        ages: Of the labelled patients, years, NaN where not known.
        classes: Theirs; every class occurs among the known.
        at: The ages to tell it for, (M,).
        count: Number of classes K.

    Returns:
        (M, K), 0 where the age is not known.
    """
    known = np.isfinite(ages)
    spline = SplineTransformer(n_knots=5, degree=3, include_bias=False, extrapolation="constant")
    model = make_pipeline(spline, LogisticRegression(max_iter=1000)).fit(ages[known, None], classes[known])
    share = np.bincount(classes[known], minlength=count) / known.sum()
    odds, wanted = np.zeros((len(at), count)), np.isfinite(at)
    if wanted.any():
        odds[wanted] = model.predict_log_proba(at[wanted, None]) - np.log(share)
    return odds


def _weight(logits: Floats, odds: Floats, classes: NDArray[np.int64]) -> float:
    """The weight of the age that makes the true classes most probable."""
    rows = np.arange(len(classes))

    def surprise(weight: float) -> float:
        return float(-np.log(softmax(logits + weight * odds, axis=1)[rows, classes]).mean())

    return float(minimize_scalar(surprise, bounds=(0.0, 2.0), method="bounded").x)


def _by_age(pooled: Pooled, before: Floats, after: Floats, ages: Floats, melanoma: int) -> list[str]:
    """Sensitivity and specificity by age at one threshold for all, and the AUC among patients of like age."""
    labels = pooled.classes == melanoma
    scores = (before[:, melanoma], after[:, melanoma])
    called = [score >= np.quantile(score[labels], 1 - FOUND, method="lower") for score in scores]
    spared = [~call for call in called]
    rows = []
    limits = [least for _, least in AGE_BANDS] + [np.inf]
    bands = [("all", np.ones(len(ages), np.bool_))]
    bands += [(name, (ages >= low) & (ages < high)) for (name, low), high in zip(AGE_BANDS, limits[1:], strict=True)]
    for name, inside in [*bands, (MISSING, ~np.isfinite(ages))]:
        sick, well = inside & labels, inside & ~labels
        if not inside.any():
            continue
        shares = [[_hits(right[part]) for right in rights] for part, rights in ((sick, called), (well, spared))]
        area = "-"
        if sick.any() and well.any():
            result = delong(labels[inside], scores[1][inside], scores[0][inside])
            area = f"{result.b:.3f} -> {result.a:.3f}; {signed(result.difference, result.interval)}"
        rows.append([name, f"{inside.sum()}, {sick.sum()}", *(" -> ".join(pair) for pair in shares), area])
    title = (
        f"Melanoma, at the threshold that finds {FOUND:.0%} of all of them (chosen on these images), and the AUC among "
        "patients of like age with its difference (DeLong); from the image -> with the age too:"
    )
    return [title, markdown(["age", "images, melanomas", "sensitivity", "specificity", "AUC"], rows)]


def _hits(right: NDArray[np.bool_]) -> str:
    return _share(Proportion(int(right.sum()), len(right)))
