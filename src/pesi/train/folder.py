"""The run folder: what every run keeps on disk, whatever kind of network it trains, and how it is read again.

It holds: `recipe.toml` (resolved), `run.json` (what was asked for), `splits.json` (id lists and hashes), `records.csv`,
`environment.json`, `pretrained.json`, `log.csv`, `tensorboard/`, `checkpoints/`, `bundle/`, and last of all
`result.json`, whose presence says that the run is finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from pesi.bundle.seen import packed_ids
from pesi.datasets.records import COLUMNS, record_table, with_absolute_paths
from pesi.datasets.splits import id_lists
from pesi.errors import DataError, PesiError, RecipeError
from pesi.files import write_json, write_text
from pesi.images.regions import RegionName
from pesi.nn.cnn import PesiCNN
from pesi.nn.pretrained import CheckpointError, imagenet_weights, load_pretrained
from pesi.taxonomy import Task, TaskClass
from pesi.train.callbacks import read_checkpoint_file
from pesi.train.dataset import AnySquares
from pesi.train.recipe import AnyRecipe, CommonRecipe

Say = Callable[[str], None]
RUN, OLD_SEGMENTER_RUN = "run.json", "segmenter-run.json"  # what makes a run folder; the second is no longer written
LAST = Path("checkpoints") / "last.ckpt"


@dataclass(frozen=True)
class RunSettings:
    """What a run needs besides its recipe; kept in `run.json`.

    Attributes:
        data: Where the images came from, as the user gave it.
        dataset: The reader's name, or None for "found out".
        pretrained: A checkpoint, "imagenet", "" for none, or None for what the recipe says.
        devices: Processes (CPU) or GPUs, of each machine.
        accelerator: "auto", "cpu" or "gpu".
        threads: Torch threads a process; 0: one a core (or OMP_NUM_THREADS), shared out over the processes.
        workers: Loader processes; 0 loads in the training process.
        cache_dir: Where decoded images are kept, or None for the default.
        nodes: Machines; more than one where torchrun or srun starts the processes.
        device_augmentation: Whether pictures are varied on the training device, not in the loader; None: on a CUDA GPU.
    """

    data: str
    dataset: str | None = None
    pretrained: str | None = None
    devices: int = 1
    accelerator: str = "auto"
    threads: int = 0
    workers: int = 0
    cache_dir: str | None = None
    nodes: int = 1
    device_augmentation: bool | None = None

    @property
    def processes(self) -> int:
        """Of all machines."""
        return self.devices * self.nodes


class Pictures(NamedTuple):
    """What the images of one split give.

    Attributes:
        squares: Pictures, N of (S, S, 3), a region of the images.
        classes: (N,); zeros where there are none.
        masks: Of the lesion, (N, S, S), all 0 where there is none; None where none are learned from.
    """

    squares: Mapping[RegionName, AnySquares]
    classes: NDArray[np.int64]
    masks: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Run(Generic[AnyRecipe]):
    """A run: what is trained, on what, and where; a subclass a kind of network, with its checks, pictures and bundle.

    Its records say which images train and which validate: the same run with another folder and other splits is one
    fold of a cross-validation.

    Attributes:
        folder: The run folder.
        recipe: Resolved.
        records: Record table of the train and val images.
        settings: The rest.
        kind: Of the bundle.
        best_by: The logged score whose highest value is of the best epoch.
        score: The logged score that is shown and that patience waits for, and what to call it.
    """

    folder: Path
    recipe: AnyRecipe
    records: pd.DataFrame
    settings: RunSettings

    kind: ClassVar[str]
    best_by: ClassVar[str]
    score: ClassVar[tuple[str, str]]

    def asked(self) -> dict[str, Any]:
        """What `run.json` keeps."""
        return {"kind": self.kind, "settings": asdict(self.settings)}

    def part(self, split: str) -> pd.DataFrame:
        """The records of one split."""
        return self.records[self.records["split"] == split].reset_index(drop=True)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps.

        Raises:
            RecipeError: There is not one whole batch.
        """
        images, processes, size = len(self.part("train")), self.settings.processes, self.recipe.batch_size
        share = images // processes
        if share < size:
            over = f" over {processes} processes" if processes > 1 else ""
            cure = f"Choose a smaller batch: --set batch_size={share}" if share > 1 else "Add training images."
            raise RecipeError(f"{images} training images{over} do not fill one batch of {size}.", cure)
        return -(-(share // size) // self.recipe.accumulate)

    def start_from(self, weights: Path, network: PesiCNN, say: Say) -> None:
        """Load weights, and note in the folder which they were.

        Raises:
            CheckpointError: They do not fit.
        """
        report = load_pretrained(network, weights)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        write_json(self.folder / "pretrained.json", {"file": weights.name, "sha256": digest, "loaded": str(report)})
        say(f"Pretrained weights {weights.name}: {report}.")

    def write(self) -> None:
        """Make the run folder; `run.json` comes last: then the run exists.

        Raises:
            StorageError: The system refused to write.
        """
        write_text(self.folder / "recipe.toml", self.recipe.to_toml())
        write_text(self.folder / "records.csv", self.records.to_csv(index=False))
        write_json(self.folder / "splits.json", id_lists(self.records))
        write_json(self.folder / RUN, self.asked())

    def checkpoint(self) -> dict[str, Any]:
        """The checkpoint that the recipe selects."""
        return read_checkpoint_file(self.folder / "checkpoints" / f"{self.recipe.select}.ckpt")

    def load_trained(self, network: nn.Module) -> None:
        """Give a network the weights of the selected checkpoint."""
        state, prefix = self.checkpoint()["state_dict"], "network."
        network.load_state_dict({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})

    def provenance(self) -> dict[str, Any]:
        """What a bundle keeps of how it was made."""

        def kept(name: str) -> Any:
            path = self.folder / name
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "sources": sorted({str(source) for source in self.records["source"]}),
            "splits": {
                name: {"count": part["count"], "sha256": part["sha256"], "ids": packed_ids(part["ids"])}
                for name, part in kept("splits.json").items()
            },
            "environment": kept("environment.json"),
            "best_epoch": int(self.checkpoint()["epoch"]) + 1,
            "pretrained": kept("pretrained.json"),
        }


def used_records(records: pd.DataFrame, *, masked: bool) -> pd.DataFrame:
    """The train and val images of a record table, or those of them with a mask, their paths such as hold from anywhere.

    Raises:
        DataError: There are none of them.
    """
    what = " with a lesion mask" if masked else ""
    used = records[records["mask_path"].notna()] if masked else records
    for split in ("train", "val"):
        if not (used["split"] == split).any():
            cure = "Name a data set with masks." if masked else "Split them: pesi data split DIR --out split.csv"
            raise DataError(f"The data have no {split} images{what}.", cure)
    return with_absolute_paths(used[used["split"].isin(["train", "val"])].reset_index(drop=True))


def weights_file(recipe: CommonRecipe, settings: RunSettings) -> Path | None:
    """The weights that a run starts from; None: from scratch.

    Raises:
        CheckpointError: They are missing.
    """
    source = recipe.pretrained if settings.pretrained is None else settings.pretrained
    if source == "imagenet":
        return imagenet_weights(recipe.network.name)
    if source and not Path(source).is_file():
        raise CheckpointError(f"There is no weights file {source}.", "Check the path given to --pretrained.")
    return Path(source) if source else None


def with_absolute_settings(settings: RunSettings) -> RunSettings:
    """The settings, with paths that hold from any working folder; "imagenet", "" and None, which are none, stay."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and path != "imagenet" else path

    return replace(settings, pretrained=absolute(settings.pretrained), cache_dir=absolute(settings.cache_dir))


def check_new_run(folder: Path) -> None:
    """Check that a folder holds no run yet.

    Raises:
        PesiError: It holds one.
    """
    if any((folder / name).exists() for name in (RUN, OLD_SEGMENTER_RUN)):
        cure = f"Go on with it: pesi train --resume {folder}; or choose another --out."
        raise PesiError(f"{folder} holds a run already.", cure)


def read_asked(folder: Path) -> dict[str, Any]:
    """What `run.json` says, also as it was written before all kinds of runs shared one form.

    Raises:
        PesiError: There is none, or it is damaged.
    """
    path = next((folder / name for name in (RUN, OLD_SEGMENTER_RUN) if (folder / name).is_file()), None)
    if path is None:
        raise PesiError(f"{folder} is not a run folder: it has no {RUN}.", "Give the folder that `pesi train` made.")
    try:
        asked: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PesiError(f"{path} is not valid JSON: {error}.", "Copy the run folder again.") from error
    if path.name == OLD_SEGMENTER_RUN:
        return {"kind": "segmenter", "settings": asked}
    return {"kind": "classifier"} | asked


def wait_for_run(folder: Path) -> None:
    """Wait until another process has made the run folder; where it cannot, whoever started both ends this one too."""
    while not (folder / RUN).is_file():
        time.sleep(0.5)


def asked_task(asked: dict[str, Any]) -> Task:
    """The classes that `run.json` names."""
    task = asked["task"]
    classes = tuple(TaskClass(each["name"], tuple(each["diagnoses"])) for each in task["classes"])
    return Task(task["name"], classes, tuple(task["scored"]))


def kept_records(folder: Path) -> pd.DataFrame:
    """The record table of a run folder."""
    text = {column: str for column in COLUMNS if column != "age"}
    frame = pd.read_csv(folder / "records.csv", dtype=text, keep_default_na=False, na_values={c: [""] for c in COLUMNS})
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return record_table({str(k): v for k, v in row.items()} for row in rows)


@contextmanager
def kept_once_trained(folder: Path) -> Iterator[None]:
    """Within it a new run is made and trained.

    What fails before the first epoch is done leaves nothing behind in the folder, so that the cured command can be run
    as it is; later, or stopped by a signal, the run stays and can be resumed. So does a cross-validation of which one
    training has begun: what is finished has no checkpoint any more, but a result.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        yield
    except Exception:
        new = set(folder.iterdir()) - before if folder.is_dir() else set()
        if not any(any(path.rglob(name)) for path in new for name in (LAST.name, "result.json")):
            for path in new:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            for path in missing:
                with suppress(OSError):  # something else has come into it
                    path.rmdir()
        raise
