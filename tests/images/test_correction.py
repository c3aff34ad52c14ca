"""Corrections: hairs drawn over a known picture, known lights, and hair labels of real images."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pesi.datasets.cache import cached_squares
from pesi.datasets.readers import read_dataset
from pesi.errors import DataError, ImageError
from pesi.images.correction import CORRECTIONS, correct, hair_mask, remove_hair, shades_of_gray
from pesi.images.regions import WholeImage
from pesi.stats.intervals import newcombe_interval


def smooth_skin(size: int) -> np.ndarray:
    """Skin that gets darker to one side, with a round lesion of a soft edge."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    skin = np.array([215.0, 170.0, 150.0]) * (1 - 0.15 * x[..., None])
    lesion = 1 / (1 + np.exp((np.hypot(x - 0.5, y - 0.5) - 0.2) / 0.02))[..., None]
    return np.round(skin * (1 - lesion) + np.array([120.0, 75.0, 60.0]) * lesion).astype(np.uint8)


def with_hairs(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dark arcs of 1/170 of the side's width, and where they are."""
    size = len(image)
    layer = np.zeros((size, size), np.uint8)
    for centre, radius, start, end in (
        ((0.1, 0.2), 0.7, 0, 90),
        ((0.9, 0.1), 0.5, 90, 180),
        ((0.3, 1.0), 0.6, 250, 340),
    ):
        middle = tuple(round(value * size) for value in centre)
        extent = (round(radius * size), round(radius * size))
        cv2.ellipse(layer, middle, extent, 0, start, end, 255, max(1, round(size / 170)), cv2.LINE_AA)
    opacity = layer[..., None] / 255
    return np.round(image * (1 - opacity) + 35 * opacity).astype(np.uint8), layer > 60


@pytest.mark.parametrize("size", [224, 256, 512, 1100])
def test_drawn_hairs_come_back_as_what_lies_below(size):
    plain = smooth_skin(size)
    hairy, where = with_hairs(plain)
    error = np.abs(remove_hair(hairy).astype(int) - plain)[where].mean()
    assert np.abs(hairy.astype(int) - plain)[where].mean() > 60
    assert error < 8
    assert hair_mask(hairy)[where].mean() > 0.9
    assert hair_mask(hairy)[~cv2.dilate(where.astype(np.uint8), np.ones((9, 9))).astype(bool)].mean() < 0.01


def test_hairs_are_found_at_any_shape_and_skin_without_any_stays():
    plain = smooth_skin(300)
    assert np.array_equal(remove_hair(plain), plain)
    wide = np.ascontiguousarray(with_hairs(plain)[0][60:240])
    assert hair_mask(wide).shape == (180, 300)
    assert remove_hair(wide).shape == (180, 300, 3)


def test_dots_and_red_vessels_are_no_hairs():
    image = smooth_skin(256)
    for x in range(20, 250, 24):
        cv2.circle(image, (x, 30), 2, (60, 40, 30), -1)
    cv2.line(image, (20, 220), (230, 235), (205, 70, 70), 2)  # dark in green and blue only
    assert hair_mask(image).mean() < 0.002


def linear(image: np.ndarray) -> np.ndarray:
    """The closed form of IEC 61966-2-1."""
    values = image / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def encoded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * values).astype(np.uint8)


@pytest.mark.parametrize("light", [(1.0, 0.8, 0.6), (0.7, 0.9, 1.0), (1.0, 1.0, 1.0)])
def test_a_coloured_light_is_divided_out_up_to_one_gain(light):
    rng = np.random.default_rng(0)
    neutral = rng.uniform(0.05, 0.45, (80, 80, 3)).astype(np.float64)
    # Each channel's Minkowski mean alike, so that the picture's own light is white.
    neutral *= 0.3 / (neutral**6).mean((0, 1)) ** (1 / 6)
    corrected = linear(shades_of_gray(encoded(neutral * np.array(light))))
    gain = (corrected * neutral).sum() / (neutral**2).sum()
    assert np.abs(corrected - gain * neutral).max() < 0.01
    weights = np.array([0.2126, 0.7152, 0.0722])
    assert (corrected @ weights).mean() == pytest.approx(
        (linear(encoded(neutral * np.array(light))) @ weights).mean(), rel=0.01
    )


def test_a_gray_picture_and_a_black_channel_stay():
    gray = np.repeat(np.random.default_rng(0).integers(0, 256, (40, 40, 1)), 3, axis=2).astype(np.uint8)
    assert np.array_equal(shades_of_gray(gray), gray)
    red = gray.copy()
    red[..., 1:] = 0
    assert np.array_equal(shades_of_gray(red), red)


def test_correct_applies_in_order_and_refuses_what_it_does_not_know():
    hairy, _ = with_hairs(smooth_skin(256))
    before = hairy.copy()
    assert np.array_equal(correct(hairy, CORRECTIONS), shades_of_gray(remove_hair(hairy)))
    assert np.array_equal(correct(hairy, ()), hairy)
    assert np.array_equal(hairy, before)
    with pytest.raises(DataError, match="hair_removal, shades_of_gray"):
        correct(hairy, ["sharpen"])
    with pytest.raises(ImageError, match="float64"):
        correct(np.zeros((4, 4, 3)), ["hair_removal"])


def test_more_is_removed_where_real_images_are_labelled_hairy(shared):
    records = read_dataset(shared / "data" / "isic2017")
    labels = pd.read_csv(shared / "data" / "isic2017" / "artefacts.csv")
    table = records.merge(labels, on="image_id").sort_values("image_id").iloc[::9]
    images = cached_squares(list(table["path"]), WholeImage(256, "squeeze"))
    touched = np.array([hair_mask(image).mean() for image in images])
    hairy = table["hair"].to_numpy() == 1
    area = roc_auc_score(hairy, touched)
    assert newcombe_interval(area, int(hairy.sum()), int((~hairy).sum()))[0] > 0.6
    assert np.median(touched[~hairy]) < 0.04
    assert touched[hairy].mean() > 2 * touched[~hairy].mean()
