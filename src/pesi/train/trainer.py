"""The Lightning trainer: what the machine must have, how torch is set up, what is kept, how a signal stops it."""

from __future__ import annotations

import errno
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from pesi.errors import PesiError
from pesi.machine import thread_count
from pesi.train.callbacks import EpochLog, MovableCheckpoint, RunProgress, WholeCheckpoints
from pesi.train.folder import RunSettings, Say
from pesi.train.recipe import CommonRecipe

ACCELERATORS = ("auto", "cpu", "gpu")
_STOPPED_BY_SIGTERM = 128 + 15  # the exit status that a shell gives a process ended by that signal


def check_accelerator(name: str, devices: int = 1) -> None:
    """Check that this machine can train so.

    Args:
        name: "auto", "cpu" or "gpu".
        devices: Processes (CPU) or GPUs.

    Raises:
        PesiError: It cannot.
    """
    if name not in ACCELERATORS:
        raise PesiError(f"Unknown accelerator {name!r}.", f"Choose one of: {', '.join(ACCELERATORS)}.")
    gpus = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if name == "gpu" and not gpus:
        raise PesiError("There is no GPU here that torch can use.", "Start the run with --accelerator cpu.")
    if name != "cpu" and 0 < gpus < devices:
        raise PesiError(
            f"{devices} GPUs are asked for, and {gpus} here can be used.",
            f"Start the run with --devices {gpus}, or with --accelerator cpu.",
        )


@contextmanager
def prepared(threads: int, *, devices: int = 1, workers: int = 0) -> Iterator[int]:
    """Set torch up for a repeatable run and silence the trainer's chatter; all is as it was found when this ends.

    Args:
        threads: Torch threads a process; 0: `machine.thread_count`, shared out over processes and loaders.
        devices: Training processes.
        workers: Loader processes of each.

    Yields:
        The threads in use.
    """
    threads = threads or max(1, thread_count() // devices - workers)
    with ExitStack() as restore:
        restore.enter_context(warnings.catch_warnings())
        for message in ("num_workers", "Checkpoint directory", "lr_scheduler.step", "treespec", "logging interval"):
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
            logger = logging.getLogger(name)
            restore.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        restore.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)
        restore.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(threads)
        restore.callback(
            torch.use_deterministic_algorithms,
            torch.are_deterministic_algorithms_enabled(),
            warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        torch.use_deterministic_algorithms(True, warn_only=True)
        # That would also fill new memory with NaN: hundreds of launches a step on a GPU, and no other result.
        deterministic: Any = torch.utils.deterministic
        restore.callback(setattr, deterministic, "fill_uninitialized_memory", deterministic.fill_uninitialized_memory)
        deterministic.fill_uninitialized_memory = False
        # A run seeds every generator (`seed_everything`), by the environment those of further processes too.
        restore.enter_context(torch.random.fork_rng(devices=()))
        restore.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        restore.callback(random.setstate, random.getstate())
        for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
            if name in os.environ:
                restore.callback(os.environ.__setitem__, name, os.environ[name])
            else:
                restore.callback(os.environ.pop, name, None)
        yield threads


def moving_average(decay: float, *, gpu: bool) -> WeightAveraging:
    """The callback that averages the weights after every step.

    Args:
        decay: What is kept of the average.
        gpu: Whether all weights are averaged together, which rounds otherwise. One by one they are a thousand launches
            a step, a third of its time there.
    """
    if gpu:
        return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    return EMAWeightAveraging(decay=decay)


def make_trainer(
    folder: Path,
    recipe: CommonRecipe,
    settings: RunSettings,
    *,
    best_by: str | None,
    progress: RunProgress | None,
    callbacks: tuple[Callback, ...] = (),
) -> L.Trainer:
    """A trainer that keeps everything of the run in its folder, and can go on from `checkpoints/last.ckpt`.

    Args:
        folder: Where it is kept.
        recipe: The recipe, resolved.
        settings: The run's.
        best_by: The logged score whose highest value makes `checkpoints/best.ckpt`; None: no such file.
        progress: The progress bar, None for none.
        callbacks: Further callbacks; they come first.
    """
    members: list[Callback] = [*callbacks, EpochLog(folder / "log.csv")]
    if progress is not None:
        members.append(progress)
    if recipe.ema:
        members.append(moving_average(recipe.ema, gpu=settings.accelerator != "cpu" and torch.cuda.is_available()))
    checkpoints: dict[str, Any] = {
        "dirpath": folder / "checkpoints",
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
    }
    # In this order: `last` holds what `best` knows, so that a run cut between the two repeats the epoch.
    if best_by is not None:
        members.append(MovableCheckpoint(filename="best", monitor=best_by, mode="max", **checkpoints))
    members.append(MovableCheckpoint(filename="last", **checkpoints))
    return L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        strategy="ddp" if settings.processes > 1 else "auto",
        precision="bf16-mixed" if recipe.precision == "bf16" else "32-true",
        max_epochs=recipe.epochs,
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.optimizer.clip_norm or None,
        callbacks=members,
        logger=TensorBoardLogger(folder, name="tensorboard", version=""),
        plugins=[WholeCheckpoints()],
        enable_progress_bar=progress is not None,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        sync_batchnorm=settings.processes > 1 and torch.cuda.is_available(),
    )


def fit(
    trainer: L.Trainer,
    module: L.LightningModule,
    training: DataLoader,
    validation: DataLoader,
    *,
    checkpoint: Path,
    resume: str,
    say: Say,
) -> None:
    """Train to the end, or until a signal stops it.

    Args:
        trainer: See `make_trainer`.
        module: What is trained.
        training, validation: The batches.
        checkpoint: Where to go on from, if it is there.
        resume: The command that goes on with the run.
        say: Told how to go on, where the training is stopped.

    Raises:
        KeyboardInterrupt: SIGINT (Ctrl-C) stopped it.
        SystemExit: SIGTERM stopped it; the status is 143.
        PesiError: The loader processes ran out of shared memory or open files, or were killed.
    """
    try:
        trainer.fit(
            module,
            training,
            validation,
            ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
            weights_only=True,
        )
    except SystemExit as stop:  # Lightning makes one of both signals, with a status that does not tell
        terminated = isinstance(stop, SIGTERMException)
        if not (terminated or isinstance(stop.__context__, KeyboardInterrupt)):
            raise
        if trainer.is_global_zero:
            say(f"Stopped; go on with: {resume}")
        if terminated:
            raise SystemExit(_STOPPED_BY_SIGTERM) from stop
        raise KeyboardInterrupt from stop
    except (RuntimeError, OSError) as error:
        # What torch says of shared memory that is full or may not be had, and of a process that the system ended.
        told = ("shared memory", "</torch_", "killed by signal", "exited unexpectedly", "ancdata")
        short = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
        if not training.num_workers or not (
            any(words in str(error) for words in told) or getattr(error, "errno", None) in short
        ):
            raise
        reason = str(error).strip().splitlines()[-1].removeprefix("RuntimeError: ").rstrip(".")
        raise PesiError(
            f"The {training.num_workers} loader processes ran out of shared memory or open files: {reason}.",
            "Take fewer --workers (0 needs neither), or give them more: a larger /dev/shm (a container's "
            "shm size), a higher `ulimit -n`.",
        ) from error
