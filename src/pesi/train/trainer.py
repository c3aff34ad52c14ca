"""What every training shares: threads, the weights to start from, and the Lightning trainer with its callbacks."""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from pesi.files import write_json
from pesi.nn.cnn import PesiCNN
from pesi.nn.pretrained import CheckpointError, imagenet_weights, load_pretrained
from pesi.train.callbacks import EpochLog, RunProgress, WholeCheckpoints

Say = Callable[[str], None]


def prepare(threads: int, *, devices: int = 1, workers: int = 0) -> int:
    """Set torch up for a repeatable run and silence the trainer's chatter.

    Args:
        threads: Torch threads a process; 0: one a core (or OMP_NUM_THREADS), shared out over processes and loaders.
        devices: Training processes.
        workers: Loader processes of each.

    Returns:
        The threads in use.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in ("num_workers", "Checkpoint directory", "lr_scheduler.step", "treespec", "logging interval"):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
    cv2.setNumThreads(1)
    cores = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    threads = threads or max(1, cores // devices - workers)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return threads


def weights_file(source: str, network: str) -> Path | None:
    """The weights that a run starts from; None: from scratch.

    Args:
        source: A file, "imagenet" for those of an installed package, "" for none.
        network: The network's name.

    Raises:
        CheckpointError: They are missing.
    """
    if source == "imagenet":
        return imagenet_weights(network)
    if source and not Path(source).is_file():
        raise CheckpointError(f"There is no weights file {source}.", "Check the path given to --pretrained.")
    return Path(source) if source else None


def start_from(network: PesiCNN, weights: Path, folder: Path, say: Say) -> None:
    """Load the weights that a run starts from, and note in the run folder which they were.

    Raises:
        CheckpointError: They do not fit.
    """
    report = load_pretrained(network, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    write_json(folder / "pretrained.json", {"file": weights.name, "sha256": digest, "loaded": str(report)})
    say(f"Pretrained weights {weights.name}: {report}.")


def make_trainer(
    folder: Path,
    *,
    epochs: int,
    precision: str,
    accelerator: str,
    devices: int = 1,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    ema: float = 0.0,
    best_by: str | None,
    progress: RunProgress | None,
    callbacks: tuple[Callback, ...] = (),
) -> L.Trainer:
    """A trainer that keeps everything of the run in its folder, and can go on from `checkpoints/last.ckpt`.

    Args:
        folder: The run folder.
        epochs: How many.
        precision: "32" or "bf16".
        accelerator: "auto", "cpu" or "gpu".
        devices: Processes (CPU) or GPUs.
        accumulate: Batches a step.
        clip_norm: Gradient norm; 0: not clipped.
        ema: Decay a step of the weights' moving average; 0: none.
        best_by: The logged score whose highest value makes `checkpoints/best.ckpt`; None: no such file.
        progress: The progress bar, None for none.
        callbacks: Further callbacks; they come first.
    """
    members: list[Callback] = [*callbacks, EpochLog(folder / "log.csv")]
    if progress is not None:
        members.append(progress)
    if ema:
        members.append(EMAWeightAveraging(decay=ema))
    checkpoints: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    # In this order: `last` holds what `best` knows, so that a run cut between the two repeats the epoch.
    if best_by is not None:
        members.append(ModelCheckpoint(filename="best", monitor=best_by, mode="max", **checkpoints))
    members.append(ModelCheckpoint(filename="last", **checkpoints))
    return L.Trainer(
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip_norm or None,
        callbacks=members,
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        plugins=[WholeCheckpoints()],
        enable_progress_bar=progress is not None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        sync_batchnorm=devices > 1 and torch.cuda.is_available(),
    )
