"""What a decision by the classifier is worth: predictive values, number needed to excise, net benefit.

The number needed to excise is (TP + FP) / TP: how many lesions are excised for each malignant one. Net benefit and
decision curves: A. Vickers, E. Elkin, Medical Decision Making 26, 2006.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.stats.intervals import bootstrap, share_interval
from pesi.stats.logistic import expit, logit
from pesi.stats.metrics import curve, weighted_mean

Floats = NDArray[np.float64]
Interval = tuple[float | None, float | None]


def predictive_values(
    sensitivity: NDArray | float, specificity: NDArray | float, prevalence: float
) -> tuple[Floats, Floats, Floats]:
    """Positive and negative predictive value and number needed to excise, by Bayes' rule, each as the arguments.

    NaN where nothing is called (or, for the negative value, everything); the number needed to excise is infinite where
    what is called is never malignant.

    Args:
        sensitivity, specificity: 0 to 1.
        prevalence: Share of lesions with the disease, above 0 and below 1.
    """
    if not 0 < prevalence < 1:
        raise ValueError(f"A prevalence lies between 0 and 1, not at {prevalence}.")
    found, spared = np.asarray(sensitivity, np.float64), np.asarray(specificity, np.float64)
    true, false = found * prevalence, (1 - spared) * (1 - prevalence)
    missed, cleared = (1 - found) * prevalence, spared * (1 - prevalence)
    with np.errstate(divide="ignore", invalid="ignore"):
        return true / (true + false), cleared / (cleared + missed), (true + false) / true


@dataclass(frozen=True)
class Decision:
    """What calling some images positive comes to.

    Attributes:
        called, images: How many; called is None where nothing could decide (`undecided`).
        values: Name -> value and its 95 % interval; None where it is not defined (or infinite).
            Names: sensitivity, specificity; ppv, npv, nne at the images' own prevalence; ppv@0.02 and so on.
    """

    called: int | None
    images: int
    values: dict[str, tuple[float | None, Interval]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        entries = {name: {"value": value, "ci": list(interval)} for name, (value, interval) in self.values.items()}
        return {"called": self.called, "images": self.images, **entries}


def decision_values(
    labels: NDArray[np.bool_],
    called: NDArray[np.bool_],
    *,
    prevalences: Sequence[float] = (),
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> Decision:
    """Sensitivity, specificity, predictive values and number needed to excise, with stratified-bootstrap intervals.

    Where a rate is 0 or 1 resamples would not vary. There its interval is Wilson's, and the limits of the predictive
    values and of the number needed are those with both rates at their Wilson limits, which is rather too wide.

    Args:
        labels: Which images have the disease, (N,).
        called: Which are called positive, (N,).
        prevalences: At which the predictive values are given besides the images' own.
        replicates: Bootstrap resamples.
        rng: The generator.
        groups: Group of each image, (N,), drawn as a whole.

    Raises:
        ValueError: No image, or every image, has the disease.
    """
    _need_both(labels)
    own = float(labels.mean())

    def statistics(weights: NDArray) -> dict[str, Floats]:
        values = {
            "sensitivity": weighted_mean(called[labels], weights[:, labels]),
            "specificity": weighted_mean(~called[~labels], weights[:, ~labels]),
        }
        rates = values["sensitivity"], values["specificity"]
        for suffix, prevalence in _prevalences(own, prevalences):
            ppv, npv, nne = predictive_values(*rates, prevalence)
            values |= {f"ppv{suffix}": ppv, f"npv{suffix}": npv, f"nne{suffix}": nne}
        return values

    point = statistics(np.ones((1, len(labels))))
    draws = bootstrap(statistics, labels, replicates=replicates, rng=rng, groups=groups)
    intervals = {name: _middle(values) for name, values in draws.items()}
    found, spared = _limits(called, labels, groups), _limits(~called, ~labels, groups)
    stuck = {name for name in ("sensitivity", "specificity") if point[name][0] in (0, 1)}
    intervals |= {name: limits for name, limits in (("sensitivity", found), ("specificity", spared)) if name in stuck}
    if stuck:
        # Both predictive values rise with both rates; the number needed to excise falls.
        for suffix, prevalence in _prevalences(own, prevalences):
            ppv, npv, nne = predictive_values(np.array(found), np.array(spared), prevalence)
            for name, limits in (("ppv", ppv), ("npv", npv), ("nne", nne[::-1])):
                if not np.isnan(point[f"{name}{suffix}"][0]):
                    intervals[f"{name}{suffix}"] = _finite(limits[0]), _finite(limits[1])
    return Decision(
        int(called.sum()), len(labels), {name: (_finite(point[name][0]), intervals[name]) for name in point}
    )


def undecided(images: int, *, prevalences: Sequence[float] = ()) -> Decision:
    """What `decision_values` gives where no threshold could be set: every value is None.

    Args:
        images: How many would have been decided.
        prevalences: As for `decision_values`.
    """
    names = [f"{name}{suffix}" for suffix, _ in _prevalences(0.5, prevalences) for name in ("ppv", "npv", "nne")]
    return Decision(None, images, dict.fromkeys(("sensitivity", "specificity", *names), (None, (None, None))))


def _prevalences(own: float, others: Sequence[float]) -> tuple[tuple[str, float], ...]:
    """What a value's name ends with, and the prevalence that it is at."""
    return ("", own), *((f"@{p:g}", p) for p in others)


def _limits(happened: NDArray[np.bool_], of: NDArray[np.bool_], groups: NDArray | None) -> tuple[float, float]:
    """Wilson's interval of the rate of what happened, (N,), among `of`, (N,); the rate is in it despite rounding."""
    rate = float(happened[of].mean())
    low, high = share_interval(happened[of], None if groups is None else groups[of])
    return min(low, rate), max(high, rate)


def _middle(values: Floats) -> Interval:
    """Percentile interval of draws that may be infinite; resamples where the value is not defined are left out."""
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return None, None
    # By rank: interpolating between a number and infinity would give neither.
    last = len(values) - 1
    return _finite(values[int(np.floor(0.025 * last))]), _finite(values[int(np.ceil(0.975 * last))])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def at_prevalence(probabilities: Floats, own: float, prevalence: float) -> Floats:
    """Probabilities of a disease moved from one prevalence to another: the odds change as the prior odds do.

    Assumes that the lesions with and those without look as they do here (M. Saerens, P. Latinne, C. Decaestecker,
    Neural Computation 14, 2002).
    """
    moved = expit(logit(np.asarray(probabilities, np.float64)) + logit(prevalence) - logit(own))
    return np.asarray(moved)


def net_benefit(
    labels: NDArray[np.bool_],
    scores: Floats,
    thresholds: Floats,
    weights: NDArray | None = None,
    *,
    prevalence: float | None = None,
) -> Floats:
    """Net benefit of calling `score >= threshold`: TP / n - FP / n * pt / (1 - pt), (R, T).

    Args:
        labels: (N,).
        scores: Probabilities, (N,).
        thresholds: Threshold probabilities pt, at which a patient would have it excised; 0 <= pt < 1, (T,).
        weights: (R, N); None: one row of ones.
        prevalence: Instead of the images' own: the two kinds are counted as if they occurred so often.
    """
    c = curve(labels, scores, weights)
    # c.thresholds fall; how many scores are >= pt.
    reached = np.searchsorted(-c.thresholds, -np.asarray(thresholds), side="right") - 1
    sensitivity = c.true_positives[:, reached] / c.positives[:, None]
    false_rate = c.false_positives[:, reached] / c.negatives[:, None]
    share = (c.positives / (c.positives + c.negatives))[:, None] if prevalence is None else prevalence
    odds = thresholds / (1 - thresholds)
    return np.asarray(sensitivity * share - false_rate * (1 - share) * odds)


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over threshold probabilities; of excising none it is 0.

    Attributes:
        thresholds: (T,).
        model, excise_all: Net benefit, (T,).
        band: Pointwise 95 % interval of the model's, (2, T).
        gain: Model less the better of excise-all and excise-none, (T,), and its interval `gain_band`, (2, T).
        prevalence: At which.
    """

    thresholds: Floats = field(repr=False)
    model: Floats = field(repr=False)
    excise_all: Floats = field(repr=False)
    band: Floats = field(repr=False)
    gain: Floats = field(repr=False)
    gain_band: Floats = field(repr=False)
    prevalence: float

    @property
    def useful(self) -> tuple[tuple[float, float], ...]:
        """Ranges of thresholds over which the gain's interval lies above 0."""
        above = np.concatenate([[False], self.gain_band[0] > 0, [False]])
        starts, ends = np.flatnonzero(above[1:] & ~above[:-1]), np.flatnonzero(above[:-1] & ~above[1:]) - 1
        return tuple((float(self.thresholds[a]), float(self.thresholds[b])) for a, b in zip(starts, ends, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        arrays = ("thresholds", "model", "excise_all", "band", "gain", "gain_band")
        values: dict[str, Any] = {name: np.round(getattr(self, name), 6).tolist() for name in arrays}
        return values | {"prevalence": self.prevalence, "useful": [list(part) for part in self.useful]}


def decision_curve(
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    thresholds: Floats,
    prevalence: float | None = None,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> DecisionCurve:
    """Decision curve of a model against excising all and none (Vickers and Elkin 2006), with intervals.

    At a threshold where sensitivity or specificity is 0 or 1 resamples of it would not vary: there the band is from
    Wilson's limits of both rates, added as squares (G. Y. Zou, A. Donner, Stat. Med. 27, 2008).

    Args:
        labels: Which images have the disease, (N,).
        scores: Calibrated probabilities, (N,).
        thresholds: Threshold probabilities, 0 <= pt < 1, (T,).
        prevalence: Instead of the images' own; the scores are moved there (`at_prevalence`), too.
        replicates: Bootstrap resamples, stratified: the prevalence stays.
        rng: The generator.
        groups: Group of each image, (N,), drawn as a whole.

    Raises:
        ValueError: No image, or every image, has the disease.
    """
    _need_both(labels)
    own = float(labels.mean())
    share = own if prevalence is None else prevalence
    moved = scores if prevalence is None else at_prevalence(scores, own, prevalence)
    excise_all = share - (1 - share) * thresholds / (1 - thresholds)
    alternative = np.maximum(excise_all, 0.0)

    def statistics(weights: NDArray) -> dict[str, Floats]:
        return {"model": net_benefit(labels, moved, thresholds, weights, prevalence=share)}

    model = statistics(np.ones((1, len(labels))))["model"][0]
    draws = bootstrap(statistics, labels, replicates=replicates, rng=rng, groups=groups)["model"]
    band = np.quantile(draws, [0.025, 0.975], axis=0)
    for index, threshold in enumerate(thresholds):
        called = moved >= threshold
        rates = np.array([called[labels].mean(), called[~labels].mean()])
        if np.isin(rates, (0, 1)).any():
            (found_low, found_high), (false_low, false_high) = (_limits(called, of, groups) for of in (labels, ~labels))
            worth = np.array([share, (1 - share) * threshold / (1 - threshold)])
            band[0, index] = model[index] - np.linalg.norm(worth * (rates - (found_low, false_high)))
            band[1, index] = model[index] + np.linalg.norm(worth * (rates - (found_high, false_low)))
    return DecisionCurve(thresholds, model, excise_all, band, model - alternative, band - alternative, share)


def _need_both(labels: NDArray[np.bool_]) -> None:
    if labels.all() or not labels.any():
        raise ValueError("A decision is measured on images with and without the disease.")
