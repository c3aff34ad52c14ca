"""Predictive values, number needed to excise and net benefit against counts, Bayes' rule and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from pesi.stats.decision import (
    at_prevalence,
    decision_curve,
    decision_values,
    net_benefit,
    predictive_values,
    undecided,
)


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


def wilson(successes, trials):
    found = binomtest(successes, trials).proportion_ci(method="wilson")
    return pytest.approx((found.low, found.high))


def test_every_one_found_is_not_certainty():
    labels = np.arange(60) < 20
    called = np.arange(60) < 28  # 20 of 20 found, 8 of 40 called in error
    found = decision_values(labels, called, prevalences=(0.02,), replicates=300, rng=np.random.default_rng(0)).values
    assert found["sensitivity"] == (1, wilson(20, 20))
    low, high = found["specificity"][1]
    assert (low, high) == pytest.approx((0.675, 0.925), abs=0.06)  # the bootstrap's still: normal limits of 32 of 40
    sensitivity, specificity = (binomtest(*x).proportion_ci(method="wilson") for x in ((20, 20), (32, 40)))
    for suffix, share in (("", 1 / 3), ("@0.02", 0.02)):
        true, false = 1000 * share * sensitivity.low, 1000 * (1 - share) * (1 - specificity.low)
        missed = 1000 * share - true
        assert found[f"ppv{suffix}"][1][0] == pytest.approx(true / (true + false))
        assert found[f"nne{suffix}"][1][1] == pytest.approx((true + false) / true)
        value, (low, high) = found[f"npv{suffix}"]
        assert (value, high) == (1, 1)
        assert low == pytest.approx(1 - missed / (1000 * (1 - share) - false + missed))
    apart = decision_values(labels, labels, replicates=50, rng=np.random.default_rng(0)).values
    for name, (value, (low, high)) in apart.items():
        assert value == 1, name
        assert low < high, name
    nothing = decision_values(labels, ~labels & called, replicates=50, rng=np.random.default_rng(0)).values
    assert nothing["sensitivity"] == (0, wilson(0, 20))
    assert nothing["ppv"][0] == 0
    assert nothing["ppv"][1][1] > 0.1
    assert nothing["nne"][1][1] is None  # perhaps no call is ever right
    json.dumps(nothing)


def test_where_nothing_could_decide_there_are_the_same_names_and_no_value():
    labels = np.arange(9) < 3
    measured = decision_values(labels, labels, prevalences=(0.1,), replicates=5, rng=np.random.default_rng(0))
    empty = undecided(9, prevalences=(0.1,))
    assert set(empty.to_dict()) == set(measured.to_dict())
    assert empty.called is None
    assert set(empty.values.values()) == {(None, (None, None))}


def test_the_net_benefit_of_one_lesion_is_not_certain():
    """One melanoma above 18 others: resamples of each kind would all be alike, and so certain."""
    scores = np.append(np.linspace(0.005, 0.04, 18), 0.07)
    labels = np.arange(19) == 18
    thresholds = np.array([0.01, 0.05, 0.06, 0.2])
    found = decision_curve(labels, scores, thresholds=thresholds, replicates=50, rng=np.random.default_rng(0))
    assert (found.band[0] < found.model).all()
    assert (found.model <= found.band[1]).all()
    assert found.band[1, 3] > 0 == found.model[3]  # at 0.2 nothing is called here; another melanoma may be
    assert found.gain[0] > 0 > found.gain_band[0, 0]  # at 0.01 excising all is not shown to be worse
    # At 0.05 it alone is called: the worst by squares of what its rates can lose.
    lost = np.hypot((1 - wilson_low(1, 1)) / 19, (1 - wilson_low(18, 18)) * 18 / 19 / 19)
    assert found.band[0, 1] == pytest.approx(1 / 19 - lost)


def wilson_low(successes, trials):
    return binomtest(successes, trials).proportion_ci(method="wilson").low


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
