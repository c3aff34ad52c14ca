"""The `pesi` command as a user types it, in a process of its own: outputs, messages, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from conftest import TINY, write_spots
from pesi.cli.app import main


def pesi(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pesi", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "100"} | environment,
        timeout=300,
    )


@pytest.fixture
def here(monkeypatch, capsys, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command's own main function in this process and a folder of its own: no new start of Python and torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("guard_streams", "tune_threads", "keep_memory"):  # they set up a whole process
        monkeypatch.setattr(f"pesi.cli.app.{name}", lambda: None)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["pesi", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        status = stopped.value.code
        return subprocess.CompletedProcess(sys.argv, int(status or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def spots_csv(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spots")
    records = write_spots(folder)
    records.to_csv(folder / "spots.csv", index=False)
    return folder / "spots.csv"


def test_help_shows_examples(here):
    done = pesi("--help")
    assert done.returncode == 0
    for verb in ("train", "predict", "evaluate", "compare", "explain", "data", "recipes", "demo"):
        assert verb in done.stdout
        assert "Example" in here(verb, "--help").stdout or verb == "data"
    assert "pesi-cnn" in here("--version").stdout


@pytest.mark.slow
def test_train_evaluate_compare_explain(spots_csv, here, tmp_path):
    sets = [part for override in TINY for part in ("--set", override)]
    run = tmp_path / "run"
    (tmp_path / "never.txt").write_text("train_003\nval_000\n")
    excluded = ("--exclude", tmp_path / "never.txt")
    done = pesi("train", "pesi50", "--data", spots_csv, "--out", run, "--threads", 1, *excluded, *sets)
    assert done.returncode == 0, done.stderr
    assert "mean AUC" in done.stdout
    splits = json.loads((run / "splits.json").read_text())
    assert "train_003" not in splits["train"]["ids"]
    assert (splits["train"]["count"], splits["val"]["count"]) == (23, 12)  # validation images stay
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"mean_auc", "mean_auc_ci", "tasks"} <= set(metrics)
    assert (run / "report.html").is_file()
    assert "95 % interval" in (run / "bundle" / "README.md").read_text()

    for views, out in (("single", tmp_path / "a"), ("flips4", tmp_path / "b")):
        source = ("--bundle", run / "bundle", "--data", spots_csv, "--split", "val", "--out", out, "--views", views)
        done = here("evaluate", *source, "--operating-point", "sensitivity_0.90", "--replicates", 200)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((out / "metrics.json").read_text())
        entry = metrics["tasks"]["melanoma"]
        promised = "auc auc_ci average_precision accuracy sensitivity specificity specificity_at_sensitivity"
        assert set(promised.split()) <= set(entry)
        assert metrics["attention_inside_lesion"]["images"] == 12
        assert (out / "report.html").is_file()
    done = here("compare", tmp_path / "a", tmp_path / "b", "--data", spots_csv, "--out", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    assert "mean AUC" in done.stdout
    assert json.loads((tmp_path / "c.json").read_text())["images"] == 12

    records = pd.read_csv(spots_csv)
    image, mask = records["path"].iloc[0], records["mask_path"].iloc[0]
    png = tmp_path / "why.png"
    done = here("explain", image, "--bundle", run / "bundle", "--class", "melanoma", "--mask", mask, "--out", png)
    assert done.returncode == 0, done.stderr
    assert "inside the lesion" in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # two processes that import everything
def test_two_processes_by_the_command_line(spots_csv, tmp_path):
    sets = [part for override in (*TINY, "epochs=1") for part in ("--set", override)]
    arguments = ("train", "pesi50", "--data", spots_csv, "--devices", 2, "--accelerator", "cpu", *sets)
    done = pesi(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 1  # the second process joined the first one's run folder
    assert (runs[0] / "bundle" / "config.json").is_file()


def test_predict_formats_and_exit_statuses(spots_csv, tiny_run, here, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in pd.read_csv(spots_csv)["path"].iloc[:3]:
        (images / Path(path).name).write_bytes(Path(path).read_bytes())
    bundle = ("--bundle", tiny_run / "bundle")
    done = here("predict", images, *bundle, "--out", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(tmp_path / "p.csv")
    columns = (
        "image melanoma seborrheic_keratosis nevus triage no_result path diagnosis malignant prediction_set warnings"
    )
    assert list(frame.columns) == [*columns.split(), "bundle"]
    assert len(frame) == 3
    done = here("predict", images, *bundle, "--format", "isic2017", "--out", tmp_path / "s.csv")
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "s.csv").columns) == ["image_id", "melanoma", "seborrheic_keratosis"]
    assert "melanoma" in here("predict", images / "train_000.png", *bundle).stdout

    done = here("predict", images / "train_000.png", *bundle, *bundle, "--out", tmp_path / "e.json")
    assert done.returncode == 0, done.stderr
    ensemble = json.loads((tmp_path / "e.json").read_text())[0]
    assert ensemble["probabilities"]["nevus"] == pytest.approx(frame["nevus"].iloc[0], abs=1e-5)
    assert ensemble["bundle"].startswith("ensemble(")
    done = here("predict", images, *bundle, *bundle, "--overlay", tmp_path / "o")
    assert done.returncode == 2

    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    done = pesi("predict", images, *bundle, "--no-gates", "--out", tmp_path / "p.csv")
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    told = pd.read_csv(tmp_path / "p.csv").set_index("image")
    assert len(told) == 4
    assert told["no_result"].dropna().index.tolist() == ["broken"]
    done = here("predict", images, *bundle, "--format", "isic2017", "--out", tmp_path / "t.csv")
    assert done.returncode == 2
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "nothing.jpg", "--bundle", "b"), "There is no nothing.jpg"),
        (("predict", ".", "--bundle", "b"), "holds no images"),
        (("train", "pesi50", "--data", "nowhere"), "nowhere"),
        (("train", "pesi5", "--data", "."), "Did you mean 'pesi50'"),
        (("train", "pesi50"), "--data DIR"),
        (("train",), "Give a recipe"),
        (("train", "--resume", "."), "not a run folder"),
        (("train", "pesi50", "--data", ".", "--set", "epoch=1"), "Did you mean 'epochs'"),
        (("evaluate", "--data", ".", "--out", "x", "--split", "vall"), "Unknown split"),
        (("predict", "--frobnicate"), "No such option"),
        (("recipes", "pesi1"), "Unknown recipe"),
    ],
)
def test_mistakes_give_a_message_and_status_2(arguments, message, here, tmp_path):
    done = here(*arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_process_with_status_2(tmp_path):
    done = pesi("train", "pesi50", "--data", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "a.jpg", "--out", "why.jpg"),
        ("explain", "a.jpg", "--out", "why"),
        ("similar", "find", "a.jpg", "--reference", "r", "--picture", "similar.webp"),
        ("similar", "find", "a.jpg", "--reference", "r", "--out", "similar.csv"),
        ("describe", "a.jpg", "--out", "described.csv"),
        ("compare", "a", "b", "--data", "d", "--out", "difference.html"),
        ("predict", "a.jpg", "--out", "p.xlsx"),
        ("predict", "a.jpg", "--out", "p.json", "--format", "isic2017"),
        ("data", "check", "d", "--json", "report.txt"),
        ("data", "duplicates", "d", "--out", "pairs.parquet"),
        ("data", "split", "d", "--out", "split.tsv"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_nothing_is_written_under_another_format_s_name(arguments, here, tmp_path):
    """Each input is missing: the output's name is looked at first."""
    done = here(*arguments)
    assert done.returncode == 2
    assert "ending" in done.stderr or "A submission is a .csv file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_listed_and_printed(here):
    assert "paper-pesi14" in here("recipes").stdout
    assert 'name = "pesi50"' in here("recipes", "pesi50").stdout


def test_a_bad_label_is_named(spots_csv, here, tmp_path):
    frame = pd.read_csv(spots_csv)
    frame.loc[3, "diagnosis"] = "BCC"
    frame.to_csv(tmp_path / "bad.csv", index=False)
    done = here("train", "pesi50", "--data", tmp_path / "bad.csv", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "train_003" in done.stderr
    assert "BCC" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # half a minute of training
def test_demo(tmp_path):
    """A small one: that it gets through, and that its folder is not overwritten. `make demo` shows the figures."""
    done = pesi("demo", tmp_path / "demo", "--train", 60, "--test", 30, "--threads", 1)
    assert done.returncode == 0, done.stderr
    for name in ("test/report.html", "test/metrics.json", "explained.png", "run/bundle/config.json"):
        assert (tmp_path / "demo" / name).is_file()
    assert "Synthetic" in done.stdout
    again = pesi("demo", tmp_path / "demo")
    assert again.returncode == 2
    assert "is there already" in again.stderr
