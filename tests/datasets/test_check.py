"""Each fault that is planted in a small data set is found, under its name, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.check import CheckReport, check_records
from pesi.datasets.records import record_table
from pesi.errors import DataError


def picture(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class Folder:
    """Images and their rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict] = []

    def add(self, name: str, image: Image.Image | bytes | None, *, file: str = "", **fields: object) -> Path:
        path = self.path / (file or f"{name}.png")
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif image is not None:
            image.save(path)
        self.rows.append({"image_id": name, "path": str(path), "source": "test", **fields})
        return path

    def mask(self, name: str, values: np.ndarray) -> str:
        path = self.path / f"{name}_mask.png"
        Image.fromarray(values.astype(np.uint8)).save(path)
        return str(path)

    def check(self, **options: object) -> CheckReport:
        return check_records(record_table(self.rows), **options)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    mask = np.zeros((16, 24))
    mask[4:8, 4:8] = 255
    made.add("a", picture(1), diagnosis="MEL", split="train", mask_path=made.mask("a", mask))
    made.add("b", picture(2), diagnosis="NV", split="train")
    made.add("c", picture(3, 40, 30), diagnosis="NV", split="test")
    made.add("d", picture(4))
    made.add("e", picture(5), diagnosis="MEL", split="test")
    return made


FAULTS = ("missing", "unreadable", "duplicates", "mislabelled", "labelled_twice", "masks")


def only(report: CheckReport, *kinds: str) -> None:
    assert {kind for kind in FAULTS if getattr(report, kind)} == set(kinds)
    assert report.ok is (not kinds)
    assert json.loads(json.dumps(report.to_dict()))["ok"] is report.ok


def test_sound_data_are_counted_and_in_order(folder: Folder) -> None:
    report = folder.check()
    only(report)
    assert (report.images, report.readable, report.masks_read) == (5, 5, 1)
    assert report.counts == {
        "train": {"MEL": 1, "NV": 1},
        "test": {"MEL": 1, "NV": 1},
        "(no split)": {"(no diagnosis)": 1},
    }
    assert report.sizes == {(24, 16): 4, (40, 30): 1}
    text = report.to_text()
    assert "width: 24 to 40 px, median 24" in text
    assert "height: 16 to 30 px, median 16" in text
    assert "24 x 16 (4), 40 x 30 (1)" in text
    assert "in order" in text
    header, train, test, none = text.splitlines()[2:6]
    assert header.split() == ["MEL", "NV", "(no", "diagnosis)", "all"]
    assert train.split() == ["train", "1", "1", "0", "2"]
    assert test.split() == ["test", "1", "1", "0", "2"]
    assert none.split() == ["(no", "split)", "0", "0", "1", "1"]


def test_missing_and_unreadable_files_are_told_apart(folder: Folder) -> None:
    folder.add("gone", None)
    folder.add("cut", (folder.path / "a.png").read_bytes()[:-300])
    folder.add("text", b"not an image", file="text.jpg")
    folder.add("gray", picture(9).convert("L"))
    (folder.path / "dir.png").mkdir()
    folder.add("dir", None)
    report = folder.check()
    only(report, "missing", "unreadable")
    assert [fault.image_id for fault in report.missing] == ["gone"]
    assert [fault.image_id for fault in report.unreadable] == ["cut", "text", "gray", "dir"]
    for fault, word in zip(report.unreadable, ("truncated", "text", "gray", "folder"), strict=True):
        assert word in fault.reason
    assert (report.images, report.readable) == (10, 5)
    assert "gone.png does not exist" in report.to_text()


def test_same_pixels_in_another_file_are_found(folder: Folder) -> None:
    folder.add("a2", picture(1), file="other.tiff", diagnosis="MEL", split="test")
    folder.add("b2", (folder.path / "b.png").read_bytes(), diagnosis="NV", split="train")
    report = folder.check()
    only(report, "duplicates")
    first, second = report.duplicates
    assert (first.image_ids, first.diagnoses, first.splits, first.same_bytes) == (
        ("a", "a2"),
        ("MEL",),
        ("train", "test"),
        False,
    )
    assert (second.image_ids, second.same_bytes) == (("b", "b2"), True)
    assert "a = a2; MEL; across train, test" in report.to_text()


def test_reshaped_pixels_are_no_copy(folder: Folder) -> None:
    values = np.asarray(picture(2))
    folder.add("reshaped", Image.fromarray(values.reshape(24, 16, 3)))
    only(folder.check())


def test_same_pixels_with_two_diagnoses_are_mislabelled(folder: Folder) -> None:
    folder.add("a2", picture(1), diagnosis="NV")
    report = folder.check()
    only(report, "duplicates", "mislabelled")
    assert report.mislabelled[0].diagnoses == ("MEL", "NV")
    assert "different diagnoses" in report.to_text()


def test_unknown_diagnosis_contradicts_none(folder: Folder) -> None:
    folder.add("a2", picture(1))
    only(folder.check(), "duplicates")


def test_file_or_id_in_two_rows(folder: Folder) -> None:
    folder.rows.append({**folder.rows[0], "image_id": "again", "diagnosis": "NV"})
    only(folder.check(), "labelled_twice")
    table = record_table(folder.rows[:4])
    twice = pd.concat([table, table.iloc[[1]].assign(diagnosis="MEL", path=table["path"][2])], ignore_index=True)
    report = check_records(twice)
    assert [fault.image_id for fault in report.labelled_twice] == ["b"]
    assert "rows 2 and 5" in report.labelled_twice[0].reason
    assert "NV and MEL" in report.labelled_twice[0].reason


@pytest.mark.parametrize(
    "values, word",
    [(np.full((16, 23), 255), "23 x 16"), (np.full((24, 16), 255), "16 x 24"), (np.zeros((16, 24)), "empty")],
)
def test_masks_of_another_size_or_empty(folder: Folder, values: np.ndarray, word: str) -> None:
    folder.add("m", picture(7), mask_path=folder.mask("m", values))
    report = folder.check()
    only(report, "masks")
    assert report.masks[0].image_id == "m"
    assert word in report.masks[0].reason


def test_missing_mask_and_photograph_as_mask(folder: Folder) -> None:
    folder.add("m", picture(7), mask_path=str(folder.path / "none.png"))
    folder.add("n", picture(8), mask_path=str(folder.path / "a.png"))
    report = folder.check()
    only(report, "masks")
    assert [fault.image_id for fault in report.masks] == ["m", "n"]


def test_mask_is_held_to_the_upright_image(folder: Folder) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = folder.add("turned", None, mask_path=folder.mask("turned", np.full((24, 16), 255)))
    picture(7).save(path, exif=exif)
    report = folder.check()
    only(report)
    assert report.sizes[16, 24] == 1


def test_progress_and_workers_give_the_same_report(folder: Folder) -> None:
    for seed in range(20, 50):
        folder.add(f"x{seed}", picture(seed % 25))
    told: list[tuple[int, int]] = []
    report = folder.check(workers=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 35) for done in range(1, 36)]
    assert report == folder.check()
    assert len(report.duplicates) > 4


def test_long_lists_are_cut_in_the_text_alone(folder: Folder) -> None:
    for number in range(30):
        folder.add(f"gone{number}", None)
    report = folder.check()
    assert "... and 10 more" in report.to_text()
    assert len(report.to_dict()["missing"]) == 30


def test_nothing_to_check() -> None:
    empty = record_table([{"image_id": "a", "path": "a", "source": "x"}]).iloc[:0]
    with pytest.raises(DataError, match="no images"):
        check_records(empty)
    with pytest.raises(DataError, match="workers"):
        check_records(record_table([{"image_id": "a", "path": "a", "source": "x"}]), workers=0)


def test_large_pictures_are_told_in_their_own_size(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = folder.check()
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 100)
    reduced = folder.check()
    assert reduced.to_dict() == whole.to_dict()
