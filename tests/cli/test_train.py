"""`pesi train` and `pesi demo`: options that are refused, and what is told before the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from conftest import TINY, write_spots
from pesi.cli.app import app
from pesi.errors import DataError, PesiError, RecipeError

SETS = [part for override in (*TINY, "epochs=1", "views=single") for part in ("--set", override)]


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


def test_a_demo_needs_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is a file"):
        run("demo", tmp_path / "file")
    run("demo", tmp_path / "new", "--seed", 2**32, status=2)
