"""`pesi data` on small data sets: what it prints, writes and ends with."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from pesi.cli.data import data_app
from pesi.datasets import fetch
from pesi.datasets.fetch import RemoteFile
from pesi.datasets.readers import read_dataset
from pesi.datasets.splits import read_ids
from pesi.errors import DataError, PesiError, StorageError


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(data_app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def picture(seed: int, size: int = 48) -> Image.Image:
    """Smooth and unlike any other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder a class: 12 images each, every two of one lesion by the CSV beside them."""
    root = tmp_path / "photos"
    root.mkdir()
    rows = []
    for index in range(24):
        name = f"img{index:02}"
        picture(index).save(root / f"{name}.png")
        rows.append((name, f"{name}.png", ("MEL", "NV")[index // 12], f"lesion{index // 2}"))
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image_id", "path", "diagnosis", "lesion_id"), *rows])
    return root


# ---------------------------------------------------------------------------------------------------------------- check


def test_check_of_sound_data(photos: Path, tmp_path: Path) -> None:
    result = run("check", photos, "--json", tmp_path / "report.json", "--workers", 2)
    assert "24 images, 24 readable" in result.stdout
    assert "in order" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is True
    assert report["counts"] == {"(no split)": {"MEL": 12, "NV": 12}}


def test_check_of_damaged_data_ends_with_1(photos: Path, tmp_path: Path) -> None:
    (photos / "img03.png").write_bytes((photos / "img03.png").read_bytes()[:200])
    (photos / "img20.png").write_bytes((photos / "img01.png").read_bytes())
    result = run("check", photos / "labels.csv", "--json", tmp_path / "report.json", status=1)
    assert "img03" in result.stdout
    assert "img01 = img20" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert [fault["image_id"] for fault in report["unreadable"]] == ["img03"]
    assert report["mislabelled"][0]["diagnoses"] == ["MEL", "NV"]


def test_check_reports_what_is_missing_and_senseless(photos: Path, tmp_path: Path) -> None:
    (photos / "img03.png").unlink()
    text = (photos / "labels.csv").read_text()
    (photos / "labels.csv").write_text(text.replace("MEL", "melonoma"))
    result = run("check", photos, "--json", tmp_path / "report.json", status=1)
    assert "23 images, 23 readable" in result.stdout
    assert "1 files are missing" in result.stdout
    assert "labels.csv, row 5: path names 'img03.png'" in result.stdout
    assert "'melonoma' is written nearly as 'melanoma'" in result.stdout
    assert "in order." not in result.stdout.replace("not in order", "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [fault["image_id"] for fault in report["missing"]] == ["img03"]
    (photos / "labels.csv").write_text("".join(line.rsplit(",", 2)[0] + "\n" for line in text.splitlines()))
    result = run("check", photos / "labels.csv", status=1)
    assert "0 of 23 images have a diagnosis" in result.stdout


def test_missing_images_stop_or_are_left_out(photos: Path, tmp_path: Path) -> None:
    for number in range(12):
        (photos / f"img{number:02}.png").unlink()
    for verb in (("split", photos, "--out", tmp_path / "split.csv", "--no-near-duplicates"), ("duplicates", photos)):
        with pytest.raises(DataError, match=r"12 file\(s\)") as error:
            run(*verb)
        assert "and 2 more" in error.value.problem
        result = run(*verb, "--skip-missing")
        assert "12 file(s)" in result.stderr
        assert "were left out" in result.stderr
    assert len(read_dataset(tmp_path / "split.csv")) == 12


def test_check_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run("check", tmp_path / "none")
    with pytest.raises(DataError, match="isic2017"):
        run("check", tmp_path, "--dataset", "isic2017")


# ------------------------------------------------------------------------------------------------------------ synthetic


def test_synthetic_set_is_one_that_the_reader_and_the_check_accept(tmp_path: Path) -> None:
    root = tmp_path / "drawn"
    result = run("synthetic", root, "--train", 6, "--val", 2, "--test", 1, "--size", 64, "--seed", 3)
    assert "9 images" in result.stdout
    records = read_dataset(root)
    assert records["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 1}
    assert Image.open(records["path"][0]).size == (64, 64)
    assert "9 masks read" in run("check", root).stdout
    with pytest.raises(PesiError, match="exists already"):
        run("synthetic", root, "--train", 1)


# ----------------------------------------------------------------------------------------------------------- duplicates


def test_duplicates_are_printed_and_written(photos: Path, tmp_path: Path) -> None:
    picture(5, 96).save(photos / "img17.png")  # image 5 at twice the size, under another diagnosis
    result = run("duplicates", photos, "--out", tmp_path / "pairs.csv")
    assert "1 pairs of near-duplicates among 24 images" in result.stdout
    assert "img05 (no split, MEL) and img17 (no split, NV)" in result.stdout
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert list(pairs.columns) == ["image_a", "image_b", "distance"]
    assert pairs[["image_a", "image_b"]].to_numpy().tolist() == [["img05", "img17"]]


def test_copies_of_another_set_are_listed_to_be_left_out(photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    picture(5, 96).save(other / "theirs5.png")
    picture(90).save(other / "theirs90.png")
    (other / "labels.csv").write_text("image_id,path,diagnosis\na,theirs5.png,NV\nb,theirs90.png,NV\n")
    with pytest.raises(PesiError, match="--ids needs --against"):
        run("duplicates", photos, "--ids", tmp_path / "copies.txt")
    result = run("duplicates", photos, "--against", other, "--ids", tmp_path / "copies.txt")
    assert "1 pairs of near-duplicates between 24 images and 2 others" in result.stdout
    assert "img05 (no split, MEL) and a (no split, NV)" in result.stdout
    assert read_ids(tmp_path / "copies.txt") == {"img05"}
    with pytest.raises(PesiError, match="Cannot read"):
        read_ids(tmp_path / "none.txt")


# ---------------------------------------------------------------------------------------------------------------- split


def test_split_keeps_lesions_and_near_duplicates_together(photos: Path, tmp_path: Path) -> None:
    picture(0, 96).save(photos / "img11.png")  # so that lesions 0 and 5 belong together
    out = tmp_path / "out" / "split.csv"
    result = run("split", photos, "--out", out, "--val", 0.25, "--test", 0.25, "--seed", 4)
    assert "Shared lesions: 0" in result.stdout
    assert "Near-duplicate pairs across splits: 0" in result.stdout
    table = read_dataset(out)
    assert sorted(table["image_id"]) == [f"img{i:02}" for i in range(24)]
    assert set(table["split"]) == {"train", "val", "test"}
    assert (table.groupby("lesion_id")["split"].nunique() == 1).all()
    assert table[table["lesion_id"].isin(["lesion0", "lesion5"])]["split"].nunique() == 1
    for path, image_id in zip(table["path"], table["image_id"], strict=True):
        assert Path(path).resolve() == (photos / f"{image_id}.png").resolve()
    again = tmp_path / "again.csv"
    run("split", photos, "--out", again, "--val", 0.25, "--test", 0.25, "--seed", 4)
    assert read_dataset(again)["split"].tolist() == table["split"].tolist()


def test_split_below_its_table_moves_with_it(photos: Path, tmp_path: Path) -> None:
    run("split", photos, "--out", tmp_path / "split.csv", "--no-near-duplicates")
    assert pd.read_csv(tmp_path / "split.csv")["path"][0] == "photos/img00.png"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    photos.rename(moved / "photos")
    (tmp_path / "split.csv").rename(moved / "split.csv")
    assert "24 readable" in run("check", moved / "split.csv").stdout


def test_official_splits_stay_and_their_leak_is_told(photos: Path, tmp_path: Path) -> None:
    table = pd.read_csv(photos / "labels.csv")
    table["split"] = ["train", "val"] * 12
    table.to_csv(photos / "labels.csv", index=False)
    result = run("split", photos, "--out", tmp_path / "split.csv", "--no-near-duplicates")
    assert "Shared lesions: 12" in result.stdout
    assert "own splits were kept" in result.stderr
    assert pd.read_csv(tmp_path / "split.csv")["split"].tolist() == table["split"].tolist()


def test_split_needs_a_name_that_can_be_read_again(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="CSV"):
        run("split", photos, "--out", tmp_path / "split.parquet")
    with pytest.raises(DataError, match="nothing to train"):
        run("split", photos, "--out", tmp_path / "split.csv", "--val", 0.5, "--test", 0.5, "--no-near-duplicates")
    assert not (tmp_path / "split.csv").exists()


# ---------------------------------------------------------------------------------------------------------------- fetch


def test_fetch_hands_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files lie there already, so that nothing is asked of any server."""
    text = b"image_id,melanoma,seborrheic_keratosis\n"
    table = {
        part: (RemoteFile(f"{part}.csv", hashlib.md5(text).hexdigest(), len(text)),)
        for part in ("train", "val", "test")
    }
    monkeypatch.setattr(fetch, "ISIC2017", table)
    monkeypatch.setattr(fetch.fetch_isic2017, "__kwdefaults__", {**fetch.fetch_isic2017.__kwdefaults__, "files": table})
    asked: list[str] = []

    def refuse(base_url: str, file: RemoteFile, *rest: object, **more: object) -> None:
        asked.append(file.name)
        raise DataError("No connection.", "None in tests.")

    monkeypatch.setattr(fetch, "_download", refuse)
    root = tmp_path / "set"
    root.mkdir()
    (root / "val.csv").write_bytes(text)
    assert "is complete" in run("fetch", "isic2017", "--out", root, "--part", "val").stdout
    assert asked == []
    with pytest.raises(DataError, match="No connection"):
        run("fetch", "isic2017", "--out", root, "--part", "val", "--part", "test")
    assert asked == ["test.csv"]
    with pytest.raises(DataError):
        run("fetch", "isic2017", "--out", root, "--part", "dev")
    with pytest.raises(DataError, match="ham10000"):
        run("fetch", "ham10000")


# ------------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("verb", ["fetch", "check", "synthetic", "duplicates", "split"])
def test_help_has_examples(verb: str) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", run(verb, "--help").stdout)
    assert "Examples:" in text
    assert f"pesi data {verb}" in text


def test_command_ends_with_2_and_a_cure_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['pesi', 'data', *sys.argv[1:]]\n"
        "from pesi.cli.app import main\n"
        "print(sorted({'torch', 'pandas', 'cv2', 'PIL', 'scipy'} & set(sys.modules)))\n"
        "main()"
    )
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "check", tmp_path / "none"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr.startswith("pesi: ")
    assert "->" in done.stderr
    assert "Traceback" not in done.stderr
