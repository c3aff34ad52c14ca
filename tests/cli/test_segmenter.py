"""`pesi segmenter` and `pesi segment`: what they print, write and end with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pesi.bundle.segmenter import SegmenterConfig
from pesi.cli.app import app
from pesi.errors import BundleError, DataError, PesiError, RecipeError
from pesi.nn.pretrained import CheckpointError
from pesi.predict import segmenter
from pesi.synthetic.dataset import write_synthetic

TINY = ("network.width=2", "picture.size=64", "picture.source_size=64", "batch_size=6", "epochs=1")
SETS = [part for override in TINY for part in ("--set", override)]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_synthetic(tmp_path_factory.mktemp("data") / "syn", train=12, val=4, test=2, size=64, workers=1)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, str]:
    """A run folder, and what training printed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ("--data", data, "--out", folder, "--pretrained", "", "--threads", 1)
    return folder, run("segmenter", "train", "segmenter-lite0", *arguments, *SETS).stdout


def test_help_shows_examples():
    for arguments in (("segmenter", "train"), ("segmenter", "evaluate"), ("segment",)):
        assert "Examples" in run(*arguments, "--help").stdout
    assert "segmenter" in run("--help").stdout


def test_train_scores_its_bundle(trained, data):
    folder, told = trained
    assert "thresholded jaccard" in told
    metrics = json.loads((folder / "val" / "metrics.json").read_text())
    assert metrics["images"] == 4
    measured = SegmenterConfig.read(folder / "bundle").measured
    assert measured is not None
    assert measured.scores["jaccard"][0] == metrics["jaccard"]
    assert "## Measured" in (folder / "bundle" / "README.md").read_text()
    assert f"{metrics['jaccard']:.3f}" in run("segmenter", "train", "--resume", folder).stdout  # finished: scored again


def test_training_needs_masks_and_no_diagnoses(data, tmp_path):
    rows = ["image_id,path,mask_path"]
    for path in sorted((data / "images" / "train").iterdir()):
        mask = next((data / "masks").rglob(f"{path.stem}*"))
        rows.append(f"{path.stem},{path},{mask}")
    rows.append(rows[-1].rsplit(",", 1)[0].replace(path.stem, "unmarked", 1) + ",")
    (tmp_path / "masks.csv").write_text("\n".join(rows))
    arguments = ("--data", tmp_path / "masks.csv", "--out", tmp_path / "run", "--pretrained", "", "--threads", 1)
    run("segmenter", "train", "segmenter-lite0", *arguments, *SETS, "--set", "val_share=0.3")
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert splits["train"]["count"] + splits["val"]["count"] == 12


def test_resume_takes_no_other_option(trained):
    for option in (("--data", "x"), ("--set", "epochs=2"), ("--accelerator", "auto"), ("--threads", 0)):
        result = run("segmenter", "train", "--resume", trained[0], *option, status=2)
        assert f"{option[0]} does not go with --resume" in " ".join(result.stderr.split())
    run("segmenter", "train", "--resume", trained[0], "--no-progress")


def test_evaluate(trained, data, tmp_path):
    told = run("segmenter", "evaluate", "--bundle", trained[0] / "bundle", "--data", data, "--out", tmp_path / "s")
    assert "4 images (val of syn)" in told.stdout
    metrics = json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert metrics["jaccard"] == json.loads((trained[0] / "val" / "metrics.json").read_text())["jaccard"]
    assert metrics["without_mask"] == 0
    assert len(pd.read_csv(tmp_path / "s" / "per_image.csv")) == 4


def test_segment_writes_masks_and_outlines(trained, data, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    sources = sorted((data / "images" / "val").iterdir())[:2]
    for source in sources:
        Image.open(source).resize((90, 70)).save(images / f"{source.stem}.png")
    out = tmp_path / "masks"
    told = run("segment", images, "--bundle", trained[0] / "bundle", "--out", out, "--overlay")
    lines = told.stdout.splitlines()
    for source in sources:
        mask = Image.open(out / f"{source.stem}_segmentation.png")
        assert mask.size == (90, 70)
        assert mask.mode == "L"
        values = np.asarray(mask)
        assert set(np.unique(values)) <= {0, 255}
        line = next(line for line in lines if line.startswith(source.stem))
        share = f"lesion, {(values > 0).mean():.1%} of the picture"
        assert share in line or "no lesion found: " in line
        assert Image.open(out / f"{source.stem}_outline.png").size == (90, 70)
    assert "2 masks by segmenter-lite0@" in told.stderr

    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    again = run("segment", images, "--bundle", trained[0] / "bundle", "--out", tmp_path / "again", status=1)
    assert "broken.jpg" in again.stderr
    assert len(list((tmp_path / "again").iterdir())) == 2


def test_segment_says_when_it_finds_none(trained, tmp_path, monkeypatch):
    whole = segmenter.LesionSegmenter.outputs

    def nothing(self, squares):
        found = whole(self, squares)
        return found._replace(probabilities=np.full_like(found.probabilities, 0.2))

    monkeypatch.setattr(segmenter.LesionSegmenter, "outputs", nothing)
    Image.new("RGB", (50, 40), (220, 180, 160)).save(tmp_path / "skin.png")
    told = run("segment", tmp_path / "skin.png", "--bundle", trained[0] / "bundle", "--out", tmp_path / "out")
    assert "skin: no lesion found: no pixel is above the threshold 0.5 (the highest probability is 0.20)" in told.stdout
    assert "in 1 no lesion found" in told.stderr
    assert not np.asarray(Image.open(tmp_path / "out" / "skin_segmentation.png")).any()


def test_mistakes(trained, data, tmp_path, monkeypatch):
    bundle = ("--bundle", trained[0] / "bundle")
    run("segmenter", "train", "segmenter-lite0", status=2)
    run("segmenter", "train", status=2)
    for error, message, arguments in (
        (RecipeError, "Unknown recipe", ("segmenter", "train", "pesi50", "--data", data)),
        (RecipeError, "unknown key", ("segmenter", "train", "segmenter-lite0", "--data", data, "--set", "epoch=1")),
        (PesiError, "not a run folder", ("segmenter", "train", "--resume", tmp_path)),
        (
            CheckpointError,
            "no weights file",
            ("segmenter", "train", "segmenter-lite0", "--data", data, "--pretrained", "gone", "--out", tmp_path / "r"),
        ),
        (
            DataError,
            "Unknown split",
            ("segmenter", "evaluate", *bundle, "--data", data, "--split", "vall", "--out", "x"),
        ),
        (DataError, "There is no", ("segment", "nothing.jpg", *bundle, "--out", tmp_path / "o")),
    ):
        with pytest.raises(error, match=message):
            run(*arguments)
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "two" / name / "same.png")
    monkeypatch.setattr(segmenter, "shipped_segmenter_folder", lambda: None)
    with pytest.raises(BundleError, match="ships no lesion segmenter"):
        run("segment", tmp_path / "two" / "a", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()
    assert not (tmp_path / "r").exists()


def test_the_mask_of_a_huge_picture_has_its_size(trained, data, tmp_path, monkeypatch):
    """Read at a quarter of its size: the mask is the whole one's to a few pixels of its border."""
    picture = next((data / "images" / "val").iterdir())
    Image.open(picture).resize((641, 480)).save(tmp_path / "large.png")
    arguments = (tmp_path / "large.png", "--bundle", trained[0] / "bundle", "--overlay", "--out")
    run("segment", *arguments, tmp_path / "whole")
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 160 * 200)
    run("segment", *arguments, tmp_path / "reduced")
    whole, reduced = (
        np.asarray(Image.open(tmp_path / name / "large_segmentation.png")) for name in ("whole", "reduced")
    )
    assert whole.shape == reduced.shape == (480, 641)
    assert set(np.unique(reduced)) <= {0, 255}
    assert np.mean(whole != reduced) < 0.03
    assert Image.open(tmp_path / "reduced" / "large_outline.png").size == (161, 120)
