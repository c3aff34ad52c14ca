"""Selective classification: the error of the images that are answered, when the least sure get no result.

Ties: images of equal confidence are answered in no known order, so that every number here is the mean over all their
orders (exact, not drawn). A bootstrap resample is an integer weight an image: copies of an image are ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.stats.intervals import Estimate, bootstrap, percentile_interval, units, wilson_interval
from pesi.stats.metrics import Curve, curve

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
REFERENCE = "maximum_probability"  # of `confidence_measures`; what every other measure must beat


def risk_coverage(errors: Bools, confidence: Floats, weights: NDArray | None = None) -> Curve:
    """Counts at the distinct confidences, from the surest down: `called` are answered, `true_positives` errors.

    Args:
        errors: Whether the answer is wrong, (N,).
        confidence: (N,), higher is surer.
        weights: (R, N), integers from 0; None: one row of ones.

    Raises:
        ValueError: A confidence is not a finite number.
    """
    if not np.isfinite(confidence).all():
        raise ValueError("A confidence is not a finite number.")
    return curve(errors, confidence, weights)


def errors_at(c: Curve, coverage: Floats) -> Floats:
    """Expected errors among the surest `coverage` of the images, (G,) -> (R, G); linear between whole images."""
    rows = zip(c.called, c.true_positives, strict=True)
    return np.stack([np.interp(coverage * answered[-1], answered, errors) for answered, errors in rows])


def risk_at(c: Curve, coverage: Floats) -> Floats:
    """Error rate of the surest `coverage` (0 < coverage <= 1) of the images, (G,) -> (R, G)."""
    return np.asarray(errors_at(c, coverage) / (c.called[:, -1:] * coverage))


def _harmonic(count: float) -> Floats:
    """0, 1, 1 + 1/2, ... up to the sum of `count` terms."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, round(count) + 1))])


def aurc(c: Curve) -> Floats:
    """Area under the risk-coverage curve, (R,): the mean over k = 1..N of the error rate of the k surest.

    Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, arXiv 1705.08500; the area
    by Geifman, Uziel and El-Yaniv, ICLR 2019, arXiv 1805.08206. Within m tied images with e errors, after a images with
    E errors, the expected risk at k = a + j is (E + j e/m) / k = e/m + (E - a e/m) / k, whose sum is harmonic numbers.
    """
    answered, errors = c.called, c.true_positives
    h = _harmonic(float(answered[:, -1].max()))
    before, after = answered[:, :-1], answered[:, 1:]
    count = after - before
    rate = np.diff(errors, axis=1) / np.maximum(count, 1)
    terms = h[after.astype(np.int64)] - h[before.astype(np.int64)]
    return np.asarray((count * rate + (errors[:, :-1] - rate * before) * terms).sum(1) / answered[:, -1])


def optimal_aurc(c: Curve) -> Floats:
    """The area of an order that puts every error last, (R,): `aurc` less this is the excess (E-AURC)."""
    total, wrong = c.called[:, -1], c.positives
    h = _harmonic(float(total.max()))
    right = total - wrong
    return np.asarray((wrong - right * (h[total.astype(np.int64)] - h[right.astype(np.int64)])) / total)


def wrong_answers(probabilities: Floats, targets: Bools, head: str) -> Bools:
    """Which answers are wrong: the most probable class is not the true one; multi-label: any output is, at 0.5.

    Args:
        probabilities, targets: (N, K).
        head: `multiclass` or `multilabel`.
    """
    if head == "multiclass":
        return np.asarray(~targets[np.arange(len(targets)), probabilities.argmax(1)])
    return np.asarray(((probabilities >= 0.5) != targets).any(1))


@dataclass(frozen=True)
class MeasureResult:
    """How well one confidence orders the answers.

    Attributes:
        aurc, excess: The area, and that above the optimal; lower is better.
        difference: Its area less the reference's, on the same resamples.
    """

    aurc: Estimate
    excess: Estimate
    difference: Estimate

    @property
    def verdict(self) -> str:
        """Against the reference: "better", "worse" or "not shown to be better"."""
        low, high = self.difference.interval
        return "better" if high < 0 else "worse" if low > 0 else "not shown to be better"

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        result: dict[str, Any] = {}
        for name in ("aurc", "excess", "difference"):
            measured: Estimate = getattr(self, name)
            result |= {name: measured.value, f"{name}_ci": list(measured.interval)}
        return result | {"verdict": self.verdict}


def compare_measures(
    errors: Bools,
    measures: Mapping[str, Floats],
    strata: NDArray,
    *,
    reference: str = REFERENCE,
    replicates: int = 1000,
    seed: int = 0,
    groups: NDArray | None = None,
) -> dict[str, MeasureResult]:
    """AURC of each confidence, and its paired difference to the reference's, on the same resamples.

    Args:
        errors: (N,).
        measures: Name -> (N,), higher is surer; the reference among them.
        strata: Of the bootstrap, (N,).
        reference: What the others are compared with.
        replicates: Bootstrap resamples.
        seed: Of the bootstrap.
        groups: Group of each image, (N,), drawn as a whole.
    """

    def statistics(weights: NDArray) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for name, confidence in measures.items():
            c = risk_coverage(errors, confidence, weights)
            values[f"aurc/{name}"] = aurc(c)
            values[f"excess/{name}"] = values[f"aurc/{name}"] - optimal_aurc(c)
        for name in measures:
            values[f"difference/{name}"] = values[f"aurc/{name}"] - values[f"aurc/{reference}"]
        return values

    point = statistics(np.ones((1, len(errors))))
    draws = bootstrap(statistics, strata, replicates=replicates, rng=np.random.default_rng(seed), groups=groups)
    measured = {name: Estimate(float(value[0]), *percentile_interval(draws[name])) for name, value in point.items()}
    return {
        name: MeasureResult(*(measured[f"{what}/{name}"] for what in ("aurc", "excess", "difference")))
        for name in measures
    }


def risk_band(
    errors: Bools,
    confidence: Floats,
    coverage: Floats,
    strata: NDArray,
    *,
    replicates: int = 1000,
    seed: int = 0,
    groups: NDArray | None = None,
) -> Floats:
    """Risk at each coverage and its pointwise 95 % bootstrap band, (3, G): value, low, high."""
    draws = bootstrap(
        lambda w: {"risk": risk_at(risk_coverage(errors, confidence, w), coverage)},
        strata,
        replicates=replicates,
        rng=np.random.default_rng(seed),
        groups=groups,
    )["risk"]
    return np.vstack([risk_at(risk_coverage(errors, confidence), coverage), np.quantile(draws, [0.025, 0.975], axis=0)])


@dataclass(frozen=True)
class Rest:
    """A rate among the answered images when a share of all gets no result.

    Attributes:
        withheld: Share of the images without a result.
        of: How many images the rate is of (expected, where confidences tie).
        rate: None where it is of no image. Where it is 0 or 1 the interval is Wilson's: resamples would not vary.
        change: Against answering every image, on the same resamples; where none of them moves, the interval is as far
            as Wilson's limit for none of so many images. None without a rate, or where no resample has both.
    """

    withheld: float
    of: float
    rate: Estimate | None
    change: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        result: dict[str, Any] = {"withheld": self.withheld, "of": self.of}
        for name, measured in (("rate", self.rate), ("change", self.change)):
            result[name] = measured.value if measured else None
            result[f"{name}_ci"] = list(measured.interval) if measured else None
        return result


def rest_of(
    happened: Bools,
    among: Bools,
    confidence: Floats,
    withheld: Sequence[float],
    strata: NDArray,
    *,
    of_all: bool = False,
    replicates: int = 1000,
    seed: int = 0,
    groups: NDArray | None = None,
) -> tuple[Rest, ...]:
    """A rate (an error rate, a sensitivity) among the surest images, for each share that gets no result.

    Args:
        happened: What is counted, (N,).
        among: The images that the rate is of, (N,): all for an error rate, the malignant for a sensitivity.
        confidence: (N,), higher is surer.
        withheld: Shares without a result, 0 <= share < 1.
        strata: Of the bootstrap, (N,).
        of_all: Count what happens to answered images, but out of all images, such as the malignant lesions that are
            answered "benign" out of all malignant ones when no result sends a patient to a doctor.
        replicates: Bootstrap resamples.
        seed: Of the bootstrap.
        groups: Group of each image, (N,), drawn as a whole.
    """
    coverage = 1 - np.array([0.0, *withheld])

    def counts(weights: NDArray) -> dict[str, Floats]:
        return {
            "happened": errors_at(risk_coverage(happened & among, confidence, weights), coverage),
            "among": errors_at(
                risk_coverage(among, confidence, weights), np.ones_like(coverage) if of_all else coverage
            ),
        }

    def rates(values: Mapping[str, Floats]) -> Floats:
        some = values["among"] > 0
        out = np.full(some.shape, np.nan)
        np.divide(values["happened"], values["among"], out=out, where=some)
        return out

    point = counts(np.ones((1, len(among))))
    value = rates(point)[0]
    draws = rates(bootstrap(counts, strata, replicates=replicates, rng=np.random.default_rng(seed), groups=groups))
    each = units(groups, among) / max(int(among.sum()), 1)  # of what Wilson's interval counts, an image
    result = []
    for index, share in enumerate(withheld, start=1):
        total, found = point["among"][0, index], point["happened"][0, index]
        if not total > 0:
            result.append(Rest(share, 0.0, None, None))
            continue
        pair = draws[:, [0, index]]  # of this share only: another may hold none of them in any resample
        before, after = pair[np.isfinite(pair).all(1)].T
        if value[index] in (0.0, 1.0) or not len(after):
            interval = wilson_interval(round(found) * each, round(total) * each)
        else:
            interval = percentile_interval(after)
        rate = Estimate(float(value[index]), *interval)
        if not len(after):
            result.append(Rest(share, float(total), rate, None))
            continue
        moved = after - before
        change = percentile_interval(moved)
        if share and not moved.any():
            most = wilson_interval(0, round(total) * each)[1]
            change = (-most, 0.0 if of_all else most)
        result.append(Rest(share, float(total), rate, Estimate(float(value[index] - value[0]), *change)))
    return tuple(result)
