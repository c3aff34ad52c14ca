"""Regions: the whole image, and a square around the lesion."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pesi.images.correction import correct
from pesi.images.decode import decode
from pesi.images.regions import Corrected, LesionBox, Seen, WholeImage, finds_lesion, lesion_box, reading_side


def mask_of(top: int, bottom: int, left: int, right: int, size: int = 100) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_box_is_a_square_around_the_lesion_with_its_margin():
    box = lesion_box(mask_of(40, 60, 30, 70), 0.25)
    # 40 wide and 20 high: the side is 40 * 1.5 = 60, centred on (50, 50).
    assert box.y == pytest.approx((0.2, 0.8))
    assert box.x == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize(
    ("mask", "y", "x"),
    [
        (mask_of(0, 20, 80, 100), (0.0, 0.3), (0.7, 1.0)),  # moved into the picture at a corner
        (mask_of(0, 100, 0, 100), (0.0, 1.0), (0.0, 1.0)),  # never larger than the picture
        (mask_of(50, 51, 50, 51), (0.405, 0.605), (0.405, 0.605)),  # never a few pixels blown up
    ],
)
def test_box_stays_sensible(mask, y, x):
    box = lesion_box(mask, 0.25)
    assert box.y == pytest.approx(y)
    assert box.x == pytest.approx(x)


def test_empty_mask_is_refused():
    with pytest.raises(ValueError, match="empty"):
        lesion_box(np.zeros((8, 8), bool), 0.1)


@pytest.mark.parametrize(("side", "contrast"), [(64, 85), (640, 105)])
def test_lesion_is_cut_at_the_files_own_resolution(side, contrast):
    """A chequered square on black: the crop holds the square with its margin, and fine squares stay fine."""
    image = np.zeros((side, side, 3), np.uint8)
    quarter, cell = side // 4, side // 32
    rows, columns = np.indices((quarter, quarter)) // cell
    image[quarter : 2 * quarter, quarter : 2 * quarter] = (((rows + columns) % 2) * 255)[..., None]
    region = LesionBox(64, "squeeze", 0.5, lambda square: square.max(2) > 0, "test")
    crop = region(image)
    assert crop.shape == (64, 64, 3)
    inside = crop[18:46, 18:46].astype(float)
    assert crop[:14].max() < 60
    assert inside.std() > contrast  # a chequerboard of 0 and 255 has 127; cut from 64 pixels, 92


def test_a_lesion_that_fills_the_picture_is_found():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    fills = LesionBox(32, "squeeze", 0.25, lambda square: np.ones(square.shape[:2], bool), "test")
    none = LesionBox(32, "squeeze", 0.25, lambda square: None, "test")
    assert np.array_equal(fills(image), none(image))
    assert finds_lesion(fills, image)
    assert finds_lesion(Corrected(fills, ("shades_of_gray",)), image)
    assert not finds_lesion(none, image)
    assert not finds_lesion(WholeImage(32, "squeeze"), image)


def test_where_no_lesion_is_found_the_image_is_whole():
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    region = LesionBox(32, "squeeze", 0.25, lambda square: None, "test")
    np.testing.assert_array_equal(region(image), WholeImage(32, "squeeze")(image))


def test_keys_tell_regions_apart():
    def find(square: np.ndarray) -> None:
        return None

    keys = {
        WholeImage(32, "squeeze").key,
        WholeImage(33, "squeeze").key,
        WholeImage(32, "pad").key,
        LesionBox(32, "squeeze", 0.25, find, "a").key,
        LesionBox(32, "squeeze", 0.3, find, "a").key,
        LesionBox(32, "squeeze", 0.25, find, "b").key,
    }
    assert len(keys) == 6


def test_a_corrected_region_is_corrected_after_the_cut():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 70, 3), np.uint8)
    whole = WholeImage(48, "squeeze")
    region = Corrected(whole, ("shades_of_gray",))
    assert region.size == 48
    assert region.key != whole.key
    np.testing.assert_array_equal(region(image), correct(whole(image), ["shades_of_gray"]))
    assert (region(image) != whole(image)).any()


def test_regions_of_one_image_share_its_squares_and_its_lesion():
    looks: list[int] = []

    def find(square: np.ndarray) -> np.ndarray:
        looks.append(len(square))
        return square.max(2) > 100

    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    shared = Seen(image)
    boxes = [LesionBox(32, "center_crop", margin, find, "a") for margin in (0.0, 0.25)]
    apart = [box(image) for box in boxes]
    assert len(looks) == 2
    for box, square in zip(boxes, apart, strict=True):
        np.testing.assert_array_equal(box(shared), square)
    assert len(looks) == 3
    assert WholeImage(32, "center_crop")(shared) is shared.square(32, "center_crop")


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
def test_the_box_holds_the_same_part_of_a_long_picture_as_of_its_square(geometry):
    image = np.full((600, 900, 3), 200, np.uint8)
    image[250:350, 400:500] = 0
    box = LesionBox(64, geometry, 0.0, lambda square: square.max(2) < 100, "dark")
    crop = box(image)
    assert (crop < 100).mean() > 0.27  # nothing of the spot is lost, and the box is a fifth of the side at least
    rows, columns = (np.flatnonzero((crop.max(2) < 100).any(axis)) for axis in (1, 0))
    assert abs(rows.mean() - 31.5) < 3
    assert abs(columns.mean() - 31.5) < 3


def test_large_photographs_are_read_reduced_and_ordinary_ones_whole(tmp_path):
    for width, height, expected in ((1022, 767, 767), (2000, 1535, 1535), (2048, 1536, 768), (4000, 3000, 1500)):
        Image.new("RGB", (width, height), (200, 150, 120)).save(tmp_path / "a.jpg")
        pixels, size = decode(tmp_path / "a.jpg", min_side=reading_side([WholeImage(256, "squeeze")]))
        assert (min(pixels.shape[:2]), min(size)) == (expected, height)
    assert reading_side([WholeImage(512, "squeeze"), WholeImage(64, "pad")]) == 768
