"""Operating points, set on validation data and kept in a bundle with what to expect of them.

`score >= threshold` is positive everywhere. A threshold is the score of an image that it was set on: the highest that
reaches a wanted sensitivity, or the lowest that reaches a wanted specificity.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pesi.stats.intervals import bootstrap_weights, units, wilson_interval
from pesi.stats.metrics import Curve, curve

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Criterion = Literal["sensitivity", "specificity"]

SENSITIVITIES: tuple[float, ...] = (0.80, 0.90, 0.95)
SPECIFICITIES: tuple[float, ...] = (0.90, 0.95)

_ROUNDING = 1e-9  # of counts: 0.9 * 30 is not 27 in floating point


class Threshold(BaseModel, extra="forbid", frozen=True):
    """An operating point: a probability threshold of one class, how it was set, and what to expect of it.

    Attributes:
        sensitivity, specificity: On the images that it was set on, so they flatter.
        sensitivity_interval, specificity_interval: 95 % of what thresholds set in the same way give on new images.
    """

    name: str  # such as "sensitivity_0.90"
    class_name: str
    value: float
    sensitivity: float
    specificity: float
    how: str
    sensitivity_interval: Interval | None = None
    specificity_interval: Interval | None = None


def threshold_at(
    criterion: Criterion,
    wanted: float,
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    class_name: str,
    on: str,
    rng: np.random.Generator | None = None,
    replicates: int = 1000,
    groups: NDArray | None = None,
) -> Threshold:
    """The threshold for a wanted sensitivity (the highest that reaches it) or specificity (the lowest).

    Args:
        criterion: Which of the two is wanted.
        wanted: At least so much of it, 0 to 1.
        labels: With and without the class, (N,).
        scores: Probabilities, (N,).
        class_name, on: For the record.
        rng: For the intervals; None: none are computed.
        replicates: Bootstrap resamples of `expected_rates`.
        groups: Group of each image, (N,), for the intervals.

    Raises:
        ValueError: There are no positives or no negatives.
    """
    if labels.all() or not labels.any():
        raise ValueError(f"Class {class_name!r} needs images with and without it to set a threshold.")
    c = curve(labels, scores)
    index = int(_reached(c, criterion, wanted)[0])
    # Index 0 calls nothing: just above the highest score, where the curve has infinity, which JSON has not.
    value = float(c.thresholds[index]) if index else float(np.nextafter(scores.max(), np.inf))
    sensitivity, specificity = (None, None) if rng is None else expected_rates(
        criterion, wanted, labels, scores, rng=rng, replicates=replicates, groups=groups
    )  # fmt: skip
    return Threshold(
        name=f"{criterion}_{wanted:.2f}",
        class_name=class_name,
        value=value,
        sensitivity=float(c.true_positives[0, index] / c.positives[0]),
        specificity=float(1 - c.false_positives[0, index] / c.negatives[0]),
        how=f"{'highest' if criterion == 'sensitivity' else 'lowest'} threshold with {criterion} >= {wanted:.2f} on "
        f"{on}: {int(labels.sum())} with and {int((~labels).sum())} without",
        sensitivity_interval=sensitivity,
        specificity_interval=specificity,
    )


def operating_points(
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    class_name: str,
    on: str,
    rng: np.random.Generator | None = None,
    groups: NDArray | None = None,
) -> tuple[Threshold, ...]:
    """The class's thresholds at `SENSITIVITIES` and at `SPECIFICITIES`; none where only one of the two kinds occurs."""
    if labels.all() or not labels.any():
        return ()
    wanted: list[tuple[Criterion, float]] = [("sensitivity", value) for value in SENSITIVITIES]
    wanted += [("specificity", value) for value in SPECIFICITIES]
    return tuple(
        threshold_at(c, value, labels, scores, class_name=class_name, on=on, rng=rng, groups=groups)
        for c, value in wanted
    )


def expected_rates(
    criterion: Criterion,
    wanted: float,
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    rng: np.random.Generator,
    replicates: int = 1000,
    groups: NDArray | None = None,
) -> tuple[Interval | None, Interval | None]:
    """What sensitivity and specificity to expect on new images of a threshold set on images like these.

    Bootstrap, stratified: the threshold is set on a resample and measured on the images that the resample has not
    (B. Efron, JASA 78, 1983), about 37 % of them; the middle 95 % of what comes out. So it holds the luck of the images
    that set the threshold, and that of a set of new images about a third as large.

    Args:
        criterion, wanted, labels, scores: As for `threshold_at`.
        rng: The generator.
        replicates: Resamples.
        groups: Group of each image, (N,), drawn as a whole; None: each image is drawn by itself.

    Returns:
        Intervals of sensitivity and specificity; None where one image, or group, is all there is of a kind. A rate that
        no resample moves has Wilson's interval.
    """
    rates: list[Floats] = []
    for weights in bootstrap_weights(labels, replicates, rng, groups=groups):
        chosen = _reached(curve(labels, scores, weights), criterion, wanted)
        left, row = curve(labels, scores, weights == 0), np.arange(len(weights))
        with np.errstate(invalid="ignore"):  # 0 / 0 where the resample left no positive, or no negative, out
            found = left.true_positives[row, chosen] / left.positives
            rates.append(np.stack([found, 1 - left.false_positives[row, chosen] / left.negatives]))
    sensitivity, specificity = np.hstack(rates)
    return _middle(sensitivity, units(groups, labels)), _middle(specificity, units(groups, ~labels))


def _reached(c: Curve, criterion: Criterion, wanted: float) -> NDArray[np.int64]:
    """Index of each row's threshold, (R,): the highest for a wanted sensitivity, the lowest for a specificity."""
    if criterion == "sensitivity":
        return np.asarray(np.argmax(c.true_positives >= wanted * c.positives[:, None] - _ROUNDING, axis=1))
    # Only scores of the row's own images can be thresholds: those between them would have looked at the others.
    present = np.diff(c.called, axis=1, prepend=-1) > 0
    allowed = present & (c.false_positives <= (1 - wanted) * c.negatives[:, None] + _ROUNDING)
    return np.asarray(allowed.shape[1] - 1 - np.argmax(allowed[:, ::-1], axis=1))


def _middle(values: Floats, count: int) -> Interval | None:
    """The middle 95 % of rates; where all are the same, Wilson's interval of as many images as were left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = (float(np.quantile(values, q)) for q in (0.025, 0.975))
    if low == high:
        left_out = max(1, round(count / math.e))
        low, high = wilson_interval(round(low * left_out), left_out)
    return low, high
