"""The segmenter's recipe: a validated, typed description of one training run of the lesion segmenter, as TOML."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from pesi.images.transforms import Augmentation
from pesi.train.recipe import CommonOptimizer, CommonPicture, CommonRecipe, Network, Section

# EfficientNet-Lite's input is (x - 127) / 128 for x in 0..255.
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


class SegmenterNetwork(Network):
    """Which encoder, and how wide a decoder."""

    name: str = "pesi_lite0"
    attention: str = "none"
    width: int = Field(16, ge=1, le=256)  # see `PesiSegmenter`

    def options(self) -> dict[str, Any]:
        """The keywords of `create_segmenter` besides the encoder's name."""
        return self.model_dump(exclude={"name"})

    def encoder_options(self) -> dict[str, Any]:
        """The keywords of `create_model` for the encoder."""
        return self.model_dump(exclude={"name", "width"})


class SegmenterPicture(CommonPicture):
    """From files to network input."""

    size: int = Field(192, ge=64, le=1024)  # side of what the network sees, pixels
    mean: tuple[float, float, float] = (_LITE_MEAN, _LITE_MEAN, _LITE_MEAN)
    std: tuple[float, float, float] = (_LITE_STD, _LITE_STD, _LITE_STD)


class SegmenterLossSettings(Section):
    """What is minimised: pixel_weight * cross-entropy of the pixels + overlap_weight * (1 - soft overlap)."""

    overlap: Literal["jaccard", "dice"] = "jaccard"
    overlap_weight: float = Field(1.0, ge=0)
    pixel_weight: float = Field(1.0, ge=0)


class SegmenterOptimizer(CommonOptimizer):
    """How it is minimised: AdamW, linear warm-up, cosine."""

    lr: float = Field(1e-3, gt=0)  # of the decoder
    encoder_lr_scale: float = Field(0.3, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    clip_norm: float = Field(5.0, ge=0)  # 0: off


class SegmenterRecipe(CommonRecipe):
    """One training run of the segmenter."""

    folder: ClassVar[str] = "recipes/segmenters"

    batch_size: int = Field(16, ge=2)
    precision: Literal["auto", "32", "bf16"] = "32"
    ema: float = Field(0.99, ge=0, lt=1)  # decay a step of the weights' moving average; 0: off
    threshold: float = Field(0.5, gt=0, lt=1)  # a pixel is lesion above this probability
    network: SegmenterNetwork = SegmenterNetwork()
    picture: SegmenterPicture = SegmenterPicture()
    augmentation: Augmentation = Augmentation(crops=(0.75, 1.0), crops_continuous=True)
    loss: SegmenterLossSettings = SegmenterLossSettings()
    optimizer: SegmenterOptimizer = SegmenterOptimizer()
