"""The classifier: the one way from an image to a Prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pesi.bundle.card import resave_bundle
from pesi.bundle.config import BundleConfig, load_bundle
from pesi.decide.calibration import calibrated_probabilities
from pesi.decide.conformal import prediction_sets
from pesi.decide.novelty import NoveltyStatistics, novelty_score, novelty_verdict
from pesi.decide.uncertainty import uncertainty_of
from pesi.errors import ChoiceError
from pesi.images.pixels import ImageSource, pixels
from pesi.images.quality import quality_verdicts
from pesi.images.transforms import Image, normalise, to_tensor
from pesi.images.views import VIEWS, cut_views
from pesi.nn.cnn import PesiCNN, PesiMaps
from pesi.predict.device import torch_device
from pesi.predict.notebook import thumbnail
from pesi.predict.prediction import Prediction, Refusal, Similar
from pesi.predict.predictions import Predictor
from pesi.predict.regions import regions_of
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter, shipped_segmenter_folder
from pesi.predict.sharing import Shared
from pesi.predict.stream import predict_stream
from pesi.taxonomy import Task
from pesi.verdict import Verdict

# Pictures a forward pass on a CPU. More is no faster, and needs buffers that are mapped anew in every layer, which can
# cost more than the arithmetic.
_CPU_PICTURES = 8


class Reference(Protocol):
    """Labelled images to look for similar cases in, such as a `similar.ReferenceSet`."""

    def check_bundle(self, classifier: Classifier, views: str | None) -> None:
        """Raise DataError if it was built with another bundle or other views."""
        ...

    def nearest(self, features: NDArray[np.floating], k: int) -> Sequence[Similar]:
        """The cases most like one image's features (C,)."""
        ...


class Picture(NamedTuple):
    """An image as the network sees it, and the network's maps of it (batch of one)."""

    image: Image
    maps: PesiMaps


class Outputs(NamedTuple):
    """What the network gives for N images.

    Attributes:
        logits: Of every view of every region, (N, R * V, K), before any calibration.
        features: Pooled features, averaged over the views of the first region, (N, C). A picture that is no dermoscopy
            is told by the whole of it far better than by a part.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Reading(NamedTuple):
    """An image, read.

    Attributes:
        squares: The bundle's regions, (R, S, S, 3).
        verdicts: What the image-quality gate said; empty where it was left out.
        thumbnail: A small JPEG of what was given in memory; empty for files.
    """

    squares: NDArray[np.uint8]
    verdicts: tuple[Verdict, ...]
    thumbnail: bytes


class Classifier(Predictor, Shared):
    """A bundle, ready to predict.

    Args:
        config: The bundle's configuration.
        network: Its network.
        novelty: What it knows of novelty; None: pictures of anything are answered.
        device: Where to compute, such as "cpu", "cuda" or "mps"; default: a GPU if there is one.

    Example:
        >>> classifier = pesi.load("run/bundle")  # doctest: +SKIP
        >>> classifier.predict("mole.jpg").probabilities["melanoma"]  # doctest: +SKIP
        0.71
        >>> classifier.predict("photos/").to_frame()  # doctest: +SKIP
    """

    config: BundleConfig

    def __init__(
        self,
        config: BundleConfig,
        network: PesiCNN,
        novelty: NoveltyStatistics | None = None,
        *,
        device: str | None = None,
    ) -> None:
        self.config = config
        self.network = network.eval()
        self.novelty = novelty
        self.task: Task = config.to_task()
        self.to(device)

    def __repr__(self) -> str:
        return f"<Classifier {self.config.summary}; on {self.device}>"

    def to(self, device: str | torch.device | None) -> Self:
        """Compute on another device from now on; gives itself.

        Raises:
            PesiError: There is no such device here.
        """
        self.device = torch_device(device)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.regions = regions_of(self.config.preprocess, device=str(self.device))
        self.__dict__.pop("_segmenter", None)
        return self

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> Self:
        """Open a bundle.

        Raises:
            BundleError: It is missing, damaged or of another version.
        """
        return cls(*load_bundle(folder), device=device)._opened_from(folder)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the bundle; the same bytes of weights where nothing was trained since it was opened.

        Raises:
            StorageError: The system refused to write.
        """
        resave_bundle(folder, self.config, self.network, novelty=self.novelty, opened_from=self.folder)

    def squares(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode an image and cut the bundle's regions from it, (R, S, S, 3).

        Raises:
            ImageError: The image is refused.
        """
        return self._cut(pixels(source))

    def read(self, source: ImageSource, *, gates: bool = True) -> Reading:
        """Decode an image, cut the bundle's regions from it, and judge its quality.

        Args:
            source: See `images.pixels`.
            gates: Whether to judge.

        Raises:
            ImageError: The image is refused.
        """
        image = pixels(source)
        small = b"" if isinstance(source, str | Path) else thumbnail(image)
        return Reading(self._cut(image), self._quality(image) if gates else (), small)

    def outputs(self, squares: Sequence[NDArray[np.uint8]], views: str | None = None) -> Outputs:
        """Network outputs for the views of N images' regions, each (R, S, S, 3)."""
        preprocess, network = self.config.preprocess, self.network
        cuts = self._views(views)
        if not len(squares):
            shape = 0, len(self.regions) * len(cuts), network.num_classes
            return Outputs(np.zeros(shape, np.float32), np.zeros((0, network.num_features), np.float32))
        pictures = [
            to_tensor(cut) for image in squares for square in image for cut in cut_views(square, cuts, preprocess.size)
        ]
        step = _CPU_PICTURES if self.device.type == "cpu" else len(pictures)
        with torch.inference_mode():
            passes = [self._pass(pictures[start : start + step]) for start in range(0, len(pictures), step)]
        out, features = (np.concatenate(part) for part in zip(*passes, strict=True))
        count = len(squares)
        first = features.reshape(count, -1, features.shape[1])[:, : len(cuts)]
        return Outputs(out.reshape(count, -1, out.shape[1]), first.mean(axis=1))

    def _pass(self, pictures: Sequence[Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One forward pass: logits (N, K) and pooled features (N, C) of pictures (3, S, S)."""
        preprocess = self.config.preprocess
        x = normalise(torch.stack(list(pictures)).to(self.device), preprocess.mean, preprocess.std)
        pooled = self.network.forward_head(self.network.forward_features(x), pre_logits=True)
        return self.network.classify(pooled).float().cpu().numpy(), pooled.float().cpu().numpy()

    def logits(self, squares: Sequence[NDArray[np.uint8]], views: str | None = None) -> NDArray[np.float32]:
        """The logits of `outputs` alone, (N, R * V, K)."""
        return self.outputs(squares, views).logits

    def view_probabilities(self, logits: NDArray) -> NDArray[np.float64]:
        """Each view's own probabilities, calibrated as the bundle does it, (N, V, K) -> (N, V, K)."""
        config, shape = self.config, logits.shape
        each = logits.reshape(-1, 1, shape[-1])
        return calibrated_probabilities(each, config.task.head, config.temperature, config.vector).reshape(shape)

    def prediction(
        self,
        image_id: str,
        path: str | None,
        logits: NDArray[np.float32],
        views: str | None,
        seconds: dict[str, float],
        verdicts: tuple[Verdict, ...] = (),
        similar: Sequence[Similar] = (),
        thumbnail: bytes = b"",
    ) -> Prediction:
        """A Prediction from the logits of one image's views, (V, K), what the gates said, and similar cases."""
        config = self.config
        samples = self.view_probabilities(logits[None])[0]
        values = samples.mean(axis=0)
        malignant = self.malignant_probability(values[None])
        refusals = [verdict.reason for verdict in verdicts if verdict.level == "refuse"]
        triage, reason = None, "this bundle has no triage rule"
        if refusals:
            reason = "no result"
        elif malignant is not None and config.triage:
            score = float(malignant[0])
            level = next(level for level in config.triage if score >= level.at_least)
            triage, reason = level.level, f"malignant probability {score:.3f} >= {level.at_least:.3f} ({level.how})"
        return Prediction(
            image_id=image_id,
            path=path,
            probabilities={name: float(value) for name, value in zip(config.outputs, values, strict=True)},
            malignant=None if malignant is None else float(malignant[0]),
            triage=triage,
            triage_reason=reason,
            views=views or config.views,
            bundle_id=config.answer_id,
            seconds=seconds,
            uncertainty=uncertainty_of(samples, config.outputs, config.task.head),
            sets={
                f"{sets.coverage:.2f}": tuple(
                    name
                    for name, inside in zip(config.outputs, prediction_sets(values[None], sets)[0], strict=True)
                    if inside
                )
                for sets in config.conformal
            },
            verdicts=verdicts,
            no_result=" ".join(refusals),
            similar=tuple(similar),
            logits=logits,
            thumbnail=thumbnail,
        )

    def malignant_probability(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """See `BundleConfig.malignant_probability`."""
        return self.config.malignant_probability(probabilities)

    def predict_many(
        self,
        paths: Iterable[ImageSource],
        *,
        image_ids: Iterable[str] | None = None,
        views: str | None = None,
        gates: bool = True,
        reference: Reference | None = None,
        similar: int = 5,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Prediction | Refusal]:
        """Predict many images, in order; one that cannot be read gives a Refusal and the rest goes on.

        Args:
            paths: Image files, or what else `images.pixels` takes; of a generator no more than a batch is held.
            image_ids: Their ids; default as `pesi predict` makes them (`sources.with_ids`).
            views: A key of `VIEWS`; default the bundle's.
            gates: As for `predict`.
            reference: Labelled images to look for similar cases in; built with this bundle and these views.
            similar: How many of them.
            batch_size: Images (not views) at a time.
            progress: Called with the number of images done after each batch.
        """
        if reference is not None:
            reference.check_bundle(self, views)

        def prediction(
            image_id: str, path: str | None, reading: Reading, answer: Outputs, seconds: dict[str, float]
        ) -> Prediction:
            cases = () if reference is None else reference.nearest(answer.features, similar)
            verdicts = self._verdicts(reading, answer, gates)
            return self.prediction(
                image_id, path, answer.logits, views, seconds, verdicts, cases, thumbnail=reading.thumbnail
            )

        return predict_stream(
            paths,
            image_ids,
            read=lambda source: self.read(source, gates=gates),
            answer=lambda readings: _each(self.outputs([reading.squares for reading in readings], views)),
            prediction=prediction,
            batch_size=batch_size,
            progress=progress,
        )

    def look(self, source: ImageSource, *, region: int = 0) -> Picture:
        """One forward pass over a region, unflipped, with its class activation and attention maps.

        Args:
            source: See `images.pixels`.
            region: Which of the bundle's regions.
        """
        preprocess = self.config.preprocess
        image = cut_views(self.regions[region](pixels(source)), VIEWS["single"], preprocess.size)[0]
        with torch.inference_mode():
            x = normalise(to_tensor(image)[None].to(self.device), preprocess.mean, preprocess.std)
            return Picture(image, self.network.forward_maps(x))

    def _cut(self, image: Image) -> NDArray[np.uint8]:
        return np.stack([region(image) for region in self.regions])

    def _quality(self, image: Image) -> tuple[Verdict, ...]:
        lesion = self._segmenter.segment(image) if self._segmenter is not None else None
        mask = None if lesion is None else lesion.mask & lesion.found
        reason = "" if lesion is None else lesion.reason
        return quality_verdicts(image, mask=mask, not_found=reason, config=self.config.quality)

    @cached_property
    def _segmenter(self) -> LesionSegmenter | None:
        return shipped_segmenter(device=str(self.device)) if shipped_segmenter_folder() is not None else None

    def _verdicts(self, reading: Reading, answer: Outputs, gates: bool) -> tuple[Verdict, ...]:
        """What the gates say of one image."""
        if not gates or self.novelty is None or self.config.novelty is None:
            return reading.verdicts
        score = float(novelty_score(answer.features[None], self.novelty)[0])
        return (*reading.verdicts, novelty_verdict(score, self.config.novelty))

    def _views(self, name: str | None) -> tuple:
        name = name or self.config.views
        if name not in VIEWS:
            raise ChoiceError("views", name, VIEWS)
        return VIEWS[name]


def _each(outputs: Outputs) -> list[Outputs]:
    """The outputs of a batch, an image each: logits (V, K), features (C,)."""
    return [Outputs(logits, features) for logits, features in zip(outputs.logits, outputs.features, strict=True)]
