"""What prediction sets hold, counted by hand; their intervals against scipy's exact ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from pesi.stats.coverage import Proportion, set_coverage

NAMES = ("melanoma", "seborrheic_keratosis", "nevus")


@pytest.mark.parametrize("successes, trials", [(0, 30), (27, 30), (30, 30), (1, 2)])
def test_intervals_are_clopper_and_pearsons(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="exact")
    assert Proportion(successes, trials).interval == pytest.approx((expected.low, expected.high))


def test_a_proportion_against_what_was_wanted():
    assert Proportion(50, 100).against(0.9) == "below"
    assert Proportion(100, 100).against(0.9) == "above"
    assert Proportion(88, 100).against(0.9) == "within"
    assert Proportion(0, 0).share is None
    assert Proportion(0, 0).against(0.9) == "within"


def test_measured_by_hand():
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
    found = set_coverage(sets, np.array([0, 0, 1, 2, 2]), NAMES).to_dict()
    assert found["overall"]["count"] == 3
    assert found["classes"]["melanoma"]["share"] == 1
    assert found["classes"]["seborrheic_keratosis"]["share"] == 0
    assert found["classes"]["nevus"]["share"] == 0.5
    assert found["mean_size"] == pytest.approx(7 / 5)
    assert found["singletons"]["share"] == pytest.approx(2 / 5)
    assert found["empty"]["share"] == pytest.approx(1 / 5)
    assert (found["certain_and_right"]["count"], found["certain_and_right"]["of"]) == (1, 2)
    json.dumps(found, allow_nan=False)
