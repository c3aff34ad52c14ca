"""Promises against the binomial law: closed forms, scipy's exact test, and what a thousand clinics would see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from pesi.decide.promises import (
    failures,
    fewest_lesions,
    most_failures,
    promised_threshold,
    worst_scores,
)
from pesi.decide.triage import TriageRule, TriageStep, fit_triage
from pesi.stats.intervals import exact_interval


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
def test_as_many_failures_as_scipys_test_lets_pass(share, confidence):
    for count in (1, 20, 113, 114, 459, 2000):
        found = most_failures(count, share, confidence)
        refuted = [
            binomtest(k, count, share, alternative="less").pvalue <= 1 - confidence
            for k in range(max(found - 2, 0), min(found + 3, count))
        ]
        assert refuted == [k <= found for k in range(max(found - 2, 0), min(found + 3, count))]


def test_two_percent_take_a_hundred_and_fourteen():
    assert fewest_lesions(0.02, 0.9) == 114
    assert fewest_lesions(0.1, 0.9) == 22
    assert (most_failures(113, 0.02, 0.9), most_failures(114, 0.02, 0.9)) == (-1, 0)
    assert fewest_lesions(0.1, 0.19) == 2  # 0.9 ** 2 is 0.81, whatever the rounding


def test_the_exact_interval_is_scipys():
    for successes, trials in ((0, 30), (1, 30), (29, 30), (30, 30), (17, 400), (0, 1)):
        expected = binomtest(successes, trials).proportion_ci(0.95, method="exact")
        assert exact_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert exact_interval(0, 0) == (0, 1)


def by_hand(criterion, wanted, malignant, scores, confidence):
    """Every threshold that there is, from the safest on, each by scipy's exact test, until one is not refuted."""
    chosen = np.sort(np.unique(scores))
    steps = chosen if criterion == "sensitivity" else [np.nextafter(chosen[-1], np.inf), *chosen[::-1]]
    passed = None
    for threshold in steps:
        wrong = scores[malignant] < threshold if criterion == "sensitivity" else scores[~malignant] >= threshold
        if binomtest(int(wrong.sum()), len(wrong), 1 - wanted, alternative="less").pvalue > 1 - confidence:
            break
        passed = threshold
    return passed


@pytest.mark.parametrize("decimals", [1, 2, 9])  # from many ties to none
@pytest.mark.parametrize(("criterion", "wanted"), [("sensitivity", 0.9), ("sensitivity", 0.97), ("specificity", 0.95)])
def test_the_threshold_is_the_last_of_a_fixed_sequence_of_tests(criterion, wanted, decimals):
    rng = np.random.default_rng(decimals)
    malignant = rng.random(700) < 0.3
    scores = np.round(rng.normal(0.3 + 0.3 * malignant, 0.2).clip(0, 1), decimals)
    threshold, rate = promised_threshold(criterion, wanted, 0.9, malignant, scores)
    assert rate == wanted
    assert threshold == by_hand(criterion, wanted, malignant, scores, 0.9)


@pytest.mark.parametrize(("criterion", "wanted"), [("sensitivity", 0.95), ("specificity", 0.9)])
def test_of_two_thousand_draws_one_in_ten_breaks_the_promise(criterion, wanted):
    """Normal scores, whose true rates are known; each of 200 lesions of the class that the promise is about."""
    rng, draws, count = np.random.default_rng(4), 2000, 200
    malignant = np.arange(2 * count) < count
    broken = naive = 0
    for _ in range(draws):
        scores = rng.normal(malignant * 2.0, 1.0)
        threshold, _ = promised_threshold(criterion, wanted, 0.9, malignant, scores)
        observed = (
            np.quantile(scores[malignant], 1 - wanted, method="higher")
            if criterion == "sensitivity"
            else np.quantile(scores[~malignant], wanted, method="lower")
        )
        promised, at_hand = (
            norm.cdf(value - 2.0) if criterion == "sensitivity" else norm.sf(value) for value in (threshold, observed)
        )
        broken += promised > 1 - wanted
        naive += at_hand > 1 - wanted
    expected = binom.cdf(most_failures(count, 1 - wanted, 0.9), count, 1 - wanted)  # of continuous scores, exactly
    assert expected <= 0.1
    error = 4 * np.sqrt(0.1 * 0.9 / draws)
    # Where the next score of any image is called, a specificity's threshold is a little on the safe side.
    assert expected - (0.04 if criterion == "specificity" else error) - error < broken / draws < expected + error
    assert naive / draws > 0.4  # what the wanted rate on the images at hand is worth


def test_many_ties_break_a_promise_no_more_often():
    rng, draws, count = np.random.default_rng(5), 1000, 150
    values, shares = np.array([0.1, 0.2, 0.6]), np.array([0.04, 0.06, 0.9])
    malignant = np.ones(count + 1, bool)
    malignant[-1] = False
    broken = 0
    for _ in range(draws):
        scores = rng.choice(values, count + 1, p=shares)
        threshold, _ = promised_threshold("sensitivity", 0.95, 0.9, malignant, scores)
        broken += shares[values < threshold].sum() > 0.05
    assert broken / draws < 0.1 + 4 * np.sqrt(0.1 * 0.9 / draws)


def test_a_lesion_counts_once_by_its_worst_image():
    malignant = np.array([True, True, True, False, False, True, False])
    scores = np.array([0.9, 0.2, 0.7, 0.1, 0.6, 0.5, 0.3])
    groups = np.array([4, 4, 7, 2, 2, 9, 9])  # of 9 one image is malignant and one is not
    np.testing.assert_array_equal(worst_scores("sensitivity", malignant, scores, groups), [0.2, 0.7, 0.5])
    np.testing.assert_array_equal(worst_scores("specificity", malignant, scores, groups), [0.6, 0.3])
    assert failures("sensitivity", 0.5, malignant, scores, groups) == (1, 3)
    assert failures("specificity", 0.3, malignant, scores, groups) == (2, 2)
    assert failures("sensitivity", 0.5, malignant, scores) == (1, 4)


def test_photographs_of_one_lesion_do_not_make_a_promise_bolder():
    """Five alike images a lesion: counted singly they break it twice as often and more, by lesions one in ten."""
    rng, draws, count, each = np.random.default_rng(6), 500, 60, 5
    malignant = np.r_[np.ones(count * each, bool), False]
    groups = np.r_[np.repeat(np.arange(count), each), count]
    broken = {"lesions": 0, "images": 0}
    for _ in range(draws):
        own = np.repeat(rng.normal(size=count), each)
        scores = np.r_[own, -9.0]
        for name, chosen in (("lesions", groups), ("images", None)):
            threshold, _ = promised_threshold("sensitivity", 0.9, 0.9, malignant, scores, chosen)
            broken[name] += norm.cdf(threshold) > 0.1
    assert broken["lesions"] / draws < 0.1 + 4 * np.sqrt(0.1 * 0.9 / draws)
    assert broken["images"] / draws > 0.2


def test_too_few_lesions_promise_what_they_can_and_say_so():
    malignant = np.arange(120) < 20
    scores = np.linspace(1, 0, 120)
    levels = fit_triage(TriageRule(), malignant, scores, on="validation")
    refer, follow = levels[1:3]
    for level in (refer, follow):
        assert level.at_least == scores[malignant].min()
        assert level.promised.failed == 0
        # Even none of twenty missed leaves room for 10.9 %: 0.891 ** 20 is 0.1.
        assert level.promised.rate == pytest.approx(binomtest(20, 20).proportion_ci(0.8, method="exact").low, abs=1e-3)
        assert level.promised.rate**20 <= 0.1
        assert level.promise == "at most 10.9 % of the malignant lesions below it, with 90 % confidence"
    assert "(2 % would take at least 114 of them)" in follow.how
    assert "(10 % would take at least 22 of them)" in refer.how
    assert (follow.wanted, follow.images) == (0.98, 0)
    assert "would take" not in levels[0].how


def test_too_few_benign_lesions_too():
    malignant, scores = np.arange(50) >= 10, np.linspace(0, 1, 50)
    excise = fit_triage(TriageRule(), malignant, scores, on="")[0]
    assert excise.at_least > scores[~malignant].max()
    assert excise.promised.rate == pytest.approx(0.1 ** (1 / 10), abs=1e-3)
    assert "(5 % would take at least 45 of them)" in excise.how
    one = fit_triage(TriageRule(), np.array([True, False]), np.array([0.2, 0.9]), on="")
    assert [level.promised.rate for level in one[:-1]] == pytest.approx([0.1] * 3, abs=1.1e-3)
    assert one[0].at_least > 0.9  # nothing is called


def test_the_cost_is_the_other_rate_with_its_exact_interval():
    rng = np.random.default_rng(1)
    malignant = rng.random(500) < 0.3
    scores = rng.normal(malignant * 1.5, 1)
    excise, refer, _, _ = fit_triage(TriageRule(), malignant, scores, on="")
    below = scores[~malignant] < refer.at_least
    expected = binomtest(int(below.sum()), len(below)).proportion_ci(0.95, method="exact")
    assert refer.promised.cost == pytest.approx(below.mean())
    assert refer.promised.cost_interval == pytest.approx((expected.low, expected.high))
    failed = (scores[malignant] < refer.at_least).sum()
    assert (refer.promised.failed, refer.promised.lesions) == (failed, malignant.sum())
    assert excise.promised.cost == pytest.approx((scores[malignant] >= excise.at_least).mean())
    assert excise.promised.failed == (scores[~malignant] >= excise.at_least).sum()


def test_confidences_that_cross_break_no_promise():
    """The safer of two levels stands above: the less urgent one comes down to it, none goes up."""
    rng = np.random.default_rng(2)
    malignant = rng.random(2000) < 0.2
    scores = rng.uniform(0, 0.7, 2000) + 0.2 * malignant
    steps = [("a", "specificity", 0.6, 0.9), ("b", "sensitivity", 0.9, 0.999), ("c", "sensitivity", 0.91, 0.1)]
    levels = fit_triage(
        TriageRule(
            levels=(
                *(TriageStep(name=n, criterion=c, value=v, confidence=s) for n, c, v, s in steps),
                TriageStep(name="d", criterion="rest"),
            )
        ),
        malignant,
        scores,
        on="",
    )
    alone = [promised_threshold(c, v, s, malignant, scores)[0] for _, c, v, s in steps]
    assert alone[2] > alone[1]
    at = [level.at_least for level in levels]
    assert at == sorted(at, reverse=True)
    assert at[0] >= alone[0]
    assert at[1] <= alone[1]
    assert at[2] <= alone[2]


def test_all_three_levels_hold_at_once_as_often_as_is_said():
    rng, draws = np.random.default_rng(7), 300
    malignant = np.arange(1000) < 250
    held = 0
    for _ in range(draws):
        at = [level.at_least for level in fit_triage(TriageRule(), malignant, rng.normal(malignant * 2.0, 1), on="")]
        held += norm.sf(at[0]) <= 0.05 and norm.cdf(at[1] - 2) <= 0.1 and norm.cdf(at[2] - 2) <= 0.02
    assert held / draws > 0.7 - 4 * np.sqrt(0.7 * 0.3 / draws)
