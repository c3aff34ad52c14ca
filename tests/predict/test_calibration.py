"""Temperature and thresholds against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from pesi.predict.calibration import (
    fit_temperature,
    negative_log_likelihood,
    threshold_at_sensitivity,
    triage_levels,
    view_probabilities,
)


@pytest.mark.parametrize("truth", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(truth):
    """Labels drawn from softmax(z / T): the fit must give T back."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (20_000, 3))
    p = softmax(z / truth, axis=1)
    classes = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)
    fitted = fit_temperature(z[:, None], np.eye(3)[classes], "multiclass", on="made-up data")
    assert fitted.value == pytest.approx(truth, rel=0.04)
    assert "made-up data" in fitted.how


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


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95, 1.0])
def test_threshold_reaches_the_sensitivity_and_no_more(wanted):
    rng = np.random.default_rng(2)
    labels = rng.random(300) < 0.2
    scores = np.clip(rng.normal(0.3 + 0.3 * labels, 0.2), 0, 1)
    found = threshold_at_sensitivity(labels, scores, wanted, class_name="melanoma", on="validation")
    called = scores >= found.value
    assert called[labels].mean() == pytest.approx(found.sensitivity)
    assert (~called[~labels]).mean() == pytest.approx(found.specificity)
    assert found.sensitivity >= wanted
    higher = scores[scores > found.value].min()
    assert (scores >= higher)[labels].mean() < wanted
    with pytest.raises(ValueError, match="with and without"):
        threshold_at_sensitivity(np.ones(3, bool), np.ones(3), wanted, class_name="x", on="")


def test_triage_levels_keep_their_promise():
    rng = np.random.default_rng(3)
    malignant = rng.random(1000) < 0.2
    scores = np.clip(rng.normal(0.3 + 0.4 * malignant, 0.15), 0, 1)
    levels = {level.level: level.at_least for level in triage_levels(malignant, scores, on="validation")}
    assert (scores[~malignant] < levels["excise"]).mean() >= 0.95
    assert (scores[malignant] >= levels["refer"]).mean() >= 0.90
    assert (scores[malignant] >= levels["follow up"]).mean() >= 0.98
    assert levels["reassure"] == 0
    assert triage_levels(np.zeros(5, bool), np.zeros(5), on="") == ()
