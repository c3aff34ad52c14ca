"""What the audit compares the bundle's own ways with: isotonic regression, confidences, cross-fitted sets, energy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit, logsumexp, softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.isotonic import IsotonicRegression

from pesi.evaluate.audit.calibration import fit_isotonic
from pesi.evaluate.audit.novelty import energy
from pesi.evaluate.audit.uncertainty import confidence_measures, cross_fitted_sets

NAMES = ("melanoma", "seborrheic_keratosis", "nevus")


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).dirichlet([1.0, 0.5, 2.0], size=(40, 6))


def drawn_classes(probabilities, rng):
    return (probabilities.cumsum(1) > rng.random((len(probabilities), 1))).argmax(1)


def test_isotonic_regression_is_scikit_learns_a_class_and_sums_to_one():
    rng = np.random.default_rng(7)
    p = softmax(rng.normal(0, 2, (400, 3)), axis=1)
    targets = np.eye(3)[drawn_classes(softmax(0.5 * np.log(p), axis=1), rng)]
    new = softmax(rng.normal(0, 2, (50, 3)), axis=1)
    found = fit_isotonic(p, targets, "multiclass").probabilities(new)
    plain = np.column_stack(
        [IsotonicRegression(out_of_bounds="clip").fit(p[:, k], targets[:, k]).predict(new[:, k]) for k in range(3)]
    )
    expected = np.clip(plain, 1 / 402, 401 / 402)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-12)
    each = fit_isotonic(p, targets, "multilabel").probabilities(new)
    np.testing.assert_allclose(each, expected, atol=1e-12)
    assert np.isfinite(logit(each)).all()


def test_confidences(samples):
    sets = np.zeros((40, 3), bool)
    sets[0, :2], sets[1, 0] = True, True
    novelty = np.arange(40.0)
    found = confidence_measures(samples, "multiclass", sets=sets, scores={"familiarity": -novelty})
    p = samples.mean(1)
    np.testing.assert_allclose(found["maximum_probability"], p.max(1))
    np.testing.assert_allclose(found["margin"], [max(row) - sorted(row)[1] for row in p])
    np.testing.assert_allclose(found["negative_entropy"], -scipy_entropy(p, base=3, axis=-1))
    np.testing.assert_allclose(found["negative_spread"], -samples.std(1).max(1))
    assert (found["negative_mutual_information"] < 0).all()
    assert found["negative_set_size"][1] > found["negative_set_size"][0] > found["negative_set_size"][2]  # 1, 2, none
    np.testing.assert_array_equal(found["familiarity"], -novelty)


def test_multilabel_confidence_is_that_of_the_least_sure_output():
    found = confidence_measures(np.array([[[0.1, 0.6]], [[0.9, 0.02]]]), "multilabel")
    np.testing.assert_allclose(found["maximum_probability"], [0.6, 0.9])
    np.testing.assert_allclose(found["margin"], [0.2, 0.8])


def test_cross_fitting_never_sees_the_own_fold():
    rng = np.random.default_rng(6)
    p = softmax(rng.normal(0, 1.5, (120, 3)), axis=1)
    classes = drawn_classes(p, rng)
    folds = np.arange(120) % 4
    sets = cross_fitted_sets(p, classes, NAMES, folds, coverage=0.9)
    other = classes.copy()
    other[folds == 2] = (other[folds == 2] + 1) % 3
    again = cross_fitted_sets(p, other, NAMES, folds, coverage=0.9)
    np.testing.assert_array_equal(again[folds == 2], sets[folds == 2])
    assert (again != sets).any()


def test_energy_is_the_mean_over_the_views():
    logits = np.random.default_rng(0).normal(size=(5, 4, 3))
    expected = [-np.mean([logsumexp(view) for view in image]) for image in logits]
    assert energy(logits) == pytest.approx(np.array(expected))
