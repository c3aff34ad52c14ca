"""The bundle: a trained classifier on disk, a folder `config.json` + `model.safetensors` + `README.md`; no pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pesi.data.regions import RegionName
from pesi.data.transforms import Geometry
from pesi.errors import BundleError
from pesi.files import whole_file, write_text
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.taxonomy import Task, TaskClass

FORMAT_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Part):
    """How to build the network: the arguments of `create_model`."""

    name: str
    num_classes: int = Field(ge=1)
    options: dict[str, Any]


class TaskConfig(_Part):
    """What the outputs mean."""

    name: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]  # name, diagnoses
    scored: tuple[str, ...]
    head: Literal["multiclass", "multilabel"]


class PreprocessConfig(_Part):
    """From a file to the network's input."""

    source_size: int
    size: int
    geometry: Geometry
    regions: tuple[RegionName, ...] = ("image",)
    lesion_margin: float = 0.25
    segmenter: str = ""  # id of the segmenter's bundle that finds the lesion; "" where none is needed
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class TemperatureConfig(_Part):
    """Logits are divided by `value`; `how` tells how it was found."""

    value: float = Field(1.0, gt=0)
    how: str = "not fitted"


class Threshold(_Part):
    """An operating point: a probability threshold of one class, and how it was set."""

    name: str  # such as "sensitivity_0.90"
    class_name: str
    value: float
    sensitivity: float
    specificity: float
    how: str


class TriageLevel(_Part):
    """A triage answer for malignant probability >= `at_least`; levels are tried from the first to the last."""

    level: str
    at_least: float
    how: str


class BundleConfig(_Part):
    """Everything that a prediction needs besides the weights; the whole of `config.json`."""

    format_version: int = FORMAT_VERSION
    library: str = "pesi-cnn"
    name: str
    weights_sha256: str = ""
    network: NetworkConfig
    task: TaskConfig
    preprocess: PreprocessConfig
    views: str = "single"
    temperature: TemperatureConfig = TemperatureConfig()
    thresholds: tuple[Threshold, ...] = ()
    triage: tuple[TriageLevel, ...] = ()
    provenance: dict[str, Any] = {}

    @property
    def bundle_id(self) -> str:
        """Name and the first digits of the weights' hash: what a prediction says it came from."""
        return f"{self.name}@{self.weights_sha256[:12]}"

    def to_task(self) -> Task:
        """The task whose classes the network was trained for."""
        classes = tuple(TaskClass(name, diagnoses) for name, diagnoses in self.task.classes)
        return Task(self.task.name, classes, self.task.scored)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the probabilities, in the network's order."""
        task = self.to_task()
        return task.class_names if self.task.head == "multiclass" else task.scored_names


def task_config(task: Task, head: Literal["multiclass", "multilabel"]) -> TaskConfig:
    """A task as a bundle keeps it."""
    return TaskConfig(
        name=task.name, classes=tuple((c.name, c.diagnoses) for c in task.classes), scored=task.scored, head=head
    )


def save_bundle(
    folder: str | Path, config: BundleConfig, network: PesiCNN, *, card: str, half: bool = False
) -> BundleConfig:
    """Write a bundle; its config, written last, makes it valid.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration; `weights_sha256` is filled in.
        network: The network whose weights it holds.
        card: The model card, Markdown.
        half: Whether to keep the weights in float16 (half the size).

    Returns:
        The config as written.
    """
    folder = Path(folder)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    data = save(tensors)
    config = config.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    (folder / "config.json").unlink(missing_ok=True)
    with whole_file(folder / "model.safetensors") as temporary:
        temporary.write_bytes(data)
    write_text(folder / "README.md", card)
    write_text(folder / "config.json", config.model_dump_json(indent=2) + "\n")
    return config


def read_config(folder: str | Path) -> BundleConfig:
    """The configuration of a bundle.

    Raises:
        BundleError: No bundle there, another format version, or a damaged config.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no config.json.", "Give the folder that `pesi train` wrote: RUN/bundle."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not valid JSON: {error}.", "Copy the bundle again, or train it again.") from error
    found = values.get("format_version") if isinstance(values, dict) else None
    if found != FORMAT_VERSION:
        newer = isinstance(found, int) and found > FORMAT_VERSION
        raise BundleError(
            f"{path} has bundle format version {found}; this version of pesi-cnn reads version {FORMAT_VERSION}.",
            "Upgrade pesi-cnn: pip install -U pesi-cnn" if newer else "Train the bundle again with this version.",
        )
    try:
        return BundleConfig.model_validate(values)
    except ValidationError as error:
        mistake = error.errors()[0]
        place = ".".join(str(part) for part in mistake["loc"])
        raise BundleError(f"{path}: {place}: {mistake['msg']}.", "Copy the bundle again, or train it again.") from error


def load_bundle(folder: str | Path) -> tuple[BundleConfig, PesiCNN]:
    """Config and network (in eval mode, float32) of a bundle.

    Raises:
        BundleError: As `read_config`; or the weights are missing, damaged, or not those the config names.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "model.safetensors"
    if not path.is_file():
        raise BundleError(f"{folder} has no model.safetensors.", "Copy the bundle again.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != config.weights_sha256:
        raise BundleError(
            f"{path} is not the file that config.json names (SHA-256 {digest[:12]}, not {config.weights_sha256[:12]}).",
            "The bundle is damaged or mixed from two: copy it again.",
        )
    try:
        network = create_model(config.network.name, num_classes=config.network.num_classes, **config.network.options)
        network.load_state_dict(load_file(path))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"{folder}: the weights do not fit: {error}", "The bundle is of another version.") from error
    return config, network.eval()
