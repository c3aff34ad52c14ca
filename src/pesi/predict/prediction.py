"""The prediction: one frozen object for one image; every output is a view of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.decide.uncertainty import Uncertainty
from pesi.predict.notebook import cards_html
from pesi.verdict import Verdict


class Similar(NamedTuple):
    """A similar case: cosine of the angle between the features, -1..1, and what is known of the image."""

    image_id: str
    diagnosis: str
    similarity: float
    path: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return self._asdict()


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        image_id: The file's name without its ending, or the caller's own id.
        path: Where the image was read from, or None for pixels given directly.
        probabilities: Class name -> calibrated probability, in the network's order.
        malignant: Probability of the malignant classes together, or None where the task does not tell.
        triage: A level of the bundle's triage rule, or None where it has none.
        triage_reason: Why that level, in words.
        no_result: Why the prediction must not be used, in words: the refusals among the verdicts; "" where it may.
        verdicts: What the gates (dermoscopy, quality) and the novelty check said; empty where they were left out.
        uncertainty: How unsure the probabilities are, and how far the views disagree.
        similar: The most similar cases of a reference set, with their known diagnoses; empty where none was given.
        sets: Wanted coverage, such as "0.90" -> the classes that remain possible; empty where the bundle has none.
        views: Name of the views that were averaged.
        bundle_id: Which classifier, with which calibration and thresholds (`BundleConfig.answer_id`).
        seconds: Stage -> seconds spent: "read", "network".
        logits: Of each view, (V, K).
        thumbnail: A small JPEG of what was given in memory; empty for files, which can be looked at.
        runtime: What ran the networks, and in which precision; "" where that is not told.
    """

    image_id: str
    path: str | None
    probabilities: Mapping[str, float]
    malignant: float | None
    triage: str | None
    triage_reason: str
    views: str
    bundle_id: str
    seconds: Mapping[str, float] = field(compare=False)
    uncertainty: Uncertainty
    sets: Mapping[str, tuple[str, ...]]
    verdicts: tuple[Verdict, ...]
    no_result: str
    similar: tuple[Similar, ...]
    logits: NDArray[np.float32] = field(compare=False)
    thumbnail: bytes = field(default=b"", compare=False)
    runtime: str = field(default="", compare=False)

    @property
    def diagnosis(self) -> str | None:
        """The class of the highest probability, None where there is no result."""
        return None if self.no_result else self.most_probable

    @property
    def most_probable(self) -> str:
        """The class of the highest probability, also where the answer must not be used."""
        return max(self.probabilities, key=lambda name: self.probabilities[name])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "image": self.image_id,
            "path": self.path,
            "probabilities": dict(self.probabilities),
            "malignant": self.malignant,
            "triage": self.triage,
            "triage_reason": self.triage_reason,
            "no_result": self.no_result or None,
            "prediction_sets": {coverage: list(names) for coverage, names in self.sets.items()},
            "uncertainty": self.uncertainty.to_dict(),
            "similar": [case.to_dict() for case in self.similar],
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "views": self.views,
            "bundle": self.bundle_id,
            "runtime": self.runtime,
            "seconds": {stage: round(value, 4) for stage, value in self.seconds.items()},
        }

    def __repr__(self) -> str:
        if self.no_result:
            return f"<Prediction {self.image_id}: no result. {self.no_result}>"
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.probabilities.items())
        warned = "".join(f"; warning: {verdict.check}" for verdict in self.verdicts if verdict.level == "warn")
        return f"<Prediction {self.image_id}: {values}; triage: {self.triage or 'none'}{warned}>"

    def _repr_html_(self) -> str:
        return cards_html([(self.to_dict(), self.thumbnail)])


@dataclass(frozen=True, repr=False)
class Refusal:
    """An image that could not be read, and why; `path` is None for what was given in memory."""

    image_id: str
    path: str | None
    reason: str
    cure: str = ""
    thumbnail: ClassVar[bytes] = b""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"image": self.image_id, "path": self.path, "refused": self.reason, "cure": self.cure}

    def __repr__(self) -> str:
        return f"<Refusal {self.image_id}: {self.reason}>"

    def _repr_html_(self) -> str:
        return cards_html([(self.to_dict(), b"")])
