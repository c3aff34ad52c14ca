"""The dermoscopy gate's arithmetic, against scikit-learn's ridge classifier and the novelty score; and its verdict."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifier

from pesi.decide.dermoscopy import DermoscopyModel, dermoscopy_verdict, no_dermoscopy
from pesi.decide.novelty import fit_novelty, novelty_score

LIMITS = (0.25, 2.0)


def features(count: int, seed: int, shift: float = 0.0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).gamma(2.0, 1.0, (count, 12)) + shift
    return np.asarray(values, np.float32)


def test_both_scores_are_what_their_libraries_say() -> None:
    x = np.concatenate([features(60, 0), features(40, 1, 1.0)])
    own = np.repeat([False, True], [60, 40])
    ridge = RidgeClassifier(alpha=2.0).fit(x, own)
    scale = x[:60, :8].std(0)
    statistics = fit_novelty(x[:60, :8] / scale, rank=4)
    model = DermoscopyModel(
        ridge.coef_.reshape(-1).astype(np.float32), float(np.ravel(ridge.intercept_)[0]), scale, statistics
    )
    scores = model.scores(features(30, 2, 0.5))
    assert scores[:, 0] == pytest.approx(ridge.decision_function(features(30, 2, 0.5)), abs=1e-5)
    assert scores[:, 1] == pytest.approx(novelty_score(features(30, 2, 0.5)[:, :8] / scale, statistics))


@pytest.mark.parametrize(
    ("scores", "level", "value"),
    [
        ((0.25, 2.0), "ok", 0.25),
        ((0.3, 1.0), "refuse", 0.3),
        ((-1.0, 2.1), "refuse", 2.1),
        ((0.3, 2.1), "refuse", 0.3),
    ],
)
def test_either_limit_refuses_and_the_verdict_says_which(scores: tuple[float, float], level: str, value: float) -> None:
    found = dermoscopy_verdict(np.array(scores), LIMITS)
    assert (found.check, found.level, found.value) == ("dermoscopy", level, value)
    assert found.limit == (LIMITS[1] if value > 2 else LIMITS[0])
    assert no_dermoscopy(np.array([scores]), LIMITS).tolist() == [level == "refuse"]
    assert f"{value:.2f}" in found.reason
    assert ("dermoscope" in found.reason) == (level == "refuse")
