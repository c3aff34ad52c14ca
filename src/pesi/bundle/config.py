"""The bundle: a trained classifier on disk, a folder `config.json` + `model.safetensors` + `README.md`; no pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pesi.bundle.files import (
    CONFIG,
    WEIGHTS,
    CommonConfig,
    Keep,
    Part,
    load_network,
    packed_weights,
    read_bundle_weights,
    write_bundle,
)
from pesi.decide.calibration import TemperatureConfig, VectorScaling
from pesi.decide.conformal import ConformalConfig
from pesi.decide.novelty import NoveltyConfig, NoveltyStatistics, load_novelty, save_novelty
from pesi.decide.operating import Threshold
from pesi.decide.triage import TriageLevel
from pesi.files import remove_file
from pesi.images.correction import CorrectionName
from pesi.images.quality import QualityConfig
from pesi.images.regions import RegionName
from pesi.images.transforms import Geometry
from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model
from pesi.taxonomy import Task, TaskClass


class NetworkConfig(Part):
    """How to build the network: the arguments of `create_model`."""

    name: str
    num_classes: int = Field(ge=1)
    options: dict[str, Any]

    def create(self) -> PesiCNN:
        """The network, its weights random."""
        return create_model(self.name, num_classes=self.num_classes, **self.options)


class TaskConfig(Part):
    """What the outputs mean."""

    name: str
    classes: tuple[tuple[str, tuple[str, ...]], ...]  # name, diagnoses
    scored: tuple[str, ...]
    head: Literal["multiclass", "multilabel"]


class PreprocessConfig(Part):
    """From a file to the network's input."""

    source_size: int
    size: int
    geometry: Geometry
    regions: tuple[RegionName, ...] = ("image",)
    lesion_margin: float = 0.25
    corrections: tuple[CorrectionName, ...] = ()
    segmenter: str = ""  # id of the segmenter's bundle that finds the lesion; "" where none is needed
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class FittedOn(Part):
    """The images that set calibration, thresholds and the rest: how many, the hash of their ids (`id_hash`), and these.

    Attributes:
        ids: See `bundle.seen.packed_ids`; "" in bundles that were made before.
    """

    count: int
    sha256: str
    ids: str = ""


class BundleConfig(CommonConfig):
    """Everything that a prediction needs besides the weights; the whole of `config.json`."""

    made_by: ClassVar[str] = "pesi train"

    kind: Literal["classifier"] = "classifier"
    network: NetworkConfig
    task: TaskConfig
    preprocess: PreprocessConfig
    views: str = "single"
    vector: VectorScaling | None = None
    temperature: TemperatureConfig = TemperatureConfig()
    thresholds: tuple[Threshold, ...] = ()
    triage: tuple[TriageLevel, ...] = ()
    conformal: tuple[ConformalConfig, ...] = ()  # prediction sets, a coverage each
    quality: QualityConfig = QualityConfig()
    novelty: NoveltyConfig | None = None
    fitted_on: FittedOn | None = None

    @property
    def answer_id(self) -> str:
        """The bundle's id and a digest of all else that an answer rests on: two bundles of one network may differ."""
        fields = {
            "preprocess",
            "views",
            "temperature",
            "vector",
            "thresholds",
            "triage",
            "conformal",
            "quality",
            "novelty",
        }
        digest = hashlib.sha256(self.model_dump_json(include=fields).encode()).hexdigest()
        return f"{self.bundle_id}+{digest[:8]}"

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        looks = " and ".join(self.preprocess.regions)
        return (
            f"{self.bundle_id}: {self.network.name}, {self.preprocess.size} px, looks at the {looks}, "
            f"views {self.views}, tells {', '.join(self.outputs)}"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.summary}>"

    __str__ = __repr__

    def to_task(self) -> Task:
        """The task whose classes the network was trained for."""
        classes = tuple(TaskClass(name, diagnoses) for name, diagnoses in self.task.classes)
        return Task(self.task.name, classes, self.task.scored)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the probabilities, in the network's order."""
        task = self.to_task()
        return task.class_names if self.task.head == "multiclass" else task.scored_names

    def malignant_probability(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Probabilities (N, K) -> of a malignant class (N,), None where no class is malignant.

        Multi-class: the sum over the malignant classes; multi-label: the largest.
        """
        task = self.to_task()
        malignant = [bool(task.classes[task.class_names.index(name)].malignant) for name in self.outputs]
        if not any(malignant):
            return None
        chosen = probabilities[:, malignant]
        total: NDArray[np.float64] = chosen.sum(1) if self.task.head == "multiclass" else chosen.max(1)
        return total


def task_config(task: Task, head: Literal["multiclass", "multilabel"]) -> TaskConfig:
    """A task as a bundle keeps it."""
    return TaskConfig(
        name=task.name, classes=tuple((c.name, c.diagnoses) for c in task.classes), scored=task.scored, head=head
    )


def save_bundle(
    folder: str | Path,
    config: BundleConfig,
    network: PesiCNN,
    *,
    card: str,
    keep: Keep = "float32",
    novelty: NoveltyStatistics | None = None,
) -> BundleConfig:
    """Write a bundle.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration; `weights_sha256` is filled in.
        network: The network whose weights it holds.
        card: The model card, Markdown.
        keep: What to keep the weights in; float16 has half the size.
        novelty: The statistics that `config.novelty` is about.

    Returns:
        The config as written.

    Raises:
        BundleError: A weight is no finite number in float16.
        StorageError: The system refused to write.
    """
    data, digest = packed_weights(network, keep)
    return _written(folder, config.model_copy(update={"weights_sha256": digest}), data, card, novelty)


def rewrite_bundle(
    source: str | Path, folder: str | Path, config: BundleConfig, *, card: str, novelty: NoveltyStatistics | None
) -> BundleConfig:
    """Write a bundle with the weights of another (or the same), its config and card anew.

    Args:
        source: The bundle whose weights are taken as they are.
        folder: Where it is written; may be `source`.
        config, card, novelty: As for `save_bundle`.

    Returns:
        The config as written.

    Raises:
        BundleError: The source has no weights, or other ones than the config names.
        StorageError: The system refused to write.
    """
    read_bundle_weights(source, config.weights_sha256)
    return _written(folder, config, (Path(source) / WEIGHTS).read_bytes(), card, novelty)


def _written(
    folder: str | Path, config: BundleConfig, weights: bytes, card: str, novelty: NoveltyStatistics | None
) -> BundleConfig:
    remove_file(Path(folder) / CONFIG)  # no bundle until everything is there again
    known = None
    if novelty is not None and config.novelty is not None:
        known = save_novelty(folder, novelty, config.novelty)
    config = config.model_copy(update={"novelty": known})  # without its statistics a threshold says nothing
    write_bundle(folder, config, {WEIGHTS: weights}, card=card)
    return config


def read_config(folder: str | Path) -> BundleConfig:
    """The configuration of a classifier's bundle; see `CommonConfig.read`."""
    return BundleConfig.read(folder)


class Bundle(NamedTuple):
    """A bundle, read: what it says, its network (in eval mode, float32), and what it knows of novelty."""

    config: BundleConfig
    network: PesiCNN
    novelty: NoveltyStatistics | None


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: As `read_config`; or the weights are missing, damaged, or not those the config names.
    """
    config = read_config(folder)
    network = load_network(folder, config.network.create, config.weights_sha256)
    return Bundle(config, network, None if config.novelty is None else load_novelty(folder, config.novelty))
