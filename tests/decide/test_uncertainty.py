"""Entropies against scipy and closed forms; spread against numpy; confidences against their definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy

from pesi.decide.uncertainty import (
    entropy,
    entropy_split,
    sample_spread,
    uncertainty_of,
)


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).dirichlet([1.0, 0.5, 2.0], size=(40, 6))


def test_entropies_are_scipys(samples):
    split = entropy_split(samples, "multiclass")
    np.testing.assert_allclose(split.total, scipy_entropy(samples.mean(1), base=3, axis=-1))
    np.testing.assert_allclose(split.expected, scipy_entropy(samples, base=3, axis=-1).mean(1))


def test_mutual_information_is_the_mean_divergence_from_the_mean(samples):
    """The same quantity by another formula: mean KL(p_s || mean p)."""
    divergence = rel_entr(samples, samples.mean(1, keepdims=True)).sum(-1).mean(1) / np.log(3)
    np.testing.assert_allclose(entropy_split(samples, "multiclass").mutual_information, divergence, atol=1e-12)


def test_multilabel_entropies_are_summed_binary_ones(samples):
    p = samples[..., :2]
    binary = scipy_entropy(np.stack([p, 1 - p], axis=-1), base=2, axis=-1)
    np.testing.assert_allclose(entropy(p, "multilabel"), binary.sum(-1) / 2)
    split = entropy_split(p, "multilabel")
    np.testing.assert_allclose(split.total, entropy(p.mean(1), "multilabel"))
    assert (split.mutual_information > 0).all()


@pytest.mark.parametrize(
    "head, p, total, expected",
    [
        ("multiclass", [[1, 0, 0], [1, 0, 0]], 0, 0),  # sure, and of one mind
        ("multiclass", [[1 / 3] * 3] * 2, 1, 1),  # every view knows nothing
        ("multiclass", [[1, 0], [0, 1]], 1, 0),  # each view is sure, of different things
        ("multilabel", [[1, 0], [0, 1]], 1, 0),
        ("multilabel", [[0.5, 1.0], [0.5, 1.0]], 0.5, 0.5),
    ],
)
def test_known_answers(head, p, total, expected):
    split = entropy_split(np.array([p], float), head)
    assert split.total[0] == pytest.approx(total)
    assert split.expected[0] == pytest.approx(expected)
    assert split.mutual_information[0] == pytest.approx(total - expected)


def test_one_class_has_no_entropy():
    with pytest.raises(ValueError, match="two classes"):
        entropy(np.ones((3, 1)), "multiclass")


def test_spread_is_numpys_and_the_range_leaves_one_in_twenty_out():
    p = np.random.default_rng(1).permutation((np.arange(400) + 0.5) / 400)[None, :, None]
    spread = sample_spread(p)
    assert spread.deviation[0, 0] == pytest.approx(p.std())
    assert ((p >= spread.low) & (p <= spread.high)).mean() == pytest.approx(0.95, abs=1.5 / 400)
    few = sample_spread(p[:, :4])
    assert (few.low[0, 0], few.high[0, 0]) == (p[0, :4].min(), p[0, :4].max())


def test_weights_are_repeats(samples):
    """A sample of weight 3 is the same as three of it."""
    counts = np.array([1, 3, 1, 2, 1, 4])
    repeated = np.repeat(samples, counts, axis=1)
    for a, b in zip(
        (*entropy_split(samples, "multiclass", counts / 2), *sample_spread(samples, counts / 2)),
        (*entropy_split(repeated, "multiclass"), *sample_spread(repeated)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_the_uncertainty_of_one_image(samples):
    found = uncertainty_of(samples[0], ("a", "b", "c"), "multiclass")
    values = json.loads(json.dumps(found.to_dict()))
    assert values["samples"] == 6
    assert values["total"] == pytest.approx(scipy_entropy(samples[0].mean(0), base=3))
    assert values["total"] == pytest.approx(values["expected"] + values["mutual_information"])
    assert values["deviation"]["b"] == pytest.approx(samples[0, :, 1].std())
    assert values["range"]["c"] == [samples[0, :, 2].min(), samples[0, :, 2].max()]
