"""`pesi similar`: a reference set is built, and similar cases are found in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pesi.cli.similar import similar_app
from pesi.errors import BundleError, DataError


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(similar_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def listed(spots, tmp_path_factory) -> Path:
    """The spots as a user's own CSV."""
    path = tmp_path_factory.mktemp("listed") / "mine.csv"
    frame = pd.DataFrame({"path": spots["path"], "image_id": spots["image_id"], "diagnosis": spots["diagnosis"]})
    frame["split"] = spots["split"]
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def references(listed, tiny_run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refs") / "references"
    told = run("build", listed, "--bundle", tiny_run / "bundle", "--out", folder)
    assert told.stdout.startswith("24 images by ")
    return folder


def test_help_shows_examples():
    for verb in ("build", "find"):
        assert "Examples" in run(verb, "--help").stdout


def test_find(references, tiny_run, spots, tmp_path):
    query = spots["path"].iloc[3]
    arguments = ("find", query, "--reference", references, "--bundle", tiny_run / "bundle", "-k", 4)
    told = run(*arguments, "--out", tmp_path / "s.json", "--picture", tmp_path / "s.png")
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["image"] == spots["image_id"].iloc[3]
    assert found["similar"][0]["image_id"] == found["image"]
    similarities = [case["similarity"] for case in found["similar"]]
    assert similarities == sorted(similarities, reverse=True)
    assert len(similarities) == 4
    assert len(told.stdout.splitlines()) == 4
    known = dict(zip(spots["image_id"], spots["diagnosis"], strict=True))
    assert all(case["diagnosis"] == known[case["image_id"]] for case in found["similar"])
    sheet = Image.open(tmp_path / "s.png")
    assert sheet.format == "PNG"
    assert np.asarray(sheet.convert("L")).std() > 10

    run(*arguments, "--without-own", "--out", tmp_path / "t.json")
    others = json.loads((tmp_path / "t.json").read_text())["similar"]
    assert found["image"] not in [case["image_id"] for case in others]


def test_a_picture_that_has_gone_leaves_its_place(references, tiny_run, spots, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("reference.json", "features.safetensors"):
        text = (references / name).read_bytes()
        (moved / name).write_bytes(text.replace(b".png", b".gone") if name.endswith("json") else text)
    run(
        "find",
        spots["path"].iloc[0],
        "--reference",
        moved,
        "--bundle",
        tiny_run / "bundle",
        "--picture",
        tmp_path / "s.png",
    )
    assert (tmp_path / "s.png").stat().st_size > 0


def test_broken_images_are_left_out(listed, tiny_run, tmp_path):
    frame = pd.read_csv(listed)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    frame.loc[0, "path"] = str(tmp_path / "broken.png")
    frame.to_csv(tmp_path / "own.csv", index=False)
    told = run("build", tmp_path / "own.csv", "--bundle", tiny_run / "bundle", "--out", tmp_path / "r", status=1)
    assert "broken.png" in told.stderr
    assert told.stdout.startswith("23 images")


def test_mistakes(references, tiny_run, listed, spots, tmp_path):
    query = spots["path"].iloc[0]
    for error, message, arguments in (
        (BundleError, "was built with the bundle", ("find", query, "--reference", references)),
        (DataError, "no reference set", ("find", query, "--reference", tmp_path)),
        (DataError, "Unknown split", ("build", listed, "--split", "vall", "--out", tmp_path / "o")),
    ):
        with pytest.raises(error, match=message):
            run(*arguments)
