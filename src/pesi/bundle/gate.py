"""The dermoscopy gate on disk: a bundle whose config has the kind "gate"."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load

from pesi.bundle.files import WEIGHTS, CommonConfig, checked_weights
from pesi.decide.dermoscopy import DermoscopyModel
from pesi.decide.novelty import NoveltyStatistics
from pesi.errors import BundleError


class GateConfig(CommonConfig):
    """Everything that the gate needs besides its numbers; the whole of `config.json`.

    Attributes:
        segmenter: Id of the segmenter's bundle whose features it takes.
        limits: Linear score and distance above which a picture is refused.
        power: To which scaled features are raised for the distance.
        refused_share: Share of dermoscopy images out of fold that each limit was set to refuse, at most.
        how: How the limits were set, in words.
        images: Of dermoscopy, that the distance was fitted on.
        learned_from: What it was fitted on, each with its licence.
        ids: Of the dermoscopy images and of the patients and pictures that are none, see `bundle.seen.packed_ids`.
    """

    made_by: ClassVar[str] = "benchmarks/novelty/gate.py"

    kind: Literal["gate"] = "gate"
    segmenter: str
    limits: tuple[float, float]
    power: float = Field(gt=0, le=1)
    refused_share: float = Field(gt=0, lt=1)
    how: str
    learned_from: tuple[str, ...]
    images: int = Field(ge=4)
    ids: str = ""


def load_gate(folder: str | Path) -> tuple[GateConfig, DermoscopyModel]:
    """Read a gate's bundle: what it says, and its numbers.

    Raises:
        BundleError: As `GateConfig.read`; or the numbers are missing, damaged, or not those the config names.
    """
    config = GateConfig.read(folder)
    data = checked_weights(folder, config.weights_sha256)
    try:
        tensors = load(data)
        mean, basis, variances, residual = (tensors[name] for name in ("mean", "basis", "variances", "residual"))
        statistics = NoveltyStatistics(mean, basis, variances, float(residual[0]), config.power, config.images)
        model = DermoscopyModel(tensors["weights"], float(tensors["bias"][0]), tensors["scale"], statistics)
    except (SafetensorError, KeyError, IndexError) as error:
        raise BundleError(f"{Path(folder) / WEIGHTS} cannot be read: {error}", "Copy the bundle again.") from error
    return config, model
