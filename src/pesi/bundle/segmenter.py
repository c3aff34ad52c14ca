"""The lesion segmenter on disk: a bundle whose config has the kind "segmenter"."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pesi.bundle.files import (
    WEIGHTS,
    Measured,
    front_matter,
    packed_weights,
    read_bundle_config,
    read_bundle_weights,
    write_bundle,
)
from pesi.errors import BundleError
from pesi.images.transforms import Geometry
from pesi.nn.segmenter import PesiSegmenter, create_segmenter

KIND: Literal["segmenter"] = "segmenter"
FORMAT_VERSION = 1

# A region outside of these shares of the picture is not taken for a lesion: the 2450 lesions of ISIC 2017 that we
# hold cover 0.297 % to 95.8 % of their pictures, 98 % of them 0.8 % to 84 %.
MINIMUM_AREA = 0.002
MAXIMUM_AREA = 0.98


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SegmenterNetworkConfig(_Part):
    """How to build the network: the arguments of `create_segmenter`."""

    encoder: str
    options: dict[str, Any]


class SegmenterPreprocess(_Part):
    """From an image to the network's input."""

    source_size: int = Field(ge=1)
    size: int = Field(ge=64)
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class SegmenterMeasured(Measured):
    """Scores are means over the images; `found` counts those where a lesion was found."""

    found: int = Field(ge=0)


class SegmenterConfig(_Part):
    """Everything that a segmentation needs besides the weights; the whole of `config.json`."""

    kind: Literal["segmenter"] = KIND
    format_version: int = FORMAT_VERSION
    library: str = "pesi-cnn"
    name: str
    weights_sha256: str = ""
    network: SegmenterNetworkConfig
    preprocess: SegmenterPreprocess
    threshold: float = Field(0.5, gt=0, lt=1)  # a pixel is lesion above this probability
    minimum_area: float = Field(MINIMUM_AREA, ge=0, lt=1)
    maximum_area: float = Field(MAXIMUM_AREA, gt=0, le=1)
    measured: SegmenterMeasured | None = None
    provenance: dict[str, Any] = {}

    @property
    def bundle_id(self) -> str:
        """Name and the first digits of the weights' hash: what a mask says it came from."""
        return f"{self.name}@{self.weights_sha256[:12]}"


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
    tensors = {name: _stored(name, tensor) for name, tensor in network.state_dict().items()}
    data, digest = packed_weights(tensors)
    config = config.model_copy(update={"weights_sha256": digest})
    write_bundle(folder, config, data, card=card)
    return config


def _stored(name: str, tensor: Tensor) -> Tensor:
    stored = tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor
    if not stored.isfinite().all():
        raise BundleError(f"The weights {name} are not finite in float16.", "Train with a lower learning rate.")
    return stored


def read_segmenter_config(folder: str | Path) -> SegmenterConfig:
    """The configuration of a segmenter's bundle.

    Raises:
        BundleError: No bundle there, one of another kind or version, or a damaged config.
    """
    return read_bundle_config(
        folder, SegmenterConfig, kind=KIND, format_version=FORMAT_VERSION, command="pesi segmenter train"
    )


def load_segmenter(folder: str | Path) -> tuple[SegmenterConfig, PesiSegmenter]:
    """Config and network (in eval mode, float32) of a segmenter's bundle.

    Raises:
        BundleError: As `read_segmenter_config`; or the weights are missing, damaged, or not those the config names.
    """
    config = read_segmenter_config(folder)
    tensors = read_bundle_weights(folder, config.weights_sha256)
    try:
        network = create_segmenter(config.network.encoder, **config.network.options)
        network.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit: {error}", "The bundle is of another version.") from error
    return config, network.eval()


def keep_measured(folder: str | Path, measured: SegmenterMeasured) -> SegmenterConfig:
    """Write what was measured with a bundle into its config and card; the weights stay as they are."""
    config = read_segmenter_config(folder).model_copy(update={"measured": measured})
    weights = (Path(folder) / WEIGHTS).read_bytes()
    write_bundle(folder, config, weights, card=segmenter_card(config))
    return config


def segmenter_card(config: SegmenterConfig) -> str:
    """A segmenter's `README.md`, with the header that the Hugging Face hub reads."""
    preprocess = config.preprocess
    lines = [
        *front_matter(pipeline="image-segmentation", licence=""),
        "",
        f"# {config.name}",
        "",
        f"Finds the lesion in a dermoscopy image: a U-Net decoder on a {config.network.encoder} encoder, input "
        f"{preprocess.size} x {preprocess.size} pixels ({preprocess.geometry}). A pixel is lesion above probability "
        f"{config.threshold:g}; the largest region counts, its holes filled. A region below {config.minimum_area:.1%} "
        f"or above {config.maximum_area:.0%} of the picture is reported as no lesion found.",
        "",
        "**Not a medical device.** For research: it finds where to look, not what it is.",
        "",
    ]
    if config.measured is not None:
        lines += [
            "## Measured",
            "",
            f"On {config.measured.on}: {config.measured.images} images, a lesion found in {config.measured.found}. "
            "Means over the images, as ISIC 2017 Part 1 and ISIC 2018 Task 1 define them.",
            "",
            config.measured.to_markdown(),
            "",
        ]
    if config.provenance:
        splits = ", ".join(f"{part['count']} {name} images" for name, part in config.provenance["splits"].items())
        lines += [
            "## Made with",
            "",
            f"- data: {', '.join(config.provenance['sources'])}; {splits}",
            f"- best epoch: {config.provenance['best_epoch']}, by mean Jaccard on the val images",
            f"- encoder started from: {(config.provenance.get('pretrained') or {}).get('file', 'random weights')}",
            "- everything else: `config.json`",
            "",
        ]
    return "\n".join(lines)
