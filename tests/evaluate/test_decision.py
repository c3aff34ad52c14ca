"""Predictive values, number needed to excise and net benefit against counts, Bayes' rule and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from pesi.evaluate.decision import at_prevalence, decision_curve, decision_values, net_benefit, predictive_values


def lesions(count, rng, *, share=0.3, apart=1.5):
    """Normal scores `apart` deviations apart, and the true probability of disease by Bayes' rule."""
    labels = rng.random(count) < share
    x = rng.normal(labels * apart, 1)
    odds = share / (1 - share) * norm.pdf(x - apart) / norm.pdf(x)
    return labels, odds / (1 + odds)


def test_values_at_the_images_own_prevalence_are_those_of_the_counts():
    labels, scores = lesions(300, np.random.default_rng(0))
    called = scores >= 0.4
    found = decision_values(labels, called, prevalences=(0.02,), replicates=200, rng=np.random.default_rng(1))
    tn, fp, fn, tp = confusion_matrix(labels, called).ravel()
    value = {name: entry[0] for name, entry in found.values.items()}
    assert value["sensitivity"] == pytest.approx(recall_score(labels, called))
    assert value["specificity"] == pytest.approx(recall_score(~labels, ~called))
    assert value["ppv"] == pytest.approx(precision_score(labels, called))
    assert value["npv"] == pytest.approx(tn / (tn + fn))
    assert value["nne"] == pytest.approx((tp + fp) / tp)
    for name, (middle, (low, high)) in found.values.items():
        assert low <= middle <= high, name
    assert found.called == tp + fp
    json.dumps(found.to_dict(), allow_nan=False)


def test_bayes_rule_by_a_worked_example():
    """90 % sensitive, 80 % specific, 2 in 100: of 1000, 18 of 20 found and 196 of 980 called in error."""
    ppv, npv, nne = predictive_values(0.9, 0.8, 0.02)
    assert ppv == pytest.approx(18 / (18 + 196))
    assert npv == pytest.approx(784 / (784 + 2))
    assert nne == pytest.approx((18 + 196) / 18)
    with pytest.raises(ValueError, match="between 0 and 1"):
        predictive_values(0.9, 0.8, 0.0)


def test_a_prevalence_is_images_repeated():
    labels, scores = lesions(400, np.random.default_rng(2), share=0.5)
    labels[:] = np.arange(400) < 200
    called = scores >= 0.5
    found = decision_values(labels, called, prevalences=(0.1,), replicates=10, rng=np.random.default_rng(0))
    again = np.repeat(np.arange(400), np.where(labels, 1, 9))
    assert found.values["ppv@0.1"][0] == pytest.approx(precision_score(labels[again], called[again]))


def test_what_is_not_defined_is_said_so():
    labels = np.arange(20) < 5
    found = decision_values(labels, np.zeros(20, bool), replicates=20, rng=np.random.default_rng(0))
    assert found.values["ppv"] == (None, (None, None))
    one = decision_values(labels, np.arange(20) == 0, replicates=400, rng=np.random.default_rng(0))
    assert one.values["ppv"][0] == 1
    wrong = decision_values(labels, np.arange(20) == 19, replicates=100, rng=np.random.default_rng(0))
    assert wrong.values["ppv"][0] == 0
    assert wrong.values["nne"][0] is None  # infinite
    few = decision_values(labels, np.isin(np.arange(20), (0, 10)), replicates=400, rng=np.random.default_rng(0))
    low, high = few.values["nne"][1]
    assert low == 1
    assert high is None  # in some resamples no call is right
    json.dumps(wrong.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match="with and without"):
        decision_values(np.ones(5, bool), np.ones(5, bool), replicates=5, rng=np.random.default_rng(0))


def test_net_benefit_is_vickers_and_elkins_formula():
    labels, scores = lesions(250, np.random.default_rng(3))
    scores = np.round(scores, 2)  # so that scores fall on thresholds
    thresholds = np.round(np.arange(0.0, 1.0, 0.01), 2)
    found = net_benefit(labels, scores, thresholds)[0]
    for pt, value in zip(thresholds, found, strict=True):
        called = scores >= pt
        expected = (called & labels).sum() / 250 - (called & ~labels).sum() / 250 * pt / (1 - pt)
        assert value == pytest.approx(expected), pt


def test_net_benefit_at_another_prevalence_is_that_of_images_repeated():
    labels, scores = lesions(100, np.random.default_rng(4), share=0.5)
    labels[:] = np.arange(100) < 50
    thresholds = np.array([0.05, 0.2, 0.5])
    found = net_benefit(labels, scores, thresholds, prevalence=0.1)[0]
    again = np.repeat(np.arange(100), np.where(labels, 1, 9))
    np.testing.assert_allclose(found, net_benefit(labels[again], scores[again], thresholds)[0])


def test_moving_the_prevalence_is_bayes_rule():
    """The true probability at one prevalence, moved, is the true probability at the other."""
    x = np.linspace(-3, 4, 30)
    ratio = norm.pdf(x - 1.5) / norm.pdf(x)
    before, after = (share * ratio / (share * ratio + 1 - share) for share in (0.3, 0.02))
    np.testing.assert_allclose(at_prevalence(before, 0.3, 0.02), after)
    np.testing.assert_allclose(at_prevalence(np.array([0.0, 1.0]), 0.3, 0.02), [0, 1])


def test_a_true_probability_is_never_worse_than_excising_all_or_none():
    labels, scores = lesions(20_000, np.random.default_rng(5))
    thresholds = np.linspace(0.05, 0.7, 14)
    for prevalence in (None, 0.1):
        found = decision_curve(
            labels, scores, thresholds=thresholds, prevalence=prevalence, replicates=50, rng=np.random.default_rng(0)
        )
        assert found.gain.min() > -0.002
        np.testing.assert_allclose(found.gain, found.model - np.maximum(found.excise_all, 0))
        assert (found.band[0] <= found.model).all()
        assert (found.model <= found.band[1]).all()
        assert found.useful
        json.dumps(found.to_dict(), allow_nan=False)
    assert found.prevalence == 0.1


def test_the_closed_form_of_excising_all_and_of_the_model():
    labels, scores = lesions(40_000, np.random.default_rng(6))
    own = labels.mean()
    thresholds = np.array([0.1, 0.3, 0.5])
    found = decision_curve(labels, scores, thresholds=thresholds, replicates=50, rng=np.random.default_rng(0))
    np.testing.assert_allclose(found.excise_all, net_benefit(labels, np.ones(40_000), thresholds)[0])
    # score >= pt where x >= cut, the point at which the odds are pt / (1 - pt).
    odds = thresholds / (1 - thresholds)
    cut = np.log(odds * 0.7 / 0.3) / 1.5 + 0.75
    expected = norm.sf(cut - 1.5) * own - norm.sf(cut) * (1 - own) * odds
    np.testing.assert_allclose(found.model, expected, atol=0.005)


def test_a_useless_score_is_shown_to_be_of_no_use():
    rng = np.random.default_rng(7)
    labels = rng.random(400) < 0.2
    found = decision_curve(
        labels, rng.random(400), thresholds=np.linspace(0.05, 0.6, 12), replicates=200, rng=np.random.default_rng(0)
    )
    assert found.useful == ()
