"""What `pesi predict` and its like are given: files, folders, odd names; and what becomes of the odd ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (80, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pesi(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """The real command, as a shell starts it."""
    code = "from pesi.cli.app import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, cwd=cwd, env=environment)


def test_folders_are_searched_behind_links_and_without_companions(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    wanted = [picture(root / name) for name in ("a.jpg", "deep/er/b.PNG")]
    picture(elsewhere / "c.jpg")
    (root / "link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)  # a circle
    for name in ("a_superpixels.png", "a_segmentation.png", "a_outline.png", "a-explained.png", "._a.jpg"):
        (picture if name.endswith("png") else Path.touch)(root / name)
    (root / "notes.txt").write_text("no picture")
    (root / "d.HEIC").write_bytes(b"....ftypheic")
    assert image_files([root]) == sorted([*wanted, root / "link" / "c.jpg", root / "d.HEIC"])
    assert image_files([wanted[0], root, root / "a_outline.png"])[0] == wanted[0]
    assert root / "a_outline.png" in image_files([root / "a_outline.png"])  # named itself
    with pytest.raises(DataError, match="holds no images"):
        image_files([picture(tmp_path / "none" / "a_outline.png").parent])
    with pytest.raises(DataError, match="There is no"):
        image_files([tmp_path / "missing"])


def test_ids_are_names_or_where_these_repeat_paths(tmp_path: Path) -> None:
    assert image_ids([tmp_path / "p" / "a.jpg", tmp_path / "q" / "b.jpg"]) == ["a", "b"]
    assert image_ids([tmp_path / "p" / "a.jpg", tmp_path / "q" / "a.jpg"]) == ["p_a", "q_a"]
    assert image_ids([Path("a.tif"), Path("a.TIFF")]) == ["a.tif", "a.TIFF"]
    assert image_ids([Path(os.fsdecode(b"m\xe4l.jpg"))]) == ["m\\udce4l"]
    assert image_ids([]) == []
    with pytest.raises(DataError, match="have the id"):
        image_ids([Path("r/a_b/c.jpg"), Path("r/a/b_c.jpg"), Path("r/c.jpg"), Path("r/b_c.jpg")])


def test_one_odd_image_loses_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    picture(folder / "p1" / "mole.png", 1)
    picture(folder / "p2" / "mole.png", 2)
    picture(folder / "line.png", size=(1, 12000))
    picture(folder / "costs $5 or $6.png", 3)
    (folder / "garbage.jpg").write_bytes(b"garbage")
    Path(os.fsdecode(os.fsencode(folder) + b"/m\xe4l.png")).write_bytes((folder / "p1" / "mole.png").read_bytes())
    drawn = tmp_path / "drawn"
    done = pesi("predict", folder, "--no-gates", "--views", "single", "--out", tmp_path / "o.csv", "--overlay", drawn)
    assert done.returncode == 1, done.stderr.decode()
    assert b"refused" in done.stderr
    assert b"Traceback" not in done.stderr
    table = pd.read_csv(tmp_path / "o.csv")
    assert set(table["image"]) == {"p1_mole", "p2_mole", "line", "costs $5 or $6", "m\\udce4l", "garbage"}
    assert table.set_index("image")["melanoma"].isna().to_dict() == {name: name == "garbage" for name in table["image"]}
    assert table.set_index("image").loc["p2_mole", "path"] == str(folder / "p2" / "mole.png")
    assert table["no_result"].dropna().str.startswith("cannot be read: ").sum() == 1
    assert len(list(drawn.glob("*-explained.png"))) == 5
    done = pesi("describe", folder, "--no-attention", "--out", tmp_path / "d.json")
    assert done.returncode == 1, done.stderr.decode()
    assert len(json.loads((tmp_path / "d.json").read_text())) == 6


def test_nothing_done_is_status_2(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.jpg"
    garbage.write_bytes(b"garbage")
    for arguments in (
        ("predict", garbage, "--out", tmp_path / "o.csv"),
        ("segment", garbage),
        ("describe", garbage, "--no-attention"),
        ("predict", picture(tmp_path / "a.png"), "--device", "nonsense"),
        ("segment", tmp_path / "a.png", "--device", "nonsense"),
        ("predict", tmp_path / "a.png", "--overlay", garbage),
    ):
        done = pesi(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert b"->" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_mistake_of_the_program_is_no_refusal() -> None:
    code = (
        "import sys, pesi.cli.app as app; sys.argv = ['pesi', 'recipes']\n"
        "def fail(): raise RuntimeError('broken')\n"
        "app.app = fail; app.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 70
    assert "RuntimeError: broken" in done.stderr
    assert "please report" in done.stderr


def test_shipped_bundles_by_name_beside_a_folder_of_that_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "isic2017").mkdir()  # as `pesi data fetch isic2017` makes it
    assert pesi("predict", "a.png", "--no-gates", "--bundle", "isic2017", cwd=tmp_path).returncode == 0
    assert pesi("segment", "a.png", "--bundle", "lesion-segmenter", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a_segmentation.png").is_file()  # without --out: here
    done = pesi("predict", "a.png", "--bundle", "lesion-segmenter", cwd=tmp_path)
    assert done.returncode == 2
    assert b"no classifier" in done.stderr


def test_what_predict_gives_no_result_for_is_explained_as_such(tmp_path: Path) -> None:
    image = picture(tmp_path / "tiny.png", size=(20, 20))
    done = pesi("explain", image, "--out", tmp_path / "why.png")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"no result: The shorter side has 20 pixels")
    assert b"probability" not in done.stdout
    done = pesi("explain", image, "--no-gates", "--out", tmp_path / "why.png")
    assert b"probability" in done.stdout
