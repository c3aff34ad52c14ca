"""Temperature scaling and operating points, both set on validation data and kept with how they were set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logsumexp
from sklearn.metrics import roc_curve

from pesi.predict.bundle import TemperatureConfig, Threshold, TriageLevel

Floats = NDArray[np.float64]


def view_probabilities(logits: Floats, head: str, temperature: float = 1.0) -> Floats:
    """Logits of V views (N, V, K) -> probabilities averaged over the views, (N, K)."""
    z = np.asarray(logits, np.float64) / temperature
    each = np.exp(log_softmax(z, axis=-1)) if head == "multiclass" else expit(z)
    mean: Floats = each.mean(axis=1)
    return mean


def negative_log_likelihood(logits: Floats, targets: Floats, head: str, temperature: float) -> float:
    """Mean -log p of the true labels under the view-averaged probabilities.

    Args:
        logits: (N, V, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        temperature: What the logits are divided by.
    """
    z = np.asarray(logits, np.float64) / temperature
    views = np.log(z.shape[1])
    if head == "multiclass":
        log_p = logsumexp(log_softmax(z, axis=-1), axis=1) - views
        return float(-(targets * log_p).sum(1).mean())
    log_p, log_q = logsumexp(log_expit(z), axis=1) - views, logsumexp(log_expit(-z), axis=1) - views
    return float(-(targets * log_p + (1 - targets) * log_q).mean())


def fit_temperature(logits: Floats, targets: Floats, head: str, *, on: str) -> TemperatureConfig:
    """The temperature of least negative log likelihood (Guo et al., ICML 2017, arXiv 1706.04599).

    Args:
        logits: Validation logits, (N, V, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        on: What the data were, for the record.
    """
    result = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits, targets, head, float(np.exp(log_t))),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    value = float(np.exp(result.x))
    before = negative_log_likelihood(logits, targets, head, 1.0)
    after = negative_log_likelihood(logits, targets, head, value)
    how = f"least negative log likelihood on {on}, {len(logits)} images: {before:.4f} -> {after:.4f}"
    return TemperatureConfig(value=value, how=how)


def threshold_at_sensitivity(
    labels: NDArray[np.bool_], scores: Floats, sensitivity: float, *, class_name: str, on: str
) -> Threshold:
    """The highest threshold whose sensitivity is at least the wanted one, `score >= threshold` being positive.

    Raises:
        ValueError: There are no positives or no negatives.
    """
    if labels.all() or not labels.any():
        raise ValueError(f"Class {class_name!r} needs images with and without it to set a threshold.")
    false_positive, true_positive, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    index = int(np.argmax(true_positive >= sensitivity - 1e-12))
    return Threshold(
        name=f"sensitivity_{sensitivity:.2f}",
        class_name=class_name,
        value=float(thresholds[index]),
        sensitivity=float(true_positive[index]),
        specificity=float(1 - false_positive[index]),
        how=f"highest threshold with sensitivity >= {sensitivity:.2f} on {on}: "
        f"{int(labels.sum())} with and {int((~labels).sum())} without",
    )


def triage_levels(malignant: NDArray[np.bool_], scores: Floats, *, on: str) -> tuple[TriageLevel, ...]:
    """Excise / refer / follow up / reassure by the malignant probability, from validation data.

    Args:
        malignant: The truth, (N,).
        scores: Malignant probability, (N,).
        on: What the data were, for the record.

    Returns:
        Levels from the most to the least urgent; the last takes everything.
    """
    if malignant.all() or not malignant.any():
        return ()
    # Excise: where 95 % of the benign lesions lie below. Refer, follow up: what 90 and 98 % of the malignant reach.
    excise = float(np.nextafter(np.quantile(scores[~malignant], 0.95, method="higher"), 1))
    refer = threshold_at_sensitivity(malignant, scores, 0.90, class_name="malignant", on=on)
    follow = threshold_at_sensitivity(malignant, scores, 0.98, class_name="malignant", on=on)
    levels = [
        ("excise", max(excise, refer.value), f"specificity >= 0.95 on {on}"),
        ("refer", refer.value, refer.how),
        ("follow up", follow.value, follow.how),
        ("reassure", 0.0, "below every other level"),
    ]
    return tuple(TriageLevel(level=level, at_least=value, how=how) for level, value, how in levels)
