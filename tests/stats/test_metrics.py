"""Scores against scikit-learn, the bootstrap against theory, DeLong against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from sklearn import metrics as sk

from pesi.stats import metrics
from pesi.stats.intervals import bootstrap, bootstrap_weights, mean_interval, percentile_interval, wilson_interval
from pesi.stats.paired import delong, paired_bootstrap


def sample(seed: int, n: int = 200, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.3
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False])
def test_binary_scores_agree_with_scikit_learn(seed, ties):
    labels, scores = sample(seed, ties=ties)
    ours = {name: float(value[0]) for name, value in metrics.binary_scores(labels, scores).items()}
    called = scores >= 0.5
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert ours["average_precision"] == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, called), abs=1e-12)
    assert ours["sensitivity"] == pytest.approx(sk.recall_score(labels, called), abs=1e-12)
    assert ours["specificity"] == pytest.approx(sk.recall_score(~labels, ~called), abs=1e-12)
    assert ours["brier"] == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    for wanted in (0.82, 0.89, 0.95):
        expected = 1 - fpr[tpr >= wanted].min()
        assert ours[f"specificity_at_sensitivity_{wanted:.2f}"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])), min_size=2, max_size=40))
def test_any_ties(pairs):
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs])
    if labels.all() or not labels.any():
        return
    c = metrics.curve(labels, scores)
    assert float(metrics.auc(c)[0]) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    statistic = mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert float(metrics.auc(c)[0]) == pytest.approx(statistic / (labels.sum() * (~labels).sum()), abs=1e-12)
    expected = sk.average_precision_score(labels, scores)
    assert float(metrics.average_precision(c)[0]) == pytest.approx(expected, abs=1e-12)


def test_weights_are_repetitions():
    labels, scores = sample(3)
    weights = np.random.default_rng(0).integers(0, 4, (3, len(labels)))
    ours = metrics.binary_scores(labels, scores, weights)
    for row in range(3):
        repeated = np.repeat(np.arange(len(labels)), weights[row])
        y, s = labels[repeated], scores[repeated]
        assert ours["auc"][row] == pytest.approx(sk.roc_auc_score(y, s), abs=1e-12)
        assert ours["average_precision"][row] == pytest.approx(sk.average_precision_score(y, s), abs=1e-12)
        assert ours["sensitivity"][row] == pytest.approx(sk.recall_score(y, s >= 0.5), abs=1e-12)
        assert ours["accuracy"][row] == pytest.approx(sk.accuracy_score(y, s >= 0.5), abs=1e-12)


def test_multiclass_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    classes, called = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    ours = metrics.multiclass_scores(classes, called)
    assert ours["accuracy"][0] == pytest.approx(sk.accuracy_score(classes, called))
    assert ours["balanced_accuracy"][0] == pytest.approx(sk.balanced_accuracy_score(classes, called))
    np.testing.assert_array_equal(metrics.confusion_matrix(classes, called, 4), sk.confusion_matrix(classes, called))


def test_resamples_keep_the_strata():
    strata = np.array([0] * 7 + [1] * 13 + [2])
    weights = np.concatenate(list(bootstrap_weights(strata, 50, np.random.default_rng(0))))
    assert weights.shape == (50, 21)
    for value, count in ((0, 7), (1, 13), (2, 1)):
        np.testing.assert_array_equal(weights[:, strata == value].sum(1), count)
    assert weights.std() > 0


def test_groups_are_drawn_whole():
    strata = np.array([0] * 6 + [1] * 5)
    groups = np.array([3, 3, 3, 1, 1, 0, 5, 3, 3, 4, 4])  # group 3 has members in both strata
    weights = np.concatenate(list(bootstrap_weights(strata, 60, np.random.default_rng(0), groups=groups)))
    for members in ([0, 1, 2], [3, 4], [7, 8], [9, 10]):
        assert (weights[:, members] == weights[:, members[:1]]).all()
    for stratum, firsts in ((0, [0, 3, 5]), (1, [6, 7, 9])):
        np.testing.assert_array_equal(weights[:, firsts].sum(1), 3, err_msg=f"stratum {stratum}")
    alone = np.concatenate(list(bootstrap_weights(strata, 60, np.random.default_rng(0), groups=np.arange(11))))
    np.testing.assert_array_equal(alone, np.concatenate(list(bootstrap_weights(strata, 60, np.random.default_rng(0)))))


def test_repeats_of_an_image_do_not_narrow_its_interval():
    """Images that each stand there four times: the interval is that of the images once, not half as wide."""
    values = np.random.default_rng(0).normal(size=300)
    four, groups = np.repeat(values, 4), np.repeat(np.arange(300), 4)

    def width(values: np.ndarray, groups: np.ndarray | None) -> float:
        rng = np.random.default_rng(1)
        draws = bootstrap(
            lambda w: {"mean": metrics.weighted_mean(values, w)},
            np.zeros(len(values)),
            replicates=4000,
            rng=rng,
            groups=groups,
        )
        low, high = percentile_interval(draws["mean"])
        return high - low

    assert width(four, groups) == pytest.approx(width(values, None), rel=0.06)
    assert width(four, None) == pytest.approx(width(values, None) / 2, rel=0.06)


def test_bootstrap_of_a_mean_has_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = mean_interval(values, replicates=4000, rng=np.random.default_rng(1))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(half, rel=0.06)


def test_bootstrap_intervals_cover():
    """Of 95 % intervals about 95 % hold the true AUC of two normal distributions, Phi(d / sqrt 2)."""
    truth, hits = norm.cdf(1 / math.sqrt(2)), 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        labels = np.arange(160) < 60
        scores = rng.normal(labels * 1.0, 1.0)
        draws = bootstrap(
            lambda w, y=labels, s=scores: {"auc": metrics.auc(metrics.curve(y, s, w))}, labels, replicates=300, rng=rng
        )["auc"]
        low, high = percentile_interval(draws)
        hits += low <= truth <= high
    assert 0.88 <= hits / 150 <= 0.99


def test_wilson():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, and 0 of 20.
    assert wilson_interval(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson_interval(0, 20) == (0.0, pytest.approx(0.1611, abs=1e-4))


def components(labels, scores):
    """DeLong's structural components by their definition, all pairs."""
    positive, negative = scores[labels], scores[~labels]
    kernel = (positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])
    return kernel.mean(1), kernel.mean(0)


@pytest.mark.parametrize("seed", range(4))
def test_delong_follows_its_definition(seed):
    labels, a = sample(seed, 120)
    b = np.round(np.clip(a + np.random.default_rng(seed).normal(0, 0.2, len(a)), 0, 1), 1)
    result = delong(labels, a, b)
    assert (result.a, result.b) == (
        pytest.approx(sk.roc_auc_score(labels, a)),
        pytest.approx(sk.roc_auc_score(labels, b)),
    )
    (v10_a, v01_a), (v10_b, v01_b) = components(labels, a), components(labels, b)
    covariance = np.cov(v10_a, v10_b) / len(v10_a) + np.cov(v01_a, v01_b) / len(v01_a)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    z = (result.a - result.b) / math.sqrt(variance)
    assert result.p_value == pytest.approx(2 * norm.sf(abs(z)), abs=1e-12)
    assert result.interval[1] - result.difference == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)


def test_paired_bootstrap_agrees_with_delong():
    labels, a = sample(1, 500, ties=False)
    b = np.clip(a + np.random.default_rng(9).normal(0, 0.15, len(a)), 0, 1)
    columns = (a, b)

    def auc(which, weights):
        return metrics.auc(metrics.curve(labels, columns[which], weights))

    boot = paired_bootstrap(auc, labels, replicates=3000, rng=np.random.default_rng(0))
    exact = delong(labels, a, b)
    assert boot.difference == pytest.approx(exact.difference, abs=1e-12)
    np.testing.assert_allclose(boot.interval, exact.interval, atol=0.006)
    assert exact.shown == boot.shown


def test_the_same_twice_is_no_difference():
    labels, a = sample(0)
    result = delong(labels, a, a)
    assert (result.difference, result.p_value, result.shown) == (0, 1, False)


def test_one_class_has_no_auc():
    with pytest.raises(ValueError, match="with and without"):
        delong(np.ones(4, bool), np.arange(4.0), np.arange(4.0))
