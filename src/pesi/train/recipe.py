"""The recipe: a validated, typed description of a training run, kept as TOML; what kinds share, and a classifier's."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pesi.errors import RecipeError
from pesi.images.correction import CorrectionName
from pesi.images.regions import RegionName
from pesi.images.transforms import Augmentation, Geometry
from pesi.images.views import VIEWS
from pesi.nn.attention import FORMS, has_map
from pesi.nn.models import NETWORKS

MAX_SEED = 2**32 - 1  # the largest that NumPy's global generator takes, which Lightning seeds too


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Section):
    """Which network."""

    name: str = "pesi50"
    attention: str = "spatial"
    alpha: float = 1e-3
    per_channel: bool = False
    temperature: float = Field(1.0, gt=0)
    attend_projection: bool = True
    attend_stages: tuple[int, ...] = (1, 2, 3, 4)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _known(self) -> Network:
        if self.name not in NETWORKS:
            raise ValueError(f"unknown network {self.name!r}; choose one of: {', '.join(NETWORKS)}")
        if self.attention not in FORMS:
            raise ValueError(f"unknown attention {self.attention!r}; choose one of: {', '.join(FORMS)}")
        if set(self.attend_stages) - {1, 2, 3, 4}:
            raise ValueError("attend_stages takes stages 1 to 4")
        return self

    def options(self) -> dict[str, Any]:
        """The keywords of `create_model` besides its name."""
        return self.model_dump(exclude={"name"})


class CommonPicture(Section):
    """From files to network input."""

    size: int = Field(224, ge=64, le=1024)  # side of what the network sees, pixels
    source_size: int = Field(256, ge=64, le=2048)  # side of the decoded square that crops are taken from
    geometry: Geometry = "squeeze"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, in 0..1
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Picture(CommonPicture):
    """The same, of a classifier."""

    # What is cut from each image; with both, training draws one at random, and validation takes the first.
    regions: tuple[RegionName, ...] = Field(("image",), min_length=1, max_length=2)
    lesion_margin: float = Field(0.25, ge=0, le=2)  # around the lesion, as a share of its longer side
    corrections: tuple[CorrectionName, ...] = ()  # of what is cut, in this order: hair_removal, shades_of_gray


class Loss(Section):
    """What is minimised."""

    head: Literal["multiclass", "multilabel"] = "multiclass"
    class_weight: Literal["none", "sqrt", "balanced"] = "none"
    sampler: Literal["shuffle", "sqrt", "balanced"] = "shuffle"
    logit_adjustment: float = Field(0.0, ge=0)  # 1: probabilities as of equally frequent classes; multiclass only
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)  # alpha of the Beta distribution; 0: off
    cutmix: float = Field(0.0, ge=0)  # the same of CutMix; with both, each batch takes one of them by chance
    attention_mask: float = Field(0.0, ge=0)  # weight of the loss that asks the attention to fall on the lesion's mask


class CommonOptimizer(Section):
    """How it is minimised."""

    lr: float = Field(3e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warmup_epochs: float = Field(0.0, ge=0)
    clip_norm: float = Field(0.0, ge=0)  # 0: off


class Optimizer(CommonOptimizer):
    """The same, of a classifier."""

    name: Literal["sgd", "adamw"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd only
    alpha_lr_scale: float = Field(1.0, ge=0)  # the alphas' learning rate, as a multiple; they never decay
    head_lr_scale: float = Field(1.0, gt=0)
    schedule: Literal["constant", "halve", "cosine"] = "cosine"
    halve_every: int = Field(30, ge=1)  # epochs, for "halve"


class CommonRecipe(Section):
    """One training run of any kind of network. Every field can be overridden: `--set optimizer.lr=1e-3`.

    Attributes:
        folder: Where the shipped recipes of this kind are.
    """

    folder: ClassVar[str]

    name: str
    description: str = ""
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(1, ge=1)  # batches a step
    precision: Literal["auto", "32", "bf16"] = "auto"
    gradient_checkpointing: bool = False  # blocks are computed anew in the backward pass: less memory, more time
    seed: int = Field(0, ge=0, le=MAX_SEED)
    ema: float = Field(0.0, ge=0, lt=1)  # decay a step of the weights' moving average; 0: off
    patience: int = Field(0, ge=0)  # epochs without a better validation score before stopping; 0: never
    select: Literal["best", "last"] = "best"  # which epoch becomes the bundle: best validation score, or the last
    pretrained: str = ""  # weights to start from: a file, "imagenet" for those of an installed package, "" for none
    licence: str = ""  # of the bundle: what the licences of its images and first weights allow
    val_share: float = Field(0.15, gt=0, lt=1)  # where the data have no official validation split
    network: Network = Network()
    picture: CommonPicture = CommonPicture()
    augmentation: Augmentation = Augmentation()
    optimizer: CommonOptimizer = CommonOptimizer()

    @field_validator("precision", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return str(value) if value == 32 else value  # --set precision=32 is a number to TOML

    def to_toml(self) -> str:
        """The recipe as TOML, every field written out but members where there are none, which so can be appended."""
        values = self.model_dump(mode="json")
        return tomli_w.dumps({key: value for key, value in values.items() if key != "members" or value})

    def resolved(self) -> Self:
        """The same recipe with "auto" replaced by what this machine does."""
        if self.precision != "auto":
            return self
        return self.model_copy(update={"precision": "bf16" if fast_bfloat16() else "32"})

    @property
    def regions(self) -> tuple[RegionName, ...]:
        """What is cut from each training image."""
        return ("image",)

    @property
    def sampler(self) -> str:
        """How training images are drawn; see `EpochSampler`."""
        return "shuffle"

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """A recipe by its shipped name or from a TOML file, with `key=value` overrides applied.

        Args:
            name_or_path: `"pesi50"` or a path to a .toml file.
            overrides: Such as `"optimizer.lr=1e-3"`; the value is TOML, or a plain word.

        Raises:
            RecipeError: Unknown recipe or key (with the nearest known one), or a value out of range.
        """
        path = Path(name_or_path)
        if path.suffix == ".toml" or path.is_file():
            if not path.is_file():
                raise RecipeError(f"There is no recipe file {path}.", "Check the path, or use a shipped recipe's name.")
            return _parse(path.read_text(encoding="utf-8"), str(path), overrides, cls)
        shipped = files("pesi.train") / cls.folder / f"{name_or_path}.toml"
        if not shipped.is_file():
            names = cls.shipped_names()
            raise RecipeError(
                f"Unknown recipe {str(name_or_path)!r}.",
                _nearest(str(name_or_path), names) + f"Shipped: {', '.join(names)}; or give a path to a .toml file.",
            )
        return _parse(shipped.read_text(encoding="utf-8"), str(name_or_path), overrides, cls)

    @classmethod
    def shipped_names(cls) -> list[str]:
        """The recipes of this kind that come with the package."""
        entries = (files("pesi.train") / cls.folder).iterdir()
        return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


class MemberRecipe(Section):
    """One of the networks that a cross-validation trains in each fold: its name and what it sets of the recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    set: tuple[str, ...] = ()


class Recipe(CommonRecipe):
    """One training run of a classifier.

    Attributes:
        members: What a cross-validation trains in each fold, together; a run without folds takes nothing of it.
    """

    folder: ClassVar[str] = "recipes"

    task: str = "isic2017"
    weights: Literal["float32", "float16"] = "float32"  # how the bundle keeps them
    views: str = "single"  # of the finished classifier and its validation scores
    # What the finished classifier looks at, averaging over it; empty: picture.regions, what it was trained on.
    predict_regions: tuple[RegionName, ...] = Field((), max_length=2)
    picture: Picture = Picture()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    members: tuple[MemberRecipe, ...] = ()

    @model_validator(mode="after")
    def _members_fit(self) -> Recipe:
        if len({member.name for member in self.members}) < len(self.members):
            raise ValueError("two members have one name")
        for index, member in enumerate(self.members):
            own = self.member(index)[1]
            for what, a, b in (
                ("task", self.task, own.task),
                ("views", self.views, own.views),
                ("loss.head", self.loss.head, own.loss.head),
                ("picture.source_size", self.picture.source_size, own.picture.source_size),
                ("picture.geometry", self.picture.geometry, own.picture.geometry),
                ("picture.corrections", self.picture.corrections, own.picture.corrections),
                ("number of regions looked at", len(self.looks_at), len(own.looks_at)),
                ("weights", self.weights, own.weights),
            ):
                if a != b:
                    raise ValueError(f"member {member.name!r} differs in {what}: {b}, not {a}")
        return self

    def member(self, index: int) -> tuple[str, Recipe]:
        """The name and the recipe of the network of that index in each fold.

        Past the last of `members` they begin anew with other seeds: "whole", "lesion", "whole-2", ... Its last epoch is
        taken: the held-out images choose nothing.

        Raises:
            RecipeError: What it sets is at fault.
        """
        named = self.members or (MemberRecipe(name="network"),)
        again, place = divmod(index, len(named))
        member = named[place]
        values = self.model_dump(mode="json", exclude={"members"}) | {"seed": (self.seed + place) % (MAX_SEED + 1)}
        for override in member.set:
            _override(values, override)
        try:
            own = Recipe.model_validate(values)
        except ValidationError as error:
            raise RecipeError(*_explain(error, f"{self.name}, member {member.name}", Recipe)) from error
        fixed = {"seed": (own.seed + again * len(named)) % (MAX_SEED + 1), "select": "last", "patience": 0}
        return member.name + f"-{again + 1}" * bool(again), own.model_copy(update=fixed)

    @model_validator(mode="after")
    def _known(self) -> Recipe:
        if self.views not in VIEWS:
            raise ValueError(f"unknown views {self.views!r}; choose one of: {', '.join(VIEWS)}")
        if self.loss.attention_mask and (self.picture.regions != ("image",) or not has_map(self.network.attention)):
            raise ValueError('loss.attention_mask needs picture.regions = ["image"] and an attention that has a map')
        if self.loss.logit_adjustment and self.loss.head != "multiclass":
            raise ValueError('loss.logit_adjustment needs loss.head = "multiclass"')
        if self.loss.attention_mask and (self.loss.mixup or self.loss.cutmix):
            raise ValueError("loss.attention_mask and mixup or cutmix do not go together: a mixture has no mask")
        return self

    @property
    def regions(self) -> tuple[RegionName, ...]:
        """What is cut from each training image, one of them at random."""
        return self.picture.regions

    @property
    def sampler(self) -> str:
        """How training images are drawn; see `EpochSampler`."""
        return self.loss.sampler

    @property
    def looks_at(self) -> tuple[RegionName, ...]:
        """What the finished classifier looks at."""
        return self.predict_regions or self.picture.regions


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A classifier's recipe; see `CommonRecipe.load`."""
    return Recipe.load(name_or_path, overrides)


def fast_bfloat16() -> bool:
    """Whether this machine computes bfloat16 faster than float32: its GPU, or the processor's own instructions."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = torch.backends.cpu.get_cpu_capability()
    return cpu.startswith("AVX512") and bool(torch.cpu._is_avx512_bf16_supported())


AnyRecipe = TypeVar("AnyRecipe", bound=CommonRecipe)


def _parse(text: str, origin: str, overrides: Sequence[str], model: type[AnyRecipe]) -> AnyRecipe:
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"Recipe {origin} is not valid TOML: {error}.", "Correct that line.") from error
    for override in overrides:
        _override(values, override)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError(*_explain(error, origin, model)) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"Override {override!r} has no '='.", "Write it as key=value, such as optimizer.lr=1e-3.")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a plain word, such as attention=sigmoid
    *sections, field = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"Override {override!r}: {section!r} is a value, not a section.", "See: pesi recipes")
    values[field] = value


def _explain(error: ValidationError, origin: str, model: type[BaseModel]) -> tuple[str, str]:
    """The first mistake as (what and where, cure)."""
    mistake = error.errors()[0]
    place = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        known = model
        for part in mistake["loc"][:-1]:
            annotation = known.model_fields[str(part)].annotation
            known = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else known
        fields = list(known.model_fields)
        cure = _nearest(str(mistake["loc"][-1]), fields) + f"Known keys there: {', '.join(fields)}."
        return f"Recipe {origin}: unknown key {place!r}.", cure
    value = f" (got {mistake['input']!r})" if not isinstance(mistake["input"], dict) else ""
    return f"Recipe {origin}: {place or 'recipe'}: {mistake['msg']}{value}.", "Correct that value."


def _nearest(word: str, words: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
