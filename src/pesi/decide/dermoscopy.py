"""Whether a picture is dermoscopy at all: two scores of a segmenter's pooled features, and the verdict on them.

The first is linear (ridge regression of dermoscopy against pictures that are none): it tells what it was shown, such as
clinical photographs. The second is the distance from dermoscopy alone, as `decide.novelty` computes it: it tells what
nobody thought of showing. A picture is refused by either.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pesi.decide.novelty import NoveltyStatistics, novelty_score
from pesi.verdict import Verdict

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DermoscopyModel:
    """What tells dermoscopy from the rest, by features (F,).

    Attributes:
        weights: Of the linear score, (F,) float32.
        bias: Added to it.
        scale: What the first D features are divided by before their distance is taken, (D,) float32, above 0.
        statistics: Of dermoscopy's first D features, scaled.
    """

    weights: NDArray[np.float32] = field(repr=False)
    bias: float
    scale: NDArray[np.float32] = field(repr=False)
    statistics: NoveltyStatistics

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """Features (N, F) -> linear score and distance of each picture, (N, 2); higher is less like dermoscopy."""
        linear = features.astype(np.float64) @ self.weights.astype(np.float64) + self.bias
        distance = novelty_score(features[:, : len(self.scale)] / self.scale, self.statistics)
        return np.stack([linear, distance], axis=1)


def no_dermoscopy(scores: Floats, limits: tuple[float, float]) -> NDArray[np.bool_]:
    """Which pictures of these scores (N, 2) are refused: those above either limit, (N,)."""
    return np.asarray((scores > np.asarray(limits)).any(axis=1))


def dermoscopy_verdict(scores: Floats, limits: tuple[float, float]) -> Verdict:
    """What to do with one picture of these scores (2,): "ok" or "refuse".

    Its value and limit are those of the linear score, or of the distance where that alone is too high.
    """
    linear, distance = (float(value) for value in scores)
    by_distance = linear <= limits[0] and distance > limits[1]
    value, limit = (distance, limits[1]) if by_distance else (linear, limits[0])
    if not no_dermoscopy(scores[None], limits)[0]:
        return Verdict(
            "dermoscopy", "ok", value, limit, f"A dermoscopy image (score {value:.2f}; at most {limit:.2f})."
        )
    found = f"unlike every one known: distance {value:.2f}" if by_distance else f"score {value:.2f}"
    reason = (
        f"This is no dermoscopy image ({found}; at most {limit:.2f}). Take the picture through a dermoscope, of one "
        f"lesion, and send it as it is, not a photograph without one, of a screen or of a page."
    )
    return Verdict("dermoscopy", "refuse", value, limit, reason)
