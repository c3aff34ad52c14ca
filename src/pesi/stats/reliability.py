"""Reliability: whether probabilities mean what they say. Calibration error, Brier score with its parts, likelihood.

Sources: calibration error, C. Guo et al., ICML 2017; in bins of equal counts, J. Nixon et al., CVPR workshops 2019;
class by class, M. Kull et al., NeurIPS 2019. Brier score, G. Brier,
Monthly Weather Review 78, 1950; its parts, A. Murphy, J. Applied Meteorology 12, 1973, with the term for unequal
forecasts within a bin of D. Stephenson, C. Coelho, I. Jolliffe, Weather and Forecasting 23, 2008. What a perfectly
calibrated forecast would show on as many images: J. Broecker, L. Smith, Weather and Forecasting 22, 2007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.stats.intervals import bootstrap, percentile_interval, share_interval, units

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CHUNK = 8_000_000  # simulated outcomes held at a time
_TINY = 1e-300


def bin_count(images: int) -> int:
    """How many bins: about 30 images each, no fewer than 5 bins and no more than 15.

    Each bin adds noise to a calibration error: at 10 bins of 15 images even a perfect model shows about 0.08.
    """
    return int(np.clip(images // 30, 5, 15))


def bin_numbers(confidences: Floats, bins: int, *, equal_mass: bool = True) -> NDArray[np.int64]:
    """Bin of each image, (N,): between quantiles of the confidences, or of equal width over 0 to 1; (low, high] each.

    Equal confidences share a bin, so with ties bins of "equal mass" can be unequal, and some empty.
    """
    steps = np.linspace(0, 1, bins + 1)
    edges = np.quantile(confidences, steps) if equal_mass else steps
    return np.asarray(np.searchsorted(edges[1:-1], confidences), np.int64)


def calibration_error(
    confidences: Floats, outcomes: NDArray, numbers: NDArray[np.int64], weights: NDArray | None = None
) -> Floats:
    """Expected calibration error: mean over images of |observed frequency - mean confidence| of their bin, (R,).

    Args:
        confidences: (N,).
        outcomes: Whether it came true, (N,); or (R, N), one row a replicate.
        numbers: Bin of each image (`bin_numbers`), (N,).
        weights: (R, N) with outcomes (N,); None: one row of ones.
    """
    gaps = np.atleast_2d(np.asarray(outcomes, np.float64) - confidences)
    if weights is not None:
        gaps = gaps * weights
        total = weights.sum(1)
    else:
        total = np.full(1, len(confidences))
    return np.asarray(np.abs(gaps @ _membership(numbers)).sum(1) / total)


def brier_decomposition(
    probabilities: Floats, outcomes: NDArray[np.bool_], numbers: NDArray[np.int64], weights: NDArray | None = None
) -> dict[str, Floats]:
    """Brier score of one class and its parts: brier = reliability - resolution + uncertainty + within, exactly.

    `within` is the variance of the probabilities within the bins less twice their covariance with the outcomes there;
    it is 0 where every distinct probability has a bin of its own, which is Murphy's case.

    Args:
        probabilities: (N,).
        outcomes: (N,).
        numbers: Bin of each image, (N,).
        weights: (R, N); None: one row of ones.

    Returns:
        Name -> (R,): brier, reliability, resolution, uncertainty, within.
    """
    w = np.ones((1, len(probabilities))) if weights is None else np.asarray(weights, np.float64)
    y = np.asarray(outcomes, np.float64)
    members = _membership(numbers)
    total = w.sum(1)

    def in_bins(values: Floats) -> Floats:
        return np.asarray((w * values) @ members)

    n, p_sum, y_sum = in_bins(np.ones_like(y)), in_bins(probabilities), in_bins(y)
    filled = np.maximum(n, _TINY)
    rate = (w @ y) / total
    variance = in_bins(probabilities**2) - p_sum**2 / filled
    covariance = in_bins(probabilities * y) - p_sum * y_sum / filled
    return {
        "brier": np.asarray(w @ (probabilities - y) ** 2 / total),
        "reliability": np.asarray(((p_sum - y_sum) ** 2 / filled).sum(1) / total),
        "resolution": np.asarray((n * (y_sum / filled - rate[:, None]) ** 2).sum(1) / total),
        "uncertainty": np.asarray(rate * (1 - rate)),
        "within": np.asarray((variance - 2 * covariance).sum(1) / total),
    }


@dataclass(frozen=True)
class ReliabilityBin:
    """A point of a reliability diagram.

    Attributes:
        confidence: Mean of the probabilities.
        observed: Frequency of the outcome.
        interval: Wilson's 95 % interval of it.
        images: How many.
    """

    confidence: float
    observed: float
    interval: Interval
    images: int


def reliability_diagram(
    confidences: Floats, outcomes: NDArray[np.bool_], bins: int, *, groups: NDArray | None = None
) -> tuple[ReliabilityBin, ...]:
    """Observed frequency against mean probability in each bin that is not empty, from low to high."""
    numbers = bin_numbers(confidences, bins)
    points = []
    for number in np.unique(numbers):
        inside = numbers == number
        interval = share_interval(outcomes[inside], None if groups is None else groups[inside])
        means = float(confidences[inside].mean()), float(outcomes[inside].mean())
        points.append(ReliabilityBin(*means, interval, int(inside.sum())))
    return tuple(points)


@dataclass(frozen=True)
class CalibrationScores:
    """How well calibrated one set of probabilities is.

    Attributes:
        values: ece_top and ece_top_equal_width (multiclass only: the confidence in the most probable class);
            ece_classes and ece_classes_equal_width (mean over the classes), ece/CLASS; brier (sum over the classes) and
            its parts reliability, resolution, uncertainty, within; brier/CLASS; nll (multilabel: mean over the
            classes).
        intervals: 95 % interval of each.
        perfect: Of each ece: mean, 2.5 and 97.5 % quantile of what a perfectly calibrated model with the same
            probabilities would show on as many images.
        draws: Bootstrap distribution of each, (replicates,); the same `seed` gives the same resamples, so the
            differences of two sets' draws are paired.
        bins: How many.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    perfect: Mapping[str, tuple[float, float, float]]
    draws: Mapping[str, Floats] = field(repr=False)
    bins: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        entries: dict[str, Any] = {}
        for name, value in self.values.items():
            entries[name] = {"value": value, "ci": list(self.intervals[name])}
            if name in self.perfect:
                entries[name]["perfect_model"] = list(self.perfect[name])
        return entries


def calibration_scores(
    probabilities: Floats,
    targets: Floats,
    head: str,
    *,
    names: Sequence[str],
    replicates: int,
    seed: int,
    bins: int | None = None,
    groups: NDArray | None = None,
) -> CalibrationScores:
    """Every score of calibration, with intervals.

    Bins are those of all images, in every resample. Intervals are percentiles of the stratified bootstrap, but for the
    calibration errors, reliability and resolution: noise adds to them, and a resample has the noise twice. Of those the
    lower end is the bootstrap's upper one reflected at the value, 0 where a perfectly calibrated model would show as
    much; the upper end is the bootstrap's less its bias. In simulations (150 and 600 images, true errors of 0 to 0.10)
    this holds the true error 90 to 98 times in 100; plain percentiles never hold one of 0.

    Args:
        probabilities: (N, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        names: Of the K classes.
        replicates: Bootstrap resamples, and simulated sets of labels.
        seed: Of both.
        bins: How many; default `bin_count` of the images, or groups.
        groups: Group of each image, (N,), drawn as a whole; a perfect model's labels are as alike in a group as they
            can be.
    """
    truth = targets > 0.5
    bins = bin_count(units(groups, np.ones(len(truth), bool))) if bins is None else bins
    binning = _binning(probabilities, head, bins)
    _, strata = np.unique(truth, axis=0, return_inverse=True)
    adaptive = [bin_numbers(column, bins) for column in probabilities.T]
    if head == "multiclass":
        losses = -np.log(np.maximum((probabilities * truth).sum(1), _TINY))
    else:
        losses = -np.log(np.maximum(np.where(truth, probabilities, 1 - probabilities), _TINY)).mean(1)

    def statistics(weights: NDArray) -> dict[str, Floats]:
        values = _errors(binning, probabilities, truth[None], names, weights)
        parts = [brier_decomposition(probabilities[:, k], truth[:, k], adaptive[k], weights) for k in range(len(names))]
        for key in ("brier", "reliability", "resolution", "uncertainty", "within"):
            values[key] = np.sum([part[key] for part in parts], axis=0)
        values |= {f"brier/{name}": part["brier"] for name, part in zip(names, parts, strict=True)}
        values["nll"] = np.asarray(weights @ losses / weights.sum(1))
        return values

    point = {name: float(value[0]) for name, value in statistics(np.ones((1, len(truth)))).items()}
    draws = bootstrap(statistics, strata, replicates=replicates, rng=np.random.default_rng([seed, 0]), groups=groups)
    perfect = _perfect_model(binning, probabilities, head, names, replicates, np.random.default_rng([seed, 1]), groups)
    intervals: dict[str, Interval] = {}
    for name, values in draws.items():
        low, high = percentile_interval(values)
        if name.startswith("ece") or name in ("reliability", "resolution"):
            low, high = max(0.0, 2 * point[name] - high), max(point[name], high - (float(values.mean()) - point[name]))
        if name in perfect and point[name] <= perfect[name][2]:
            low = 0.0
        intervals[name] = (low, high)
    return CalibrationScores(point, intervals, perfect, draws, bins)


@dataclass(frozen=True)
class _Binning:
    """Bins of every kind of confidence.

    Attributes:
        top: The most probable class of each image, (N,); None for multilabel.
        numbers: "" (equal mass) or "_equal_width" -> bins, (N,) each: of the top's confidence, if any, then each class.
    """

    top: NDArray[np.int64] | None
    numbers: Mapping[str, tuple[NDArray[np.int64], ...]]


def _binning(probabilities: Floats, head: str, bins: int) -> _Binning:
    columns = list(probabilities.T)
    if head == "multiclass":
        columns.insert(0, probabilities.max(1))
    numbers = {
        suffix: tuple(bin_numbers(column, bins, equal_mass=not suffix) for column in columns)
        for suffix in ("", "_equal_width")
    }
    return _Binning(probabilities.argmax(1) if head == "multiclass" else None, numbers)


def _errors(
    binning: _Binning,
    probabilities: Floats,
    truth: NDArray[np.bool_],
    names: Sequence[str],
    weights: NDArray | None,
) -> dict[str, Floats]:
    """Every calibration error, (R,), of truths (1 or R, N, K)."""
    values: dict[str, Floats] = {}
    for suffix, numbers in binning.numbers.items():
        if binning.top is not None:
            right = truth[:, np.arange(len(probabilities)), binning.top]
            values[f"ece_top{suffix}"] = calibration_error(probabilities.max(1), right, numbers[0], weights)
        each = [
            calibration_error(probabilities[:, k], truth[:, :, k], numbers[k - len(names)], weights)
            for k in range(len(names))
        ]
        values[f"ece_classes{suffix}"] = np.asarray(np.mean(each, axis=0))
        if not suffix:
            values |= {f"ece/{name}": error for name, error in zip(names, each, strict=True)}
    return values


def _perfect_model(
    binning: _Binning,
    probabilities: Floats,
    head: str,
    names: Sequence[str],
    count: int,
    rng: np.random.Generator,
    groups: NDArray | None,
) -> dict[str, tuple[float, float, float]]:
    """Mean and middle 95 % of each calibration error over labels drawn from the probabilities themselves."""
    n, k = probabilities.shape
    # One draw for all images of a group.
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    drawn_units = int(codes.max()) + 1
    edges = probabilities.cumsum(1)
    edges[:, -1] = 1.0
    chunks = []
    step = max(1, _CHUNK // (n * k))
    for start in range(0, count, step):
        rows = min(step, count - start)
        if head == "multiclass":
            drawn = (rng.random((rows, drawn_units, 1))[:, codes] >= edges).sum(2)
            truth = drawn[..., None] == np.arange(k)
        else:
            truth = rng.random((rows, drawn_units, k))[:, codes] < probabilities
        chunks.append(_errors(binning, probabilities, truth, names, None))
    result = {}
    for name in chunks[0]:
        values = np.concatenate([chunk[name] for chunk in chunks])
        result[name] = (float(values.mean()), *percentile_interval(values))
    return result


def _membership(numbers: NDArray[np.int64]) -> Floats:
    """(N, B): which bin each image is in."""
    return np.asarray(np.eye(int(numbers.max()) + 1)[numbers])
