"""`pesi describe`: what it prints, writes and ends with."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pesi.cli.describe import describe
from pesi.errors import DataError

app = typer.Typer()
app.command()(describe)


@app.callback(invoke_without_command=True)
def _verbs() -> None:
    """Makes `describe` a verb, as in the whole command."""


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, ["describe", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def mole(tmp_path) -> tuple[Path, Path]:
    """A picture of a disc of 101 pixels across, and its mask."""
    mask = cv2.circle(np.zeros((240, 320), np.uint8), (150, 120), 50, 255.0, -1)
    image = np.full((240, 320, 3), (225, 185, 165), np.uint8)
    image[mask > 0] = (100, 65, 50)
    Image.fromarray(image).save(tmp_path / "mole.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "mole.png", tmp_path / "mask.png"


def test_help_shows_examples():
    assert "Examples" in run("--help").stdout


def test_words_json_and_picture(mole, tmp_path):
    image, mask = mole
    out = tmp_path / "out" / "described.json"
    told = run(
        image, "--mask", mask, "--no-attention", "--pixels-per-mm", 20, "--out", out, "--picture", tmp_path / "pictures"
    )
    assert "Asymmetry (A): 0 of 2 axes" in told.stdout
    assert "5.0 mm" in told.stdout or "5.1 mm" in told.stdout
    assert "no total dermoscopy score" in told.stdout
    (described,) = json.loads(out.read_text())
    assert described["image"] == "mole"
    assert described["mask"] == "the given mask"
    assert described["size"]["diameter_mm"] == pytest.approx(101 / 20, abs=0.05)
    assert described["border"]["score"] == 8
    assert described["colours"]["present"] == ["dark brown"]
    assert Image.open(tmp_path / "pictures" / "mole-described.png").format == "PNG"


def test_the_shipped_segmenter_and_classifier_are_the_defaults(mole, tmp_path):
    told = run(mole[0], "--out", tmp_path / "d.json")
    (described,) = json.loads((tmp_path / "d.json").read_text())
    assert described["mask"].startswith("segmenter")
    if described["found"]:
        assert "Attention inside the lesion" in told.stdout
        assert 0 <= described["attention"]["class activation"] <= 1
    else:
        assert "No lesion to describe" in told.stdout


def test_no_lesion_says_why(mole, tmp_path):
    Image.new("L", (320, 240)).save(tmp_path / "empty.png")
    told = run(mole[0], "--mask", tmp_path / "empty.png", "--picture", tmp_path / "p")
    assert "No lesion to describe: the mask is empty." in told.stdout
    assert (tmp_path / "p" / "mole-described.png").exists()


def test_mistakes(mole, tmp_path):
    image, mask = mole
    run(image, "--mm-per-pixel", 0.1, "--pixels-per-mm", 10, status=2)
    run(image, tmp_path / "mask.png", "--mask", mask, status=2)
    for message, arguments in (
        ("There is no", (tmp_path / "gone.png",)),
        ("positive", (image, "--mask", mask, "--no-attention", "--mm-per-pixel", -1)),
        ("positive", (image, "--mask", mask, "--no-attention", "--pixels-per-mm", 0)),
    ):
        with pytest.raises(DataError, match=message):
            run(*arguments)


def test_refused_images_are_named_and_the_rest_is_done(mole, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(mole[0]).save(photos / "good.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    told = run(photos, "--no-attention", "--out", tmp_path / "d.json", status=1)
    assert "broken.jpg" in told.stderr
    assert "1 descriptions in" in told.stderr
    results = json.loads((tmp_path / "d.json").read_text())
    assert [("refused" in result) for result in results] == [True, False]


def test_sizes_are_in_pixels_of_the_file_also_where_it_is_read_smaller(mole, tmp_path, monkeypatch):
    image, mask = mole
    arguments = (image, "--mask", mask, "--no-attention", "--pixels-per-mm", 20, "--out")
    run(*arguments, tmp_path / "whole.json")
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 320 * 240 // 4)
    run(*arguments, tmp_path / "reduced.json")
    whole, reduced = (json.loads((tmp_path / f"{name}.json").read_text())[0]["size"] for name in ("whole", "reduced"))
    assert whole["diameter_px"] == pytest.approx(101, abs=2)
    for name in ("diameter_px", "area_px", "diameter_mm", "area_mm2", "area_share"):
        assert reduced[name] == pytest.approx(whole[name], rel=0.03)
