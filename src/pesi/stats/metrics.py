"""Scores of one-vs-rest tasks and of whole classifications, for one weighting of the images or thousands at once.

Everything is computed from counts at the distinct thresholds, so that the bootstrap (an integer weight an image and
replicate) is the same code as the point estimate (every weight 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The sensitivities at which the ISIC 2017 papers report the specificity (METHOD section 2).
SENSITIVITIES: tuple[float, ...] = (0.82, 0.89, 0.95)


@dataclass(frozen=True)
class Curve:
    """Weighted counts at the distinct thresholds, from the highest to the lowest; index 0 is "above every score".

    Attributes:
        thresholds: (D + 1,), the first is infinity; `score >= threshold` is positive.
        true_positives, false_positives: (R, D + 1).
    """

    thresholds: Floats
    true_positives: Floats
    false_positives: Floats

    @property
    def called(self) -> Floats:
        """All that is called, (R, D + 1)."""
        return self.true_positives + self.false_positives

    @property
    def positives(self) -> Floats:
        """Weight of the positives, (R,)."""
        return np.asarray(self.true_positives[:, -1])

    @property
    def negatives(self) -> Floats:
        """Weight of the negatives, (R,)."""
        return np.asarray(self.false_positives[:, -1])


def curve(labels: NDArray[np.bool_], scores: Floats, weights: NDArray | None = None) -> Curve:
    """Count true and false positives at every distinct score.

    Args:
        labels: (N,).
        scores: (N,), higher means positive.
        weights: (R, N) non-negative; None: one row of ones.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    w, positive = weights[:, order].astype(np.float64), labels[order]
    start = np.zeros((len(weights), 1))
    true = np.hstack([start, np.cumsum(w * positive, axis=1)[:, ends]])
    false = np.hstack([start, np.cumsum(w * ~positive, axis=1)[:, ends]])
    return Curve(np.append(np.inf, ranked[ends]), true, false)


def auc(c: Curve) -> Floats:
    """Area under the ROC curve (ties count half), (R,)."""
    tp, fp = c.true_positives, c.false_positives
    area = np.sum(np.diff(fp, axis=1) * (tp[:, 1:] + tp[:, :-1]) / 2, axis=1)
    return np.asarray(area / (c.positives * c.negatives))


def average_precision(c: Curve) -> Floats:
    """Sum of precision times the gain in recall over the thresholds (no interpolation), (R,)."""
    tp, fp = c.true_positives[:, 1:], c.false_positives[:, 1:]
    precision = tp / np.maximum(tp + fp, 1e-300)
    return np.asarray(np.sum(np.diff(c.true_positives, axis=1) * precision, axis=1) / c.positives)


def specificity_at_sensitivity(c: Curve, sensitivity: float) -> Floats:
    """Specificity at the highest threshold whose sensitivity is at least the wanted one, (R,)."""
    enough = c.true_positives >= sensitivity * c.positives[:, None] - 1e-9
    first = np.argmax(enough, axis=1)
    return np.asarray(1 - c.false_positives[np.arange(len(first)), first] / c.negatives)


def weighted_mean(values: NDArray, weights: NDArray) -> Floats:
    """Mean of values (N,) under weights (R, N), (R,)."""
    w = weights.astype(np.float64)
    return np.asarray(w @ np.asarray(values, np.float64) / w.sum(axis=1))


def binary_scores(
    labels: NDArray[np.bool_], scores: Floats, weights: NDArray | None = None, *, threshold: float = 0.5
) -> dict[str, Floats]:
    """Every score of one one-vs-rest task.

    Args:
        labels: (N,), with and without the class.
        scores: Probabilities, (N,).
        weights: (R, N); None: one row of ones.
        threshold: `score >= threshold` counts as positive for accuracy, sensitivity, specificity.

    Returns:
        Name -> (R,): auc, average_precision, accuracy, sensitivity, specificity, brier, and
        specificity_at_sensitivity_0.82 and so on.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    c = curve(labels, scores, weights)
    called = scores >= threshold
    result = {
        "auc": auc(c),
        "average_precision": average_precision(c),
        "accuracy": weighted_mean(called == labels, weights),
        "sensitivity": weighted_mean(called[labels], weights[:, labels]),
        "specificity": weighted_mean(~called[~labels], weights[:, ~labels]),
        "brier": weighted_mean((scores - labels) ** 2, weights),
    }
    for sensitivity in SENSITIVITIES:
        result[f"specificity_at_sensitivity_{sensitivity:.2f}"] = specificity_at_sensitivity(c, sensitivity)
    return result


def multiclass_scores(
    classes: NDArray[np.int64], called: NDArray[np.int64], weights: NDArray | None = None
) -> dict[str, Floats]:
    """Accuracy, and balanced accuracy: the mean recall of the classes that occur.

    Args:
        classes, called: True and predicted class, (N,).
        weights: (R, N), stratified by class; None: one row of ones.
    """
    weights = np.ones((1, len(classes))) if weights is None else weights
    recalls = [weighted_mean((called == classes)[classes == k], weights[:, classes == k]) for k in np.unique(classes)]
    return {
        "accuracy": weighted_mean(called == classes, weights),
        "balanced_accuracy": np.asarray(np.mean(recalls, axis=0)),
    }


def confusion_matrix(classes: NDArray[np.int64], called: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(K, K): row is the truth, column the prediction."""
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (classes, called), 1)
    return matrix
