"""Against scipy, over all magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from pesi.stats import logistic

Z = np.concatenate([[-800.0, -40.0, 0.0, 40.0, 800.0], np.random.default_rng(0).normal(0, 5, 100)]).reshape(15, 7)
P = np.concatenate([[0.0, 1e-300, 1e-9, 0.5, 1.0], np.random.default_rng(1).random(100)])


@pytest.mark.parametrize("name", ["log_softmax", "softmax", "logsumexp"])
@pytest.mark.parametrize("axis", [0, 1])
def test_along_an_axis(name: str, axis: int) -> None:
    found, expected = (getattr(where, name)(Z, axis=axis) for where in (logistic, special))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["expit", "log_expit"])
def test_each_by_itself(name: str) -> None:
    np.testing.assert_allclose(getattr(logistic, name)(Z), getattr(special, name)(Z), rtol=1e-12, atol=1e-300)


def test_of_probabilities() -> None:
    np.testing.assert_allclose(logistic.logit(P), special.logit(P), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(logistic.entropy_terms(P), special.entr(P), rtol=1e-12)
