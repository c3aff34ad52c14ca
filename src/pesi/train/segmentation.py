"""Trains the lesion segmenter: from a run folder that `segmenter_run` made to a bundle in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from pesi.bundle.segmenter import (
    SegmenterConfig,
    SegmenterNetworkConfig,
    SegmenterPreprocess,
    save_segmenter,
    segmenter_card,
)
from pesi.datasets.cache import cached_masks, cached_squares
from pesi.errors import RecipeError
from pesi.files import write_json
from pesi.images.regions import WholeImage
from pesi.nn.models import create_model
from pesi.nn.segmenter import PesiSegmenter, create_segmenter
from pesi.train.callbacks import RunProgress, read_checkpoint_file
from pesi.train.dataset import EpochSampler
from pesi.train.environment import environment
from pesi.train.segmentation_module import MaskedPictures, SegmentationModule, WholeMaskedPictures
from pesi.train.segmenter_recipe import SegmenterRecipe
from pesi.train.segmenter_run import SegmenterRun, SegmenterRunSettings, open_segmenter_run, pretrained_encoder
from pesi.train.trainer import Say, check_accelerator, fit, make_trainer, prepared, start_from


def run_segmenter_training(
    folder: str | Path,
    *,
    say: Say = lambda text: None,
    show_progress: bool = True,
    callbacks: tuple[Callback, ...] = (),
) -> dict[str, Any]:
    """Train, or go on training, the segmenter in `folder`; then write the bundle of the best epoch.

    A run that was cut goes on after its last finished epoch, and ends as if it had not been cut, bit for bit on a CPU.

    Args:
        folder: A run folder made by `start_segmenter_run`.
        say: Told what happens, a line at a time.
        show_progress: Whether to show a progress bar on stderr.
        callbacks: Further Lightning callbacks.

    Returns:
        The contents of `result.json`.

    Raises:
        DataError: An image or a mask cannot be read.
        RecipeError: The training images do not fill one batch.
        PesiError: The machine cannot train so, or the training diverged.
        KeyboardInterrupt, SystemExit: See `trainer.fit`.
    """
    folder = Path(folder)
    run = open_segmenter_run(folder)
    if (folder / "result.json").is_file():
        say(f"{folder} is finished already.")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result
    check_accelerator(run.settings.accelerator)
    with prepared(run.settings.threads, workers=run.settings.workers) as threads:
        return _train(folder, run, threads, say, show_progress, callbacks)


def _train(
    folder: Path, run: SegmenterRun, threads: int, say: Say, show_progress: bool, callbacks: tuple[Callback, ...]
) -> dict[str, Any]:
    recipe, used, settings = run
    write_json(folder / "environment.json", environment(threads))
    train, val = (used[used["split"] == split].reset_index(drop=True) for split in ("train", "val"))
    steps = len(train) // recipe.batch_size
    if not steps:
        raise RecipeError(
            f"{len(train)} training images do not fill one batch of {recipe.batch_size}.",
            "Choose a smaller batch: --set batch_size=...",
        )
    pictures = [_pictures(part, recipe, settings, show_progress) for part in (train, val)]

    L.seed_everything(recipe.seed, verbose=False)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    encoder = create_model(recipe.network.name, num_classes=1, **recipe.network.encoder_options())
    weights = None if checkpoint.is_file() else pretrained_encoder(recipe, settings)
    if weights is not None:
        start_from(encoder, weights, folder, say)
    network = PesiSegmenter(encoder, width=recipe.network.width)
    module = SegmentationModule(network, recipe, steps_per_epoch=steps)
    module.to(memory_format=torch.channels_last)
    say(
        f"{recipe.name}: {len(train)} training and {len(val)} validation images, {recipe.epochs} epochs, "
        f"{recipe.precision}, {threads} thread(s)."
    )
    if checkpoint.is_file():
        say(f"Going on from {checkpoint}.")
    trainer = make_trainer(
        folder,
        epochs=recipe.epochs,
        precision=recipe.precision,
        accelerator=settings.accelerator,
        clip_norm=recipe.optimizer.clip_norm,
        ema=recipe.ema,
        best_by="val/jaccard",
        progress=RunProgress(recipe.batch_size, score=("val/jaccard", "Jaccard")) if show_progress else None,
        callbacks=callbacks,
    )
    size = recipe.picture.size
    loading: dict[str, Any] = {"num_workers": settings.workers, "persistent_workers": settings.workers > 0}
    fit(
        trainer,
        module,
        DataLoader(
            MaskedPictures(*pictures[0], recipe.augmentation, size),
            recipe.batch_size,
            sampler=EpochSampler(np.zeros(len(train), np.int64), "shuffle", seed=recipe.seed),
            drop_last=True,
            **loading,
        ),
        DataLoader(WholeMaskedPictures(*pictures[1], size), recipe.batch_size, **loading),
        checkpoint=checkpoint,
        resume=f"pesi segmenter train --resume {folder}",
        say=say,
    )
    return _finish(folder, recipe, used, say)


def _pictures(
    records: pd.DataFrame, recipe: SegmenterRecipe, settings: SegmenterRunSettings, show_progress: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Squares (N, S, S, 3) and masks (N, S, S)."""
    paths, picture = list(records["path"]), recipe.picture
    bar = tqdm(total=2 * len(paths), unit="file", desc="decoding", leave=False, disable=not show_progress)

    def progress(done: int, total: int) -> None:
        bar.update()

    with bar:
        region = WholeImage(picture.source_size, picture.geometry)
        squares = cached_squares(paths, region, cache_dir=settings.cache_dir, progress=progress)
        masks = cached_masks(
            list(records["mask_path"]),
            paths,
            size=picture.source_size,
            geometry=picture.geometry,
            cache_dir=settings.cache_dir,
            progress=progress,
        )
    return squares, masks


def _finish(folder: Path, recipe: SegmenterRecipe, used: pd.DataFrame, say: Say) -> dict[str, Any]:
    """Write the bundle of the best checkpoint, and `result.json`."""
    checkpoint = read_checkpoint_file(folder / "checkpoints" / "best.ckpt")
    network = create_segmenter(recipe.network.name, **recipe.network.options())
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in checkpoint["state_dict"].items() if name.startswith(prefix)}
    )
    epoch = int(checkpoint["epoch"]) + 1
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
    started_from = folder / "pretrained.json"
    config = SegmenterConfig(
        name=recipe.name,
        network=SegmenterNetworkConfig(encoder=recipe.network.name, options=recipe.network.options()),
        preprocess=SegmenterPreprocess(**recipe.picture.model_dump()),
        threshold=recipe.threshold,
        provenance={
            "recipe": recipe.model_dump(mode="json"),
            "sources": sorted({str(source) for source in used["source"]}),
            "splits": {name: {k: part[k] for k in ("count", "sha256")} for name, part in splits.items()},
            "environment": json.loads((folder / "environment.json").read_text(encoding="utf-8")),
            "pretrained": json.loads(started_from.read_text(encoding="utf-8")) if started_from.is_file() else None,
            "best_epoch": epoch,
        },
    )
    config = save_segmenter(folder / "bundle", config, network, card=segmenter_card(config))
    rows = checkpoint["callbacks"]["EpochLog"]["rows"]
    result = {"bundle": config.bundle_id, "best_epoch": epoch, "val_jaccard": rows[-1]["val/jaccard"]}
    write_json(folder / "result.json", result)
    say(f"Best epoch {epoch}, mean Jaccard {result['val_jaccard']:.3f} at the network's size. Bundle: {folder}/bundle")
    return result
