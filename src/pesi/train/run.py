"""One training run: from a recipe and a record table to a run folder with a bundle in it; of any kind of network."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from pesi.errors import PesiError
from pesi.files import write_json
from pesi.machine import peak_memory
from pesi.nn.cnn import PesiCNN
from pesi.taxonomy import Task
from pesi.train.callbacks import PartOf, RunProgress, read_checkpoint_file
from pesi.train.classification import ClassifierRun
from pesi.train.environment import environment, launch
from pesi.train.folder import (
    LAST,
    Pictures,
    RunSettings,
    Say,
    asked_task,
    check_new_run,
    kept_records,
    read_asked,
    used_records,
    weights_file,
    with_absolute_settings,
)
from pesi.train.loaders import training_loader, validation_loader
from pesi.train.recipe import Recipe
from pesi.train.segmentation import SegmenterRun
from pesi.train.segmenter_recipe import SegmenterRecipe
from pesi.train.trainer import check_accelerator, fit, make_trainer, prepared

AnyRun = ClassifierRun | SegmenterRun


def start_run(
    recipe: Recipe | SegmenterRecipe,
    records: pd.DataFrame,
    folder: str | Path,
    settings: RunSettings,
    task: Task | None = None,
) -> None:
    """Make the run folder of a new run.

    Args:
        recipe: What to do; its kind is the run's.
        records: Record table with a `split` for every image to use: train and val rows, with diagnoses for a
            classifier; for a segmenter, those without a mask are left out.
        folder: The run folder; must not hold another run.
        settings: The rest.
        task: A classifier's classes.

    Raises:
        PesiError: The folder holds a run already.
        DataError: There is nothing to train or validate on, or the labels make no sense.
        RecipeError: The training images do not fill one batch.
        StorageError: The system refused to write.
    """
    folder = Path(folder)
    check_new_run(folder)
    settings = with_absolute_settings(settings)
    run: AnyRun
    if isinstance(recipe, SegmenterRecipe):
        run = SegmenterRun(folder, recipe.resolved(), used_records(records, masked=True), settings)
    elif task is not None:
        run = ClassifierRun(folder, recipe.resolved(), used_records(records, masked=False), settings, task)
    else:
        raise ValueError("A classifier's run needs a task.")
    run.check()
    _ = run.steps_per_epoch
    run.write()


def open_run(folder: str | Path) -> AnyRun:
    """Read a run folder that `start_run` made.

    Raises:
        PesiError: It is none.
    """
    folder = Path(folder)
    asked = read_asked(folder)
    settings, records = RunSettings(**asked["settings"]), kept_records(folder)
    if asked["kind"] == "segmenter":
        return SegmenterRun(folder, SegmenterRecipe.load(folder / "recipe.toml"), records, settings)
    return ClassifierRun(folder, Recipe.load(folder / "recipe.toml"), records, settings, asked_task(asked))


def run_training(
    folder: str | Path,
    *,
    say: Say = lambda text: None,
    show_progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
    part: PartOf | None = None,
) -> dict[str, Any]:
    """Train, or go on training, the run in `folder`; then write the bundle.

    A run that was cut goes on after its last finished epoch, and ends as if it had not been cut, bit for bit on a CPU.

    Args:
        folder: A run folder made by `start_run`.
        say: Told what happens, a line at a time.
        show_progress: Whether to show a progress bar on stderr.
        callbacks: Further Lightning callbacks.
        part: Which of several runs this is.

    Returns:
        The contents of `result.json`; empty in a process other than the first.

    Raises:
        PesiError: The folder is no run's, its images or weights cannot be read, the machine cannot train so, or the
            training diverged.
        KeyboardInterrupt, SystemExit: See `trainer.fit`.
    """
    run = open_run(folder)
    if (run.folder / "result.json").is_file():
        say(f"{folder} is finished already.")
        result: dict[str, Any] = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        return {} if launch().rank else result
    settings, started = run.settings, launch()
    if started.processes > 1 and (settings.devices, settings.nodes) != started.each:
        raise PesiError(
            f"{folder} trains with {settings.devices} process(es) on each of {settings.nodes} machine(s); started were "
            f"{started.each[0]} on each of {started.each[1]}.",
            "Start as many: how many there are is part of what is trained.",
        )
    check_accelerator(settings.accelerator, settings.devices)
    with prepared(settings.threads, devices=settings.devices, workers=settings.workers) as threads:
        return _train(run, threads, say, show_progress, callbacks, part or PartOf())


def _train(
    run: AnyRun, threads: int, say: Say, show: bool, callbacks: tuple[Callback, ...], part: PartOf
) -> dict[str, Any]:
    folder, recipe, settings, checkpoint = run.folder, run.recipe, run.settings, run.folder / LAST
    first = launch().rank == 0 and os.environ.get("LOCAL_RANK", "0") == "0"
    if first:
        write_json(folder / "environment.json", environment(threads))
    training, validation = (run.pictures(split, show and first) for split in ("train", "val"))

    L.seed_everything(recipe.seed, verbose=False)
    weights = None if checkpoint.is_file() else weights_file(recipe, settings)

    def start(network: PesiCNN) -> None:
        if weights is not None:
            run.start_from(weights, network, say)

    module = run.module(start)
    module.to(memory_format=torch.channels_last)
    for network in module.modules():
        if isinstance(network, PesiCNN):
            network.gradient_checkpointing = recipe.gradient_checkpointing
    if recipe.patience:
        patience = EarlyStopping(run.score[0], mode="max", patience=recipe.patience, check_on_train_epoch_end=True)
        callbacks = (*callbacks, patience)
    trainer = make_trainer(
        folder,
        recipe,
        settings,
        best_by=run.best_by if recipe.select == "best" else None,
        progress=RunProgress(run.score, part) if show else None,
        callbacks=callbacks,
    )
    device = trainer.strategy.root_device.type
    on_device = device == "cuda" if settings.device_augmentation is None else settings.device_augmentation
    say(
        f"{recipe.name}: {len(training.classes)} training and {len(validation.classes)} validation images "
        f"({run.counts()}), {recipe.epochs} epochs, {recipe.precision}, {settings.processes} process(es) of {threads} "
        "thread(s)."
    )
    if checkpoint.is_file():
        say(f"Going on from {checkpoint}.")
    if not (checkpoint.is_file() and _stopped_early(checkpoint, recipe.patience, run.score[0])):
        fit(
            trainer,
            module,
            training_loader(training, recipe, settings.workers, trainer, on_device=on_device),
            validation_loader(validation, recipe, settings.workers, trainer),
            checkpoint=checkpoint,
            resume=f"pesi train --resume {part.whole or folder}",
            say=say,
        )
    if not trainer.is_global_zero:
        return {}
    return _finish(run, training, validation, say, augmented_by=device if on_device else "loader")


def _finish(run: AnyRun, training: Pictures, validation: Pictures, say: Say, *, augmented_by: str) -> dict[str, Any]:
    """Write the bundle, and last of all `result.json`."""
    bundle_id, told = run.finish(training, validation)
    checkpoint = run.checkpoint()
    last = checkpoint["callbacks"]["EpochLog"]["rows"][-1]
    result = {
        "bundle": bundle_id,
        "best_epoch": int(checkpoint["epoch"]) + 1,
        "scores": {name: value for name, value in last.items() if name.startswith("val/")},
        "peak_memory": {"process": peak_memory(), "gpu": torch.cuda.max_memory_allocated() or None},  # bytes
        "augmented_by": augmented_by,
    }
    write_json(run.folder / "result.json", result)
    chosen = f"{run.recipe.select.capitalize()} epoch {result['best_epoch']}"
    say(f"{chosen}, {run.score[1]} {last[run.score[0]]:.3f}, {told}. Bundle: {run.folder / 'bundle'}")
    return result


def _stopped_early(checkpoint: Path, patience: int, score: str) -> bool:
    """Whether the run had already lost its patience when it was cut, so that it must not train on."""
    rows = read_checkpoint_file(checkpoint)["callbacks"]["EpochLog"]["rows"]
    values = [row[score] for row in rows]
    return bool(patience) and len(values) - 1 - int(np.argmax(values)) >= patience
