"""The classifier: the one way from an image to a Prediction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pesi.data.decode import decode_image
from pesi.data.regions import LesionBox, Region, WholeImage
from pesi.data.transforms import Image, normalise, to_tensor
from pesi.data.views import VIEWS, cut_views
from pesi.errors import BundleError, DataError, ImageError, PesiError
from pesi.nn.cnn import PesiCNN, PesiMaps
from pesi.predict.bundle import BundleConfig, PreprocessConfig, load_bundle
from pesi.predict.bundle_files import bundle_kind
from pesi.predict.calibration import view_probabilities
from pesi.predict.prediction import Prediction, Refusal
from pesi.predict.segmenter import shipped_segmenter
from pesi.taxonomy import Task

ImageSource = str | Path | bytes | Image


class Picture(NamedTuple):
    """An image as the network sees it, and the network's maps of it (batch of one)."""

    image: Image
    maps: PesiMaps


class Outputs(NamedTuple):
    """What the network gives for N images.

    Attributes:
        logits: Of every view of every region, (N, R * V, K), before any calibration.
        features: Pooled features, averaged over the views, (N, C).
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


class Classifier:
    """A bundle, ready to predict.

    Args:
        config: The bundle's configuration.
        network: Its network.
        device: Where to compute, such as "cpu" or "cuda"; default: a GPU if there is one.

    Example:
        >>> classifier = pesi.load("run/bundle")  # doctest: +SKIP
        >>> classifier.predict("mole.jpg").probabilities["melanoma"]  # doctest: +SKIP
        0.71
    """

    def __init__(self, config: BundleConfig, network: PesiCNN, *, device: str | None = None) -> None:
        self.config = config
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.network = network.eval().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.task: Task = config.to_task()
        self.regions = regions_of(config.preprocess)
        self._malignant = [
            index
            for index, name in enumerate(config.outputs)
            if self.task.classes[self.task.class_names.index(name)].malignant
        ]

    @classmethod
    def load(cls, folder: str | Path, *, device: str | None = None) -> Classifier:
        """Open a bundle.

        Raises:
            BundleError: It is missing, damaged or of another version.
        """
        return cls(*load_bundle(folder), device=device)

    def squares(self, source: ImageSource) -> NDArray[np.uint8]:
        """Decode an image and cut the bundle's regions from it, (R, S, S, 3).

        Raises:
            ImageError: The image is refused.
        """
        if isinstance(source, np.ndarray):
            if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
                raise ImageError(
                    f"An image array must be uint8 of shape (H, W, 3), not {source.dtype} {source.shape}.",
                    "Convert it to 8-bit RGB.",
                )
            image = source
        else:
            image = decode_image(source)
        return np.stack([region(image) for region in self.regions])

    def outputs(self, squares: Sequence[NDArray[np.uint8]], views: str | None = None) -> Outputs:
        """Network outputs for the views of N images' regions, each (R, S, S, 3)."""
        preprocess = self.config.preprocess
        cuts = self._views(views)
        pictures = [
            to_tensor(cut) for image in squares for square in image for cut in cut_views(square, cuts, preprocess.size)
        ]
        with torch.inference_mode():
            x = normalise(torch.stack(pictures).to(self.device), preprocess.mean, preprocess.std)
            pooled = self.network.forward_head(self.network.forward_features(x), pre_logits=True)
            out = self.network.classify(pooled).float().cpu().numpy()
            features = pooled.float().cpu().numpy()
        count = len(squares)
        return Outputs(
            out.reshape(count, -1, out.shape[1]), features.reshape(count, -1, features.shape[1]).mean(axis=1)
        )

    def logits(self, squares: Sequence[NDArray[np.uint8]], views: str | None = None) -> NDArray[np.float32]:
        """The logits of `outputs` alone, (N, R * V, K)."""
        return self.outputs(squares, views).logits

    def predict(self, source: ImageSource, *, image_id: str | None = None, views: str | None = None) -> Prediction:
        """Predict one image.

        Args:
            source: A file, its bytes, or its pixels: uint8 sRGB, (H, W, 3).
            image_id: Its id; default the file's name without its ending.
            views: A key of `VIEWS`; default the bundle's.

        Raises:
            ImageError: The image is refused; the message says why.
        """
        started = time.perf_counter()
        squares = self.squares(source)
        read = time.perf_counter()
        logits = self.logits([squares], views)[0]
        seconds = {"read": read - started, "network": time.perf_counter() - read}
        path = str(source) if isinstance(source, str | Path) else None
        return self.prediction(image_id or (Path(path).stem if path else "image"), path, logits, views, seconds)

    def prediction(
        self,
        image_id: str,
        path: str | None,
        logits: NDArray[np.float32],
        views: str | None,
        seconds: dict[str, float],
    ) -> Prediction:
        """A Prediction from the logits of one image's views, (V, K)."""
        config = self.config
        values = view_probabilities(logits[None].astype(np.float64), config.task.head, config.temperature.value)[0]
        malignant = self.malignant_probability(values[None])
        triage, reason = None, "this bundle has no triage rule"
        if malignant is not None and config.triage:
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
            bundle_id=config.bundle_id,
            seconds=seconds,
            logits=logits,
        )

    def malignant_probability(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Probabilities (N, K) -> of a malignant class (N,), None where no class is malignant.

        Multi-class: the sum over the malignant classes; multi-label: the largest.
        """
        if not self._malignant:
            return None
        chosen = probabilities[:, self._malignant]
        total: NDArray[np.float64] = chosen.sum(1) if self.config.task.head == "multiclass" else chosen.max(1)
        return total

    def predict_many(
        self,
        paths: Iterable[str | Path],
        *,
        image_ids: Iterable[str] | None = None,
        views: str | None = None,
        batch_size: int = 16,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[Prediction | Refusal]:
        """Predict many files, in order; one that cannot be read gives a Refusal and the rest goes on.

        Args:
            paths: Image files.
            image_ids: Their ids; default the files' names without their endings.
            views: A key of `VIEWS`; default the bundle's.
            batch_size: Images (not views) at a time.
            progress: Called with the number of images done after each batch.
        """
        files_ = [Path(path) for path in paths]
        ids = list(image_ids) if image_ids is not None else [path.stem for path in files_]
        if len(ids) != len(files_):
            raise ValueError(f"{len(files_)} paths but {len(ids)} image ids.")

        def read(path: Path) -> NDArray[np.uint8] | PesiError:
            try:
                return self.squares(path)
            except ImageError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(files_), batch_size):
                batch = slice(start, start + batch_size)
                began = time.perf_counter()
                squares = list(pool.map(read, files_[batch]))
                good = [square for square in squares if not isinstance(square, PesiError)]
                done = time.perf_counter()
                logits = iter(self.logits(good, views)) if good else iter(())
                share = {
                    "read": (done - began) / len(squares),
                    "network": (time.perf_counter() - done) / max(len(good), 1),
                }
                for path, image_id, square in zip(files_[batch], ids[batch], squares, strict=True):
                    if isinstance(square, PesiError):
                        yield Refusal(image_id, str(path), square.problem, square.cure)
                    else:
                        yield self.prediction(image_id, str(path), next(logits), views, share)
                if progress:
                    progress(min(start + batch_size, len(files_)))

    def look(self, source: ImageSource) -> Picture:
        """One forward pass over the first region, unflipped, with its class activation and attention maps."""
        preprocess = self.config.preprocess
        image = cut_views(self.squares(source)[0], VIEWS["single"], preprocess.size)[0]
        with torch.inference_mode():
            x = normalise(to_tensor(image)[None].to(self.device), preprocess.mean, preprocess.std)
            return Picture(image, self.network.forward_maps(x))

    def _views(self, name: str | None) -> tuple:
        name = name or self.config.views
        if name not in VIEWS:
            raise DataError(f"Unknown views {name!r}.", f"Choose one of: {', '.join(VIEWS)}.")
        return VIEWS[name]


def regions_of(preprocess: PreprocessConfig) -> tuple[Region, ...]:
    """What a bundle cuts from an image.

    Raises:
        BundleError: It needs a lesion segmenter that is not the one that ships.
    """
    regions: list[Region] = []
    for name in preprocess.regions:
        if name == "image":
            regions.append(WholeImage(preprocess.source_size, preprocess.geometry))
        else:
            segmenter = shipped_segmenter()
            if preprocess.segmenter not in ("", segmenter.bundle_id):
                raise BundleError(
                    f"This bundle was made with the segmenter {preprocess.segmenter}; {segmenter.bundle_id} is here.",
                    "Install the version of pesi-cnn that it was made with, or train it again.",
                )
            regions.append(
                LesionBox(
                    preprocess.source_size,
                    preprocess.geometry,
                    preprocess.lesion_margin,
                    segmenter.find,
                    segmenter.bundle_id,
                )
            )
    return tuple(regions)


def probability_table(predictions: Iterable[Prediction]) -> pd.DataFrame:
    """Predictions as a frame: `image_id`, then one probability a class."""
    return pd.DataFrame([{"image_id": p.image_id, **p.probabilities} for p in predictions])


def shipped_bundles() -> dict[str, Path]:
    """The classifiers that come with the package, by name."""
    folder = Path(str(files("pesi") / "bundles"))
    configs = sorted(folder.glob("*/config.json")) if folder.is_dir() else []
    return {path.parent.name: path.parent for path in configs if bundle_kind(path.parent) == "classifier"}


def load(path_or_name: str | Path | None = None, *, device: str | None = None) -> Classifier:
    """Open a classifier.

    Args:
        path_or_name: A bundle's folder, or the name of one that ships with the package; None: the one that ships.
        device: Where to compute; default: a GPU if there is one.

    Raises:
        BundleError: There is no such bundle, or it is damaged or of another version.
    """
    shipped = shipped_bundles()
    if path_or_name is None:
        if not shipped:
            raise BundleError(
                "This version of pesi-cnn ships no trained bundle.",
                "Name one (--bundle RUN/bundle), or train it: pesi train pesi50 --data DIR, or pesi demo.",
            )
        return Classifier.load(next(iter(shipped.values())), device=device)
    folder = Path(path_or_name)
    return Classifier.load(shipped.get(str(path_or_name), folder) if not folder.is_dir() else folder, device=device)
