"""What the patient's age would add to cross-validated probabilities, and at whose cost.

Age enters as evidence beside the image: the log odds of each class at an age against all ages, times one weight, are
added to the log probabilities. Both are learned from the other folds. An image whose patient's age is not known keeps
its probabilities.
"""

from __future__ import annotations

import numpy as np
from answers import all_classes
from numpy.typing import NDArray
from outcome import Outcome, Pooled
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sections import cell, signed
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from pesi.decide.conformal import Proportion
from pesi.evaluate.subgroup_attributes import AGE_BANDS, MISSING
from pesi.stats.paired import delong, paired_bootstrap

Floats = NDArray[np.float64]

FOUND = 0.9  # of all melanomas, at the threshold whose sensitivity is told by age


def ages_table(outcome: Outcome, variant: str, *, replicates: int, seed: int) -> str:
    """Scores of a variant without and with the age, and the melanomas found by age; empty where folds are lacking.

    Args:
        outcome: A table whose classes have melanoma among them.
        variant: Which.
        replicates, seed: Of the bootstrap.
    """
    block = outcome.block(variant)
    if len(block.splits) < 2:
        return ""
    pooled = outcome.pooled(variant, block)
    before = all_classes(outcome, pooled)
    if before is None:
        return ""
    ages = outcome.records.set_index("image_id")["age"].loc[list(pooled.image_ids)].to_numpy(np.float64)
    after, weights = cross_fitted_ages(before, ages, pooled.classes, pooled.folds)
    names = outcome.task.class_names
    scored = [names.index(name) for name in outcome.columns]
    both = (after[:, scored], before[:, scored])
    gain = paired_bootstrap(
        lambda which, draws: outcome.headline_value(pooled, both[which], draws),
        pooled.classes,
        replicates=replicates,
        rng=np.random.default_rng(seed),
        groups=pooled.groups,
    )
    known = np.isfinite(ages)
    lines = [
        f"`{variant}`, {len(ages)} images, {known.sum()} of patients whose age is known, {block}. The log odds of each "
        "class at the patient's age are added to the log probabilities; curve and weight "
        f"({weights.min():.2f} to {weights.max():.2f}) are learned from the other folds.",
        "",
        f"{outcome.headline}: {gain.b:.3f} from the image, {gain.a:.3f} with the age too; "
        f"{signed(gain.difference, gain.interval)}, {'shown' if gain.shown else 'not shown'}.",
    ]
    if "melanoma" in names:
        lines += ["", *_by_age(pooled, before, after, ages, names.index("melanoma"))]
    return "\n".join(lines)


def cross_fitted_ages(
    probabilities: Floats, ages: Floats, classes: NDArray[np.int64], folds: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Probabilities (N, K) that know the age, and each fold's weight of it.

    Args:
        probabilities: From the image alone, (N, K), positive.
        ages: Years, (N,), NaN where not known.
        classes: Class of each image, (N,).
        folds: Which images share a fold, (N,).
    """
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
    lines = [
        f"Melanoma, at the threshold that finds {FOUND:.0%} of all of them (chosen on these images), and the AUC among "
        "patients of like age with its difference (DeLong); from the image -> with the age too:",
        "",
        "| age | images, melanomas | sensitivity | specificity | AUC |",
        "|---|---|---|---|---|",
    ]
    limits = [least for _, least in AGE_BANDS] + [np.inf]
    bands = [("all", np.ones(len(ages), np.bool_))]
    bands += [(name, (ages >= low) & (ages < high)) for (name, low), high in zip(AGE_BANDS, limits[1:], strict=True)]
    for name, inside in [*bands, (MISSING, ~np.isfinite(ages))]:
        sick, well = inside & labels, inside & ~labels
        if not inside.any():
            continue
        found = [_share(call[sick]) for call in called]
        spared = [_share(~call[well]) for call in called]
        area = "-"
        if sick.any() and well.any():
            result = delong(labels[inside], scores[1][inside], scores[0][inside])
            area = f"{result.b:.3f} -> {result.a:.3f}; {signed(result.difference, result.interval)}"
        cells = [name, f"{inside.sum()}, {sick.sum()}", *(" -> ".join(pair) for pair in (found, spared)), area]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _share(hits: NDArray[np.bool_]) -> str:
    share = Proportion(int(hits.sum()), len(hits))
    return "-" if share.share is None else cell((share.share, *share.interval))
