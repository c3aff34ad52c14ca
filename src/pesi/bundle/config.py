"""The bundle: a trained classifier on disk, a folder `config.json` + weights + `README.md`; no pickle.

It holds one network (`model.safetensors`), or several whose mean is the answer (`model-0.safetensors`, ...).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pesi.bundle.files import (
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    WEIGHTS_NAME,
    CommonConfig,
    Keep,
    Part,
    checked_weights,
    load_network,
    packed_weights,
    write_bundle,
)
from pesi.decide.calibration import TemperatureConfig, VectorScaling
from pesi.decide.conformal import ConformalConfig
from pesi.decide.novelty import NoveltyConfig, NoveltyStatistics, load_novelty, save_novelty
from pesi.decide.operating import Threshold
from pesi.decide.triage import TriageLevel
from pesi.errors import BundleError
from pesi.files import remove_file
from pesi.images.correction import CorrectionName
from pesi.images.quality import QualityConfig
from pesi.images.regions import RegionName
from pesi.images.transforms import Geometry
from pesi.taxonomy import Task, TaskClass

if TYPE_CHECKING:
    from pesi.nn.cnn import PesiCNN


class NetworkConfig(Part):
    """How to build the network: the arguments of `create_model`."""

    name: str
    num_classes: int = Field(ge=1)
    options: dict[str, Any]

    def create(self) -> PesiCNN:
        """The network, its weights random."""
        from pesi.nn.models import create_model

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


class IdList(Part):
    """Some images: how many, the hash of their ids (`id_hash`), and these.

    Attributes:
        ids: See `bundle.seen.packed_ids`; "" in bundles that were made before.
    """

    count: int
    sha256: str
    ids: str = ""


class MemberConfig(Part):
    """One of a bundle's networks, and how it is fed.

    Attributes:
        temperature, vector: Its own calibration, before that of the bundle.
        weights, weights_sha256: File beside the config.
        fold: Index of the bundle's `folds` that it was not trained with; None: it was not made by folds.
    """

    network: NetworkConfig
    preprocess: PreprocessConfig
    vector: VectorScaling | None = None
    temperature: TemperatureConfig = TemperatureConfig()
    weights: str = Field(WEIGHTS, pattern=f"^{WEIGHTS_NAME.pattern}$")
    weights_sha256: str = ""
    fold: int | None = Field(None, ge=0)


class BundleConfig(CommonConfig):
    """Everything that a prediction needs besides the weights; the whole of `config.json`.

    Attributes:
        members: Its networks; each looks at as many regions, in as many views, as any other, so that all count alike.
        folds: Images of each fold, which the members of that fold have not seen and that set all that decides.
        vector, temperature: Of the members' calibrated outputs, all together.
    """

    made_by: ClassVar[str] = "pesi train"

    kind: Literal["classifier"] = "classifier"
    members: tuple[MemberConfig, ...] = Field(min_length=1)
    folds: tuple[IdList, ...] = ()
    task: TaskConfig
    views: str = "single"
    vector: VectorScaling | None = None
    temperature: TemperatureConfig = TemperatureConfig()
    thresholds: tuple[Threshold, ...] = ()
    triage: tuple[TriageLevel, ...] = ()
    conformal: tuple[ConformalConfig, ...] = ()  # prediction sets, a coverage each
    quality: QualityConfig = QualityConfig()
    novelty: NoveltyConfig | None = None
    fitted_on: IdList | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_network(cls, values: Any) -> Any:
        """Format 1, which held one network, as this one has it."""
        if not isinstance(values, dict) or "members" in values or "network" not in values:
            return values
        own = {name: values[name] for name in ("network", "preprocess", "weights_sha256") if name in values}
        rest = {name: value for name, value in values.items() if name not in ("network", "preprocess")}
        return rest | {"members": (own,), "format_version": FORMAT_VERSION}

    @model_validator(mode="after")
    def _members_fit(self) -> Self:
        first = self.preprocess
        for member in self.members:
            other = member.preprocess
            for what, a, b in (
                ("source_size", first.source_size, other.source_size),
                ("geometry", first.geometry, other.geometry),
                ("corrections", first.corrections, other.corrections),
                ("number of regions", len(first.regions), len(other.regions)),
            ):
                if a != b:
                    raise ValueError(f"two members differ in {what}: {a} and {b}")
            if member.network.num_classes != len(self.outputs):
                raise ValueError(f"a member has {member.network.num_classes} outputs, the task {len(self.outputs)}")
            if member.fold is not None and member.fold >= len(self.folds):
                raise ValueError(f"a member is of fold {member.fold}, there are {len(self.folds)}")
        own = np.bincount([m.fold for m in self.members if m.fold is not None], minlength=len(self.folds))
        if self.folds and (own.sum() < len(self.members) or len(set(own.tolist())) > 1):
            raise ValueError("every member must be of a fold, and every fold have as many members as the others")
        return self

    @property
    def network(self) -> NetworkConfig:
        """That of the first member."""
        return self.members[0].network

    @property
    def preprocess(self) -> PreprocessConfig:
        """That of the first member."""
        return self.members[0].preprocess

    def with_preprocess(self, preprocess: PreprocessConfig) -> BundleConfig:
        """The same bundle of one network, fed otherwise.

        Raises:
            BundleError: It has several networks.
        """
        if len(self.members) > 1:
            raise BundleError(
                f"{self.name} has {len(self.members)} networks, each made for what it looks at.",
                "Only a bundle of one network can be made to look at something else.",
            )
        member = self.members[0].model_copy(update={"preprocess": preprocess})
        return self.model_copy(update={"members": (member,)})

    @property
    def answer_id(self) -> str:
        """The bundle's id and a digest of all else that an answer rests on: two bundles of one network may differ."""
        fields = {
            "members",
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
        looks = " and ".join(dict.fromkeys(name for member in self.members for name in member.preprocess.regions))
        sizes = " and ".join(dict.fromkeys(str(member.preprocess.size) for member in self.members))
        return (
            f"{self.bundle_id}: {self.network_names}, {sizes} px, looks at the {looks}, "
            f"views {self.views}, tells {', '.join(self.outputs)}"
        )

    @property
    def network_names(self) -> str:
        """Such as "pesi50", or "10 networks (pesi_lite0)"."""
        names = " and ".join(dict.fromkeys(member.network.name for member in self.members))
        return f"{len(self.members)} networks ({names})" if len(self.members) > 1 else names

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


def member_files(count: int) -> tuple[str, ...]:
    """Names of the members' weights files."""
    return (WEIGHTS,) if count == 1 else tuple(f"model-{index}.safetensors" for index in range(count))


def save_bundle(
    folder: str | Path,
    config: BundleConfig,
    networks: Sequence[PesiCNN],
    *,
    card: str,
    keep: Keep = "float32",
    novelty: Sequence[NoveltyStatistics | None] = (),
) -> BundleConfig:
    """Write a bundle.

    Args:
        folder: The bundle's folder, made if missing.
        config: Its configuration; files and hashes of the weights are filled in.
        networks: The networks whose weights it holds, one a member.
        card: The model card, Markdown.
        keep: What to keep the weights in; float16 has half the size.
        novelty: The statistics that `config.novelty` is about, one a member or none.

    Returns:
        The config as written.

    Raises:
        BundleError: A weight is no finite number in float16.
        StorageError: The system refused to write.
    """
    packed = [packed_weights(network, keep) for network in networks]
    return _written(folder, config, packed, card, novelty)


def rewrite_bundle(
    source: str | Path,
    folder: str | Path,
    config: BundleConfig,
    *,
    card: str,
    novelty: Sequence[NoveltyStatistics | None],
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
    packed = [
        (checked_weights(source, member.weights_sha256, member.weights), member.weights_sha256)
        for member in config.members
    ]
    return _written(folder, config, packed, card, novelty)


def _written(
    folder: str | Path,
    config: BundleConfig,
    packed: Sequence[tuple[bytes, str]],
    card: str,
    novelty: Sequence[NoveltyStatistics | None],
) -> BundleConfig:
    remove_file(Path(folder) / CONFIG)  # no bundle until everything is there again
    known = None
    if config.novelty is not None and any(each is not None for each in novelty):
        known = save_novelty(folder, novelty, config.novelty)
    files = member_files(len(packed))
    digests = [digest for _, digest in packed]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    members = tuple(
        member.model_copy(update={"weights": name, "weights_sha256": digest})
        for member, name, digest in zip(config.members, files, digests, strict=True)
    )
    # Without its statistics a threshold of novelty says nothing.
    config = config.model_copy(update={"novelty": known, "members": members, "weights_sha256": whole})
    write_bundle(folder, config, {name: data for name, (data, _) in zip(files, packed, strict=True)}, card=card)
    return config


def read_config(folder: str | Path) -> BundleConfig:
    """The configuration of a classifier's bundle; see `CommonConfig.read`."""
    return BundleConfig.read(folder)


class Bundle(NamedTuple):
    """A bundle, read: what it says, its networks (in eval mode, float32), and what each knows of novelty."""

    config: BundleConfig
    networks: tuple[PesiCNN, ...]
    novelty: tuple[NoveltyStatistics | None, ...]


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: As `read_config`; or the weights are missing, damaged, or not those the config names.
    """
    config, novelty = read_but_networks(folder)
    networks = tuple(
        load_network(folder, member.network.create, member.weights_sha256, member.weights) for member in config.members
    )
    if len({network.num_features for network in networks}) > 1:
        raise BundleError(f"{folder}: its networks have different numbers of features.", "Make it of others.")
    return Bundle(config, networks, novelty)


def read_but_networks(folder: str | Path) -> tuple[BundleConfig, tuple[NoveltyStatistics | None, ...]]:
    """All of a bundle but its networks, without PyTorch, which takes long to import.

    Raises:
        BundleError: As `load_bundle`, but for the weights.
    """
    config = read_config(folder)
    count = len(config.members)
    return config, (None,) * count if config.novelty is None else load_novelty(folder, config.novelty, count)
