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
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Criterion = Literal["sensitivity", "specificity"]

SENSITIVITIES: tuple[float, ...] = (0.80, 0.90, 0.95)
SPECIFICITIES: tuple[float, ...] = (0.90, 0.95)

_CHUNK = 4_000_000  # weights held at a time
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

    Raises:
        ValueError: There are no positives or no negatives.
    """
    if labels.all() or not labels.any():
        raise ValueError(f"Class {class_name!r} needs images with and without it to set a threshold.")
    false_positive, true_positive, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    if criterion == "sensitivity":
        index = int(np.argmax(true_positive >= wanted - _ROUNDING))
    else:
        index = int(np.flatnonzero(1 - false_positive >= wanted - _ROUNDING)[-1])
    # Index 0 calls nothing: just above the highest score, where roc_curve has infinity, which JSON has not.
    value = float(thresholds[index]) if index else float(np.nextafter(scores.max(), np.inf))
    sensitivity, specificity = (None, None) if rng is None else expected_rates(
        criterion, wanted, labels, scores, rng=rng, replicates=replicates
    )  # fmt: skip
    return Threshold(
        name=f"{criterion}_{wanted:.2f}",
        class_name=class_name,
        value=value,
        sensitivity=float(true_positive[index]),
        specificity=float(1 - false_positive[index]),
        how=f"{'highest' if criterion == 'sensitivity' else 'lowest'} threshold with {criterion} >= {wanted:.2f} on "
        f"{on}: {int(labels.sum())} with and {int((~labels).sum())} without",
        sensitivity_interval=sensitivity,
        specificity_interval=specificity,
    )


def operating_points(
    labels: NDArray[np.bool_], scores: Floats, *, class_name: str, on: str, rng: np.random.Generator | None = None
) -> tuple[Threshold, ...]:
    """The class's thresholds at `SENSITIVITIES` and at `SPECIFICITIES`; none where only one of the two kinds occurs."""
    if labels.all() or not labels.any():
        return ()
    wanted: list[tuple[Criterion, float]] = [("sensitivity", value) for value in SENSITIVITIES]
    wanted += [("specificity", value) for value in SPECIFICITIES]
    return tuple(threshold_at(c, value, labels, scores, class_name=class_name, on=on, rng=rng) for c, value in wanted)


def expected_rates(
    criterion: Criterion,
    wanted: float,
    labels: NDArray[np.bool_],
    scores: Floats,
    *,
    rng: np.random.Generator,
    replicates: int = 1000,
) -> tuple[Interval | None, Interval | None]:
    """What sensitivity and specificity to expect on new images of a threshold set on images like these.

    Bootstrap, stratified: the threshold is set on a resample and measured on the images that the resample has not
    (B. Efron, JASA 78, 1983), about 37 % of them; the middle 95 % of what comes out. So it holds the luck of the images
    that set the threshold, and that of a set of new images about a third as large.

    Args:
        criterion, wanted, labels, scores: As for `threshold_at`.
        rng: The generator.
        replicates: Resamples.

    Returns:
        Intervals of sensitivity and specificity; None where one image is all there is of a kind. A rate that no
        resample moves has Wilson's interval.
    """
    order = np.argsort(-scores, kind="stable")
    truth = labels[order]
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last image of each distinct score
    positives, negatives = np.flatnonzero(truth), np.flatnonzero(~truth)
    rates: list[Floats] = []
    step = max(1, _CHUNK // len(order))
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        weights = np.zeros((rows, len(order)), np.int32)
        for members in (positives, negatives):
            weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=rows)
        true, false = _counts(weights, truth, ends)
        if criterion == "sensitivity":
            chosen = np.argmax(true >= wanted * len(positives) - _ROUNDING, axis=1)
        else:
            # Only scores of the resample can be thresholds: those between them would have looked at the others.
            present = np.diff(np.cumsum(weights, axis=1)[:, ends], axis=1, prepend=0) > 0
            allowed = (false <= (1 - wanted) * len(negatives) + _ROUNDING) & np.pad(
                present, ((0, 0), (1, 0)), constant_values=True
            )
            chosen = allowed.shape[1] - 1 - np.argmax(allowed[:, ::-1], axis=1)
        left = (weights == 0).astype(np.int32)
        true, false = _counts(left, truth, ends)
        row = np.arange(rows)
        with np.errstate(invalid="ignore"):  # 0 / 0 where the resample left no positive, or no negative, out
            rates.append(np.stack([true[row, chosen] / true[:, -1], 1 - false[row, chosen] / false[:, -1]]))
    sensitivity, specificity = np.hstack(rates)
    return _middle(sensitivity, len(positives)), _middle(specificity, len(negatives))


def _counts(weights: NDArray, truth: NDArray[np.bool_], ends: NDArray) -> tuple[NDArray, NDArray]:
    """True and false positives at each distinct score, from "above every score" downwards, (R, D + 1) each."""
    start = ((0, 0), (1, 0))
    true = np.pad(np.cumsum(weights * truth, axis=1)[:, ends], start)
    false = np.pad(np.cumsum(weights * ~truth, axis=1)[:, ends], start)
    return true, false


def _middle(values: Floats, images: int) -> Interval | None:
    """The middle 95 % of rates; where all are the same, Wilson's interval of as many images as were left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = (float(np.quantile(values, q)) for q in (0.025, 0.975))
    if low == high:
        left_out = max(1, round(images / math.e))
        found = binomtest(round(low * left_out), left_out).proportion_ci(method="wilson")
        low, high = float(found.low), float(found.high)
    return low, high
