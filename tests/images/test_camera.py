"""Another camera's picture, against closed forms, Pillow and SciPy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as PillowImage
from scipy.ndimage import gaussian_filter

from pesi.images.camera import FALL_OFF, QUALITY, Camera, draw_camera, taken_by
from pesi.images.transforms import Augmentation, augment

NEUTRAL = Camera((1.0, 1.0, 1.0), 1.0, 0.0, 0, 0.0)


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    rough = rng.uniform(40, 200, (64, 64, 3))
    return np.round(gaussian_filter(rough, (2, 2, 0)) * 1.0).astype(np.uint8)


def test_a_neutral_camera_changes_nothing(picture):
    np.testing.assert_array_equal(taken_by(picture, NEUTRAL), picture)


def test_light_and_tones_are_their_formula(picture):
    camera = NEUTRAL._replace(gains=(1.1, 1.0, 0.9), gamma=1.2)
    expected = 255 * np.clip(picture / 255 * [1.1, 1.0, 0.9], 0, 1) ** 1.2
    assert np.abs(taken_by(picture, camera) - expected).max() <= 0.5 + 1e-6


def test_softness_blurs_and_sharpens(picture):
    values = picture.astype(float)
    soft = taken_by(picture, NEUTRAL._replace(softness=0.02)).astype(float)
    expected = gaussian_filter(values, (0.02 * 64, 0.02 * 64, 0), mode="mirror", truncate=4)
    assert np.abs(soft - expected).mean() < 0.6
    sharp = taken_by(picture, NEUTRAL._replace(softness=-0.5)).astype(float)
    blurred = gaussian_filter(values, (1, 1, 0), mode="mirror")
    assert np.abs(sharp - np.clip(values + 0.5 * (values - blurred), 0, 255)).mean() < 0.6


def test_compression_is_as_strong_as_pillows(picture):
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, "JPEG", quality=40, subsampling="4:2:0")
    theirs = np.asarray(PillowImage.open(buffer)).astype(float)
    ours = taken_by(picture, NEUTRAL._replace(quality=40)).astype(float)
    assert np.abs(ours - theirs).mean() < 1
    assert np.abs(ours - picture).mean() == pytest.approx(np.abs(theirs - picture).mean(), rel=0.2)


def test_the_corners_lose_the_light():
    even = np.full((65, 65, 3), 200, np.uint8)
    dark = taken_by(even, NEUTRAL._replace(fall_off=0.4))
    assert dark[32, 32].tolist() == [200] * 3
    assert np.abs(dark[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float) - 120).max() <= 1
    assert np.abs(dark[32, 0].astype(float) - 160).max() <= 1


def test_draws_vary_and_stay_in_range():
    rng = np.random.default_rng(1)
    cameras = [draw_camera(rng) for _ in range(2000)]
    assert all(np.mean(camera.gains) == pytest.approx(1) for camera in cameras)
    assert 0.06 < np.std([np.log(camera.gains[0]) for camera in cameras]) < 0.08  # the mean of three is taken out
    assert {camera.quality for camera in cameras} == {0, *range(QUALITY[0], QUALITY[1] + 1)}
    assert max(camera.fall_off for camera in cameras) <= FALL_OFF
    for share, wanted in (
        (np.mean([camera.softness > 0 for camera in cameras]), 0.3),
        (np.mean([camera.softness < 0 for camera in cameras]), 0.2),
        (np.mean([camera.quality > 0 for camera in cameras]), 0.4),
        (np.mean([camera.fall_off > 0 for camera in cameras]), 0.3),
    ):
        assert share == pytest.approx(wanted, abs=0.04)


def test_without_cameras_a_recipe_draws_as_before(picture):
    plain, with_camera = Augmentation(artefacts=0.5), Augmentation(artefacts=0.5, camera=1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        before, state = plain.draw(rng), rng.bit_generator.state
        after = with_camera.draw(np.random.default_rng(seed))
        assert before.camera is None
        assert after.camera is not None
        assert before.__dict__ | {"camera": after.camera} == after.__dict__
        assert rng.bit_generator.state == state
    # It comes last but for the erased square, on the warped picture.
    assert augment(picture, after, 48).shape == (48, 48, 3)
    warped = augment(picture, type(after)(**(after.__dict__ | {"camera": None})), 48)
    np.testing.assert_array_equal(augment(picture, after, 48), taken_by(warped, after.camera))
