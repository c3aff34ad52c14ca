"""Trainings by several processes: as torchrun and srun start them, on the loopback, with gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from conftest import TINY, write_spots
from pesi.cli.app import app
from pesi.errors import PesiError
from pesi.taxonomy import TASKS
from pesi.train.callbacks import read_checkpoint_file
from pesi.train.environment import Launch, launch, leave_launch
from pesi.train.folder import RunSettings
from pesi.train.recipe import load_recipe
from pesi.train.run import run_training, start_run

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"},
    **{"SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"},
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"},
}
# Batch norm by its running statistics: else each process would normalise by its own half of a batch.
SCRIPT = """
import sys, torch
from lightning.pytorch.callbacks import Callback
from pesi.train.run import run_training
class Frozen(Callback):
    def on_train_epoch_start(self, trainer, module):
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.eval()
if __name__ == "__main__":
    run_training(sys.argv[1], show_progress=False, callbacks=(Frozen(),))
"""
PLAIN = ("optimizer.name=sgd", "optimizer.lr=1e-3", "ema=0", "views=single", "epochs=2", "network.dropout=0")


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "PL_"))}
    return inherited | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"} | more


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def torchrun(*command: object, nodes: int = 1, each: int = 2) -> list[str]:
    """The outputs of a launcher on each of so many machines, all of them this one."""
    port, running = free_port(), []
    for node in range(nodes):
        options = [f"--nnodes={nodes}", f"--nproc-per-node={each}", f"--node-rank={node}"]
        options += ["--master-addr=127.0.0.1", f"--master-port={port}"]
        words = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)]
        running.append(subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return ended(running)


def ended(running: list[subprocess.Popen[bytes]]) -> list[str]:
    outputs = [process.communicate(timeout=300)[0].decode() for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(outputs)
    return outputs


def start(folder: Path, records: pd.DataFrame, batch: int, **settings: int) -> Path:
    recipe = load_recipe("pesi50", [*TINY, *PLAIN, f"batch_size={batch}"])
    start_run(
        recipe, records, folder, RunSettings("spots", threads=1, accelerator="cpu", **settings), TASKS["isic2017"]
    )
    return folder


@pytest.fixture
def said(monkeypatch) -> Iterator[object]:
    """Sets what a launcher says."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)

    def say(values: Mapping[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return say


def test_what_the_launchers_say(said) -> None:
    assert launch() == Launch(0, 0, 1, 1)
    said(SRUN)
    assert launch() == Launch(rank=1, local_rank=0, processes=2, nodes=2)
    said(TORCHRUN)
    assert launch() == Launch(rank=3, local_rank=1, processes=4, nodes=2)
    assert launch().each == (2, 2)


def test_who_leaves_the_launch_is_alone_on_a_gpu_of_its_own(said, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    said(TORCHRUN)
    assert leave_launch().rank == 3
    assert launch() == Launch()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert "RANK" not in os.environ


@pytest.mark.parametrize("wrong", [{"SLURM_JOB_NAME": "bash"}, {"SLURM_NTASKS_PER_NODE": None}])
def test_a_step_that_the_trainer_cannot_take_is_refused(said, wrong) -> None:
    said({name: value for name, value in (SRUN | wrong).items() if value is not None})
    with pytest.raises(PesiError, match="which of srun's processes"):
        launch()


def test_a_launch_of_other_processes_than_the_run_is_of_is_refused(said, spots, tmp_path) -> None:
    folder = start(tmp_path / "run", spots, 6, devices=1)
    said(TORCHRUN)
    with pytest.raises(PesiError, match=r"1 process.* on each of 1 machine.* 2 on each of 2"):
        run_training(folder)


def test_processes_that_were_started_need_one_folder(said, spots, tmp_path) -> None:
    said(TORCHRUN)
    result = CliRunner().invoke(app, ["train", "pesi50", "--data", str(tmp_path)])
    assert result.exit_code == 2
    assert "--out FOLDER" in result.output


@pytest.mark.slow  # three processes that import everything
@pytest.mark.parametrize("nodes", [1, 2])
def test_two_processes_learn_what_one_does_from_the_same_batches(spots, tmp_path, nodes) -> None:
    """Loss and weights of 2 x 6 pictures a step, and of 12 in one process: equal to 1e-5, float32's sums apart."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one, two = start(tmp_path / "one", spots, 12), start(tmp_path / "two", spots, 6, devices=2 // nodes, nodes=nodes)
    command = [sys.executable, script, one]
    ended([subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)])
    torchrun(script, two, nodes=nodes, each=2 // nodes)
    logs = [pd.read_csv(folder / "log.csv") for folder in (one, two)]
    for column in ("train/loss", "val/loss", "val/mean_auc", "lr"):
        torch.testing.assert_close(*(torch.tensor(log[column].to_numpy()) for log in logs), rtol=1e-5, atol=1e-5)
    states = [read_checkpoint_file(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (one, two)]
    start_weights = load_start(one)
    assert any((states[0][name] - start_weights[name]).abs().max() > 1e-4 for name in start_weights)  # it has learned
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-5, msg=name)


def load_start(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    import lightning as L

    from pesi.train.run import open_run

    run = open_run(folder)
    with torch.random.fork_rng():
        L.seed_everything(run.recipe.seed, verbose=False)
        return {f"network.{name}": value for name, value in run.network().state_dict().items() if "weight" in name}


def sets(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


@pytest.mark.slow  # processes that import everything
def test_the_command_under_srun_trains_one_run(tmp_path) -> None:
    write_spots(tmp_path).to_csv(tmp_path / "spots.csv", index=False)
    options = ["train", "pesi50", "--data", tmp_path / "spots.csv", "--accelerator", "cpu", "--threads", 1]
    command = [sys.executable, "-m", "pesi", *options, "--out", tmp_path / "run", *sets(*TINY, "epochs=1")]
    port = free_port()
    running = [
        subprocess.Popen(
            [str(word) for word in command],
            env=environment(**SRUN | {"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank), "MASTER_PORT": port}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    first, second = ended(running)
    assert "2 process(es)" in first
    assert "2 process(es)" not in second  # one of them tells
    assert (tmp_path / "run" / "bundle" / "config.json").is_file()
    assert len(pd.read_csv(tmp_path / "run" / "predictions" / "val.csv")) == 12


@pytest.mark.slow  # processes that import everything
def test_folds_are_shared_among_processes(folds_spots, tmp_path) -> None:
    folds_spots.drop(columns="split").to_csv(tmp_path / "spots.csv", index=False)
    options = ["train", "pesi50", "--data", tmp_path / "spots.csv", "--accelerator", "cpu", "--threads", 1]
    options += ["--folds", 2, "--out", tmp_path / "run", *sets(*TINY, "epochs=1")]
    (output,) = torchrun("-m", "pesi", *options)
    assert "All 2 trainings are done" in output
    assert len(list((tmp_path / "run" / "bundle").glob("model-*.safetensors"))) == 2
    assert sorted(path.parent.name for path in (tmp_path / "run").glob("fold*/result.json")) == [
        *("fold0-network", "fold1-network")
    ]
