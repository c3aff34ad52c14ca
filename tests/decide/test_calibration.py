"""Temperature and vector scaling against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from pesi.decide.calibration import (
    FLATTEST,
    SHARPEST,
    VECTOR_PRIOR,
    TemperatureConfig,
    VectorScaling,
    calibrated_probabilities,
    fit_temperature,
    fit_vector_scaling,
    negative_log_likelihood,
    view_probabilities,
)


def drawn_classes(probabilities, rng):
    return (probabilities.cumsum(1) > rng.random((len(probabilities), 1))).argmax(1)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(truth):
    """Labels drawn from softmax(z / T): the fit must give T back."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (20_000, 3))
    classes = drawn_classes(softmax(z / truth, axis=1), rng)
    fitted = fit_temperature(z[:, None], np.eye(3)[classes], "multiclass", on="made-up data")
    assert fitted.value == pytest.approx(truth, rel=0.04)
    assert "made-up data" in fitted.how
    assert "limit" not in fitted.how


def test_the_temperature_stops_at_its_limits_and_says_so():
    rng = np.random.default_rng(4)
    classes = rng.integers(0, 3, 60)
    targets = np.eye(3)[classes]
    right = targets[:, None] * 2.0
    sharp = fit_temperature(right, targets, "multiclass", on="")
    assert sharp.value == SHARPEST
    assert "limit 0.25" in sharp.how
    wrong = fit_temperature(-right, targets, "multiclass", on="")
    assert wrong.value == FLATTEST
    assert "limit 20" in wrong.how


def test_likelihood_is_scikit_learns():
    rng = np.random.default_rng(1)
    z, classes = rng.normal(size=(50, 4, 3)), rng.integers(0, 3, 50)
    p = view_probabilities(z, "multiclass", 1.7)
    np.testing.assert_allclose(p, softmax(z / 1.7, axis=2).mean(1))
    expected = log_loss(classes, p, labels=[0, 1, 2])
    assert negative_log_likelihood(z, np.eye(3)[classes], "multiclass", 1.7) == pytest.approx(expected)
    targets = rng.integers(0, 2, (50, 2)).astype(float)
    q = view_probabilities(z[..., :2], "multilabel", 0.8)
    expected = sum(log_loss(targets[:, k], q[:, k]) for k in range(2)) / 2
    assert negative_log_likelihood(z[..., :2], targets, "multilabel", 0.8) == pytest.approx(expected)


def test_vector_scaling_is_found_again():
    rng = np.random.default_rng(2)
    z = rng.normal(0, 2, (30_000, 3))
    weight, bias = np.array([0.5, 1.0, 1.6]), np.array([0.7, -0.2, -0.5])
    classes = drawn_classes(softmax(z * weight + bias, axis=1), rng)
    fitted = fit_vector_scaling(z[:, None], np.eye(3)[classes], "multiclass", on="made-up data")
    np.testing.assert_allclose(fitted.weight, weight, rtol=0.06)
    np.testing.assert_allclose(fitted.bias - np.mean(fitted.bias), bias - bias.mean(), atol=0.06)
    assert "made-up data, 30000 images" in fitted.how


def test_vector_scaling_of_one_view_is_logistic_regression_a_class():
    """Multilabel: Platt's regression of each class, here scikit-learn's without a penalty."""
    rng = np.random.default_rng(3)
    z = rng.normal(0, 2, (5_000, 2))
    targets = (rng.random((5_000, 2)) < 1 / (1 + np.exp(-(z * [0.6, 1.4] + [0.5, -1.0])))).astype(float)
    fitted = fit_vector_scaling(z[:, None], targets, "multilabel", on="")
    for k in range(2):
        model = LogisticRegression(C=np.inf).fit(z[:, k : k + 1], targets[:, k])
        assert fitted.weight[k] == pytest.approx(model.coef_[0, 0], rel=0.01)
        assert fitted.bias[k] == pytest.approx(model.intercept_[0], rel=0.02)


@pytest.mark.parametrize("head", ["multiclass", "multilabel"])
def test_vector_scaling_of_several_views_is_the_optimum(head):
    """Torch's gradient of the stated objective is zero at what was found."""
    rng = np.random.default_rng(5)
    classes = rng.integers(0, 3, 120)
    targets = np.eye(3)[classes]
    z = targets[:, None] * 1.5 + rng.normal(0, 1, (120, 4, 3)) + [0.5, 0, 0]
    fitted = fit_vector_scaling(z, targets, head, on="")
    w, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (fitted.weight, fitted.bias))
    scaled, truth = torch.from_numpy(z) * w + b, torch.from_numpy(targets)
    if head == "multiclass":
        loss = -torch.log((torch.softmax(scaled, -1).mean(1) * truth).sum(1)).mean()
    else:
        p = torch.sigmoid(scaled).mean(1)
        loss = torch.nn.functional.binary_cross_entropy(p, truth, reduction="sum") / 120
    loss = loss + (((w - 1) ** 2).sum() + (b**2).sum()) / (2 * 120 * VECTOR_PRIOR**2)
    loss.backward()
    assert float(w.grad.abs().max()) < 1e-4
    assert float(b.grad.abs().max()) < 1e-4


def test_vector_scaling_stays_finite_where_nothing_is_wrong():
    targets = np.eye(3)[np.arange(30) % 3]
    fitted = fit_vector_scaling(targets[:, None] * 8.0, targets, "multiclass", on="")
    assert max(fitted.weight) < 2
    assert max(np.abs(fitted.bias)) < 0.5
    anti = fit_vector_scaling(-targets[:, None] * 8.0, targets, "multiclass", on="")
    assert min(anti.weight) >= 0


def test_scaling_comes_before_the_temperature_and_the_mean_of_the_views():
    rng = np.random.default_rng(6)
    z = rng.normal(size=(7, 4, 3)).astype(np.float32)
    vector = VectorScaling(weight=(1.0, 2.0, 0.5), bias=(0.1, 0.0, -0.3))
    found = calibrated_probabilities(z, "multiclass", TemperatureConfig(value=1.3), vector)
    expected = softmax((z.astype(float) * [1.0, 2.0, 0.5] + [0.1, 0.0, -0.3]) / 1.3, axis=2).mean(1)
    np.testing.assert_allclose(found, expected)
    without = calibrated_probabilities(z, "multiclass", TemperatureConfig(value=1.3))
    np.testing.assert_allclose(without, softmax(z.astype(float) / 1.3, axis=2).mean(1))
    with pytest.raises(ValueError, match="3 classes for logits of 2"):
        calibrated_probabilities(z[..., :2], "multiclass", TemperatureConfig(), vector)


def test_vector_scaling_goes_through_json_and_needs_one_bias_a_weight():
    vector = VectorScaling(weight=(1.0, 2.0), bias=(0.1, 0.0), how="by hand")
    assert VectorScaling.model_validate_json(vector.model_dump_json()) == vector
    with pytest.raises(ValidationError, match="2 weights but 1 biases"):
        VectorScaling(weight=(1.0, 2.0), bias=(0.1,))
