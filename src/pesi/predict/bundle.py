"""The bundle: a trained classifier on disk, a folder `config.json` + `model.safetensors` + `README.md`; no pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pesi.data.regions import RegionName
from pesi.data.transforms import Geometry
from pesi.errors import BundleError
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.predict.bundle_files import Measured, packed_weights, read_bundle_config, read_bundle_weights, write_bundle
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

    kind: Literal["classifier"] = "classifier"
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
    licence: str = ""
    measured: Measured | None = None
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
    """Write a bundle.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration; `weights_sha256` is filled in.
        network: The network whose weights it holds.
        card: The model card, Markdown.
        half: Whether to keep the weights in float16 (half the size).

    Returns:
        The config as written.

    Raises:
        StorageError: The system refused to write.
    """
    tensors = dict(network.state_dict())
    if half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    data, digest = packed_weights(tensors)
    config = config.model_copy(update={"weights_sha256": digest})
    write_bundle(folder, config, data, card=card)
    return config


def read_config(folder: str | Path) -> BundleConfig:
    """The configuration of a classifier's bundle.

    Raises:
        BundleError: No bundle there, one of another kind or format version, or a damaged config.
    """
    return read_bundle_config(
        folder, BundleConfig, kind="classifier", format_version=FORMAT_VERSION, command="pesi train"
    )


def load_bundle(folder: str | Path) -> tuple[BundleConfig, PesiCNN]:
    """Config and network (in eval mode, float32) of a bundle.

    Raises:
        BundleError: As `read_config`; or the weights are missing, damaged, or not those the config names.
    """
    config = read_config(folder)
    weights = read_bundle_weights(folder, config.weights_sha256)
    try:
        network = create_model(config.network.name, num_classes=config.network.num_classes, **config.network.options)
        network.load_state_dict(weights)  # into float32, whatever they are kept in
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit: {error}", "The bundle is of another version.") from error
    return config, network.eval()
