"""The lesion segmenter: the one way from an image to a lesion mask."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.bundle.card import model_card
from pesi.bundle.installed import SEGMENTER, shipped_bundle
from pesi.bundle.segmenter import SegmenterConfig, load_segmenter, save_segmenter
from pesi.errors import BundleError, ImageError
from pesi.images.decode import image_size
from pesi.images.masks import Mask, mask_of_size, unfit_square
from pesi.images.pixels import ImageSource, pixels
from pesi.images.regions import Seen
from pesi.images.transforms import Geometry, Image, resize
from pesi.predict.runtimes.runtime import Runtime
from pesi.predict.runtimes.session import Program, Session
from pesi.predict.sharing import Shared

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pesi.nn.segmenter import PesiSegmenter


@dataclass(frozen=True, eq=False)
class LesionMask:
    """Where the lesion is, in one image's own geometry.

    Attributes:
        mask: The largest region above the threshold, its holes filled, (H, W). Also there where `found` is false, so
            that a score can be taken; empty where nothing is above the threshold.
        probability: Of lesion, (H, W) float32 in 0..1; 0 where the segmenter did not look (outside a centre crop).
        area: The mask's share of the picture, 0..1.
        found: Whether the mask is to be believed as a lesion's.
        reason: Why none was found; "" where one was.
        features: What the encoder saw of the whole picture (`nn.segmenter.described`), (F,); empty where only
            a map was given.
    """

    mask: Mask
    probability: NDArray[np.float32]
    area: float
    found: bool
    reason: str
    features: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)


class SegmenterOutputs(NamedTuple):
    """What the network gives for N pictures: probability of lesion (N, size, size), `LesionMask.features` (N, F)."""

    probabilities: NDArray[np.float32]
    features: NDArray[np.float32]


def largest_region(mask: Mask) -> Mask:
    """The largest 8-connected region of a mask (H, W), its holes filled; of equal ones, the first by rows."""
    if not mask.any():
        return np.zeros_like(mask)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    region = (labels == 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    outline, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(region, outline, -1, [1.0], cv2.FILLED) > 0)


def lesion_of(
    probability: NDArray[np.float32], *, threshold: float, minimum_area: float, maximum_area: float
) -> LesionMask:
    """The lesion in a map of probabilities (H, W).

    Args:
        probability: Of lesion, 0..1.
        threshold: A pixel is lesion above it.
        minimum_area, maximum_area: Shares of the picture between which a region is believed to be a lesion.
    """
    mask = largest_region(probability > threshold)
    area, reason = float(mask.mean()), ""
    if not area:
        reason = (
            f"no pixel is above the threshold {threshold:g} (the highest probability is {float(probability.max()):.2f})"
        )
    elif area < minimum_area:
        reason = f"the largest region covers {area:.2%} of the picture, less than {minimum_area:.1%}"
    elif area > maximum_area:
        reason = f"the region covers {area:.1%} of the picture: no border is in sight"
    return LesionMask(mask, probability, area, not reason, reason)


class LesionSegmenter(Shared):
    """A segmenter's bundle, ready to find lesions.

    Args:
        config: The bundle's configuration.
        network: Its network, or what gives it when it is first needed.
        device: Where to compute, such as "cpu" or "cuda"; default: a GPU if there is one.
        runtime: What runs the network; default: PyTorch as it is. Others run the weights that the config names.

    Example:
        >>> segmenter = LesionSegmenter.load("run/bundle")  # doctest: +SKIP
        >>> segmenter.segment("mole.jpg").area  # doctest: +SKIP
        0.23
    """

    config: SegmenterConfig

    def __init__(
        self,
        config: SegmenterConfig,
        network: PesiSegmenter | Callable[[], PesiSegmenter],
        *,
        device: str | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.config, self._given = config, network
        self._network: PesiSegmenter | None = None
        self._session: Session | None = None
        self._set(runtime or Runtime("eager", device=device))

    def __repr__(self) -> str:
        runtime = f"{self.runtime.name} on {self.runtime.place}"
        return f"<LesionSegmenter {self.bundle_id}, {self.config.network.encoder}, {runtime}>"

    @property
    def device(self) -> torch.device:
        """Where PyTorch computes, or would."""
        return self.runtime.device

    @property
    def network(self) -> PesiSegmenter:
        """The network, as PyTorch has it."""
        if self._network is None:
            import torch

            given: Any = self._given
            network: Any = given if isinstance(given, torch.nn.Module) else given()
            network.eval().to(self.device).to(memory_format=torch.channels_last)
            self._network = network
        return self._network

    def to(self, device: str | torch.device | None) -> Self:
        """Compute on another device from now on; gives itself.

        Raises:
            PesiError: There is no such device here, or not for this runtime.
        """
        return self._set(self.runtime.on(device))

    def _set(self, runtime: Runtime) -> Self:
        """Run by this runtime from now on."""
        self.runtime = runtime
        self._network, self._session = None, None
        self._opening = threading.Lock()
        self._latest = threading.local()  # each thread's latest picture, and what the network said of it
        return self

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | None = None,
        runtime: str | None = None,
        precision: str | None = None,
    ) -> Self:
        """Open a segmenter's bundle.

        Args:
            folder: Its folder.
            device, runtime, precision: As for `Classifier.load`.

        Raises:
            BundleError: It is missing, damaged, of another kind or version.
            PesiError: As `Classifier.load`.
        """
        return cls._opened(folder, Runtime(runtime, precision, device=device))

    @classmethod
    def _opened(cls, folder: str | Path, runtime: Runtime) -> Self:
        if runtime.runs_torch:
            return cls(*load_segmenter(folder), runtime=runtime)._opened_from(folder)
        config = SegmenterConfig.read(folder)
        return cls(config, lambda: load_segmenter(folder).network, runtime=runtime)._opened_from(folder)

    @property
    def session(self) -> Session:
        """What runs the network; opened when it is first asked for."""
        with self._opening:
            if self._session is None:
                self._session = self.runtime.session(self._program())
            return self._session

    def _program(self) -> Program:
        config = self.config
        told = config.model_dump(mode="json", include={"network", "preprocess", "weights_sha256"})
        key = hashlib.sha256(json.dumps(["segmenter", told], sort_keys=True).encode()).hexdigest()

        def module() -> nn.Module:
            from pesi.predict.runtimes.on_torch import Lesion

            return Lesion([self.network], [(config.preprocess.mean, config.preprocess.std)])

        name = f"the segmenter {self.bundle_id}"
        return Program(name, key, config.preprocess.size, module, lambda outputs: outputs["probabilities"])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the bundle.

        Raises:
            BundleError: A weight is no finite number in float16.
            StorageError: The system refused to write.
        """
        save_segmenter(folder, self.config, self.network, card=model_card(self.config))

    @property
    def bundle_id(self) -> str:
        """Name and the first digits of the weights' hash: what a mask came from."""
        return self.config.bundle_id

    def segment(self, source: ImageSource) -> LesionMask:
        """Find the lesion in one image.

        Args:
            source: A file, its bytes, or its pixels; see `images.pixels`.

        Returns:
            In the geometry of the file, also where that is so large that it was reduced when it was read; of a file
            object or a Pillow image so large, in that of the reduced picture.

        Raises:
            ImageError: The image is refused.
        """
        image = pixels(source)
        preprocess, own = self.config.preprocess, Seen(image)
        lesion = self.segment_seen(own, image.shape[0], image.shape[1])
        if not isinstance(source, str | Path | bytes):
            return lesion
        width, height = image_size(source)
        if (height, width) == image.shape[:2]:
            return lesion
        (probability,), _ = self._output(own.square(preprocess.source_size, preprocess.geometry))
        whole = unfit_square(probability, height, width, preprocess.geometry)
        return replace(lesion, mask=mask_of_size(lesion.mask, height, width), probability=whole)

    def segment_seen(self, image: Seen, height: int, width: int) -> LesionMask:
        """The lesion in a decoded image that others look at too, in a copy of it of (height, width)."""
        preprocess = self.config.preprocess
        (probability,), (features,) = self._output(image.square(preprocess.source_size, preprocess.geometry))
        lesion = self._lesion(unfit_square(probability, height, width, preprocess.geometry))
        return replace(lesion, features=features)

    def _output(self, square: Image) -> SegmenterOutputs:
        """`outputs` of one picture. The last are kept: the gates and the lesion's crop ask in turn."""
        key, latest = square.tobytes(), self._latest
        if getattr(latest, "key", None) != key:
            latest.key, latest.outputs = key, self.outputs([square])
        found: SegmenterOutputs = latest.outputs
        return found

    def find(self, image: Image) -> Mask | None:
        """The lesion's mask (H, W) in one image, None where none is found."""
        lesion = self.segment(image)
        return lesion.mask if lesion.found else None

    def find_seen(self, image: Seen, size: int, geometry: Geometry) -> Mask | None:
        """The lesion's mask in the square (size, size) of a decoded image, None where none is found.

        The network looks at the whole image, as it does for everybody else: it looks once, whatever the squares.
        """
        height, width = image.image.shape[:2]
        side = min(height, width) if geometry == "center_crop" else max(height, width)
        rows, columns = round(height * size / side), round(width * size / side)
        if geometry == "squeeze":
            rows = columns = size
        preprocess = self.config.preprocess
        (probability,), _ = self._output(image.square(preprocess.source_size, preprocess.geometry))
        probability = unfit_square(probability, rows, columns, preprocess.geometry)
        if geometry == "center_crop":
            top, left = (rows - size) // 2, (columns - size) // 2
            probability = probability[top : top + size, left : left + size]
        elif geometry == "pad":  # in the mirrored border there is no lesion
            top, left = (size - rows) // 2, (size - columns) // 2
            probability = np.pad(probability, ((top, size - rows - top), (left, size - columns - left)))
        lesion = self._lesion(probability)
        return lesion.mask if lesion.found else None

    def segment_many(self, squares: Sequence[Image] | NDArray[np.uint8], *, batch_size: int = 16) -> list[LesionMask]:
        """Find the lesions in square pictures (N, S, S, 3); the masks are (S, S).

        Args:
            squares: Pictures as `datasets.cache.cached_squares` gives them, best in the bundle's geometry.
            batch_size: Pictures at a time.

        Raises:
            ImageError: A picture is not square.
        """
        found = []
        for start in range(0, len(squares), batch_size):
            batch = squares[start : start + batch_size]
            for square, probability in zip(batch, self.probabilities(batch), strict=True):
                found.append(self._lesion(unfit_square(probability, len(square), len(square), "squeeze")))
        return found

    def outputs(self, squares: Sequence[Image] | NDArray[np.uint8]) -> SegmenterOutputs:
        """What the network gives for square pictures (N, S, S, 3), N at least 1.

        Raises:
            ImageError: A picture is not square.
        """
        preprocess = self.config.preprocess
        for square in squares:
            if square.ndim != 3 or square.shape[0] != square.shape[1]:
                raise ImageError(
                    f"A picture of shape {square.shape} is not square.", "Give (S, S, 3), or use segment()."
                )
        size = preprocess.size
        found = self.session.run(np.stack([resize(square, size, size) for square in squares]))
        return SegmenterOutputs(found["probabilities"], found["features"])

    def probabilities(self, squares: Sequence[Image] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Square pictures (N, S, S, 3) -> probability of lesion at the network's size, (N, size, size)."""
        size = self.config.preprocess.size
        return self.outputs(squares).probabilities if len(squares) else np.zeros((0, size, size), np.float32)

    def _lesion(self, probability: NDArray[np.float32]) -> LesionMask:
        config = self.config
        return lesion_of(
            probability,
            threshold=config.threshold,
            minimum_area=config.minimum_area,
            maximum_area=config.maximum_area,
        )


def segment(
    image: ImageSource, segmenter: LesionSegmenter | str | Path | None = None, *, device: str | None = None
) -> LesionMask:
    """Find the lesion in one image.

    Args:
        image: A path, bytes, an opened file, a Pillow image, an array (H, W, 3) or a tensor (3, H, W), uint8 sRGB.
        segmenter: A segmenter, or its bundle's folder or name; default the one that ships.
        device: Where to compute, of a bundle that is opened here; default: a GPU if there is one.

    Raises:
        ImageError: The image is refused.
        BundleError: There is no such segmenter.

    Example:
        >>> pesi.segment("mole.jpg").mask.mean()  # doctest: +SKIP
    """
    if segmenter is None:
        segmenter = shipped_segmenter(Runtime(device=device))
    elif not isinstance(segmenter, LesionSegmenter):
        segmenter = LesionSegmenter.from_pretrained(segmenter, device=device)
    return segmenter.segment(image)


def shipped_segmenter_folder() -> Path | None:
    """The segmenter's bundle that comes with the package, None if this version brings none."""
    return shipped_bundle(SEGMENTER)


def shipped_segmenter(runtime: Runtime | None = None, *, device: str | None = None) -> LesionSegmenter:
    """The segmenter that comes with the package; one for all who ask for it alike.

    Args:
        runtime: What runs it; default: PyTorch as it is.
        device: Of that default.

    Raises:
        BundleError: This version brings none.
    """
    folder = shipped_segmenter_folder()
    if folder is None:
        raise BundleError(
            "This version of pesi-cnn ships no lesion segmenter.",
            "Name one (--bundle RUN/bundle), or train it: pesi segmenter train segmenter-lite0 --data DIR",
        )
    runtime = runtime or Runtime("eager", device=device)
    return _loaded(folder, runtime.name, runtime.precision, runtime.place if runtime.runs_torch else None)


@lru_cache(maxsize=3)
def _loaded(folder: Path, name: str, precision: str, device: str | None) -> LesionSegmenter:
    """One for all who ask: a classifier needs it for the lesion's crop and for the quality gate."""
    return LesionSegmenter.load(folder, device=device, runtime=name, precision=precision)
