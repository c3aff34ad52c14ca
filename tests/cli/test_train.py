"""`pesi train` and `pesi demo`: options that are refused, and what is told before the training."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from typer.testing import CliRunner

from conftest import TINY, write_spots
from pesi.cli.app import app
from pesi.errors import DataError, PesiError, RecipeError
from pesi.train.classification_module import LesionModule

SETS = [part for override in (*TINY, "epochs=1", "views=single") for part in ("--set", override)]
SEGMENTER_TINY = ("network.width=2", "picture.size=64", "picture.source_size=72", "batch_size=6", "epochs=1")
SEGMENTER_SETS = [part for override in SEGMENTER_TINY for part in ("--set", override)]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def spots_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spots")
    write_spots(folder).to_csv(folder / "spots.csv", index=False)
    return folder / "spots.csv"


@pytest.mark.parametrize(
    "option",
    [
        ("--set", "epochs=3"),
        ("--exclude", "ids.txt"),
        ("--data", "x"),
        ("--dataset", "isic2017"),
        ("--pretrained", ""),
        ("--out", "x"),
        ("--devices", "1"),
        ("--accelerator", "auto"),
        ("--threads", "0"),
        ("--workers", "0"),
        ("--device-augmentation",),
        ("--cache", "x"),
        ("--near-duplicates",),
    ],
)
def test_resume_takes_no_other_option(tiny_run, option):
    result = run("train", "--resume", tiny_run, *option, status=2)
    assert f"{option[0]} does not go with --resume" in " ".join(result.stderr.split())


def test_resume_takes_the_progress_bar(tiny_run):
    for option in ("--progress", "--no-progress"):
        assert "finished already" in run("train", "--resume", tiny_run, option).stderr


def test_ids_to_leave_out_that_are_none_are_counted(spots_csv, tmp_path):
    (tmp_path / "never.txt").write_text("train_003\ntrain_3\nvale 1\nval_000\n")
    arguments = ("--data", spots_csv, "--out", tmp_path / "run", "--threads", 1, "--exclude", tmp_path / "never.txt")
    told = run("train", "pesi50", *arguments, *SETS).stderr
    assert "2 of the 4 ids in never.txt are not among the data's images." in told
    assert "1 training images are left out (never.txt)." in told
    assert json.loads((tmp_path / "run" / "splits.json").read_text())["train"]["count"] == 23


def test_mistakes_leave_no_run_folder(spots_csv, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    start = ("--data", spots_csv, "--out", tmp_path / "run")
    for verb, recipe in ((("train",), "pesi50"), (("segmenter", "train"), "segmenter-lite0")):
        for error, message, option in (
            (PesiError, "no GPU here", ("--accelerator", "gpu")),
            (PesiError, "Unknown accelerator 'gup'", ("--accelerator", "gup")),
            (RecipeError, "seed: Input should be less than or equal to 4294967295", ("--set", f"seed={2**32}")),
        ):
            with pytest.raises(error, match=message):
                run(*verb, recipe, *start, *option)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def broken_csv(spots_csv: Path, tmp_path: Path) -> Path:
    """The spots, one of them no image."""
    table = pd.read_csv(spots_csv)
    (tmp_path / "broken.png").write_bytes(b"no image")
    table.loc[3, "path"] = str(tmp_path / "broken.png")
    table.to_csv(tmp_path / "broken.csv", index=False)
    return tmp_path / "broken.csv"


REFUSALS = {
    "batch": (("--set", "batch_size=64"), "do not fill one batch"),
    "weights of another network": (("--pretrained", "w.safetensors"), "lacks"),
    "image": (("--data", "broken.csv"), "cannot be read"),
    "divergence": (("--set", "optimizer.lr=1e20", "--set", "ema=0", "--set", "optimizer.clip_norm=0"), "diverged"),
}


@pytest.mark.parametrize("verb", [("train", "pesi50"), ("segmenter", "train", "segmenter-lite0")])
@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_is_refused_before_the_first_epoch_is_done_leaves_nothing(
    verb, refusal, spots_csv, broken_csv, tmp_path, monkeypatch
):
    """Also a folder that was there stays as it was, so that the cured command can be run as it is."""
    monkeypatch.chdir(tmp_path)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    options, problem = REFUSALS[refusal]
    small = SETS if verb[0] == "train" else SEGMENTER_SETS
    given = ("--data", spots_csv, "--pretrained", "", "--threads", 1, *small, *options)
    for out in (Path("runs/new"), Path("mine")):
        if out.name == "mine":
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        with pytest.raises(PesiError, match=problem):
            run(*verb, *given, "--out", out)
    assert not Path("runs").exists()
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]


def test_what_fails_after_an_epoch_stays_and_resumes(spots_csv, tmp_path, monkeypatch):
    out, sets = tmp_path / "run", (*SETS, "--set", "epochs=2")
    step = LesionModule.training_step

    def fail(self, batch, index):
        if self.current_epoch == 1:
            raise PesiError("cut")
        return step(self, batch, index)

    monkeypatch.setattr(LesionModule, "training_step", fail)
    with pytest.raises(PesiError, match="cut"):
        run("train", "pesi50", "--data", spots_csv, "--threads", 1, "--out", out, *sets)
    monkeypatch.undo()
    with pytest.raises(PesiError, match="holds a run already"):
        run("train", "pesi50", "--data", spots_csv, "--threads", 1, "--out", out, *sets)
    told = run("segmenter", "train", "--resume", out).stderr  # either verb goes on with a run of either kind
    assert "melanoma 8 + 4" in told
    assert len((out / "log.csv").read_text().splitlines()) == 3


def test_labels_that_make_no_sense_are_refused(spots_csv, tmp_path):
    table = pd.read_csv(spots_csv)
    for name, diagnosis, problem in (
        ("none", None, "0 of 36 images have a diagnosis"),
        ("one", "MEL", "All 36 images with a diagnosis are of the class 'melanoma'"),
        ("ids", table["image_id"], "36 of 36 classes have one image only"),
        ("split", [*["NV"] * 24, *["MEL"] * 12], "All 24 images with a diagnosis are of the class 'nevus'"),
    ):
        table.assign(diagnosis=diagnosis).to_csv(tmp_path / f"{name}.csv", index=False)
        task = ("--set", "task=classes") if name == "ids" else ()
        with pytest.raises(DataError, match=problem):
            run("train", "pesi50", "--data", tmp_path / f"{name}.csv", "--out", tmp_path / "run", *SETS, *task)
    assert not (tmp_path / "run").exists()


def test_recipes_of_both_kinds_are_listed():
    told = run("recipes").stdout
    assert "pesi50: " in told
    assert "segmenter-lite0: " in told
    assert "overlap_weight" in run("recipes", "segmenter-lite0").stdout


def test_help_shows_examples():
    for verb in (("train",), ("segmenter", "train"), ("recipes",)):
        assert f"pesi {' '.join(verb)} " in run(*verb, "--help").stdout.partition("Examples")[2]


def test_a_demo_needs_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file"):
        run("demo", tmp_path / "file")
    run("demo", tmp_path / "new", "--seed", 2**32, status=2)
