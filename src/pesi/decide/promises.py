"""Thresholds with a promise: at most so many lesions of a class on the wrong side, with a stated confidence.

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei, arXiv 2110.01052) with the exact binomial p-value. "More
than 2 % of the malignant lesions lie below t" is tested for one t after the other, from the safest on, until it is not
refuted. That order is fixed before the data are seen, so that no correction for many tests is due; and as the rate
only grows along it, the last t that passes is an order statistic of the scores, whatever their distribution (S. S.
Wilks, Ann. Math. Stat. 12, 1941). Ties only make it safer.

The binomial law counts what is independent. So the images of one patient or lesion count once, by the worst of them:
missed if any of its malignant images lies below, called if any of its benign ones does not.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from pesi.decide.operating import Criterion, Floats, Interval

Bools = NDArray[np.bool_]

OTHER: dict[Criterion, Criterion] = {"sensitivity": "specificity", "specificity": "sensitivity"}

_ROUNDING = 1e-12  # of p-values


class Promise(BaseModel, extra="forbid", frozen=True):
    """What a threshold promises of new lesions drawn as those were that set it, and what it costs.

    Attributes:
        rate: At least so much sensitivity, or specificity; less than was wanted where the lesions are too few.
        confidence: Of many sets of lesions drawn alike, the share whose threshold keeps the promise.
        failed, lesions: Lesions (or patients) of its class on the wrong side, and all of them that set it.
        cost, cost_interval: The other rate at this threshold, counted on lesions that did not set it, and its exact
            95 % interval.
    """

    rate: float
    confidence: float
    failed: int
    lesions: int
    cost: float
    cost_interval: Interval


def promise_words(criterion: Criterion, rate: float, confidence: float | None) -> str:
    """Such as "at most 2 % of the malignant lesions below it, with 90 % confidence"."""
    where = "malignant lesions below it" if criterion == "sensitivity" else "benign lesions at it or above"
    sure = "without a stated confidence" if confidence is None else f"with {percent(confidence)} confidence"
    return f"at most {percent(1 - rate)} of the {where}, {sure}"


def percent(share: float) -> str:
    """A share as one writes it, such as "7.4 %"."""
    return f"{100 * share:.4g} %"


def most_failures(count: int, share: float, confidence: float) -> int:
    """The most failures among `count` that refute a rate above `share`; -1 where not even none would.

    So many k that P(Binomial(count, share) <= k) <= 1 - confidence.
    """
    from scipy.special import bdtr  # slow to import

    return int((bdtr(np.arange(count + 1.0), count, share) <= 1 - confidence + _ROUNDING).sum()) - 1


def fewest_lesions(share: float, confidence: float) -> int:
    """How many lesions it takes, none of them failed, to refute a rate above `share`."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-share) - _ROUNDING)


def worst_scores(criterion: Criterion, malignant: Bools, scores: Floats, groups: NDArray | None = None) -> Floats:
    """The score by which each lesion counts, (L,): of its malignant images the lowest, of its benign ones the highest.

    Args:
        criterion: `sensitivity` is about the malignant lesions, `specificity` about the benign ones.
        malignant, scores: The truth and the malignant probability, (N,).
        groups: Patient or lesion of each image, (N,); None: each image is one of its own.
    """
    chosen = malignant if criterion == "sensitivity" else ~malignant
    if groups is None or not chosen.any():
        return scores[chosen]
    codes = np.unique(groups[chosen], return_inverse=True)[1]
    extreme, start = (np.minimum, np.inf) if criterion == "sensitivity" else (np.maximum, -np.inf)
    worst = np.full(codes.max() + 1, start)
    extreme.at(worst, codes, scores[chosen])
    return worst


def failures(
    criterion: Criterion, threshold: float, malignant: Bools, scores: Floats, groups: NDArray | None = None
) -> tuple[int, int]:
    """How many lesions are on the wrong side of a threshold, and of how many; arguments as for `worst_scores`."""
    worst = worst_scores(criterion, malignant, scores, groups)
    return int((worst < threshold if criterion == "sensitivity" else worst >= threshold).sum()), len(worst)


def promised_threshold(
    criterion: Criterion,
    wanted: float,
    confidence: float,
    malignant: Bools,
    scores: Floats,
    groups: NDArray | None = None,
) -> tuple[float, float]:
    """The threshold that promises a sensitivity (the highest that does) or a specificity (the lowest).

    Args:
        criterion, wanted: Which of the two, and at least how much of it, between 0 and 1.
        confidence: Of the promise, between 0 and 1.
        malignant, scores, groups: As for `worst_scores`; at least one image is malignant and one benign.

    Returns:
        The threshold (`score >= threshold` is at or above), and the rate that it promises. Where there are too few
        lesions for the wanted one, no lesion of these is on the wrong side, and the rate is the highest that so many
        can promise, rounded down to a thousandth.
    """
    worst = np.sort(worst_scores(criterion, malignant, scores, groups))
    failed, rate = most_failures(len(worst), 1 - wanted, confidence), wanted
    if failed < 0:
        failed, rate = 0, math.floor(1000 * (1 - confidence) ** (1 / len(worst))) / 1000
    if criterion == "sensitivity":
        return float(worst[failed]), rate
    highest = worst[len(worst) - 1 - failed]  # of the benign that stay below: the next score of any image is called
    above = scores[scores > highest]
    return float(above.min() if len(above) else np.nextafter(highest, np.inf)), rate
