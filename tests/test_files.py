"""Whole files: all of it or nothing, and a message that names the file and the cure."""

from __future__ import annotations

import json
import os

import pytest

from pesi.errors import PesiError, StorageError
from pesi.files import check_ending, whole_file, write_json, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_full_disk_names_the_file_and_the_cure(tmp_path):
    def fail() -> None:
        with whole_file(tmp_path / "a.bin"):
            raise OSError(28, os.strerror(28))

    with pytest.raises(StorageError, match=r"a\.bin: No space left") as caught:
        fail()
    assert "Free some space" in caught.value.cure
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not write"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ä": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_error_text():
    assert str(PesiError("wrong", "do this")) == "wrong\n  -> do this"
    assert str(PesiError("wrong")) == "wrong"


def test_an_ending_that_names_another_format_is_refused():
    check_ending(None, ".png")
    check_ending("a.b/WHY.PNG", ".png")
    check_ending("table.json", ".csv", ".json")
    for path in ("why.jpg", "why", ".png", "why.png.jpg", "png"):
        with pytest.raises(StorageError, match="PNG") as caught:
            check_ending(path, ".png")
        assert ".png" in caught.value.cure
