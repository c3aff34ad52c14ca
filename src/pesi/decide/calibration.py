"""Calibration: what turns the network's logits into probabilities that mean what they say, fitted on validation data.

Temperature and vector scaling (C. Guo et al., On calibration of modern neural networks, ICML 2017, arXiv 1706.04599)
are kept in a bundle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from pesi.stats.logistic import expit, log_expit, log_softmax, logsumexp, softmax

Floats = NDArray[np.float64]

# On images that the network tells apart without a mistake, the likelihood grows with every sharpening, for ever. It
# goes no further than four times; nor is anything flattened more than twenty times.
SHARPEST, FLATTEST = 0.25, 20.0

# Standard deviation of the normal prior that holds vector scaling near "as it is" (weight 1, bias 0). It weighs as much
# as a handful of images, so a few hundred say their own; on a few dozen it keeps the weights finite.
VECTOR_PRIOR = 1.0


class TemperatureConfig(BaseModel, extra="forbid", frozen=True):
    """Logits are divided by `value`; `how` tells how it was found."""

    value: float = Field(1.0, gt=0)
    how: str = "not fitted"


class VectorScaling(BaseModel, extra="forbid", frozen=True):
    """Each class's logit is multiplied by its weight and moved by its bias, before the temperature."""

    weight: tuple[float, ...] = Field(min_length=1)
    bias: tuple[float, ...] = Field(min_length=1)
    how: str = "not fitted"

    @model_validator(mode="after")
    def _one_each(self) -> VectorScaling:
        if len(self.weight) != len(self.bias):
            raise ValueError(f"{len(self.weight)} weights but {len(self.bias)} biases")
        return self


def view_probabilities(logits: Floats, head: str, temperature: float = 1.0) -> Floats:
    """Logits of V views (N, V, K) -> probabilities averaged over the views, (N, K)."""
    z = np.asarray(logits, np.float64) / temperature
    each = np.exp(log_softmax(z, axis=-1)) if head == "multiclass" else expit(z)
    mean: Floats = each.mean(axis=1)
    return mean


def scaled_logits(logits: NDArray, vector: VectorScaling | None) -> Floats:
    """Logits (N, V, K) after vector scaling, if there is one.

    Raises:
        ValueError: It is of another number of classes.
    """
    z = np.asarray(logits, np.float64)
    if vector is None:
        return z
    if len(vector.weight) != z.shape[-1]:
        raise ValueError(f"Vector scaling of {len(vector.weight)} classes for logits of {z.shape[-1]}.")
    return np.asarray(z * np.array(vector.weight) + np.array(vector.bias))


def calibrated_probabilities(
    logits: NDArray, head: str, temperature: TemperatureConfig, vector: VectorScaling | None = None
) -> Floats:
    """Logits -> probabilities, as a bundle gives them: vector scaling, then the temperature, then the views' mean.

    Args:
        logits: Of V views, (N, V, K).
        head: `multiclass` or `multilabel`.
        temperature, vector: The bundle's.

    Returns:
        (N, K).
    """
    return view_probabilities(scaled_logits(logits, vector), head, temperature.value)


def negative_log_likelihood(logits: Floats, targets: Floats, head: str, temperature: float) -> float:
    """Mean -log p of the true labels (multilabel: over the classes, too) under the view-averaged probabilities.

    Args:
        logits: (N, V, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        temperature: What the logits are divided by.
    """
    value = _likelihood(np.asarray(logits, np.float64) / temperature, targets, head)[0]
    return value if head == "multiclass" else value / targets.shape[1]


def fit_temperature(logits: Floats, targets: Floats, head: str, *, on: str) -> TemperatureConfig:
    """The temperature of least negative log likelihood (Guo et al. 2017), within `SHARPEST` to `FLATTEST`.

    Args:
        logits: Validation logits, (N, V, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        on: What the data were, for the record.
    """

    from scipy.optimize import minimize_scalar  # slow to import, and only to fit

    def cost(log_t: float) -> float:
        return negative_log_likelihood(logits, targets, head, float(np.exp(log_t)))

    result = minimize_scalar(cost, bounds=(np.log(SHARPEST), np.log(FLATTEST)), method="bounded")
    value = float(np.exp(result.x))
    limit = ""
    for bound, why in ((SHARPEST, "sharper than so few mistakes can support"), (FLATTEST, "flatter still")):
        if abs(value / bound - 1) < 1e-3:  # the search stops just short of the bound that it runs into
            value, limit = bound, f"; held at the limit {bound:g}, the likelihood asks for {why}"
    before, after = cost(0.0), cost(np.log(value))
    how = f"least negative log likelihood on {on}, {len(logits)} images: {before:.4f} -> {after:.4f}{limit}"
    return TemperatureConfig(value=value, how=how)


def fit_vector_scaling(logits: Floats, targets: Floats, head: str, *, on: str) -> VectorScaling:
    """Vector scaling of least negative log likelihood (Guo et al. 2017), with a ridge towards the identity.

    Minimised is the negative log likelihood of an image's labels under the view-averaged probabilities, its mean over N
    images plus (|weight - 1|^2 + |bias|^2) / (2 N VECTOR_PRIOR^2), by L-BFGS-B; weights stay >= 0, so that a class's
    logit never counts against it. It contains the temperature: beside it, keep the temperature 1.

    Args:
        logits: Validation logits, (N, V, K).
        targets: (N, K), 0 or 1.
        head: `multiclass` or `multilabel`.
        on: What the data were, for the record.
    """
    z = np.asarray(logits, np.float64)
    count, classes = len(z), z.shape[-1]
    identity = np.repeat([1.0, 0.0], classes)

    def cost(parameters: Floats) -> tuple[float, Floats]:
        value, slope = _likelihood(z * parameters[:classes] + parameters[classes:], targets, head)
        away = parameters - identity
        ridge = 1 / (count * VECTOR_PRIOR**2)
        gradient = np.concatenate([(slope * z).sum((0, 1)), slope.sum((0, 1))]) + ridge * away
        return value + ridge * float(away @ away) / 2, gradient

    bounds = [(0.0, None)] * classes + [(None, None)] * classes
    from scipy.optimize import minimize

    found = np.asarray(minimize(cost, identity, jac=True, method="L-BFGS-B", bounds=bounds).x)
    before = negative_log_likelihood(z, targets, head, 1.0)
    after = negative_log_likelihood(z * found[:classes] + found[classes:], targets, head, 1.0)
    return VectorScaling(
        weight=tuple(float(v) for v in found[:classes]),
        bias=tuple(float(v) for v in found[classes:]),
        how=f"least negative log likelihood on {on}, {count} images, with a normal prior of deviation "
        f"{VECTOR_PRIOR:g} around weight 1 and bias 0: {before:.4f} -> {after:.4f}",
    )


def _likelihood(z: Floats, targets: Floats, head: str) -> tuple[float, Floats]:
    """Mean over the images of -log p of all their labels, views averaged, and its slope by each logit, (N, V, K)."""
    views = np.log(z.shape[1])
    wanted = targets[:, None, :]
    if head == "multiclass":
        log_p = log_softmax(z, axis=-1)
        true = (log_p * wanted).sum(-1)
        value = -float((logsumexp(true, axis=1) - views).mean())
        slope = softmax(true, axis=1)[..., None] * (np.exp(log_p) - wanted)
    else:
        true = np.where(wanted > 0.5, log_expit(z), log_expit(-z))
        value = -float((logsumexp(true, axis=1) - views).sum(1).mean())
        slope = softmax(true, axis=1) * (expit(z) - wanted)
    return value, np.asarray(slope / len(z))
