"""Several images of one patient tell no more than one: every interval of repeated images is that of the patients.

The independent answer is the same function on one image a patient. Taken for separate images, k of each would shrink an
interval by the root of k.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pesi.decide.operating import expected_rates
from pesi.decide.triage import TriageRule, fit_triage
from pesi.evaluate.subgroups import auc_interval, permutation_p_value
from pesi.stats.agreement import agreement
from pesi.stats.coverage import set_coverage
from pesi.stats.decision import decision_curve, decision_values
from pesi.stats.intervals import effective_count, mean_interval, share_interval
from pesi.stats.metrics import auc, curve
from pesi.stats.paired import paired_bootstrap
from pesi.stats.reliability import calibration_scores, reliability_diagram
from pesi.stats.selective import compare_measures, rest_of, risk_band
from pesi.stats.separation import novelty_result

K, PATIENTS, REPLICATES = 4, 90, 400
RNG = np.random.default_rng(0)
LABELS = np.arange(PATIENTS) % 3 == 0
SCORES = np.clip(RNG.normal(0.35 + 0.25 * LABELS, 0.15), 0.01, 0.99)
OTHER = np.clip(SCORES + RNG.normal(0, 0.15, PATIENTS), 0.01, 0.99)
GROUPS = np.repeat(np.arange(PATIENTS), K)


def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def decided(labels, scores, other, groups):
    values = decision_values(labels, scores >= 0.4, replicates=REPLICATES, rng=generator(), groups=groups).values
    return [values[name][1] for name in ("sensitivity", "specificity", "ppv", "npv")]


def all_found(labels, scores, other, groups):
    """No resample moves the sensitivity: Wilson's interval."""
    called = labels | (scores >= 0.6)
    return [decision_values(labels, called, replicates=50, rng=generator(), groups=groups).values["sensitivity"][1]]


def net_benefit(labels, scores, other, groups):
    thresholds = np.array([0.02, 0.3, 0.5])
    found = decision_curve(labels, scores, thresholds=thresholds, replicates=REPLICATES, rng=generator(), groups=groups)
    return list(found.band.T)


def calibration(labels, scores, other, groups):
    p, truth = np.column_stack([scores, 1 - scores]), np.column_stack([labels, ~labels]).astype(float)
    names = ("with", "without")
    found = calibration_scores(p, truth, "multiclass", names=names, replicates=REPLICATES, seed=0, groups=groups)
    perfect = [found.perfect[name][1:] for name in ("ece_top", "ece/with")]
    return [found.intervals[name] for name in ("brier", "nll", "ece_top")] + perfect


def diagram(labels, scores, other, groups):
    return [point.interval for point in reliability_diagram(scores, labels, 5, groups=groups)]


def confidence(labels, scores, other, groups):
    wrong = (scores >= 0.5) != labels
    surer = {"maximum_probability": np.abs(scores - 0.5), "other": np.abs(other - 0.5)}
    found = compare_measures(wrong, surer, labels, replicates=REPLICATES, groups=groups)
    at = np.array([0.5, 1.0])
    band = risk_band(wrong, surer["other"], at, labels, replicates=REPLICATES, groups=groups)
    rests = rest_of(wrong, wrong | True, surer["other"], (0.0, 0.2), labels, replicates=REPLICATES, groups=groups)
    return [found["other"].difference.interval, *band[1:].T, *(rest.rate.interval for rest in rests)]


def novelty(labels, scores, other, groups):
    strange = {"far": np.linspace(0.6, 1.2, 9), "near": np.linspace(0.3, 0.8, 9)}
    found = novelty_result(scores, strange, 0.8, replicates=REPLICATES, rng=generator(), groups=groups)
    return [found.false_refusal_interval]


def difference(labels, scores, other, groups):
    columns = scores, other

    def score(which, weights):
        return auc(curve(labels, columns[which], weights))

    return [paired_bootstrap(score, labels, replicates=REPLICATES, rng=generator(), groups=groups).interval]


def agreements(labels, scores, other, groups):
    found = agreement(scores, other, replicates=REPLICATES, rng=generator(), groups=groups)
    return [found.bias.interval, found.upper.interval, found.spearman.interval]


def sets(labels, scores, other, groups):
    chosen = np.column_stack([scores >= 0.3, scores < 0.5])
    found = set_coverage(chosen, np.where(labels, 0, 1), ("with", "without"), groups)
    return [found.overall.interval, found.classes["with"].interval, found.singletons.interval]


def thresholds(labels, scores, other, groups):
    return list(expected_rates("sensitivity", 0.8, labels, scores, rng=generator(), replicates=2000, groups=groups))


def triage(labels, scores, other, groups):
    levels = fit_triage(TriageRule(), labels, scores, on="", groups=groups)
    return [level.promised.cost_interval for level in levels[:-1]] + [levels[-1].malignant_interval]


def subgroup(labels, scores, other, groups):
    return [auc_interval(labels, scores, replicates=REPLICATES, rng=generator(), groups=groups)[1:]]


def mean(labels, scores, other, groups):
    found = [
        mean_interval(scores, strata, replicates=REPLICATES, rng=generator(), groups=groups)
        for strata in (None, labels)
    ]
    return [each.interval for each in found]


MEASURED = [decided, all_found, net_benefit, calibration, diagram, confidence, novelty, difference, agreements, sets]
MEASURED += [thresholds, triage, subgroup, mean]


@pytest.mark.parametrize("measured", MEASURED)
def test_repeated_images_have_the_intervals_of_their_patients(measured):
    once = np.array(measured(LABELS, SCORES, OTHER, None), float)
    repeated = np.repeat(LABELS, K), np.repeat(SCORES, K), np.repeat(OTHER, K)
    grouped, naive = (np.array(measured(*repeated, groups), float) for groups in (GROUPS, None))
    widths = [np.ptp(each, axis=1) for each in (once, grouped, naive)]
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.03, atol=0.004)
    narrower = widths[2][widths[0] > 0.01] / widths[0][widths[0] > 0.01]
    assert narrower.mean() < 0.75  # about 1 / 2, the root of 1 / K


def test_a_share_of_few_images_a_patient_lies_between_both():
    """The bootstrap of whole patients, of unequal numbers of images that are alike but not the same, by hand."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(150), rng.integers(1, 6, 150))
    happened = rng.random(len(groups)) < rng.beta(0.6, 1.4, 150)[groups]
    hits, sizes = np.bincount(groups, happened), np.bincount(groups)
    drawn = rng.integers(150, size=(4000, 150))
    by_hand = np.quantile(hits[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    assert share_interval(happened, groups) == pytest.approx(tuple(by_hand), abs=0.012)
    assert 150 < effective_count(happened, groups) < len(groups)
    naive = binomtest(int(happened.sum()), len(happened)).proportion_ci(method="wilson")
    assert share_interval(happened) == pytest.approx((naive.low, naive.high))
    assert np.ptp(by_hand) > 1.1 * (naive.high - naive.low)


def test_what_happened_to_none_is_known_of_as_many_as_there_are_patients():
    expected = binomtest(0, 30).proportion_ci(method="wilson")
    assert share_interval(np.zeros(90, bool), np.repeat(np.arange(30), 3)) == pytest.approx(
        (expected.low, expected.high)
    )
    assert effective_count(np.zeros(0, bool), np.zeros(0, int)) == 0


def test_patients_change_places_as_a_whole():
    """Of a group that only seems to do worse because of a few patients of many images, p is not small."""
    rng = np.random.default_rng(5)
    members = np.arange(PATIENTS) // 3 % 2
    once = permutation_p_value(LABELS, SCORES, members, permutations=2000, rng=rng)
    repeated = [np.repeat(each, K) for each in (LABELS, SCORES, members)]
    grouped = permutation_p_value(*repeated, permutations=2000, rng=rng, groups=GROUPS)
    naive = permutation_p_value(*repeated, permutations=2000, rng=rng)
    assert grouped == pytest.approx(once, abs=0.05)
    assert naive < grouped - 0.1
