"""How unsure a prediction is, and how far its samples (views, members of an ensemble) disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.stats.logistic import entropy_terms

Floats = NDArray[np.float64]


class EntropySplit(NamedTuple):
    """Entropies of N images, each (N,), as shares of the largest possible: 0 (sure) to 1 (knows nothing).

    Attributes:
        total: Of the mean over the samples, H(mean p).
        expected: Mean over the samples of their own entropy, mean H(p_s): doubt that every sample shares.
        mutual_information: total - expected: what the samples disagree about.
    """

    total: Floats
    expected: Floats
    mutual_information: Floats


class Spread(NamedTuple):
    """Each class's probability over the samples, each (N, K).

    Attributes:
        deviation: Standard deviation (of these samples: divided by S, not S - 1).
        low, high: The samples between which 95 % of them lie; below 40 samples the smallest and the largest.
    """

    deviation: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Uncertainty:
    """What the samples of one image say of its uncertainty.

    Samples that are views of one network disagree about flips and crops only; samples that are networks also
    disagree about what they have learned. Neither tells of an image unlike everything seen: that is novelty.

    Attributes:
        total, expected, mutual_information: As in `EntropySplit`, shares of the largest possible entropy.
        deviation: Class name -> standard deviation of its probability over the samples.
        range: Class name -> its smallest and largest probability in the middle 95 % of the samples.
        samples: How many.
    """

    total: float
    expected: float
    mutual_information: float
    deviation: Mapping[str, float]
    range: Mapping[str, tuple[float, float]]
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "total": self.total,
            "expected": self.expected,
            "mutual_information": self.mutual_information,
            "unit": "share of the largest possible entropy",
            "deviation": dict(self.deviation),
            "range": {name: list(limits) for name, limits in self.range.items()},
            "samples": self.samples,
        }


def entropy(probabilities: Floats, head: str) -> Floats:
    """Entropy as a share of the largest possible, 0 to 1.

    Multi-class: -sum p log p over log K. Multi-label: the outputs' binary entropies summed, over K log 2.

    Args:
        probabilities: (..., K).
        head: `multiclass` or `multilabel`.

    Raises:
        ValueError: A multi-class distribution of one class, which has no entropy.
    """
    p = np.asarray(probabilities, np.float64)
    count = p.shape[-1]
    if head == "multiclass":
        if count < 2:
            raise ValueError("A multi-class distribution needs at least two classes.")
        return np.asarray(entropy_terms(p).sum(-1) / np.log(count))
    return np.asarray((entropy_terms(p) + entropy_terms(1 - p)).sum(-1) / (count * np.log(2)))


def entropy_split(samples: Floats, head: str, weights: Floats | None = None) -> EntropySplit:
    """Total entropy, and how much of it is disagreement between the samples.

    The mutual information between the label and the sample (Houlsby et al., "Bayesian Active Learning for
    Classification and Preference Learning", arXiv 1112.5745, 2011; Depeweg et al., ICML 2018, arXiv 1710.07283).

    Args:
        samples: Calibrated probabilities, (N, S, K).
        head: `multiclass` or `multilabel`.
        weights: Of the samples, (S,), any positive scale; None: all the same.
    """
    p = np.asarray(samples, np.float64)
    total = entropy(np.average(p, axis=1, weights=weights), head)
    expected = np.average(entropy(p, head), axis=1, weights=weights)
    # Jensen: never negative but for rounding.
    return EntropySplit(total, expected, np.maximum(total - expected, 0.0))


def sample_spread(samples: Floats, weights: Floats | None = None) -> Spread:
    """Standard deviation and 95 % range of each class's probability over the samples.

    Args:
        samples: Calibrated probabilities, (N, S, K).
        weights: Of the samples, (S,), any positive scale; None: all the same.
    """
    p = np.asarray(samples, np.float64)
    mean = np.average(p, axis=1, weights=weights)
    deviation = np.sqrt(np.average((p - mean[:, None]) ** 2, axis=1, weights=weights))
    low, high = np.quantile(p, [0.025, 0.975], axis=1, weights=weights, method="inverted_cdf")
    return Spread(deviation, low, high)


def uncertainty_of(samples: Floats, names: Sequence[str], head: str, weights: Floats | None = None) -> Uncertainty:
    """The uncertainty of one image.

    Args:
        samples: Calibrated probabilities of its views (and members), (S, K).
        names: Of the K outputs.
        head: `multiclass` or `multilabel`.
        weights: Of the samples, (S,), any positive scale; None: all the same.
    """
    split = entropy_split(samples[None], head, weights)
    deviation, low, high = (values[0] for values in sample_spread(samples[None], weights))
    return Uncertainty(
        total=float(split.total[0]),
        expected=float(split.expected[0]),
        mutual_information=float(split.mutual_information[0]),
        deviation={name: float(value) for name, value in zip(names, deviation, strict=True)},
        range={name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)},
        samples=len(samples),
    )
