"""Masks stay where the image's lesion is: squared, warped, brought back; cached once; strangers are refused."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from pesi.datasets.cache import cached_masks
from pesi.errors import DataError, ImageError
from pesi.images.masks import augment_pair, read_mask, read_mask_square, resize_mask, unfit_square
from pesi.images.regions import WholeImage, read_region
from pesi.images.transforms import Augmentation, augment, fit_square
from pesi.synthetic.artefacts import Artefacts


def spot(height: int, width: int) -> np.ndarray:
    """A mask off the centre, without symmetry."""
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (int(0.6 * width), int(0.4 * height)), (width // 6, height // 4), 30, 0, 360, 255.0, -1)
    cv2.rectangle(mask, (width // 10, height // 2), (width // 4, height - 4), 255.0, -1)
    return mask


@pytest.fixture
def files(tmp_path):
    """Three images whose red channel is the mask, and the masks."""
    paths = []
    for index, (height, width) in enumerate([(60, 80), (90, 50), (64, 64)]):
        mask = spot(height, width)
        Image.fromarray(np.dstack([mask, 255 - mask, np.full_like(mask, 90)])).save(tmp_path / f"{index}.png")
        Image.fromarray(mask).convert("1" if index else "L").save(tmp_path / f"{index}_segmentation.png")
        paths.append((tmp_path / f"{index}_segmentation.png", tmp_path / f"{index}.png"))
    return paths


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
def test_a_mask_is_squared_as_its_image_is(files, geometry):
    for mask, image in files:
        square = read_mask_square(mask, image, 40, geometry)
        red = read_region(image, WholeImage(40, geometry))[..., 0]
        np.testing.assert_array_equal(square, red)


def test_one_draw_moves_both_alike():
    mask = spot(96, 96)
    image = np.dstack([mask, mask, mask])
    rng = np.random.default_rng(0)
    augmentation = Augmentation(crops=(0.6, 1.0), crops_continuous=True, rotation=180, stretch=0.3, shift=0.2)
    for _ in range(20):
        draw = augmentation.draw(rng)
        warped, moved = augment_pair(image, mask, draw, 64)
        assert moved.dtype == bool
        np.testing.assert_array_equal(warped[..., 0] > 127, moved)
        changed = {"brightness": 0.3, "hue": 50.0, "contrast": 0.4, "erase": (0.5, 0.5, 0.5)}
        coloured = replace(draw, **changed, artefacts=Artefacts(("ink", "hair"), 0))
        other, same = augment_pair(image, mask, coloured, 64)
        np.testing.assert_array_equal(other, augment(image, coloured, 64))
        np.testing.assert_array_equal(same, moved)  # colour, artefacts and erasing leave the mask alone


def test_beyond_the_border_it_is_mirrored():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :8] = 255
    draw = replace(Augmentation().draw(np.random.default_rng(0)), crop=1.5, zoom=1, angle=0, flip=(False, False))
    _, moved = augment_pair(np.dstack([mask] * 3), mask, draw, 96)
    np.testing.assert_array_equal(np.flatnonzero(moved[48]), np.arange(16 - 7, 16 + 8))  # 8 columns and 7 mirrored


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
@pytest.mark.parametrize(("height", "width"), [(90, 120), (121, 80), (64, 64)])
def test_unfit_undoes_fit(geometry, height, width):
    y, x = np.mgrid[:height, :width]
    smooth = np.round(120 + 50 * np.sin(y / 19) + 50 * np.cos(x / 23)).astype(np.uint8)
    square = fit_square(smooth, 96, geometry).astype(np.float32)
    back = unfit_square(square, height, width, geometry)
    assert back.shape == (height, width)
    seen = np.zeros((height, width), bool)
    side = min(height, width)
    top, left = ((height - side) // 2, (width - side) // 2) if geometry == "center_crop" else (0, 0)
    seen[top : top + side, left : left + side] = True
    if geometry != "center_crop":
        seen[:] = True
    assert np.abs(back - smooth)[seen].mean() < 2
    assert not back[~seen].any()


def test_resize_mask_keeps_the_share():
    mask = spot(200, 200)
    small = resize_mask(mask, 50)
    assert small.shape == (50, 50)
    assert small.mean() == pytest.approx((mask > 127).mean(), abs=0.01)


def test_read_once_and_again_after_a_change(files, tmp_path):
    masks, images = zip(*files, strict=True)
    calls: list[tuple[int, int]] = []
    where = {"size": 32, "geometry": "pad", "cache_dir": tmp_path / "c"}
    for _ in range(2):
        cached = cached_masks(masks, images, **where, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert isinstance(cached, np.memmap)
    for square, mask, image in zip(cached, masks, images, strict=True):
        np.testing.assert_array_equal(square, read_mask_square(mask, image, 32, "pad"))
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(masks[0])
    assert not cached_masks(masks, images, **where)[0].any()


def test_what_is_no_mask_of_the_image_is_refused(files, tmp_path):
    (mask, image), (other, _), _ = files
    assert read_mask(mask, image).shape == (60, 80)
    with pytest.raises(ImageError, match="another shape"):
        read_mask(other, image)
    with pytest.raises(ImageError, match="coloured"):
        read_mask(image, image)
    with pytest.raises(DataError, match="2 of 3 masks cannot be read") as caught:
        cached_masks([mask, image, other], [image] * 3, size=32, geometry="squeeze", cache_dir=tmp_path / "c")
    assert other.name in caught.value.problem
    assert list((tmp_path / "c").iterdir()) == []
    with pytest.raises(DataError, match="Cannot open"):
        cached_masks([tmp_path / "gone.png"], [image], size=32, geometry="squeeze")
    with pytest.raises(DataError, match="no masks"):
        cached_masks([], [], size=32, geometry="squeeze")
    with pytest.raises(ValueError, match="1 masks but 2 images"):
        cached_masks([mask], [image, image], size=32, geometry="squeeze")
