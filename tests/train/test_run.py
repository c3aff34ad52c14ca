"""Whole runs: the folder, resume after kill -9 and a move, signals, two processes, a full disk, early stop."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file, save_file
from sklearn.metrics import jaccard_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import TINY
from pesi.bundle.config import read_config
from pesi.bundle.segmenter import load_segmenter
from pesi.errors import DataError, PesiError, RecipeError, StorageError
from pesi.images.transforms import normalise
from pesi.nn.models import create_model
from pesi.taxonomy import TASKS
from pesi.train.callbacks import MovableCheckpoint, RunProgress, WholeCheckpoints, read_checkpoint_file
from pesi.train.classification import ClassifierRun
from pesi.train.dataset import ValidationPictures
from pesi.train.environment import environment
from pesi.train.folder import RunSettings
from pesi.train.recipe import load_recipe
from pesi.train.run import _stopped_early, open_run, run_training, start_run
from pesi.train.segmentation import SegmenterRun
from pesi.train.segmenter_recipe import SegmenterRecipe
from pesi.train.trainer import check_accelerator


def start(folder: Path, records: pd.DataFrame, *overrides: str, **settings) -> None:
    recipe = load_recipe("pesi50", [*TINY, *overrides])
    start_run(recipe, records, folder, RunSettings(data="spots", threads=1, **settings), TASKS["isic2017"])


def fingerprint(folder: Path) -> dict[str, str]:
    names = ("bundle/model.safetensors", "predictions/val.csv", "log.csv")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_the_run_folder_holds_the_evidence(tiny_run, spots):
    result = json.loads((tiny_run / "result.json").read_text())
    assert result["best_epoch"] >= 1
    assert result["peak_memory"]["process"] > 1e8  # torch alone takes more
    assert result["augmented_by"] == ("cuda" if torch.cuda.is_available() else "loader")
    recipe = load_recipe(tiny_run / "recipe.toml")
    assert recipe.precision == "32"
    splits = json.loads((tiny_run / "splits.json").read_text())
    assert {name: part["count"] for name, part in splits.items() if part["count"]} == {"train": 24, "val": 12}
    environment = json.loads((tiny_run / "environment.json").read_text())
    assert environment["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    rows = list(csv.DictReader((tiny_run / "log.csv").open()))
    assert len(rows) == 10
    blocks = [f"layer{stage}.0" for stage in (1, 2, 3, 4)]
    for row in rows:
        assert all(float(row[f"energy/{block}"]) > 0 for block in blocks)
        assert all(float(row[f"alpha/{block}"]) not in (0.0, 0.1) for block in blocks)  # 0.1: where they began
    events = EventAccumulator(str(tiny_run / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {f"alpha/{block}" for block in blocks} | {f"energy/{block}" for block in blocks} <= set(tags)
    assert "val/mean_auc" in tags
    predictions = pd.read_csv(tiny_run / "predictions" / "val.csv")
    assert list(predictions.columns) == ["image_id", "melanoma", "seborrheic_keratosis", "nevus"]
    assert sorted(predictions["image_id"]) == sorted(spots[spots["split"] == "val"]["image_id"])
    # The log's mean AUC of the best epoch is what scikit-learn finds.
    assert max(float(row["val/mean_auc"]) for row in rows) <= 1
    opened = open_run(tiny_run)
    pd.testing.assert_frame_equal(opened.records, spots)
    assert opened.task == TASKS["isic2017"]


def test_logged_auc_agrees_with_scikit_learn(tmp_path, spots):
    start(tmp_path / "run", spots, "views=single", "ema=0", "epochs=1")
    run_training(tmp_path / "run", show_progress=False)
    row = next(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    predictions = pd.read_csv(tmp_path / "run" / "predictions" / "val.csv").merge(spots, on="image_id")
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        expected = roc_auc_score(predictions["diagnosis"] == code, predictions[name])
        assert float(row[f"val/auc_{name}"]) == pytest.approx(expected, abs=1e-6)


def test_a_finished_run_is_not_trained_again(tiny_run):
    before = fingerprint(tiny_run)
    said: list[str] = []
    run_training(tiny_run, say=said.append, show_progress=False)
    assert "finished already" in said[0]
    assert fingerprint(tiny_run) == before


SCRIPT = "import sys; from pesi.train.run import run_training; run_training(sys.argv[1], show_progress=False)"


@pytest.mark.slow
def test_kill_9_and_resume_end_bit_for_bit_the_same(tmp_path, spots):
    options = (
        "epochs=4",
        "loss.mixup=0.2",
        "loss.cutmix=1",
        "network.dropout=0.1",
        "loss.sampler=sqrt",
        "accumulate=2",
    )
    for name in ("whole", "killed"):
        start(tmp_path / name, spots, *options)
    run_training(tmp_path / "whole", show_progress=False)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed")])
    log = tmp_path / "killed" / "log.csv"
    deadline = time.monotonic() + 120
    while not (log.is_file() and len(log.read_text().splitlines()) >= 2):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.15)  # into the middle of the next epoch
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    run_training(tmp_path / "killed", show_progress=False)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "whole")


class _Spoil(Callback):
    """Makes the network one of zeros after the first epoch, which so is the best."""

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        if trainer.current_epoch == 1:
            with torch.no_grad():
                for parameter in pl_module.network.parameters():
                    parameter.zero_()


class _Cut(Callback):
    """Ends the work within the second epoch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("cut")


@pytest.mark.slow
def test_a_moved_run_remembers_its_best_epoch(tmp_path, spots):
    for name in ("whole", "cut"):
        start(tmp_path / name, spots, "epochs=3", "ema=0", "optimizer.lr=1e-3")
    result = run_training(tmp_path / "whole", show_progress=False, callbacks=(_Spoil(),))
    assert result["best_epoch"] == 1
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "cut", show_progress=False, callbacks=(_Spoil(), _Cut()))
    (tmp_path / "cut").rename(tmp_path / "moved")
    moved = run_training(tmp_path / "moved", show_progress=False, callbacks=(_Spoil(),))
    assert moved | {"peak_memory": None} == result | {"peak_memory": None}
    assert fingerprint(tmp_path / "moved") == fingerprint(tmp_path / "whole")
    assert not (tmp_path / "cut").exists()


@pytest.mark.slow
def test_dropout_and_mixing_resume_bit_for_bit(tmp_path, spots):
    """Within an epoch that a run resumes with, the loader draws from torch's generator at another moment."""
    options = ("epochs=2", "views=single", "network.dropout=0.3", "loss.mixup=0.2", "loss.cutmix=1")
    for name in ("whole", "cut"):
        start(tmp_path / name, spots, *options)
    run_training(tmp_path / "whole", show_progress=False)
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "cut", show_progress=False, callbacks=(_Cut(),))
    run_training(tmp_path / "cut", show_progress=False)
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


class _Unread(torch.Tensor):
    """A loss that counts how often its value is fetched."""

    fetched = 0

    def item(self):
        type(self).fetched += 1
        return super().item()

    __float__ = item


def test_the_bar_fetches_the_loss_only_when_it_is_drawn(capsys):
    """A value that is fetched at every step makes a GPU wait for each."""
    bar = RunProgress(("val/mean_auc", "mean AUC"))
    values = {"train/loss": torch.tensor(0.5), "val/mean_auc": torch.tensor(0.75)}
    trainer = SimpleNamespace(
        is_global_zero=True,
        num_training_batches=200,
        max_epochs=2,
        current_epoch=1,
        accumulate_grad_batches=1,
        callback_metrics=values,
    )
    bar.setup(trainer, None, "fit")
    bar.on_train_start(trainer, None)
    bar.on_train_epoch_start(trainer, None)
    for step in range(200):
        if step == 100:
            bar.train_progress_bar.last_print_t -= 10  # as if time had gone by
        bar.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0).as_subclass(_Unread)}, None, step)
    assert 1 <= _Unread.fetched <= 4
    assert bar.train_progress_bar.n == bar.train_progress_bar.total == 400
    bar.on_train_epoch_end(trainer, None)
    bar.on_train_end(trainer, None)
    told = capsys.readouterr()
    assert "epoch 2/2: 100%" in told.err
    assert "loss 0.500, mean AUC 0.750" in told.err
    assert told.out == ""


def test_checkpoints_of_lightning_s_own_class_are_taken_over(tmp_path):
    options = {"dirpath": tmp_path, "filename": "best", "monitor": "val/rank", "mode": "max"}
    assert MovableCheckpoint(**options).state_key == ModelCheckpoint(**options).state_key


def test_a_run_goes_on_from_anywhere_and_without_its_first_weights(tmp_path, spots, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    save_file(create_model("pesi14", num_classes=3).state_dict(), home / "w.safetensors")
    pictures = Path(spots["path"].iloc[0]).parent
    (home / "pictures").symlink_to(pictures)
    relative = spots.assign(path=spots["path"].str.replace(str(pictures), "pictures"))
    monkeypatch.chdir(home)
    start(tmp_path / "run", relative, "views=single", "ema=0", pretrained="w.safetensors", cache_dir="cache")
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "run", show_progress=False, callbacks=(_Cut(),))
    (home / "w.safetensors").unlink()
    monkeypatch.chdir(away)
    run_training(tmp_path / "run", show_progress=False)
    assert list(away.iterdir()) == []
    settings = open_run(tmp_path / "run").settings
    assert (settings.pretrained, settings.cache_dir) == (str(home / "w.safetensors"), str(home / "cache"))
    kept = json.dumps(read_config(tmp_path / "run" / "bundle").model_dump(mode="json"))
    assert str(tmp_path) not in kept  # a bundle tells nothing of the machine
    for number, source in enumerate(("imagenet", "", None)):
        start(tmp_path / str(number), spots, pretrained=source)
        assert open_run(tmp_path / str(number)).settings.pretrained == source


COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pesi.cli.app import main; main()"
)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_command_and_its_status_tells(tmp_path, spots, sent, status):
    folder = tmp_path / "run"
    start(folder, spots, "epochs=500")
    command = [sys.executable, "-c", COMMAND, "train", "--resume", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    _, told = process.communicate(timeout=120)
    assert process.returncode == status, told
    assert f"Stopped; go on with: pesi train --resume {folder}" in told
    assert "Traceback" not in told
    assert not (folder / "result.json").exists()


def test_what_is_asked_for_is_read_as_it_was_written_before(tmp_path, spots, tiny_run):
    """Before one form of `run.json` served all kinds, a classifier's had no kind and a segmenter's another file."""
    asked = json.loads((tiny_run / "run.json").read_text())
    assert asked.pop("kind") == "classifier"
    old = tmp_path / "classifier"
    old.mkdir()
    for name in ("recipe.toml", "records.csv"):
        shutil.copy(tiny_run / name, old)
    (old / "run.json").write_text(json.dumps(asked))
    run = open_run(old)
    assert (type(run), run.settings, run.task) == (ClassifierRun, open_run(tiny_run).settings, TASKS["isic2017"])
    old = tmp_path / "segmenter"
    start_run(SegmenterRecipe.load("segmenter-lite0", ["batch_size=6"]), spots, old, RunSettings(data="spots"))
    flat = {"data": "spots", "pretrained": "", "accelerator": "cpu", "threads": 1, "workers": 0, "cache_dir": None}
    (old / "segmenter-run.json").write_text(json.dumps(flat))
    (old / "run.json").unlink()
    fields = ["accumulate", "patience", "select", "licence"]
    lines = [line for line in (old / "recipe.toml").read_text().splitlines() if line.split(" ")[0] not in fields]
    (old / "recipe.toml").write_text("\n".join(lines))  # which its recipe did not have
    run = open_run(old)
    assert (type(run), run.settings) == (SegmenterRun, RunSettings(**flat))
    assert run.recipe.select == "best"
    pd.testing.assert_frame_equal(run.records, spots)


@pytest.mark.slow
def test_two_processes_train_one_segmenter(tmp_path, spots):
    overrides = ["pretrained=''", "network.width=2", "picture.size=64", "picture.source_size=72", "epochs=1"]
    recipe = SegmenterRecipe.load("segmenter-lite0", [*overrides, "batch_size=6", "ema=0"])
    start_run(recipe, spots, tmp_path / "two", RunSettings("spots", devices=2, accelerator="cpu", threads=1))
    in_two_processes(tmp_path)
    row = next(csv.DictReader((tmp_path / "two" / "log.csv").open()))
    pictures = open_run(tmp_path / "two").pictures("val", False)
    network, truth = (
        load_segmenter(tmp_path / "two" / "bundle").network,
        ValidationPictures([pictures.squares["image"]], pictures.classes, 64, pictures.masks),
    )
    scores = []
    for index in range(12):
        picture, _, _, mask = truth[index]
        with torch.inference_mode():
            predicted = network(normalise(picture[None], recipe.picture.mean, recipe.picture.std))[0, 0] > 0
        scores.append(jaccard_score(mask.ravel(), predicted.ravel(), zero_division=1.0))
    assert float(row["val/jaccard"]) == pytest.approx(np.mean(scores), abs=0.02)  # float16; both shares were gathered


def in_two_processes(folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    script = folder / "script.py"  # a file: the trainer starts the second process by the same command line
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder / "two")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path, spots):
    """DDP over gloo: the gradients are averaged, so 2 x 6 images a step learn as 12 do in one process."""
    plain = ("ema=0", "views=single", "epochs=1", "augmentation.flip=false", "augmentation.rotation=0")
    start(tmp_path / "two", spots, *plain, devices=2, accelerator="cpu")
    in_two_processes(tmp_path)
    predictions = pd.read_csv(tmp_path / "two" / "predictions" / "val.csv")
    assert sorted(predictions["image_id"]) == sorted(spots[spots["split"] == "val"]["image_id"])
    row = next(csv.DictReader((tmp_path / "two" / "log.csv").open()))
    merged = predictions.merge(spots, on="image_id")
    expected = roc_auc_score(merged["diagnosis"] == "MEL", merged["melanoma"])
    assert float(row["val/auc_melanoma"]) == pytest.approx(expected, abs=1e-6)  # both shares were gathered
    weights = load_file(tmp_path / "two" / "bundle" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_early_stop_counts_epochs_without_a_better_auc(tmp_path, spots):
    start(tmp_path / "run", spots, "epochs=12", "patience=1", "optimizer.lr=1e-9", "ema=0", "optimizer.warmup_epochs=0")
    run_training(tmp_path / "run", show_progress=False)
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").open()))
    assert len(rows) < 12
    aucs = [float(row["val/mean_auc"]) for row in rows]
    assert aucs[-1] <= max(aucs[:-1])
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert _stopped_early(last, 1, "val/mean_auc")
    assert not _stopped_early(last, 50, "val/mean_auc")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    """/dev/full cannot hold a rename target, so a file-size limit stands in for the disk: the write fails half-way."""
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1, "state": torch.zeros(10)}, path)
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, torch\n"
        "from pesi.train.callbacks import WholeCheckpoints\n"
        "from pesi.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        "    WholeCheckpoints().save_checkpoint({'epoch': 2, 'state': torch.zeros(100_000)}, sys.argv[1])\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "Could not write" in done.stdout
    assert "->" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert read_checkpoint_file(path)["epoch"] == 1


def test_damaged_checkpoints_are_named(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(StorageError, match=r"last\.ckpt cannot be opened") as caught:
        read_checkpoint_file(tmp_path / "last.ckpt")
    assert "from the beginning" in caught.value.cure
    assert "other checkpoint" not in caught.value.cure  # there is no going on from best.ckpt


def test_the_cure_of_a_damaged_checkpoint_cures(tmp_path, spots):
    start(tmp_path / "run", spots, "epochs=2", "views=single")
    with pytest.raises(RuntimeError, match="cut"):
        run_training(tmp_path / "run", show_progress=False, callbacks=(_Cut(),))
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(StorageError) as caught:
        run_training(tmp_path / "run", show_progress=False)
    assert f"Delete the folder {tmp_path / 'run' / 'checkpoints'};" in caught.value.cure
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run_training(tmp_path / "run", show_progress=False)
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("head", ["multiclass", "multilabel"])
def test_divergence_is_told(tmp_path, spots, head):
    start(tmp_path / "run", spots, "optimizer.lr=1e20", "ema=0", f"loss.head={head}")
    with pytest.raises(PesiError, match="The training diverged: after epoch 1") as caught:
        run_training(tmp_path / "run", show_progress=False)
    assert "optimizer.lr" in caught.value.cure


def test_what_the_machine_cannot_do_is_told_first(tmp_path, spots, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(PesiError, match="Unknown accelerator 'tpu'"):
        check_accelerator("tpu")
    check_accelerator("cpu", 4)
    check_accelerator("auto", 4)
    start(tmp_path / "run", spots, accelerator="gpu")
    with pytest.raises(PesiError, match="no GPU here"):
        run_training(tmp_path / "run", show_progress=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_accelerator("gpu", 2)
    for name in ("auto", "gpu"):
        with pytest.raises(PesiError, match="4 GPUs are asked for, and 2 here can be used"):
            check_accelerator(name, 4)


def test_mistakes_before_training(tmp_path, spots, tiny_run):
    with pytest.raises(PesiError, match="holds a run already"):
        start(tiny_run, spots)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "segmenter-run.json").write_text("{}")
    with pytest.raises(PesiError, match="holds a run already") as caught:
        start(tmp_path / "other", spots)
    assert "pesi train --resume" in caught.value.cure
    assert len(list((tmp_path / "other").iterdir())) == 1
    with pytest.raises(PesiError, match="not a run folder"):
        open_run(tmp_path)
    with pytest.raises(DataError, match="no val images"):
        start(tmp_path / "a", spots[spots["split"] == "train"])
    assert not (tmp_path / "a").exists()
    with pytest.raises(RecipeError, match="24 training images do not fill one batch of 64") as caught:
        start(tmp_path / "b", spots, "batch_size=64")
    assert "batch_size=24" in caught.value.cure
    assert not (tmp_path / "b").exists()


def test_the_bundle_keeps_how_it_was_made(tiny_run):
    config = read_config(tiny_run / "bundle")
    assert "validation" in config.temperature.how
    assert [t.name for t in config.thresholds if t.class_name == "melanoma"] == [
        "sensitivity_0.80",
        "sensitivity_0.90",
        "sensitivity_0.95",
        "specificity_0.90",
        "specificity_0.95",
    ]
    assert config.provenance["splits"]["train"]["count"] == 24
    assert config.provenance["recipe"]["network"]["name"] == "pesi14"
    assert [level.level for level in config.triage] == ["excise", "refer", "follow up", "no level reached"]
    values = [level.at_least for level in config.triage]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0


@pytest.mark.parametrize(("argument", "kept"), [("train", "train"), ("/home/me/tables/members.toml", "members.toml")])
def test_a_bundle_tells_nothing_of_the_machine_s_folders(monkeypatch, argument, kept):
    monkeypatch.setattr(sys, "argv", ["/home/me/run.py", argument, "/home/me/images"])
    told = environment(threads=1)
    assert told["arguments"] == [kept]
    assert "/home/me" not in json.dumps(told)
