"""The classifier: the one way from an image to a Prediction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.card import resave_bundle
from pesi.bundle.config import BundleConfig, load_bundle, read_but_networks
from pesi.bundle.seen import fold_indices
from pesi.decide.calibration import calibrated_probabilities
from pesi.decide.conformal import named_sets
from pesi.decide.novelty import NoveltyStatistics, novelty_verdict
from pesi.decide.triage import triaged
from pesi.decide.uncertainty import uncertainty_of
from pesi.errors import ChoiceError
from pesi.images.pixels import ImageSource, decoded
from pesi.images.regions import Seen, reading_side
from pesi.images.transforms import Image
from pesi.images.views import VIEWS, cut_views
from pesi.predict.gate import picture_verdicts
from pesi.predict.members import Member, Outputs, groups_alike, mean_maps, novelty_scores, outputs_of
from pesi.predict.notebook import thumbnail
from pesi.predict.prediction import Prediction, Refusal, Similar
from pesi.predict.predictions import Predictor
from pesi.predict.reading import Picture, Reading
from pesi.predict.regions import distinct_regions, regions_of
from pesi.predict.runtimes.exports import export_folders
from pesi.predict.runtimes.networks import Networks
from pesi.predict.runtimes.runtime import Runtime
from pesi.predict.segmenter import shipped_segmenter, shipped_segmenter_folder
from pesi.predict.sharing import Shared
from pesi.predict.stream import predict_stream
from pesi.taxonomy import Task
from pesi.verdict import Verdict

if TYPE_CHECKING:
    import torch

    from pesi.nn.cnn import PesiCNN


class Reference(Protocol):
    """Labelled images to look for similar cases in, such as a `similar.ReferenceSet`."""

    def check_bundle(self, classifier: Classifier, views: str | None) -> None:
        """Raise DataError if it was built with another bundle or other views."""

    def nearest(self, features: NDArray[np.floating], k: int) -> Sequence[Similar]:
        """The cases most like one image's features (C,)."""


class Classifier(Predictor, Shared):
    """A bundle, ready to predict.

    Args:
        config: The bundle's configuration.
        networks: Its networks, one a member of it; or the only one; or what gives them when they are first needed.
        novelty: What each knows of novelty; None: pictures of anything are answered.
        device: Where to compute, such as "cpu", "cuda" or "mps"; default: a GPU if there is one.
        runtime: What runs the networks; default: PyTorch as it is. Others run the weights that the config names.

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
        networks: PesiCNN | Sequence[PesiCNN] | Callable[[], Sequence[PesiCNN]],
        novelty: NoveltyStatistics | Sequence[NoveltyStatistics | None] | None = None,
        *,
        device: str | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.config = config
        known = (novelty,) if isinstance(novelty, NoveltyStatistics) else tuple(novelty or ())
        self.novelty = known or (None,) * len(config.members)
        self.task: Task = config.to_task()
        self._given = networks
        self._set(runtime or Runtime("eager", device=device))

    def __repr__(self) -> str:
        return f"<Classifier {self.config.summary}; {self.runtime.name} on {self.runtime.place}>"

    @property
    def device(self) -> torch.device:
        """Where PyTorch computes, or would."""
        return self.runtime.device

    @property
    def networks(self) -> tuple[PesiCNN, ...]:
        """The networks, as PyTorch has them."""
        return self._networks.modules

    def to(self, device: str | torch.device | None) -> Self:
        """Compute on another device from now on; gives itself.

        Raises:
            PesiError: There is no such device here, or not for this runtime.
        """
        return self._set(self.runtime.on(device))

    def _set(self, runtime: Runtime) -> Self:
        """Run by this runtime from now on."""
        self.runtime = runtime
        self._networks = Networks(self.config.members, self._given, runtime, self.view_probabilities)
        looks = [regions_of(member.preprocess, runtime) for member in self.config.members]
        self.region_names, self.regions, places = distinct_regions(self.config.members, looks)
        self.members = tuple(
            Member(config, self._networks, index, novelty, own)
            for index, (config, novelty, own) in enumerate(zip(self.config.members, self.novelty, places, strict=True))
        )
        self._folds: dict[int, Classifier] = {}
        return self

    @property
    def network(self) -> PesiCNN:
        """The first network."""
        return self.networks[0]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            folder: Its folder.
            device, runtime, precision: See `runtimes.runtime.Runtime`; Grad-CAM is computed by PyTorch in any case.

        Raises:
            BundleError: It is missing, damaged or of another version.
            PesiError: There is no such runtime, precision or device here.
        """
        chosen = Runtime(runtime, precision, device=device)
        if chosen.runs_torch:
            return cls(*load_bundle(folder), runtime=chosen)._opened_from(folder)
        config, novelty = read_but_networks(folder)
        own = chosen.with_exports(export_folders(Path(folder), config.bundle_id))
        return cls(config, lambda: load_bundle(folder).networks, novelty, runtime=own)._opened_from(folder)

    @property
    def run_by(self) -> str:
        """What runs the networks, and in which precision, such as "openvino float32"; opens it."""
        return self._networks.run_by(groups_alike(self.members, range(len(self.members))))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the bundle; the same bytes of weights where nothing was trained since it was opened.

        Raises:
            StorageError: The system refused to write.
        """
        resave_bundle(folder, self.config, self.networks, novelty=self.novelty, opened_from=self.folder)

    def squares(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode an image and cut the bundle's regions from it, (R, S, S, 3).

        Raises:
            ImageError: The image is refused.
        """
        return self._cut(self._seen(source)[0])

    def read(self, source: ImageSource, *, gates: bool = True) -> Reading:
        """Decode an image, cut the bundle's regions from it, and judge its quality.

        Args:
            source: See `images.pixels`.
            gates: Whether to judge.

        Raises:
            ImageError: The image is refused.
        """
        image, short_side = self._seen(source)
        small = b"" if isinstance(source, str | Path) else thumbnail(image.image)
        return Reading(self._cut(image), self._judged(image, short_side) if gates else (), small)

    def outputs(
        self,
        squares: Sequence[NDArray[np.uint8]],
        views: str | None = None,
        folds: Sequence[int | None] | None = None,
    ) -> Outputs:
        """What the networks give for the views of N images' regions, each (R, S, S, 3).

        Args:
            squares: Of the images.
            views: A key of `VIEWS`; default the bundle's.
            folds: Of images that the bundle was trained with, see `folds_of`; default: all networks answer.
        """
        return outputs_of(self.members, squares, self._views(views), folds)

    def folds_of(self, image_ids: Sequence[str]) -> list[int | None]:
        """The fold of each image that the bundle was trained with, (N,); None for others, which all networks answer."""
        return fold_indices(self.config, image_ids)

    def of_fold(self, fold: int | None) -> Classifier:
        """The classifier of a fold's networks alone, which have not seen its images; None: this one."""
        if fold is None:
            return self
        if fold not in self._folds:
            own = [index for index, member in enumerate(self.members) if member.config.fold == fold]
            own.sort(key=lambda index: self.members[index].regions)  # its first region is that of the bundle
            members = tuple(self.config.members[index].model_copy(update={"fold": None}) for index in own)
            self._folds[fold] = Classifier(
                self.config.model_copy(update={"members": members, "folds": ()}),
                lambda: [self.networks[index] for index in own],
                [self.novelty[index] for index in own],
                runtime=self.runtime.without_exports,
            )
        return self._folds[fold]

    def novelty_scores(self, outputs: Outputs) -> NDArray[np.float64] | None:
        """How strange the images are, (N,), 1: as the mean training image; None where the bundle does not know."""
        return None if self.config.novelty is None else novelty_scores(outputs, self.novelty)

    def logits(
        self,
        squares: Sequence[NDArray[np.uint8]],
        views: str | None = None,
        folds: Sequence[int | None] | None = None,
    ) -> NDArray[np.float32]:
        """The logits of `outputs` alone, (N, S, K)."""
        return self.outputs(squares, views, folds).logits

    def picture_logits(self, pictures: Sequence[Image] | NDArray[np.uint8], *, region: int = 0) -> NDArray[np.float32]:
        """Logits (N, S, K) of pictures as the networks see a region, by all that `look` takes."""
        return self._networks.answers([member.index for member in self.looking_at(region)], pictures)[0]

    def looking_at(self, region: int = 0) -> tuple[Member, ...]:
        """The networks that look at a region first, and like the first of them: same size of input, same kind.

        Raises:
            ValueError: No network looks at that region first.
        """
        own = [member for member in self.members if member.regions[0] == region]
        own = own or [member for member in self.members if region in member.regions]
        if not own:
            raise ValueError(f"No network looks at region {region}.")
        alike = own[0].same_pictures
        return tuple(member for member in own if member.same_pictures == alike)

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
        score = None if malignant is None else float(malignant[0])
        triage, reason = (None, "no result") if refusals else triaged(score, config.triage)
        return Prediction(
            image_id=image_id,
            path=path,
            probabilities={name: float(value) for name, value in zip(config.outputs, values, strict=True)},
            malignant=score,
            triage=triage,
            triage_reason=reason,
            views=views or config.views,
            bundle_id=config.answer_id,
            seconds=seconds,
            uncertainty=uncertainty_of(samples, config.outputs, config.task.head),
            sets=named_sets(values, config.conformal, config.outputs),
            verdicts=verdicts,
            no_result=" ".join(refusals),
            similar=tuple(similar),
            logits=logits,
            thumbnail=thumbnail,
            runtime=self.run_by,
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
        held_out: bool = False,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
        in_order: bool = True,
    ) -> Iterator[Prediction | Refusal]:
        """Predict many images; one that cannot be read gives a Refusal and the rest goes on (see `predict_stream`).

        Args:
            paths: Image files, or what else `images.pixels` takes; of a generator two batches at most are taken ahead.
            image_ids: Their ids; default as `pesi predict` makes them (`sources.with_ids`).
            views: A key of `VIEWS`; default the bundle's.
            gates: As for `predict`.
            reference: Labelled images to look for similar cases in; built with this bundle and these views.
            similar: How many of them.
            held_out: Whether images that the bundle was trained with, told by their ids, are answered by the networks
                that have not seen them.
            batch_size: Images (not views) at a time.
            progress: Called with the number of images done, after every `batch_size` of them.
            in_order: Give results in the images' order; else as they are done, so that none waits for a slow one.
        """
        if reference is not None:
            reference.check_bundle(self, views)

        def prediction(
            image_id: str, path: str | None, reading: Reading, answer: Outputs, seconds: dict[str, float]
        ) -> Prediction:
            cases = () if reference is None else reference.nearest(answer.mean_features[0], similar)
            verdicts = self._verdicts(reading, answer, gates)
            return self.prediction(image_id, path, answer.logits[0], views, seconds, verdicts, cases, reading.thumbnail)

        def read(source: ImageSource, image_id: str) -> Reading:
            reading = self.read(source, gates=gates)
            return reading._replace(fold=self.folds_of([image_id])[0]) if held_out else reading

        def answer(readings: Sequence[Reading]) -> list[Outputs]:
            return self.outputs([each.squares for each in readings], views, [each.fold for each in readings]).each()

        return predict_stream(
            paths,
            image_ids,
            read=read,
            answer=answer,
            prediction=prediction,
            prepare=lambda: None if held_out else self.run_by,
            batch_size=batch_size,
            progress=progress,
            in_order=in_order,
            on_processor=self.runtime.place == "cpu",
        )

    def look(self, source: ImageSource, *, region: int = 0) -> Picture:
        """A region, unflipped, with the mean maps of every network that looks at it (`looking_at`).

        Args:
            source: See `images.pixels`.
            region: Which of the bundle's regions.
        """
        members = self.looking_at(region)
        size = members[0].config.preprocess.size
        image = cut_views(self.regions[region](self._seen(source)[0]), VIEWS["single"], size)[0]
        return Picture(image, mean_maps(self._networks.maps([member.index for member in members], image)))

    def _seen(self, source: ImageSource) -> tuple[Seen, int]:
        """An image, read as large as the regions need it, and the shorter side of its file."""
        pixels, size = decoded(source, min_side=reading_side(self.regions))
        return Seen(pixels), min(size)

    def _cut(self, image: Seen) -> NDArray[np.uint8]:
        return np.stack([region(image) for region in self.regions])

    def _judged(self, image: Seen, short_side: int) -> tuple[Verdict, ...]:
        segmenter = shipped_segmenter(self.runtime) if shipped_segmenter_folder() is not None else None
        return picture_verdicts(image, segmenter, self.config.quality, short_side=short_side)

    def _verdicts(self, reading: Reading, answer: Outputs, gates: bool) -> tuple[Verdict, ...]:
        """What the gates say of one image."""
        scores = self.novelty_scores(answer) if gates else None
        if scores is None or self.config.novelty is None:
            return reading.verdicts
        return (*reading.verdicts, novelty_verdict(float(scores[0]), self.config.novelty))

    def _views(self, name: str | None) -> tuple:
        name = name or self.config.views
        if name not in VIEWS:
            raise ChoiceError("views", name, VIEWS)
        return VIEWS[name]
