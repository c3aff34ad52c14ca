"""Novelty statistics: against a Gaussian of known covariance, SciPy and scikit-learn; on disk; and the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.decomposition import PCA

from pesi.decide.novelty import (
    NOVELTY_FILE,
    NoveltyConfig,
    NoveltyStatistics,
    fit_novelty,
    load_novelty,
    novelty_config,
    novelty_score,
    novelty_threshold,
    novelty_verdict,
    save_novelty,
)
from pesi.errors import BundleError, DataError


def features(count: int = 400, width: int = 24, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scales = np.linspace(3, 0.3, width)
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(width, width)))[0]
    return ((rng.normal(size=(count, width)) * scales) @ mixing + 5).astype(np.float32)


@pytest.fixture
def statistics() -> NoveltyStatistics:
    return fit_novelty(features(), rank=8)


def test_the_score_ranks_as_scikit_learn_s_probabilistic_pca() -> None:
    train, others = features(), features(100, seed=1) * np.float32(1.2)
    fitted = fit_novelty(train, rank=6, power=1.0)
    pca = PCA(6, svd_solver="full").fit(train.astype(np.float64))
    precision = np.linalg.inv(pca.get_covariance())
    centred = others.astype(np.float64) - pca.mean_
    expected = np.einsum("ij,jk,ik->i", centred, precision, centred) / train.shape[1]
    assert novelty_score(others, fitted) == pytest.approx(expected, rel=5e-3)  # the basis is rounded to float16


def test_the_training_images_mean_is_one(statistics: NoveltyStatistics) -> None:
    assert novelty_score(features(), statistics).mean() == pytest.approx(1, rel=0.01)


def test_a_small_power_keeps_the_sign() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(50, 5)).astype(np.float32)
    fitted = fit_novelty(train, rank=2, power=0.5)
    assert fitted.mean == pytest.approx((np.sign(train) * np.sqrt(np.abs(train))).mean(0), rel=1e-5)


def test_the_rank_is_cut_where_images_or_features_are_few() -> None:
    assert fit_novelty(features(12), rank=256).basis.shape == (24, 10)
    assert fit_novelty(features(), rank=256).basis.shape == (24, 23)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(DataError, match="cannot be fitted"):
        fit_novelty(features(3))
    with pytest.raises(DataError, match="do not vary"):
        fit_novelty(np.ones((20, 6), np.float32))


def test_the_threshold_refuses_the_wanted_share_of_log_normal_scores() -> None:
    rng = np.random.default_rng(0)
    sets = {name: np.exp(rng.normal(shift, 0.2, 20_000)) for name, shift in (("a", 0.0), ("b", 0.1))}
    threshold = novelty_threshold(sets, refused_share=0.02)
    assert np.mean(sets["b"] > threshold) == pytest.approx(0.02, abs=0.004)
    assert np.mean(sets["a"] > threshold) == pytest.approx(norm.sf(norm.isf(0.02) + 0.5), abs=0.002)


def test_too_few_held_out_images_set_no_threshold() -> None:
    with pytest.raises(DataError, match="clinic"):
        novelty_threshold({"clinic": np.ones(9)})
    with pytest.raises(DataError, match="needs held-out"):
        novelty_threshold({})


def test_the_verdict_warns_above_the_threshold_refuses_far_out_and_says_why(statistics: NoveltyStatistics) -> None:
    config = novelty_config(statistics, {"val": novelty_score(features(60, seed=2), statistics)})
    assert config.held_out == {"val": 60}
    assert config.far_out == pytest.approx(1.5 * config.threshold)
    limits = {
        config.threshold: "ok",
        config.threshold * 1.01: "warn",
        config.far_out: "warn",
        4 * config.far_out: "refuse",
    }
    for score, level in limits.items():
        found = novelty_verdict(score, config)
        assert found.level == level
        assert f"{score:.2f}" in found.reason
        assert found.limit == (config.far_out if level == "refuse" else config.threshold)


def test_saved_statistics_give_the_same_scores(tmp_path: Path, statistics: NoveltyStatistics) -> None:
    config = save_novelty(
        tmp_path, [statistics], novelty_config(statistics, {"val": novelty_score(features(60, seed=2), statistics)})
    )
    kept = NoveltyConfig.model_validate_json(config.model_dump_json())
    (again,) = load_novelty(tmp_path, kept)
    np.testing.assert_array_equal(
        novelty_score(features(9, seed=3), again), novelty_score(features(9, seed=3), statistics)
    )


def test_a_missing_changed_or_foreign_file_is_refused(tmp_path: Path, statistics: NoveltyStatistics) -> None:
    unsaved = novelty_config(statistics, {"val": novelty_score(features(60, seed=2), statistics)})
    with pytest.raises(BundleError, match=f"no {NOVELTY_FILE}"):
        load_novelty(tmp_path, unsaved)
    config = save_novelty(tmp_path, [statistics], unsaved)
    with pytest.raises(BundleError, match="rank of 7"):
        load_novelty(tmp_path, config.model_copy(update={"rank": 7}))
    path = tmp_path / NOVELTY_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="not the file"):
        load_novelty(tmp_path, config)
