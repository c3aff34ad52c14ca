"""Subgroups: scores against scikit-learn group by group, p-values uniform where there is no gap, small groups said."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, kstest
from sklearn.metrics import recall_score, roc_auc_score

from pesi.datasets.records import record_table
from pesi.evaluate.subgroup_attributes import MISSING, attribute_of, attributes_of
from pesi.evaluate.subgroups import Target, auc_interval, holm, measure_subgroups, permutation_p_value
from pesi.images.skin_tone import SkinTone


def simulated(seed=0, count=400, gap=0.0):
    """Labels, scores and three groups; the third group's scores tell `gap` standard deviations less."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    groups = rng.choice(["a", "b", "c"], count)
    z = rng.normal(size=count) + labels * np.where(groups == "c", 1.5 - gap, 1.5)
    return labels, 1 / (1 + np.exp(-(z - 1))), groups


def test_scores_agree_with_scikit_learn_group_by_group():
    labels, scores, groups = simulated()
    scores = np.round(scores, 2)  # ties
    target = Target("melanoma", labels, scores, threshold=0.5)
    (result,) = measure_subgroups(
        [target], [attribute_of("group", groups)], rng=np.random.default_rng(0), replicates=200
    )
    assert [g.name for g in result.groups] == ["a", "b", "c"]
    areas = {}
    for group in result.groups:
        y, p = labels[groups == group.name], scores[groups == group.name]
        assert (group.images, group.positives) == (len(y), y.sum())
        assert group.auc == pytest.approx(roc_auc_score(y, p))
        assert group.sensitivity == pytest.approx(recall_score(y, p >= 0.5))
        assert group.specificity == pytest.approx(recall_score(y, p >= 0.5, pos_label=0))
        wilson = binomtest(int((p >= 0.5)[y].sum()), int(y.sum())).proportion_ci(method="wilson")
        assert group.sensitivity_ci == pytest.approx((wilson.low, wilson.high), abs=1e-6)
        assert group.calibration == pytest.approx(p.mean() - y.mean())
        share = binomtest(int(y.sum()), len(y)).proportion_ci(method="wilson")
        assert group.calibration_ci == pytest.approx((p.mean() - share.high, p.mean() - share.low), abs=1e-6)
        assert group.auc_ci[0] < group.auc < group.auc_ci[1]
        areas[group.name] = group.auc
    assert result.gap is not None
    assert result.gap.difference == pytest.approx(max(areas.values()) - min(areas.values()))
    assert areas[result.gap.best] == max(areas.values())
    assert areas[result.gap.worst] == min(areas.values())
    assert result.gap.interval[0] < result.gap.difference < result.gap.interval[1]


def test_p_values_are_uniform_where_groups_do_not_differ():
    p_values = [
        permutation_p_value(y, p, np.unique(g, return_inverse=True)[1], permutations=199, rng=np.random.default_rng(9))
        for y, p, g in (simulated(seed, 150) for seed in range(120))
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) < 0.13


def test_a_true_gap_is_found():
    labels, scores, groups = simulated(gap=1.5)
    (result,) = measure_subgroups(
        [Target("x", labels, scores)], [attribute_of("group", groups)], rng=np.random.default_rng(0), replicates=300
    )
    assert result.gap.worst == "c"
    assert result.gap.p_value < 0.01
    assert result.gap.interval[0] > 0
    assert result.groups[0].sensitivity is None


def test_small_groups_are_scored_but_not_compared():
    labels, scores, groups = simulated()
    groups = groups.astype(object)
    groups[np.flatnonzero(labels)[:5]] = "few"  # no negatives
    groups[-12:] = None
    results = measure_subgroups(
        [Target("x", labels, scores)], [attribute_of("group", groups)], rng=np.random.default_rng(0), replicates=100
    )
    by_name = {g.name: g for g in results[0].groups}
    assert list(by_name) == ["a", "b", "c", "few", MISSING]
    assert by_name["few"].small
    assert by_name["few"].auc is None
    assert by_name[MISSING].small
    assert by_name[MISSING].auc is not None
    assert not by_name["a"].small
    assert {results[0].gap.best, results[0].gap.worst} <= {"a", "b", "c"}
    assert (
        measure_subgroups(
            [Target("x", labels, scores)],
            [attribute_of("group", groups)],
            rng=np.random.default_rng(0),
            smallest=1000,
            replicates=50,
        )[0].gap
        is None
    )


def test_the_bound_of_a_perfect_auc_solves_hanley_and_mcneils_variance():
    labels = np.arange(30) < 12
    area, low, high = auc_interval(labels, labels.astype(float), replicates=10, rng=np.random.default_rng(0))
    assert (area, high) == (1, 1)
    m = n = 15  # Newcombe's method 5 takes the mean of 12 and 18 in the two covariance terms
    q1, q2 = low / (2 - low), 2 * low**2 / (1 + low)
    variance = (low * (1 - low) + (m - 1) * (q1 - low**2) + (n - 1) * (q2 - low**2)) / (12 * 18)
    assert 1 - low == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-4)
    assert 0.7 < low < 0.95
    mirrored = auc_interval(labels, -labels.astype(float), replicates=10, rng=np.random.default_rng(0))
    assert mirrored == pytest.approx((0, 0, 1 - low))


def test_the_interval_covers_the_true_auc():
    covered = 0
    for seed in range(100):
        labels, scores, _ = simulated(seed, 120)
        _, low, high = auc_interval(labels, scores, replicates=200, rng=np.random.default_rng(seed))
        covered += low <= 0.8556 <= high  # Phi(1.5 / sqrt 2)
    assert covered >= 88


def test_holms_own_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_attributes_of_a_record_table():
    rows = [
        {"image_id": str(i), "path": f"{i}.jpg", "source": "s", "sex": sex, "age": age, "site": site}
        for i, (sex, age, site) in enumerate(
            [("female", 29, "head"), ("male", 30, None), (None, 49, "back"), ("male", 70, "back"), ("male", None, None)]
        )
    ]
    artefacts = pd.DataFrame({"gel_border": [True, False, None, True, True], "ink": [False] * 5})
    tones = [SkinTone(60, "very light", 0.3), SkinTone(5, "brown", 0.3), None, SkinTone(None, None, 0, "x"), None]
    found = attributes_of(
        record_table(rows), tones=tones, artefacts=artefacts, lesion_areas=[0.1, 0.2, 0.3, None, 0.05]
    )
    named = {a.name: [a.groups[m] for m in a.members] for a in found}
    assert named == {
        "sex": ["female", "male", MISSING, "male", "male"],
        "age": ["under 30", "30 to 49", "30 to 49", "70 and over", MISSING],
        "site": ["head", MISSING, "back", "back", MISSING],
        "skin tone": ["very light", "brown", MISSING, MISSING, MISSING],
        "lesion size": ["small third", "middle third", "large third", MISSING, "small third"],
        "gel border": ["present", "absent", MISSING, "present", "present"],
    }  # one source and no ink: nothing to compare
    assert found[1].groups == ("under 30", "30 to 49", "70 and over", MISSING)
