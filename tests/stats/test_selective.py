"""Risk and coverage against sums written out, every order of ties, and closed forms."""

from __future__ import annotations

import json
from itertools import pairwise, permutations

import numpy as np
import pytest

from pesi.stats.intervals import wilson_interval
from pesi.stats.selective import (
    REFERENCE,
    aurc,
    compare_measures,
    errors_at,
    optimal_aurc,
    rest_of,
    risk_at,
    risk_band,
    risk_coverage,
    wrong_answers,
)


def naive_aurc(errors: np.ndarray, confidence: np.ndarray) -> float:
    """Mean over k of the error rate of the k surest images; no ties."""
    ranked = [wrong for _, wrong in sorted(zip(confidence, errors, strict=True), reverse=True)]
    return float(np.mean([np.mean(ranked[:k]) for k in range(1, len(ranked) + 1)]))


def over_all_orders(errors: np.ndarray, confidence: np.ndarray) -> float:
    """The mean of the naive area over every order of the images that is consistent with the confidences."""
    allowed = (
        np.array(order)
        for order in permutations(range(len(errors)))
        if all(confidence[a] >= confidence[b] for a, b in pairwise(order))
    )
    return float(np.mean([np.mean([errors[o[:k]].mean() for k in range(1, len(o) + 1)]) for o in allowed]))


@pytest.mark.parametrize("seed", range(5))
def test_area_is_the_written_out_sum(seed):
    rng = np.random.default_rng(seed)
    errors, confidence = rng.random(83) < 0.3, rng.permutation(83) / 83
    assert aurc(risk_coverage(errors, confidence))[0] == pytest.approx(naive_aurc(errors, confidence))


@pytest.mark.parametrize("confidence", [[3, 2, 2, 2, 1, 1, 0], [1] * 7, [2, 2, 2, 2, 1, 1, 1]])
def test_ties_are_the_mean_over_their_orders(confidence):
    errors = np.array([0, 1, 0, 0, 1, 0, 1], bool)
    values = np.array(confidence, float)
    assert aurc(risk_coverage(errors, values))[0] == pytest.approx(over_all_orders(errors, values))


def test_weights_are_copies():
    errors, confidence = np.array([0, 1, 0, 1], bool), np.array([0.9, 0.7, 0.7, 0.2])
    weights = np.array([[2, 1, 3, 1], [0, 2, 1, 2]])
    c = risk_coverage(errors, confidence, weights)
    for row, w in enumerate(weights):
        copies = np.repeat(errors, w), np.repeat(confidence, w)
        assert aurc(c)[row] == pytest.approx(over_all_orders(*copies))
        perfect = -copies[0].astype(float)
        assert optimal_aurc(c)[row] == pytest.approx(over_all_orders(copies[0], perfect))


def test_closed_forms():
    errors = np.array([0, 0, 0, 1], bool)
    best = risk_coverage(errors, np.array([4.0, 3, 2, 1]))
    assert aurc(best)[0] == pytest.approx(1 / 16)  # only the last of the four rates is not zero: 1/4
    assert optimal_aurc(best)[0] == pytest.approx(1 / 16)
    worst = risk_coverage(errors, np.array([1.0, 2, 3, 4]))
    assert aurc(worst)[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert optimal_aurc(worst)[0] == pytest.approx(1 / 16)
    blind = risk_coverage(np.random.default_rng(0).random(50) < 0.3, np.zeros(50))
    assert aurc(blind)[0] == pytest.approx(blind.positives[0] / 50)  # knows nothing: the error rate
    assert aurc(risk_coverage(np.zeros(9, bool), np.arange(9.0)))[0] == 0
    assert optimal_aurc(risk_coverage(np.ones(9, bool), np.arange(9.0)))[0] == pytest.approx(1)


def test_risk_at_a_coverage():
    errors = np.array([0, 1, 0, 0, 1], bool)
    c = risk_coverage(errors, np.array([5.0, 4, 3, 2, 1]))
    np.testing.assert_allclose(risk_at(c, np.array([0.2, 0.4, 0.6, 0.8, 1.0]))[0], [0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    np.testing.assert_allclose(errors_at(c, np.array([0.3]))[0], [0.5])  # half of the second image
    tied = risk_coverage(errors, np.zeros(5))
    np.testing.assert_allclose(risk_at(tied, np.array([0.2, 0.6, 1.0]))[0], 2 / 5)


def test_not_a_number_is_no_confidence():
    with pytest.raises(ValueError, match="finite"):
        risk_coverage(np.zeros(2, bool), np.array([0.1, np.nan]))


def test_wrong_answers():
    p = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    np.testing.assert_array_equal(wrong_answers(p, np.eye(3, dtype=bool)[[0, 2]], "multiclass"), [False, True])
    targets = np.array([[True, False], [False, False]])
    np.testing.assert_array_equal(wrong_answers(p[:, :2], targets, "multilabel"), [False, True])


def test_measures_are_compared_on_the_same_images():
    rng = np.random.default_rng(0)
    errors = rng.random(300) < 0.25
    good = ~errors + rng.normal(0, 0.5, 300)
    measures = {REFERENCE: ~errors + rng.normal(0, 1.5, 300), "good": good, "noise": rng.normal(size=300)}
    measures["same order"] = 3 * measures[REFERENCE] + 1
    found = compare_measures(errors, measures, errors, replicates=400, seed=1)
    assert {name: result.verdict for name, result in found.items()} == {
        REFERENCE: "not shown to be better",
        "good": "better",
        "noise": "worse",
        "same order": "not shown to be better",
    }
    assert found["same order"].difference.value == 0
    assert found["good"].aurc.value == pytest.approx(naive_aurc(errors, good))
    for result in found.values():
        assert result.difference.value == pytest.approx(result.aurc.value - found[REFERENCE].aurc.value)
        assert result.aurc.interval[0] <= result.aurc.value <= result.aurc.interval[1]
        json.dumps(result.to_dict(), allow_nan=False)
    best = naive_aurc(errors, ~errors + rng.random(300) / 10)
    assert found["good"].excess.value == pytest.approx(found["good"].aurc.value - best)


def test_band_holds_its_curve():
    rng = np.random.default_rng(2)
    errors = rng.random(200) < 0.3
    value, low, high = risk_band(errors, rng.normal(size=200), np.array([0.5, 1.0]), np.zeros(200), replicates=300)
    assert (low <= value).all()
    assert (value <= high).all()
    assert value[1] == pytest.approx(errors.mean())
    # every image answered: the binomial's width, four standard errors of 0.3 in 200
    assert high[1] - low[1] == pytest.approx(2 * 1.96 * np.sqrt(errors.mean() * (1 - errors.mean()) / 200), rel=0.15)


def test_the_rest_by_hand():
    """Ten images from the surest down; the least sure two get no result."""
    confidence = np.arange(10, 0, -1.0)
    wrong = np.array([0, 0, 1, 0, 0, 0, 0, 0, 1, 1], bool)
    malignant = np.array([1, 0, 1, 0, 0, 0, 0, 0, 1, 0], bool)
    everything = np.ones(10, bool)
    full, rest = rest_of(wrong, everything, confidence, (0.0, 0.2), malignant, replicates=200)
    assert full.rate.value == pytest.approx(0.3)
    assert full.change.value == 0
    assert (rest.of, rest.rate.value) == (8, pytest.approx(1 / 8))
    assert rest.change.value == pytest.approx(1 / 8 - 3 / 10)
    missed = rest_of(wrong, malignant, confidence, (0.0, 0.2), malignant, replicates=200)
    assert [m.rate.value for m in missed] == [pytest.approx(2 / 3), pytest.approx(1 / 2)]
    of_all = rest_of(wrong, malignant, confidence, (0.0, 0.2), malignant, of_all=True, replicates=200)
    assert [m.rate.value for m in of_all] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    nobody = rest_of(wrong, confidence < 2, confidence, (0.5,), malignant, replicates=50)[0]
    assert nobody.rate is None
    json.dumps([r.to_dict() for r in (full, rest, nobody)], allow_nan=False)


def test_a_share_that_holds_none_leaves_the_others_measured():
    """A hundred images, the malignant among the least sure: the larger shares leave none of them."""
    confidence = np.arange(100.0)
    only = confidence == 0
    full, *others = rest_of(only, only, confidence, (0.0, 0.05, 0.1, 0.2), only, replicates=50)
    assert full.rate.value == 1
    assert full.rate.interval == wilson_interval(1, 1)
    assert full.change.value == 0
    assert [(other.of, other.rate, other.change) for other in others] == [(0, None, None)] * 3
    # Of two kinds of malignant lesions one is spread out: its shares are as if no larger share had been asked for.
    malignant, missed = confidence % 4 < 1, confidence % 8 < 1
    malignant[50:] = False
    few = rest_of(missed, malignant, confidence, (0.2,), malignant, replicates=200)
    many = rest_of(missed, malignant, confidence, (0.2, 0.7), malignant, replicates=200)
    assert many[0] == few[0]
    assert many[1].rate is None


def test_where_no_resample_holds_any_there_is_no_change():
    """One resample, of which the only image that counts is not a part."""
    among = np.arange(3) == 2
    seeds = (rest_of(among, among, np.arange(3.0), (0.0,), np.zeros(3), replicates=1, seed=seed) for seed in range(9))
    without = [rest for (rest,) in seeds if rest.change is None]
    assert without
    assert all(rest.rate.interval == wilson_interval(1, 1) for rest in without)
    json.dumps(without[0].to_dict(), allow_nan=False)


def test_no_error_left_is_not_certainty():
    confidence = np.arange(40.0)
    wrong = confidence < 4
    rest = rest_of(wrong, np.ones(40, bool), confidence, (0.1,), np.zeros(40), replicates=100)[0]
    assert rest.rate.value == 0
    assert rest.rate.interval == wilson_interval(0, 36)
    unmoved = rest_of(np.zeros(40, bool), np.ones(40, bool), confidence, (0.1,), np.zeros(40), replicates=100)[0]
    assert unmoved.change.value == 0
    assert unmoved.change.interval[0] < 0 < unmoved.change.interval[1]
