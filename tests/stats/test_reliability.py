"""Calibration error, Brier score and reliability diagram against scikit-learn, torchmetrics and closed forms."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from pesi.stats.reliability import (
    bin_count,
    bin_numbers,
    brier_decomposition,
    calibration_error,
    calibration_scores,
    reliability_diagram,
)

NAMES = ("a", "b", "c")


def forecasts(count, rng, *, temperature=1.0):
    """Probabilities, and classes drawn from softmax(z); `temperature` below 1 makes the probabilities too sharp."""
    z = rng.normal(0, 1.5, (count, 3))
    truth = softmax(z, axis=1)
    classes = (truth.cumsum(1) > rng.random((count, 1))).argmax(1)
    return softmax(z / temperature, axis=1), classes


def test_equal_width_bins_are_torchmetrics():
    p, classes = forecasts(500, np.random.default_rng(0), temperature=0.5)
    top = p.max(1)
    found = calibration_error(top, p.argmax(1) == classes, bin_numbers(top, 15, equal_mass=False))
    expected = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(classes), 3, n_bins=15, norm="l1")
    assert found[0] == pytest.approx(float(expected), abs=1e-6)
    found = calibration_error(p[:, 1], classes == 1, bin_numbers(p[:, 1], 10, equal_mass=False))
    expected = binary_calibration_error(torch.from_numpy(p[:, 1]), torch.from_numpy(classes == 1), n_bins=10, norm="l1")
    assert found[0] == pytest.approx(float(expected), abs=1e-6)


def test_equal_mass_bins_are_scikit_learns():
    p, classes = forecasts(333, np.random.default_rng(1), temperature=0.5)
    column, outcome = np.round(p[:, 0], 2), classes == 0  # with ties
    observed, predicted = calibration_curve(outcome, column, n_bins=8, strategy="quantile")
    points = reliability_diagram(column, outcome, 8)
    np.testing.assert_allclose([point.observed for point in points], observed)
    np.testing.assert_allclose([point.confidence for point in points], predicted)
    counts = np.array([point.images for point in points])
    assert counts.sum() == 333
    error = calibration_error(column, outcome, bin_numbers(column, 8))[0]
    assert error == pytest.approx(np.sum(counts * np.abs(observed - predicted)) / 333)


def test_the_diagrams_intervals_solve_wilsons_equation():
    """At its ends the observed frequency lies 1.96 standard errors from the limit."""
    p, classes = forecasts(200, np.random.default_rng(2))
    z = NormalDist().inv_cdf(0.975)
    for point in reliability_diagram(p[:, 0], classes == 0, 5):
        for limit in point.interval:
            if 0 < limit < 1:
                error = np.sqrt(limit * (1 - limit) / point.images)
                assert abs(point.observed - limit) == pytest.approx(z * error, rel=1e-6)


def test_errors_of_known_answer():
    """A model that says 0.8 and is right 6 times in 10 is off by 0.2; one that says 0.6, by nothing."""
    outcomes = np.arange(10) < 6
    for said, expected in ((0.8, 0.2), (0.6, 0.0)):
        confidences = np.full(10, said)
        for equal_mass in (True, False):
            found = calibration_error(confidences, outcomes, bin_numbers(confidences, 5, equal_mass=equal_mass))
            assert found[0] == pytest.approx(expected)


def test_weights_are_images_repeated():
    p, classes = forecasts(60, np.random.default_rng(3), temperature=0.5)
    weights = np.random.default_rng(4).integers(0, 4, (3, 60))
    numbers = bin_numbers(p[:, 0], 5)
    found = calibration_error(p[:, 0], classes == 0, numbers, weights)
    parts = brier_decomposition(p[:, 0], classes == 0, numbers, weights)
    for row in range(3):
        again = np.repeat(np.arange(60), weights[row])
        expected = calibration_error(p[again, 0], classes[again] == 0, numbers[again])
        assert found[row] == pytest.approx(expected[0])
        expected = brier_score_loss(classes[again] == 0, p[again, 0])
        assert parts["brier"][row] == pytest.approx(expected)


@pytest.mark.parametrize("rounded", [True, False])
def test_brier_is_the_sum_of_its_parts(rounded):
    p, classes = forecasts(400, np.random.default_rng(5), temperature=0.6)
    column = np.round(p[:, 2], 1) if rounded else p[:, 2]
    outcome = classes == 2
    numbers = np.unique(column, return_inverse=True)[1] if rounded else bin_numbers(column, 6)
    parts = {name: float(value[0]) for name, value in brier_decomposition(column, outcome, numbers).items()}
    assert parts["brier"] == pytest.approx(brier_score_loss(outcome, column))
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within"]
    assert total == pytest.approx(parts["brier"])
    assert parts["uncertainty"] == pytest.approx(np.var(outcome))
    if rounded:  # a bin for each distinct forecast: Murphy's three parts are all
        assert parts["within"] == pytest.approx(0, abs=1e-12)
    means = np.array([outcome[numbers == number].mean() for number in numbers])
    assert parts["resolution"] == pytest.approx(np.var(means))


def scores(p, targets, head="multiclass", *, replicates=300, seed=0, names=NAMES):
    return calibration_scores(p, targets, head, names=names, replicates=replicates, seed=seed)


def test_all_scores_of_a_classification():
    p, classes = forecasts(300, np.random.default_rng(6), temperature=0.4)
    found = scores(p, np.eye(3)[classes])
    assert found.bins == bin_count(300) == 10
    assert found.values["nll"] == pytest.approx(log_loss(classes, p))
    assert found.values["brier"] == pytest.approx(brier_score_loss(classes, p, scale_by_half=False, labels=[0, 1, 2]))
    expected = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(classes), 3, n_bins=10, norm="l1")
    assert found.values["ece_top_equal_width"] == pytest.approx(float(expected), abs=1e-6)
    each = [found.values[f"ece/{name}"] for name in NAMES]
    assert found.values["ece_classes"] == pytest.approx(np.mean(each))
    for name, value in found.values.items():
        low, high = found.intervals[name]
        assert low <= value <= high, name
    assert found.intervals["ece_top"][0] > 0
    assert found.values["ece_top"] > found.perfect["ece_top"][2]  # so sharp that chance cannot explain it
    assert set(found.to_dict()["ece_top"]) == {"value", "ci", "perfect_model"}


def test_all_scores_of_two_independent_classes():
    rng = np.random.default_rng(7)
    p = expit(rng.normal(0, 1.5, (300, 2)))
    targets = (rng.random((300, 2)) < p).astype(float)
    found = scores(p, targets, "multilabel", names=("x", "y"))
    assert "ece_top" not in found.values
    expected = np.mean([log_loss(targets[:, k], p[:, k]) for k in range(2)])
    assert found.values["nll"] == pytest.approx(expected)
    assert found.values["brier"] == pytest.approx(sum(brier_score_loss(targets[:, k], p[:, k]) for k in range(2)))
    assert found.perfect["ece/x"][1] < found.values["ece/x"] < found.perfect["ece/x"][2]


def test_the_same_seed_gives_the_same_resamples():
    p, classes = forecasts(150, np.random.default_rng(8))
    targets = np.eye(3)[classes]
    a, b = scores(p, targets), scores(p**2 / (p**2).sum(1, keepdims=True), targets)
    np.testing.assert_array_equal(a.draws["uncertainty"], b.draws["uncertainty"])
    assert np.corrcoef(a.draws["nll"], b.draws["nll"])[0, 1] > 0.9


def test_what_a_perfect_model_shows_is_the_mean_deviation_of_a_binomial():
    """All probabilities one half, one bin of N: the mean of |X / N - 1/2| is C(N, N/2) / 2^(N + 1)."""
    from scipy.stats import binom

    n = 100
    p = np.full((n, 2), 0.5)
    found = scores(p, np.eye(2)[np.arange(n) % 2], names=("x", "y"), replicates=4000)
    deviation = binom.pmf(n // 2, n, 0.5) / 2
    assert found.perfect["ece/x"][0] == pytest.approx(deviation, rel=0.05)
    assert found.perfect["ece/x"][2] == pytest.approx(binom.ppf(0.975, n, 0.5) / n - 0.5, abs=0.011)


def test_intervals_hold_the_truth_as_often_as_said():
    """Perfectly calibrated probabilities: the true error is 0, and 0 lies in the interval."""
    held = []
    for seed in range(60):
        p, classes = forecasts(150, np.random.default_rng([9, seed]))
        held.append(scores(p, np.eye(3)[classes], replicates=100, seed=seed).intervals["ece_top"][0] == 0)
    assert np.mean(held) >= 0.9
    wide, truth = [], []
    big, classes = forecasts(200_000, np.random.default_rng(10), temperature=0.5)
    top = big.max(1)
    true = calibration_error(top, big.argmax(1) == classes, bin_numbers(top, 5))[0]
    for seed in range(60):
        p, classes = forecasts(150, np.random.default_rng([11, seed]), temperature=0.5)
        low, high = scores(p, np.eye(3)[classes], replicates=100, seed=seed).intervals["ece_top"]
        truth.append(low <= true <= high)
        wide.append(high - low)
    assert np.mean(truth) >= 0.85
    assert np.mean(wide) < 0.25
