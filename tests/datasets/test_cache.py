"""The decoded-image cache: the same pixels as decoding, made once, made anew when a file changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pesi.datasets.cache import cached_squares, default_cache_dir
from pesi.errors import DataError
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
