"""The segmenter's recipe: a validated, typed description of one training run of the lesion segmenter, as TOML."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pesi.images.transforms import Augmentation, Geometry
from pesi.train.recipe import MAX_SEED, Network, fast_bfloat16, parse_recipe

# EfficientNet-Lite's input is (x - 127) / 128 for x in 0..255.
_LITE_MEAN, _LITE_STD = 127 / 255, 128 / 255


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class SegmenterPicture(_Section):
    """From files to network input."""

    size: int = Field(192, ge=64, le=1024)  # side of what the network sees, pixels
    source_size: int = Field(256, ge=64, le=2048)  # side of the decoded square that crops are taken from
    geometry: Geometry = "squeeze"
    mean: tuple[float, float, float] = (_LITE_MEAN, _LITE_MEAN, _LITE_MEAN)
    std: tuple[float, float, float] = (_LITE_STD, _LITE_STD, _LITE_STD)


class SegmenterLossSettings(_Section):
    """What is minimised: pixel_weight * cross-entropy of the pixels + overlap_weight * (1 - soft overlap)."""

    overlap: Literal["jaccard", "dice"] = "jaccard"
    overlap_weight: float = Field(1.0, ge=0)
    pixel_weight: float = Field(1.0, ge=0)


class SegmenterOptimizer(_Section):
    """How it is minimised: AdamW, linear warm-up, cosine."""

    lr: float = Field(1e-3, gt=0)  # of the decoder
    encoder_lr_scale: float = Field(0.3, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    clip_norm: float = Field(5.0, ge=0)  # 0: off


class SegmenterRecipe(_Section):
    """One training run of the segmenter. Every field can be overridden: `--set optimizer.lr=5e-4`."""

    name: str
    description: str = ""
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(16, ge=2)
    precision: Literal["auto", "32", "bf16"] = "32"
    seed: int = Field(0, ge=0, le=MAX_SEED)
    ema: float = Field(0.99, ge=0, lt=1)  # decay a step of the weights' moving average; 0: off
    pretrained: str = ""  # the encoder's weights: a file, "imagenet" for those of an installed package, "" for none
    val_share: float = Field(0.15, gt=0, lt=1)  # where the data have no validation split
    threshold: float = Field(0.5, gt=0, lt=1)  # a pixel is lesion above this probability
    network: SegmenterNetwork = SegmenterNetwork()
    picture: SegmenterPicture = SegmenterPicture()
    augmentation: Augmentation = Augmentation(crops=(0.75, 1.0), crops_continuous=True)
    loss: SegmenterLossSettings = SegmenterLossSettings()
    optimizer: SegmenterOptimizer = SegmenterOptimizer()

    @field_validator("precision", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value) if value == 32 else value  # --set precision=32 is a number to TOML

    def to_toml(self) -> str:
        """The recipe as TOML, every field written out."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    def resolved(self) -> SegmenterRecipe:
        """The same recipe with "auto" replaced by what this machine does."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": "bf16" if fast_bfloat16() else "32"})


def load_segmenter_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> SegmenterRecipe:
    """A segmenter's recipe by its shipped name or from a TOML file, with `key=value` overrides applied.

    Raises:
        RecipeError: Unknown recipe or key (with the nearest known one), or a value out of range.
    """
    folder = files("pesi.train") / "recipes" / "segmenters"
    return parse_recipe(name_or_path, overrides, folder=folder, model=SegmenterRecipe)
