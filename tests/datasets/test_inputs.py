"""What `pesi predict` and its like are given: files, folders, odd names; and what becomes of the odd ones."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.check import check_records
from pesi.datasets.inputs import image_files, image_ids
from pesi.datasets.readers import survey_dataset
from pesi.errors import DataError, ImageError
from pesi.files import write_text
from pesi.images.decode import decode_image


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
    with pytest.raises(DataError, match="given twice"):
        image_ids([Path("r/a.jpg"), Path("r/b.jpg"), Path("r/a.jpg").absolute()])


def test_equal_names_change_only_their_own_ids() -> None:
    two = [Path("r/p/a.jpg"), Path("r/q/a.jpg")]
    assert image_ids([*two, Path("r/b.jpg"), Path("elsewhere/c.jpg")]) == ["p_a", "q_a", "b", "c"]
    assert image_ids([*two, Path("r/p/x/a.png"), Path("r/p/a.png")]) == ["p_a.jpg", "q_a.jpg", "p_x_a.png", "p_a.png"]
    assert image_ids(two, root=Path()) == ["r_p_a", "r_q_a"]
    # Names that the others' new ids run into keep theirs; the new ones stay apart, and do not depend on the order.
    odd = [Path(f"r/{name}.jpg") for name in ("a_b/c", "a/b_c", "c", "b_c", "p_a")]
    for paths in ([*odd, *two], [*two, *reversed(odd)]):
        ids = dict(zip(map(str, paths), image_ids(paths), strict=True))
        assert len(set(ids.values())) == len(ids)
        assert ids["r/p_a.jpg"] == "p_a"
        assert ids["r/q/a.jpg"] == "q_a"
        assert ids["r/a_b/c.jpg"].startswith("a_b_c-")
        assert ids["r/a/b_c.jpg"].startswith("a_b_c-")
        assert ids["r/p/a.jpg"].startswith("p_a-")


@pytest.mark.parametrize("letter", ["n", "ß", "皮"])
def test_ids_that_are_too_long_for_a_file_s_name_are_cut(letter: str, tmp_path: Path) -> None:
    most = 251 // len(letter.encode())
    paths = [tmp_path / f"{letter * (most - 1)}{end}.jpg" for end in "xy"]
    ids = image_ids([*paths, tmp_path / "b.jpg"])
    assert ids[2] == "b"
    assert len(set(ids)) == 3
    assert ids[:2] == [image_ids([path])[0] for path in paths]  # whatever stands beside them
    for image_id in ids:
        for ending in ("-explained.png", "_segmentation.png", "-described.png"):
            write_text(tmp_path / f"{image_id}{ending}", "")  # by a temporary name that is longer still


def test_folders_of_systems_are_no_images_of_the_user_s(tmp_path: Path) -> None:
    names = ("a.jpe", "b.jfif", "c.TIF", "d.webp", "e.bmp", "@home/f.jpg")
    wanted = [picture(tmp_path / "in" / name) for name in names]
    for folder in (".ipynb_checkpoints", ".Trash-1000/files", "@eaDir/a.jpg", "__MACOSX", "$RECYCLE.BIN", "x/Thumbs"):
        picture(tmp_path / "in" / folder / "a.jpg")
    assert image_files([tmp_path / "in"]) == sorted(wanted)
    assert len(image_files([tmp_path / "in" / "@eaDir"])) == 1  # named itself


def test_a_folder_that_may_not_be_read_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, nothing is forbidden: the system's refusal is played."""
    seen = picture(tmp_path / "in" / "a.jpg")
    closed = picture(tmp_path / "in" / "private" / "b.jpg").parent
    scandir = os.scandir

    def refuse(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert image_files([tmp_path / "in"]) == [seen, closed]
    with pytest.raises(ImageError, match="private cannot be opened: Permission denied"):
        decode_image(closed)
    (tmp_path / "in" / "labels.csv").write_text("image,diagnosis\na,NV\nb,MEL\n")
    records, reading = survey_dataset(tmp_path / "in")
    assert list(records["image_id"]) == ["a"]
    assert [fault.path for fault in reading.unreadable] == [str(closed)]
    report = check_records(records, reading=reading)
    assert "private cannot be read: Permission denied" in report.to_text()
    assert not report.ok


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_shipped_bundles_by_name_beside_a_folder_of_that_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "isic2017").mkdir()  # as `pesi data fetch isic2017` makes it
    assert pesi("predict", "a.png", "--no-gates", "--bundle", "isic2017", cwd=tmp_path).returncode == 0
    assert pesi("segment", "a.png", "--bundle", "lesion-segmenter", cwd=tmp_path).returncode == 0
    assert (tmp_path / "a_segmentation.png").is_file()  # without --out: here
    done = pesi("predict", "a.png", "--bundle", "lesion-segmenter", cwd=tmp_path)
    assert done.returncode == 2
    assert b"no classifier" in done.stderr


@pytest.mark.slow
def test_what_predict_gives_no_result_for_is_explained_as_such(tmp_path: Path) -> None:
    image = picture(tmp_path / "tiny.png", size=(20, 20))
    done = pesi("explain", image, "--out", tmp_path / "why.png")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"no result: ")
    assert b"The shorter side has 20 pixels" in done.stdout
    assert b"probability" not in done.stdout
    done = pesi("explain", image, "--no-gates", "--out", tmp_path / "why.png")
    assert b"probability" in done.stdout
