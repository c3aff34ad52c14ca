"""The decoded-image cache: the same pixels as decoding, made once, made anew when a file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from pesi.datasets.cache import cached_squares
from pesi.errors import DataError, StorageError
from pesi.files import default_cache_dir
from pesi.images.regions import WholeImage, read_region

WHOLE = WholeImage(32, "squeeze")


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (40 + index, 60, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def test_same_pixels_in_order(pictures, tmp_path):
    squares = cached_squares(pictures, WHOLE, cache_dir=tmp_path / "c")
    assert squares.shape == (5, 32, 32, 3)
    for path, square in zip(pictures, squares, strict=True):
        np.testing.assert_array_equal(square, read_region(path, WHOLE))
    assert isinstance(squares, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        squares[0] = 0


def test_decoded_once_and_again_after_a_change(pictures, tmp_path):
    calls: list[int] = []
    settings = {"region": WHOLE, "cache_dir": tmp_path / "c"}
    for _ in range(2):
        cached_squares(pictures, **settings, progress=lambda done, total: calls.append(done))
    assert calls == [1, 2, 3, 4, 5]
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(pictures[2])
    assert not cached_squares(pictures, **settings)[2].any()


def test_unreadable_images_are_all_named_and_nothing_is_left(pictures, tmp_path):
    pictures[1].write_bytes(b"no")
    pictures[3].write_bytes(pictures[0].read_bytes()[:60])
    with pytest.raises(DataError, match="2 of 5 images cannot be read") as caught:
        cached_squares(pictures, WHOLE, cache_dir=tmp_path / "c")
    assert "1.png" in caught.value.problem
    assert "3.png" in caught.value.problem
    assert list((tmp_path / "c").iterdir()) == []
    with pytest.raises(DataError, match="Cannot open"):
        cached_squares([tmp_path / "gone.png"], WHOLE)
    with pytest.raises(DataError, match="no images"):
        cached_squares([], WHOLE)


def test_cache_dir_is_the_users_choice(monkeypatch, tmp_path):
    monkeypatch.setenv("PESI_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path


READS = """
import sys, time
from pathlib import Path
import numpy as np
from pesi.datasets.cache import cached_array

def read(index):
    with open("reads.txt", "a") as file:
        print(sys.argv[1], index, file=file, flush=True)
    time.sleep(float(sys.argv[2]))
    return np.full((2, 2), index, np.uint8)

paths = sorted(Path().glob("*.png"))
array = cached_array(paths, read, shape=(2, 2), name="test", key=[1], what="images", cache_dir="cache", workers=1)
assert [int(item.max()) for item in array] == list(range(len(paths)))
"""


def reader(folder, name: str, seconds: float) -> subprocess.Popen:
    """A process that makes a cache of the folder's pictures, so many seconds each."""
    return subprocess.Popen([sys.executable, "-c", READS, name, str(seconds)], cwd=folder)


def reads(folder) -> list[str]:
    """Which process read what, in order."""
    path = folder / "reads.txt"
    return path.read_text().splitlines() if path.exists() else []


def until_first_read(folder) -> None:
    deadline = time.monotonic() + 60
    while not reads(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_decode_once(pictures, tmp_path):
    first = reader(tmp_path, "first", 0.5)
    until_first_read(tmp_path)
    second = reader(tmp_path, "second", 0)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert reads(tmp_path) == [f"first {index}" for index in range(5)]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_a_killed_process_frees_the_cache(pictures, tmp_path):
    first = reader(tmp_path, "first", 60)
    until_first_read(tmp_path)
    second = reader(tmp_path, "second", 0)
    os.kill(first.pid, signal.SIGKILL)
    first.wait(60)
    assert second.wait(60) == 0
    assert reads(tmp_path) == ["first 0", *(f"second {index}" for index in range(5))]


def test_a_cache_folder_that_cannot_be_made_is_said(pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Could not write"):
        cached_squares(pictures, WHOLE, cache_dir=tmp_path / "file" / "cache")
