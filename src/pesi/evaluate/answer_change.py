"""Two sets of answers to the same images compared: AUC, flips and probability, before and after a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.calibration import calibrated_probabilities
from pesi.decide.operating import Threshold
from pesi.predict.classifier import Classifier
from pesi.stats import metrics
from pesi.stats.intervals import Estimate, bootstrap, mean_interval, percentile_interval, share_interval, units
from pesi.stats.paired import FEW

Floats = NDArray[np.float64]

_BATCH = 16
_LEAST_OF_A_CLASS = 2  # images with and without a class, below which its AUC means nothing
_CALL_SENSITIVITY = 0.90  # the bundle's threshold nearest to this one makes the call


@dataclass(frozen=True)
class Share:
    """A proportion, `count` of `of`, and its 95 % interval (Wilson)."""

    value: float
    low: float
    high: float
    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high


@dataclass(frozen=True)
class AucChange:
    """An AUC of the same images before and after; intervals from the same resamples, stratified by class.

    Attributes:
        before, after: Each with its own interval.
        change: after - before, paired.
        few: Whether there are too few images with or without a class for the intervals to hold what they say.
    """

    before: Estimate
    after: Estimate
    change: Estimate
    few: bool = False


@dataclass(frozen=True)
class AnswerChange:
    """How the answers to some images changed.

    Attributes:
        images: How many.
        auc: Scored class name, and "mean" -> change; a class of too few images has none.
        answer: What an answer is: the most probable diagnosis, or for several at a time those called at 0.5.
        class_flips: Whose answer changed.
        call_flips: Whose call at the bundle's threshold (`call_threshold`) changed; None where it has none.
        malignant_shift: Mean change of the malignant probability; None where no class is malignant.
    """

    images: int
    auc: dict[str, AucChange]
    answer: str
    class_flips: Share
    call_flips: Share | None
    malignant_shift: Estimate | None
    before: Floats = field(repr=False, compare=False)  # (N, K)
    after: Floats = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; without the probabilities."""
        return {
            "images": self.images,
            "auc": {name: _plain(change) for name, change in self.auc.items()},
            "answer": self.answer,
            "class_flips": _plain(self.class_flips),
            "call_flips": _plain(self.call_flips),
            "malignant_shift": _plain(self.malignant_shift),
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value._asdict()
    return {name: _plain(part) for name, part in vars(value).items()} if hasattr(value, "__dict__") else value


def single_view_probabilities(
    classifier: Classifier,
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    made_fold: NDArray[np.int64] | None = None,
) -> Floats:
    """Calibrated probabilities of images from one unflipped view each, (N, K).

    Args:
        classifier: The classifier.
        images: (N, S, S, 3) uint8, or a sequence of (H, W, 3).
        made_fold: As `AuditData.made_fold`; None: all networks answer.
    """
    logits = []
    folds = None if made_fold is None else [None if fold < 0 else int(fold) for fold in made_fold]
    for start in range(0, len(images), _BATCH):
        squares = [classifier.squares(np.ascontiguousarray(image)) for image in images[start : start + _BATCH]]
        own = None if folds is None else folds[start : start + _BATCH]
        logits.append(classifier.logits(squares, "single", own))
    config = classifier.config
    return calibrated_probabilities(np.concatenate(logits), config.task.head, config.temperature, config.vector)


def call_threshold(classifier: Classifier) -> Threshold | None:
    """The threshold that calls a lesion malignant: of a malignant class, for a sensitivity next to 0.90."""
    malignant = {task_class.name for task_class in classifier.task.classes if task_class.malignant}
    found = [
        threshold
        for threshold in classifier.config.thresholds
        if threshold.class_name in malignant and threshold.name.startswith("sensitivity")
    ]
    return min(found, key=lambda threshold: abs(threshold.sensitivity - _CALL_SENSITIVITY)) if found else None


def compare_answers(
    classifier: Classifier,
    classes: NDArray[np.int64],
    before: Floats,
    after: Floats,
    *,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None = None,
) -> AnswerChange:
    """Compare the answers to the same images.

    Args:
        classifier: Whose classes and threshold count.
        classes: Class of each image in its task, (N,), N at least 1.
        before, after: Probabilities, (N, K).
        replicates: Bootstrap resamples, stratified by class.
        rng: Of the bootstrap.
        groups: Patient or lesion of each image, (N,), drawn as a whole.
    """
    shift, calls = None, None
    several = classifier.config.task.head == "multilabel"
    flipped = ((before >= 0.5) != (after >= 0.5)).any(1) if several else before.argmax(1) != after.argmax(1)
    was, now = classifier.malignant_probability(before), classifier.malignant_probability(after)
    if was is not None and now is not None:
        shift = mean_interval(now - was, classes, replicates=replicates, rng=rng, groups=groups)
    if (threshold := call_threshold(classifier)) is not None:
        column = classifier.config.outputs.index(threshold.class_name)
        calls = _share((before[:, column] >= threshold.value) != (after[:, column] >= threshold.value), groups)
    return AnswerChange(
        images=len(classes),
        auc=_auc_changes(classifier, classes, before, after, replicates, rng, groups),
        answer="diagnoses called" if several else "most probable diagnosis",
        class_flips=_share(flipped, groups),
        call_flips=calls,
        malignant_shift=shift,
        before=before,
        after=after,
    )


def _auc_changes(
    classifier: Classifier,
    classes: NDArray[np.int64],
    before: Floats,
    after: Floats,
    replicates: int,
    rng: np.random.Generator,
    groups: NDArray | None,
) -> dict[str, AucChange]:
    """Change of the AUC of each scored class that has enough images, and of their mean where all have."""
    task, outputs = classifier.task, classifier.config.outputs
    labels = {name: np.asarray(classes == task.class_names.index(name)) for name in task.scored_names}
    enough = [n for n, y in labels.items() if min(y.sum(), (~y).sum()) >= _LEAST_OF_A_CLASS and n in outputs]
    if not enough:
        return {}

    def statistics(weights: NDArray) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for when, scores in (("before", before), ("after", after)):
            for name in enough:
                column = scores[:, outputs.index(name)]
                values[f"{when} {name}"] = metrics.auc(metrics.curve(labels[name], column, weights))
            if len(enough) == len(labels):
                values[f"{when} mean"] = np.asarray(np.mean([values[f"{when} {name}"] for name in enough], axis=0))
        return values

    points = statistics(np.ones((1, len(classes)), np.int32))
    draws = bootstrap(statistics, classes, replicates=replicates, rng=rng, groups=groups)
    names = [key.removeprefix("after ") for key in points if key.startswith("after ")]
    of_few = {name for name in enough if min(units(groups, labels[name]), units(groups, ~labels[name])) < FEW}
    of_few |= {"mean"} if of_few else set()
    changes = {}
    for name in names:
        old, new = f"before {name}", f"after {name}"
        changes[name] = AucChange(
            _interval_of(points[old], draws[old]),
            _interval_of(points[new], draws[new]),
            _interval_of(points[new] - points[old], draws[new] - draws[old]),
            few=name in of_few,
        )
    return changes


def _interval_of(point: Floats, draws: Floats) -> Estimate:
    return Estimate(float(point[0]), *percentile_interval(draws))


def _share(changed: NDArray[np.bool_], groups: NDArray | None) -> Share:
    return Share(float(changed.mean()), *share_interval(changed, groups), int(changed.sum()), len(changed))
