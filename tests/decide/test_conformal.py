"""Prediction sets against crepes, and their promise by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from crepes import WrapClassifier
from pydantic import ValidationError

from pesi.decide.conformal import (
    ConformalConfig,
    fit_conformal,
    prediction_sets,
)

NAMES = ("melanoma", "seborrheic_keratosis", "nevus")


def draw(count: int, seed: int, shares=(0.2, 0.3, 0.5)) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a network that is right more often than not, and the true classes."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=shares)
    z = rng.normal(0, 1.2, (count, 3)) + 1.5 * np.eye(3)[classes]
    return np.exp(z) / np.exp(z).sum(1, keepdims=True), classes


class GivenProbabilities:
    """A scikit-learn classifier whose inputs are its probabilities."""

    classes_ = np.arange(3)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("count", [40, 150, 999])
def test_sets_are_those_of_crepes(coverage, count):
    """Its p-values, unsmoothed, above 1 - coverage (Vovk's rule; crepes' own sets also take those equal to it)."""
    calibration, classes = draw(count, 0)
    new, _ = draw(500, 1)
    config = fit_conformal(calibration, classes, NAMES, coverage=coverage, on="made-up data")
    theirs = WrapClassifier(GivenProbabilities())
    theirs.calibrate(calibration, classes, class_cond=True)
    expected = theirs.predict_p(new, smoothing=False) > 1 - coverage + 1e-9
    np.testing.assert_array_equal(prediction_sets(new, config), expected)


def test_the_promise_holds_for_each_class():
    """Over many calibration sets of n images of a class its coverage is exactly ceil((n + 1) c) / (n + 1)."""
    population, truth = draw(60_000, 2)
    rng = np.random.default_rng(3)
    of = [np.flatnonzero(truth == k) for k in range(3)]
    counts, held = (10, 25, 60), []
    for _ in range(1500):
        chosen = np.concatenate([rng.choice(of[k], counts[k]) for k in range(3)])
        config = fit_conformal(population[chosen], truth[chosen], NAMES, coverage=0.9, on="")
        new = np.array([rng.choice(of[k]) for k in range(3)])
        held.append(prediction_sets(population[new], config)[np.arange(3), np.arange(3)])
    for share, n in zip(np.mean(held, axis=0), counts, strict=True):
        expected = math.ceil((n + 1) * 0.9) / (n + 1)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 1500))


def test_a_class_of_too_few_images_is_always_in_the_set_and_it_is_said():
    p, classes = draw(400, 4, shares=(0.03, 0.3, 0.67))
    config = fit_conformal(p, classes, NAMES, coverage=0.95, on="few melanomas")
    assert config.counts[0] < 19  # the smallest n with ceil((n + 1) 0.95) <= n
    assert prediction_sets(np.array([[0.0, 0.5, 0.5]]), config)[0, 0]
    assert f"melanoma ({config.counts[0]})" in config.how
    assert "few melanomas" in config.how
    assert "nevus" not in config.how
    none = fit_conformal(p[classes > 0], classes[classes > 0], NAMES, coverage=0.9, on="")
    assert none.counts[0] == 0
    assert none.quantiles[0] == 1


@pytest.mark.parametrize("count, always", [(18, True), (19, False)])
def test_the_smallest_class_that_can_promise_95_percent(count, always):
    p = np.column_stack([np.linspace(0.2, 0.8, count), 1 - np.linspace(0.2, 0.8, count)])
    config = fit_conformal(p, np.zeros(count, int), ("a", "b"), coverage=0.95, on="")
    assert config.quantiles[0] == (1.0 if always else pytest.approx(0.8))


def test_multilabel_heads_have_no_sets():
    assert fit_conformal(np.ones((3, 2)), np.zeros(3, int), NAMES[:2], coverage=0.9, on="", head="multilabel") is None


def test_the_configuration_survives_a_bundle():
    p, classes = draw(100, 5)
    config = fit_conformal(p, classes, NAMES, coverage=0.9, on="x")
    assert ConformalConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="2 quantiles but 1 counts"):
        ConformalConfig(coverage=0.9, quantiles=(0.1, 0.2), counts=(3,), how="")
    with pytest.raises(ValidationError):
        ConformalConfig(coverage=1.0, quantiles=(), counts=(), how="")
