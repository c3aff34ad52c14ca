"""One training run: from a recipe and a record table to a run folder with a bundle in it.

The run folder holds: `recipe.toml` (resolved), `run.json` (what was asked for), `splits.json` (id lists and hashes),
`records.csv`, `environment.json`, `log.csv`, `tensorboard/`, `checkpoints/`, `bundle/`, `predictions/val.csv`,
and last of all `result.json`, whose presence says that the run is finished.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from pesi.datasets.records import COLUMNS, record_table, with_absolute_paths
from pesi.datasets.splits import id_lists
from pesi.errors import DataError, PesiError, RecipeError
from pesi.files import write_json, write_text
from pesi.nn.models import create_model
from pesi.taxonomy import Task, TaskClass
from pesi.train.callbacks import RunProgress, read_checkpoint_file
from pesi.train.dataset import class_indices, output_names
from pesi.train.environment import environment
from pesi.train.finish import finish_run
from pesi.train.loaders import read_masks, read_squares, training_loader, validation_loader
from pesi.train.module import LesionModule, class_offsets, class_weights
from pesi.train.recipe import Recipe, load_recipe
from pesi.train.trainer import (
    Say,
    absolute_path,
    check_accelerator,
    check_new_run,
    fit,
    make_trainer,
    prepared,
    start_from,
    weights_file,
)


@dataclass(frozen=True)
class RunSettings:
    """What a run needs besides its recipe; kept in `run.json`.

    Attributes:
        data: Where the images came from, as the user gave it.
        dataset: The reader's name, or None for "found out".
        pretrained: A checkpoint, "imagenet", "" for none, or None for what the recipe says.
        devices: Processes (CPU) or GPUs.
        accelerator: "auto", "cpu" or "gpu".
        threads: Torch threads a process; 0: one a core (or OMP_NUM_THREADS), shared out over the processes.
        workers: Loader processes; 0 loads in the training process.
        cache_dir: Where decoded images are kept, or None for the default.
    """

    data: str
    dataset: str | None = None
    pretrained: str | None = None
    devices: int = 1
    accelerator: str = "auto"
    threads: int = 0
    workers: int = 0
    cache_dir: str | None = None


def start_run(recipe: Recipe, records: pd.DataFrame, folder: str | Path, settings: RunSettings, task: Task) -> None:
    """Make the run folder of a new run.

    Args:
        recipe: What to do.
        records: Record table with a `split` for every image to use: train and val rows with diagnoses.
        folder: The run folder; must not hold another run.
        settings: The rest.
        task: The classes.

    Raises:
        PesiError: The folder holds a run already.
        DataError: There is nothing to train or validate on, or an image without a class.
    """
    folder = Path(folder)
    check_new_run(folder)
    for split in ("train", "val"):
        chosen = records[records["split"] == split]
        if not len(chosen):
            raise DataError(f"The data have no {split} images.", "Split them: pesi data split DIR --out split.csv")
        class_indices(chosen, task)
    used = with_absolute_paths(records[records["split"].isin(["train", "val"])].reset_index(drop=True))
    settings = replace(
        settings, pretrained=absolute_path(settings.pretrained), cache_dir=absolute_path(settings.cache_dir)
    )
    write_text(folder / "recipe.toml", recipe.resolved().to_toml())
    write_text(folder / "records.csv", used.to_csv(index=False))
    write_json(folder / "splits.json", id_lists(used))
    write_json(folder / "run.json", {"settings": asdict(settings), "task": asdict(task)})  # last: the run exists


class Run(NamedTuple):
    """A run folder, read."""

    recipe: Recipe
    records: pd.DataFrame
    task: Task
    settings: RunSettings


def open_run(folder: str | Path) -> Run:
    """Read a run folder that `start_run` made.

    Raises:
        PesiError: It is none.
    """
    folder = Path(folder)
    if not (folder / "run.json").is_file():
        raise PesiError(f"{folder} is not a run folder: it has no run.json.", "Give the folder that `pesi train` made.")
    stored = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    classes = tuple(TaskClass(c["name"], tuple(c["diagnoses"])) for c in stored["task"]["classes"])
    text = {column: str for column in COLUMNS if column != "age"}
    frame = pd.read_csv(folder / "records.csv", dtype=text, keep_default_na=False, na_values={c: [""] for c in COLUMNS})
    return Run(
        load_recipe(folder / "recipe.toml"),
        record_table(
            {str(k): v for k, v in row.items()}
            for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
        ),
        Task(stored["task"]["name"], classes, tuple(stored["task"]["scored"])),
        RunSettings(**stored["settings"]),
    )


def run_training(
    folder: str | Path,
    *,
    say: Say = lambda text: None,
    show_progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
) -> dict[str, Any]:
    """Train, or go on training, the run in `folder`; then calibrate and write the bundle.

    A run that was cut goes on after its last finished epoch, and ends as if it had not been cut, bit for bit on a CPU.

    Args:
        folder: A run folder made by `start_run`.
        say: Told what happens, a line at a time.
        show_progress: Whether to show a progress bar on stderr.
        callbacks: Further Lightning callbacks.

    Returns:
        The contents of `result.json`; empty in a process other than the first.

    Raises:
        PesiError: The folder is no run's, its images or weights cannot be read, the machine cannot train so, or the
            training diverged.
        KeyboardInterrupt, SystemExit: See `trainer.fit`.
    """
    folder = Path(folder)
    run = open_run(folder)
    if (folder / "result.json").is_file():
        say(f"{folder} is finished already.")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result
    settings = run.settings
    check_accelerator(settings.accelerator, settings.devices)
    with prepared(settings.threads, devices=settings.devices, workers=settings.workers) as threads:
        return _train(folder, run, threads, say, show_progress, callbacks)


def _train(
    folder: Path, run: Run, threads: int, say: Say, show_progress: bool, callbacks: tuple[Callback, ...]
) -> dict[str, Any]:
    recipe, used, task, settings = run
    rank = int(os.environ.get("LOCAL_RANK", "0"))

    if rank == 0:
        write_json(folder / "environment.json", environment(threads))
    parts = {split: used[used["split"] == split].reset_index(drop=True) for split in ("train", "val")}
    classes = {split: class_indices(part, task) for split, part in parts.items()}
    show = show_progress and rank == 0
    pictures = {split: read_squares(part, recipe, settings.cache_dir, show) for split, part in parts.items()}
    squares = {split: [read[name] for name in recipe.picture.regions] for split, read in pictures.items()}
    looked_at = {split: [read[name] for name in recipe.looks_at] for split, read in pictures.items()}
    masks = read_masks(parts["train"], recipe, settings.cache_dir) if recipe.loss.attention_mask else None

    L.seed_everything(recipe.seed, verbose=False)
    network = create_model(
        recipe.network.name, num_classes=len(output_names(task, recipe.loss.head)), **recipe.network.options()
    )
    checkpoint = folder / "checkpoints" / "last.ckpt"
    weights = None if checkpoint.is_file() else pretrained_file(recipe, settings)
    if weights is not None:
        start_from(network, weights, folder, say)
    batches = len(classes["train"]) // settings.devices // recipe.batch_size
    if not batches:
        raise RecipeError(
            f"{len(classes['train'])} training images over {settings.devices} process(es) do not fill one batch of "
            f"{recipe.batch_size}.",
            "Choose a smaller batch: --set batch_size=...",
        )
    module = LesionModule(
        network,
        recipe,
        task,
        class_weights(classes["train"], len(task.classes), recipe.loss.class_weight),
        steps_per_epoch=-(-batches // recipe.accumulate),
        offsets=class_offsets(classes["train"], len(task.classes), recipe.loss.logit_adjustment),
    )
    module.to(memory_format=torch.channels_last)
    if recipe.patience:
        patience = EarlyStopping("val/mean_auc", mode="max", patience=recipe.patience, check_on_train_epoch_end=True)
        callbacks = (*callbacks, patience)
    trainer = make_trainer(
        folder,
        epochs=recipe.epochs,
        precision=recipe.precision,
        accelerator=settings.accelerator,
        devices=settings.devices,
        accumulate=recipe.accumulate,
        clip_norm=recipe.optimizer.clip_norm,
        ema=recipe.ema,
        best_by="val/rank" if recipe.select == "best" else None,
        progress=RunProgress(recipe.batch_size) if show_progress else None,
        callbacks=callbacks,
    )
    say(
        f"{recipe.name}: {len(classes['train'])} training and {len(classes['val'])} validation images, "
        f"{recipe.epochs} epochs, {recipe.precision}, {settings.devices} process(es) of {threads} thread(s)."
    )
    if checkpoint.is_file():
        say(f"Going on from {checkpoint}.")
    if not (checkpoint.is_file() and _stopped_early(checkpoint, recipe.patience)):
        fit(
            trainer,
            module,
            training_loader(squares["train"], classes["train"], masks, recipe, settings.workers, trainer),
            validation_loader(squares["val"], classes["val"], recipe, settings.workers, trainer),
            checkpoint=checkpoint,
            resume=f"pesi train --resume {folder}",
            say=say,
        )
    if not trainer.is_global_zero:
        return {}
    return finish_run(
        folder, recipe, settings.data, parts["val"], looked_at["val"], looked_at["train"], classes["val"], task, say=say
    )


def pretrained_file(recipe: Recipe, settings: RunSettings) -> Path | None:
    """The weights that a run starts from; None: from scratch.

    Raises:
        CheckpointError: They are missing.
    """
    return weights_file(recipe.pretrained if settings.pretrained is None else settings.pretrained, recipe.network.name)


def _stopped_early(checkpoint: Path, patience: int) -> bool:
    """Whether the run had already lost its patience when it was cut, so that it must not train on."""
    rows = read_checkpoint_file(checkpoint)["callbacks"]["EpochLog"]["rows"]
    aucs = [row["val/mean_auc"] for row in rows]
    return bool(patience) and len(aucs) - 1 - int(np.argmax(aucs)) >= patience
