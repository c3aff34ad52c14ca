"""What a run changes of the whole process is as before when it ends, however it ends."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pesi.errors import PesiError
from pesi.nn.pretrained import CheckpointError
from pesi.taxonomy import TASKS
from pesi.train.folder import RunSettings
from pesi.train.recipe import load_recipe
from pesi.train.run import run_training, start_run
from pesi.train.trainer import fit, moving_average, prepared


def state_of_the_process() -> dict[str, object]:
    return {
        "filters": list(warnings.filters),
        "levels": [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")],
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "determinism": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "generators": (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),  # noqa: NPY002
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_as_before(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "12")
    before = state_of_the_process()
    with warnings.catch_warnings(record=True):
        try:
            with prepared(3) as threads:
                assert threads == torch.get_num_threads() == 3
                assert torch.are_deterministic_algorithms_enabled()
                assert not torch.utils.deterministic.fill_uninitialized_memory
                random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
                os.environ["PL_GLOBAL_SEED"] = os.environ["PL_SEED_WORKERS"] = "0"
                assert all(state_of_the_process()[name] != before[name] for name in before if name != "filters")
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert fails
    assert state_of_the_process() == before


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "6,1")
    for asked, devices, workers, given in ((0, 1, 0, 6), (0, 2, 1, 2), (0, 2, 9, 1), (4, 2, 1, 4)):
        with prepared(asked, devices=devices, workers=workers) as threads:
            assert threads == torch.get_num_threads() == given


class Line(L.LightningModule):
    """A linear layer and a norm, which learn nothing of interest."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.network(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def averaged(gpu: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module, batches = Line(), DataLoader(torch.randn(40, 3), 4)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[moving_average(0.8, gpu=gpu)], **quiet).fit(module, batches)
    return module.state_dict()


@pytest.mark.filterwarnings("ignore")
def test_weights_averaged_together_are_those_averaged_one_by_one() -> None:
    one_by_one, together = averaged(False), averaged(True)
    for name, value in one_by_one.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)


def test_a_run_that_fails_leaves_nothing_behind(spots, tmp_path) -> None:
    before = state_of_the_process()
    recipe = load_recipe("pesi50", ["network.name=pesi14", "picture.size=64", "picture.source_size=72", "batch_size=9"])
    start_run(recipe, spots, tmp_path, RunSettings("spots", pretrained="gone.pth"), TASKS["isic2017"])
    with pytest.raises(CheckpointError, match="no weights file"):
        run_training(tmp_path, show_progress=False)
    assert state_of_the_process() == before


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def fit(self, *arguments: object, **options: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "Caught RuntimeError ...\nRuntimeError: unable to write to file </torch_1_2_3>: No space left (28)"
        ),
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ... shared memory."
        ),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        RuntimeError("received 0 items of ancdata"),
        OSError(24, os.strerror(24)),
        BlockingIOError(11, os.strerror(11)),
    ],
    ids=str,
)
def test_loader_processes_that_run_short_are_told_as_such(error: Exception, tmp_path: Path) -> None:
    def run(workers: int) -> None:
        loader: DataLoader = DataLoader([1], num_workers=workers)
        fit(Failing(error), None, loader, loader, checkpoint=tmp_path / "none", resume="", say=print)  # type: ignore[arg-type]

    with pytest.raises(PesiError, match="loader processes") as caught:
        run(2)
    assert "\n" not in caught.value.problem
    assert "--workers" in caught.value.cure
    with pytest.raises(type(error)) as own:  # without such processes it is another matter
        run(0)
    assert own.value is error


@pytest.mark.slow
def test_small_shared_memory(tmp_path: Path) -> None:
    """In a mount of its own, of 64 KiB: needs the rights for that."""
    small = "mount -t tmpfs -o size=64k tmpfs /dev/shm && "
    if subprocess.run(["unshare", "-m", "sh", "-c", small + "true"], capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a small /dev/shm")
    from conftest import TINY, write_spots

    write_spots(tmp_path).to_csv(tmp_path / "spots.csv", index=False)
    sets = [part for override in (*TINY, "epochs=1") for part in ("--set", override)]
    command = [sys.executable, "-m", "pesi", "train", "pesi50", "--data", "spots.csv", "--out", "run", *sets]
    command += ["--threads", "1", "--workers", "2", "--no-near-duplicates"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", small + '"$@"', "sh", *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert "Traceback" not in done.stderr
