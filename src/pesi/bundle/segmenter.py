"""The lesion segmenter on disk: a bundle whose config has the kind "segmenter"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from pesi.bundle.files import WEIGHTS, CommonConfig, Measured, Part, load_network, packed_weights, write_bundle
from pesi.images.transforms import Geometry

if TYPE_CHECKING:
    from pesi.nn.segmenter import PesiSegmenter

# A region outside of these shares of the picture is not taken for a lesion: the 2450 lesions of ISIC 2017 that we
# hold cover 0.297 % to 95.8 % of their pictures, 98 % of them 0.8 % to 84 %.
MINIMUM_AREA = 0.002
MAXIMUM_AREA = 0.98


class SegmenterNetworkConfig(Part):
    """How to build the network: the arguments of `create_segmenter`."""

    encoder: str
    options: dict[str, Any]

    def create(self) -> PesiSegmenter:
        """The network, its weights random."""
        from pesi.nn.segmenter import create_segmenter

        return create_segmenter(self.encoder, **self.options)


class SegmenterPreprocess(Part):
    """From an image to the network's input."""

    source_size: int = Field(ge=1)
    size: int = Field(ge=64)
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class SegmenterMeasured(Measured):
    """Scores are means over the images; `found` counts those where a lesion was found."""

    found: int = Field(ge=0)


class SegmenterConfig(CommonConfig):
    """Everything that a segmentation needs besides the weights; the whole of `config.json`."""

    made_by: ClassVar[str] = "pesi segmenter train"

    kind: Literal["segmenter"] = "segmenter"
    network: SegmenterNetworkConfig
    preprocess: SegmenterPreprocess
    threshold: float = Field(0.5, gt=0, lt=1)  # a pixel is lesion above this probability
    minimum_area: float = Field(MINIMUM_AREA, ge=0, lt=1)
    maximum_area: float = Field(MAXIMUM_AREA, gt=0, le=1)
    measured: SegmenterMeasured | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it tells."""
        return ("lesion",)


class SegmenterBundle(NamedTuple):
    """A segmenter's bundle, read: what it says, and its network (in eval mode, float32)."""

    config: SegmenterConfig
    network: PesiSegmenter


def load_segmenter(folder: str | Path) -> SegmenterBundle:
    """Read a segmenter's bundle.

    Raises:
        BundleError: As `SegmenterConfig.read`; or the weights are missing, damaged, or not those the config names.
    """
    config = SegmenterConfig.read(folder)
    return SegmenterBundle(config, load_network(folder, config.network.create, config.weights_sha256))


def save_segmenter(
    folder: str | Path, config: SegmenterConfig, network: PesiSegmenter, *, card: str
) -> SegmenterConfig:
    """Write a segmenter's bundle: kernels in float16, vectors (norms, biases, alphas) in float32.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration; `weights_sha256` is filled in.
        network: The network whose weights it holds.
        card: The model card, Markdown.

    Returns:
        The config as written.

    Raises:
        BundleError: A weight is no finite number in float16.
        StorageError: The system refused to write.
    """
    data, digest = packed_weights(network, "float16 kernels")
    config = config.model_copy(update={"weights_sha256": digest})
    write_bundle(folder, config, {WEIGHTS: data}, card=card)
    return config
