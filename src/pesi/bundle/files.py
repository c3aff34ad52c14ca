"""The files of a bundle of any kind, checked: `config.json` + `model.safetensors` + `README.md`; no pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pesi.errors import BundleError
from pesi.files import remove_file, whole_file, write_text

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"

# Of the hub's names for licences (hf.co/docs/hub/repositories-licenses), those that networks and images come under.
_HUB_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")

Config = TypeVar("Config", bound=BaseModel)


class Measured(BaseModel):
    """What was measured with a bundle's own weights.

    Attributes:
        on: Which images, and what else they were used for.
        images: How many.
        scores: Name -> value and its 95 % interval.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: str
    images: int = Field(ge=1)
    scores: dict[str, tuple[float, float, float]]

    def to_markdown(self) -> str:
        """A list, a score a line."""
        return "\n".join(
            f"- {name.replace('_', ' ')} {value:.3f} (95 % interval {low:.3f} to {high:.3f})"
            for name, (value, low, high) in self.scores.items()
        )


def front_matter(*, pipeline: str, licence: str) -> list[str]:
    """The lines that a card begins with, for the Hugging Face hub.

    Args:
        pipeline: What the hub calls the kind of task.
        licence: In words, its name first: "Apache-2.0: trained on ..."; "" leaves it out.
    """
    name = licence.split(":")[0].strip()
    stated = []
    if name.lower() in _HUB_LICENCES:
        stated = [f"license: {name.lower()}"]
    elif name:
        stated = ["license: other", f"license_name: {re.sub('[^a-z0-9.]+', '-', name.lower()).strip('-')}"]
    return [
        "---",
        *stated,
        "library_name: pesi-cnn",
        f"pipeline_tag: {pipeline}",
        "tags: [dermoscopy, skin-lesion]",
        "---",
    ]


def packed_weights(tensors: Mapping[str, Tensor]) -> tuple[bytes, str]:
    """Tensors as the bytes of a .safetensors file, and their SHA-256."""
    data: bytes = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return data, hashlib.sha256(data).hexdigest()


def write_bundle(folder: str | Path, config: BaseModel, weights: bytes, *, card: str) -> None:
    """Write a bundle; its config, written last, makes it valid.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration, with the SHA-256 of `weights` in it.
        weights: See `packed_weights`.
        card: The model card, Markdown.

    Raises:
        StorageError: The system refused to write.
    """
    folder = Path(folder)
    remove_file(folder / CONFIG)
    with whole_file(folder / WEIGHTS) as temporary:
        temporary.write_bytes(weights)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")


def bundle_kind(folder: str | Path) -> str:
    """What a bundle is, by its config: "classifier", "segmenter", ...; "" where there is none that can be read."""
    try:
        values = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return ""
    return str(values.get("kind", "")) if isinstance(values, dict) else ""


def read_bundle_config(
    folder: str | Path, model: type[Config], *, kind: str, format_version: int, command: str
) -> Config:
    """The configuration of a bundle of one kind.

    Args:
        folder: The bundle's folder.
        model: What validates it.
        kind: The `kind` that it must have, such as "segmenter".
        format_version: The version that can be read.
        command: What makes such bundles, for the cure: "pesi segmenter train".

    Raises:
        BundleError: No bundle there, another kind or format version, or a damaged config.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {CONFIG}.", f"Give the folder that `{command}` wrote: RUN/bundle."
        )
    again = "Copy the bundle again, or train it again."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}.", again) from error
    if not isinstance(values, dict) or values.get("kind") != kind:
        found = values.get("kind", "classifier") if isinstance(values, dict) else "none"
        raise BundleError(
            f"{folder} is no {kind}'s bundle (its kind: {found}).", f"Give one that `{command}` wrote: RUN/bundle."
        )
    version = values.get("format_version")
    if version != format_version:
        newer = isinstance(version, int) and version > format_version
        raise BundleError(
            f"{path} has bundle format version {version}; this version of pesi-cnn reads version {format_version}.",
            "Upgrade pesi-cnn: pip install -U pesi-cnn" if newer else "Train the bundle again with this version.",
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(str(part) for part in mistake["loc"])
        raise BundleError(f"{path}: {place}: {mistake['msg']}.", again) from error


def read_bundle_weights(folder: str | Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a bundle, on the CPU, checked against the hash that its config names.

    Raises:
        BundleError: The file is missing, not the one that was hashed, or damaged.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise BundleError(f"{folder} has no {WEIGHTS}.", "Copy the bundle again.")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise BundleError(
            f"{path} is not the file that {CONFIG} names (SHA-256 {digest[:12]}, not {sha256[:12]}).",
            "The bundle is damaged or mixed from two: copy it again.",
        )
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise BundleError(f"{path} cannot be opened: {error}", "Train the bundle again.") from error
    return tensors
