"""A bundle of any kind on disk, checked: `config.json` + `model.safetensors` + `README.md`; no pickle."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from pesi.errors import BundleError
from pesi.files import remove_file, whole_file, write_text

if TYPE_CHECKING:
    from torch import Tensor, nn

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
WEIGHTS_NAME = re.compile(r"model(-\d+)?\.safetensors")  # of one network, or of one of several
FORMAT_VERSION = 2

# Of the hub's names for licences (hf.co/docs/hub/repositories-licenses), those that networks and images come under.
_HUB_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")

# How weights are kept: "float16 kernels" leaves vectors (norms, biases, alphas) in float32.
Keep = Literal["float32", "float16", "float16 kernels"]


Network = TypeVar("Network", bound="nn.Module")


class Part(BaseModel):
    """A part of a bundle's config."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(Part):
    """What was measured with a bundle's own weights.

    Attributes:
        on: Which images, and what else they were used for.
        images: How many.
        scores: Name -> value and its 95 % interval.
    """

    on: str
    images: int = Field(ge=1)
    scores: dict[str, tuple[float, float, float]]

    def to_markdown(self) -> str:
        """A list, a score a line."""
        return "\n".join(
            f"- {name.replace('_', ' ')} {value:.3f} (95 % interval {low:.3f} to {high:.3f})"
            for name, (value, low, high) in self.scores.items()
        )


class CommonConfig(Part):
    """What every bundle's `config.json` says; a kind of bundle adds its network, its preprocessing and its answers.

    Attributes:
        made_by: The command that makes such bundles.
        kind: Of which kind it is.
        weights_sha256: Of the file with the weights.
        provenance: Recipe, data, splits, environment of the training.
    """

    made_by: ClassVar[str]

    kind: str
    format_version: int = FORMAT_VERSION
    library: str = "pesi-cnn"
    name: str
    weights_sha256: str = ""
    licence: str = ""
    measured: Measured | None = None
    provenance: dict[str, Any] = {}

    @property
    def bundle_id(self) -> str:
        """Name and the first digits of the weights' hash: what an answer says it came from."""
        return f"{self.name}@{self.weights_sha256[:12]}"

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The configuration of a bundle of this kind.

        Raises:
            BundleError: No bundle there, another kind or format version, or a damaged config.
        """
        path, kind = Path(folder) / CONFIG, cls.model_fields["kind"].default
        if not path.is_file():
            raise BundleError(
                f"{folder} is not a bundle: it has no {CONFIG}.",
                f"Give the folder that `{cls.made_by}` wrote: RUN/bundle.",
            )
        again = "Copy the bundle again, or train it again."
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{path} is not valid JSON: {error}.", again) from error
        if not isinstance(values, dict) or values.get("kind") != kind:
            found = values.get("kind", "classifier") if isinstance(values, dict) else "none"
            raise BundleError(
                f"{folder} is no {kind}'s bundle (its kind: {found}).",
                f"Give one that `{cls.made_by}` wrote: RUN/bundle.",
            )
        version = values.get("format_version")
        if version not in range(1, FORMAT_VERSION + 1):
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise BundleError(
                f"{path} has bundle format version {version}; this version of pesi-cnn reads 1 to {FORMAT_VERSION}.",
                "Upgrade pesi-cnn: pip install -U pesi-cnn" if newer else "Train the bundle again with this version.",
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            mistake = error.errors()[0]
            place = ".".join(str(part) for part in mistake["loc"])
            raise BundleError(f"{path}: {place}: {mistake['msg']}.", again) from error


def licence_name(licence: str) -> str:
    """The name that a licence in words begins with: "Apache-2.0: trained on ..." -> "Apache-2.0"."""
    return re.split(r":(?!//)", licence, maxsplit=1)[0].strip()


def forbids_commercial_use(licence: str) -> bool:
    """Whether a licence in words is, by its name, for non-commercial use only ("CC BY-NC 4.0: ...")."""
    return re.search(r"(?<![a-z])(nc|non[- ]?commercial)(?![a-z])", licence_name(licence).lower()) is not None


def front_matter(*, pipeline: str, licence: str) -> list[str]:
    """The lines that a card begins with, for the Hugging Face hub.

    Args:
        pipeline: What the hub calls the kind of task.
        licence: In words, its name first: "Apache-2.0: trained on ..."; "" leaves it out.
    """
    name = licence_name(licence)
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


def packed_weights(network: nn.Module, keep: Keep) -> tuple[bytes, str]:
    """A network's weights as the bytes of a .safetensors file, and their SHA-256.

    Raises:
        BundleError: A weight is no finite number in float16.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        half = tensor.is_floating_point() and (keep == "float16" or (keep == "float16 kernels" and tensor.ndim > 1))
        stored = tensor.half() if half else tensor
        if half and not stored.isfinite().all():
            raise BundleError(f"The weights {name} are not finite in float16.", "Train with a lower learning rate.")
        tensors[name] = stored.contiguous()
    data: bytes = save(tensors)
    return data, hashlib.sha256(data).hexdigest()


def write_bundle(folder: str | Path, config: CommonConfig, weights: Mapping[str, bytes], *, card: str) -> None:
    """Write a bundle; its config, written last, makes it valid.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration, with the SHA-256 of each of `weights` in it.
        weights: Files of them by name, see `packed_weights`; those that are there already stay.
        card: The model card, Markdown.

    Raises:
        StorageError: The system refused to write.
    """
    folder = Path(folder)
    remove_file(folder / CONFIG)
    for name, data in weights.items():
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(data)
    write_text(folder / CARD, card)
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")


def stated_values(folder: str | Path) -> dict[str, Any]:
    """What a bundle's config says, of whatever kind and format it is; {} where nothing can be read."""
    try:
        values = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return values if isinstance(values, dict) else {}


def bundle_kind(folder: str | Path) -> str:
    """What a bundle is, by its config: "classifier", "segmenter", ...; "" where there is none that can be read."""
    return str(stated_values(folder).get("kind", ""))


def weights_files(folder: str | Path) -> tuple[str, ...]:
    """The weights files that a bundle's config names, by their names; `model.safetensors` where it cannot be read."""
    try:
        members = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8")).get("members", ())
        names = tuple(str(member.get("weights", WEIGHTS)) for member in members)
    except (OSError, ValueError, AttributeError):
        names = ()
    return tuple(name for name in names if WEIGHTS_NAME.fullmatch(name)) or (WEIGHTS,)


def load_network(folder: str | Path, create: Callable[[], Network], sha256: str, file: str = WEIGHTS) -> Network:
    """A bundle's network, in eval mode and float32, whatever its weights are kept in.

    Args:
        folder: The bundle's folder.
        create: Builds it, with any weights.
        sha256: What the config says of the weights.
        file: Their file.

    Raises:
        BundleError: The weights are missing, damaged, not those the config names, or of another network.
    """
    from safetensors.torch import load

    data = checked_weights(folder, sha256, file)
    try:
        weights: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise BundleError(f"{Path(folder) / file} cannot be opened: {error}", "Train the bundle again.") from error
    try:
        network = create()
        network.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit: {error}", "The bundle is of another version.") from error
    return network.eval()


def checked_weights(folder: str | Path, sha256: str, file: str = WEIGHTS) -> bytes:
    """A weights file of a bundle, checked against the hash that its config names.

    Raises:
        BundleError: The file is missing, or not the one that was hashed.
    """
    path = Path(folder) / file
    if not path.is_file():
        raise BundleError(f"{folder} has no {file}.", "Copy the bundle again.")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise BundleError(
            f"{path} is not the file that {CONFIG} names (SHA-256 {digest[:12]}, not {sha256[:12]}).",
            "The bundle is damaged or mixed from two: copy it again.",
        )
    return data
