"""Geometry, augmentation and colour against OpenCV, NumPy and colorsys."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pesi.images.transforms import Augmentation, Draw, augment, colour_matrix, fit_square, normalise, resize, to_tensor
from pesi.synthetic.artefacts import RATES, Artefacts, render_artefacts

STILL = Draw(1, 1, 0, 1, (0, 0), (False, False), 0, 1, 1, 0, None)


def smooth(size: int = 96) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def test_fit_square():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :100] = 200
    squeezed = fit_square(image, 50, "squeeze")
    assert squeezed.shape == (50, 50, 3)
    assert (squeezed[:, :25] == 200).all()
    assert (squeezed[:, 25:] == 0).all()
    cropped = fit_square(image, 100, "center_crop")
    np.testing.assert_array_equal(cropped, image[:, 50:150])
    padded = fit_square(image, 200, "pad")
    np.testing.assert_array_equal(padded[50:150], image)
    np.testing.assert_array_equal(resize(image, 50, 100), cv2.resize(image, (100, 50), interpolation=cv2.INTER_AREA))


def test_normalise_is_the_formula():
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(normalise(images, mean, std).double(), expected, rtol=1e-5, atol=1e-6)
    assert to_tensor(np.zeros((4, 6, 3), np.uint8)).shape == (3, 4, 6)


def test_nothing_drawn_changes_nothing():
    image = smooth()
    np.testing.assert_array_equal(augment(image, STILL, 96), image)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip": (True, False)}, lambda x: x[:, ::-1]),
        ({"flip": (False, True)}, lambda x: x[::-1]),
        ({"angle": 90.0}, lambda x: np.rot90(x)),
        ({"angle": 180.0}, lambda x: np.rot90(x, 2)),
    ],
)
def test_turns_and_flips(change, expected):
    image = smooth()
    ours = augment(image, replace(STILL, **change), 96).astype(int)
    candidates = [expected(image).astype(int)]
    if "angle" in change:
        candidates.append(np.rot90(image, -1 if change["angle"] == 90 else 2).astype(int))
    assert min(np.abs(ours - c).max() for c in candidates) <= 1


def test_crop_is_centred():
    image = smooth(100)
    cropped = augment(image, replace(STILL, crop=0.5), 50)
    np.testing.assert_array_equal(cropped, image[25:75, 25:75])


def test_colour_matrix():
    assert colour_matrix(STILL) is None
    gray = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_allclose(augment(gray, replace(STILL, hue=77.0, saturation=0.4), 4), 90, atol=1)
    image = smooth()
    np.testing.assert_allclose(augment(image, replace(STILL, hue=360.0), 96).astype(int), image, atol=2)
    desaturated = augment(image, replace(STILL, saturation=0.0), 96).astype(float)
    luma = image @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(desaturated, np.repeat(luma[..., None], 3, 2), atol=2)
    brighter = augment(gray, replace(STILL, brightness=0.1), 4)
    np.testing.assert_allclose(brighter, 90 + 25.5, atol=1)
    contrast = augment(gray, replace(STILL, contrast=1.5), 4)
    np.testing.assert_allclose(contrast, 128 + 1.5 * (90 - 128), atol=1)


def test_draws_stay_in_range_and_reach_it():
    augmentation = Augmentation(rotation=30, zoom=0.2, brightness=0.1, hue=10, erase=0.5, shift=0.1, stretch=0.2)
    rng = np.random.default_rng(0)
    draws = [augmentation.draw(rng) for _ in range(3000)]
    assert {d.crop for d in draws} == {0.2, 0.4, 0.6, 0.8}
    for name, low, high in (("angle", -30, 30), ("zoom", 0.8, 1.2), ("brightness", -0.1, 0.1), ("hue", -10, 10)):
        values = np.array([getattr(d, name) for d in draws])
        assert values.min() >= low
        assert values.max() <= high
        assert np.ptp(values) > 0.95 * (high - low)
    assert 0.45 < np.mean([d.erase is not None for d in draws]) < 0.55
    assert 0.45 < np.mean([d.flip[0] for d in draws]) < 0.55
    whole = Augmentation(crops=(0.7, 1.0), crops_continuous=True)
    assert len({whole.draw(rng).crop for _ in range(10)}) == 10


def test_erase_blanks_a_square():
    image = smooth()
    erased = augment(image, replace(STILL, erase=(0.5, 0.5, 0.25)), 96)
    changed = (erased != image).any(2)
    assert changed[40:56, 40:56].mean() > 0.9
    assert not changed[:30].any()


@pytest.mark.parametrize("kinds", [("ruler",), ("dark_corner",), ("hair", "ink", "patches")])
def test_artefacts_lie_on_the_warped_picture(kinds):
    image = np.full((96, 96, 3), (200, 160, 140), np.uint8)
    drawn = replace(STILL, artefacts=Artefacts(kinds, 7))
    changed = augment(image, drawn, 96)
    field = (image / 255).astype(np.float32)
    masks = render_artefacts(Artefacts(kinds, 7), field)
    assert set(masks) == set(kinds)
    np.testing.assert_allclose(changed, np.clip(field, 0, 1) * 255, atol=1)
    turned = augment(image, replace(drawn, angle=180.0, flip=(True, False)), 96)
    np.testing.assert_array_equal(turned, changed)  # of an even picture: the artefacts are not turned with it
    dimmed = augment(image, replace(drawn, brightness=-0.1), 96)  # the light falls on them too
    np.testing.assert_allclose(dimmed, np.clip(changed - 25.5, 0, 255), atol=1)


def test_artefacts_are_drawn_as_often_as_asked_and_every_kind_alike():
    rng = np.random.default_rng(0)
    assert all(Augmentation().draw(rng).artefacts is None for _ in range(50))
    draws = [Augmentation(artefacts=0.3).draw(rng).artefacts for _ in range(4000)]
    shown = [each.present for each in draws if each is not None]
    assert 0.27 < len(shown) / len(draws) < 0.33
    assert {len(kinds) for kinds in shown} == {1, 2, 3}
    shares = [np.mean([kind in kinds for kinds in shown]) for kind in RATES]
    np.testing.assert_allclose(shares, 2 / len(RATES), atol=0.05)  # two kinds on average


@pytest.mark.parametrize(
    "height, width, size", [(767, 1022, 256), (1600, 1200, 160), (512, 512, 256), (1024, 640, 100)]
)
def test_shrinking_is_area_averaging_and_from_four_times_on_within_a_few_levels(height, width, size):
    """Against the mean over each target pixel's own area, computed from sums in whole numbers."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), np.uint8), (0, 0), 2)
    sums = np.pad(image.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0), (0, 0)))
    for axis, side in ((0, height), (1, width)):
        edges = np.linspace(0, side, size + 1)
        low = np.minimum(edges.astype(int), side - 1)
        part = (edges - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        sums = np.take(sums, low, axis) * (1 - part) + np.take(sums, low + 1, axis) * part
    exact = np.diff(np.diff(sums, axis=0), axis=1) / (height * width / size**2)
    found = resize(image, size, size)
    far = min(height, width) >= 4 * size
    assert np.abs(found - exact).mean() < (1.0 if far else 0.3)
    assert np.abs(found - exact).max() < (6.0 if far else 0.6)
