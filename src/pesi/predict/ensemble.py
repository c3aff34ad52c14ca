"""An ensemble: several classifiers of one task, each calibrated by itself, whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pesi.decide.uncertainty import uncertainty_of
from pesi.errors import BundleError
from pesi.images.pixels import ImageSource, pixels
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.stream import predict_stream
from pesi.stats.logistic import logit
from pesi.taxonomy import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MemberViews:
    """What the members of an ensemble said of one image.

    Attributes:
        probabilities: Calibrated, of all views of all members, (S, K).
        members: Index of the member that each row is of, (S,).
    """

    probabilities: Floats = field(repr=False)
    members: NDArray[np.int64] = field(repr=False)

    @property
    def weights(self) -> Floats:
        """Of the rows, (S,), 1 in all: every member counts the same, however many views it has."""
        counts = np.bincount(self.members)
        return np.asarray(1 / (len(counts) * counts[self.members]))

    @property
    def mean(self) -> Floats:
        """The mean over the members of their view-averaged probabilities, (K,)."""
        return np.asarray(self.weights @ self.probabilities)


class Ensemble:
    """Several classifiers of one task, which may differ in network, size and preprocessing.

    Probabilities are averaged, not logits (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017, arXiv 1612.01474).

    Args:
        members: At least two.

    Raises:
        BundleError: Fewer than two, or two of them do not answer the same question.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        if len(members) < 2:
            raise BundleError(f"An ensemble of {len(members)} members.", "Name at least two bundles.")
        first = members[0].config
        for member in members[1:]:
            other = member.config
            for what, a, b in (
                ("heads", first.task.head, other.task.head),
                ("outputs", ", ".join(first.outputs), ", ".join(other.outputs)),
                ("classes", first.task.classes, other.task.classes),
            ):
                if a != b:
                    raise BundleError(
                        f"{first.bundle_id} and {other.bundle_id} have different {what}: {a} and {b}.",
                        "An ensemble takes bundles that were trained for the same task with the same kind of head.",
                    )
        self.members = tuple(members)
        self.task: Task = members[0].task
        self.head = first.task.head
        self.outputs = first.outputs

    @property
    def member_ids(self) -> tuple[str, ...]:
        """The members' bundle ids."""
        return tuple(member.config.bundle_id for member in self.members)

    @property
    def bundle_id(self) -> str:
        """What a prediction says it came from."""
        return "ensemble(" + ", ".join(self.member_ids) + ")"

    def squares(self, source: ImageSource) -> list[NDArray[np.uint8]]:
        """Decode an image once and cut each member's regions from it: M arrays (R, S, S, 3).

        Raises:
            ImageError: The image is refused.
        """
        image = pixels(source)
        return [member.squares(image) for member in self.members]

    def combine(self, squares: Sequence[Sequence[NDArray[np.uint8]]], views: str | None = None) -> list[MemberViews]:
        """What the members say of N images, each given as `squares` gives it.

        Args:
            squares: N times M arrays.
            views: A key of `VIEWS`; default each bundle's own.
        """
        if not squares:
            return []
        answers = [
            member.view_probabilities(member.logits([image[index] for image in squares], views))
            for index, member in enumerate(self.members)
        ]
        rows = np.repeat(np.arange(len(answers)), [answer.shape[1] for answer in answers])
        return [MemberViews(p, rows) for p in np.concatenate(answers, axis=1)]

    def view_probabilities(self, source: ImageSource, views: str | None = None) -> MemberViews:
        """What the members say of one image.

        Raises:
            ImageError: The image is refused.
        """
        return self.combine([self.squares(source)], views)[0]

    def predict_many(
        self,
        paths: Iterable[ImageSource],
        *,
        image_ids: Iterable[str] | None = None,
        views: str | None = None,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
        in_order: bool = True,
    ) -> Iterator[Prediction | Refusal]:
        """Predict many files, in order, as `Classifier.predict_many` does.

        Args:
            paths: Image files.
            image_ids: Their ids; default the files' names without their endings.
            views: A key of `VIEWS`; default each bundle's own.
            batch_size: Images (not views) at a time.
            progress: Called with the number of images done, after every `batch_size` of them.
            in_order: Give results in the images' order; else as they are done.
        """
        return predict_stream(
            paths,
            image_ids,
            read=lambda source, image_id: self.squares(source),
            answer=lambda squares: self.combine(squares, views),
            prediction=lambda image_id, path, _, answer, seconds: ensemble_prediction(
                self, image_id, path, answer, views, seconds
            ),
            batch_size=batch_size,
            progress=progress,
            in_order=in_order,
            on_processor=self.members[0].runtime.place == "cpu",
        )


def ensemble_prediction(
    ensemble: Ensemble,
    image_id: str,
    path: str | None,
    answer: MemberViews,
    views: str | None,
    seconds: dict[str, float],
) -> Prediction:
    """A Prediction from what the members said of one image; its logits are those of the calibrated probabilities."""
    mean = answer.mean
    malignant = ensemble.members[0].malignant_probability(mean[None])
    p = np.clip(answer.probabilities, 1e-12, 1 - 1e-12)
    return Prediction(
        image_id=image_id,
        path=path,
        probabilities={name: float(value) for name, value in zip(ensemble.outputs, mean, strict=True)},
        malignant=None if malignant is None else float(malignant[0]),
        triage=None,
        triage_reason="an ensemble has no triage rule: its members' rules were set on their own probabilities",
        views=views or "+".join(member.config.views for member in ensemble.members),
        bundle_id=ensemble.bundle_id,
        seconds=seconds,
        uncertainty=uncertainty_of(answer.probabilities, ensemble.outputs, ensemble.head, answer.weights),
        sets={},
        verdicts=(),
        no_result="",
        similar=(),
        logits=np.asarray(np.log(p) if ensemble.head == "multiclass" else logit(p), np.float32),
    )
