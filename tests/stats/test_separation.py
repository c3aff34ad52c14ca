"""AUROC and refusal of outliers: against scikit-learn, by hand, and the honest choice of a score."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pesi.evaluate import outliers as outliers_module
from pesi.evaluate.outliers import drawn_outliers, outliers, square_crops
from pesi.stats.intervals import wilson_interval
from pesi.stats.separation import below_shares, novelty_result


def test_auroc_is_scikit_learn_s_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    own, strange = rng.integers(0, 12, 80).astype(float), rng.integers(4, 16, 30).astype(float)
    expected = roc_auc_score(np.repeat([0, 1], [80, 30]), np.concatenate([own, strange]))
    assert below_shares(own, strange).mean() == pytest.approx(expected, abs=1e-12)


def test_families_count_once_and_refusals_are_counted() -> None:
    own = np.arange(100, dtype=float)
    strange = {"far": np.full(30, 200.0), "near": np.array([49.5])}
    result = novelty_result(own, strange, 97.5, replicates=200, rng=np.random.default_rng(0))
    assert result.auroc == pytest.approx((1 + 0.5) / 2)
    assert result.refused == pytest.approx(0.5)
    assert result.false_refusal == pytest.approx(0.02)
    assert result.false_refusal_interval == wilson_interval(2, 100)
    assert result.families["far"].auroc_interval == (1.0, 1.0)
    # Two families: a resample may hold one of them twice.
    assert result.auroc_interval[0] < 0.6
    assert result.auroc_interval[1] == 1.0


def test_the_interval_of_a_family_covers_like_the_normal_approximation() -> None:
    rng = np.random.default_rng(1)
    own, strange = rng.normal(0, 1, 300), rng.normal(1.5, 1, 300)
    family = novelty_result(own, {"a": strange}, 0.0, replicates=800, rng=rng).families["a"]
    area = family.auroc
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley and McNeil, Radiology 143, 1982
    deviation = np.sqrt((area * (1 - area) + 299 * (q1 - area**2) + 299 * (q2 - area**2)) / 300**2)
    low, high = family.auroc_interval
    assert (high - low) / (2 * 1.96) == pytest.approx(deviation, rel=0.15)


def test_nothing_to_compare_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs"):
        novelty_result(np.ones(3), {}, 1.0, replicates=10, rng=np.random.default_rng(0))


def test_drawn_outliers_are_pictures_and_the_same_for_a_seed() -> None:
    first, again = (drawn_outliers(3, rng=np.random.default_rng(5)) for _ in range(2))
    assert set(first) >= {"blank", "noise", "gradient", "page of text", "chart", "screen"}
    for name, pictures in first.items():
        assert len(pictures) == 3
        for picture, other in zip(pictures, again[name], strict=True):
            assert picture.dtype == np.uint8
            assert picture.ndim == 3
            assert picture.shape[2] == 3
            np.testing.assert_array_equal(picture, other)


def test_photographs_come_from_installed_packages() -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the photographs")
    families = outliers(4, rng=np.random.default_rng(0))
    assert {"cat", "histology", "fundus", "faces", "temple"} <= set(families)
    assert {len(pictures) for pictures in families.values()} == {4}


def test_without_the_packages_the_drawn_ones_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers_module, "find_spec", lambda _: None)
    assert set(outliers(1, rng=np.random.default_rng(0))) == set(drawn_outliers(1, rng=np.random.default_rng(0)))


def test_crops_lie_in_the_picture() -> None:
    picture = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    crops = square_crops(picture, 5, np.random.default_rng(0))
    assert len(crops) == 5
    assert crops[0].shape == (40, 60, 3)
    assert all(crop.shape[0] == crop.shape[1] <= 40 for crop in crops[1:])
