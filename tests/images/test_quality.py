"""The quality gate, on drawn pictures of known blur, light and size, and on real images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pesi.errors import ImageError
from pesi.images.decode import decode_image
from pesi.images.quality import QualityConfig, judge_quality, quality_verdicts
from pesi.images.quality_measures import blockiness, cut_share, measure_quality, measured_copy, sharpness
from pesi.images.transforms import resize


def textured(size: int = 512, seed: int = 0) -> NDArray[np.uint8]:
    """Pink noise: detail at every scale alike, as a photograph has."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(size, size))) / frequency
    spectrum[0, 0] = 0
    picture = np.fft.ifft2(spectrum).real
    return np.repeat((140 + 25 * picture / picture.std()).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def levels(image: NDArray[np.uint8], **options: NDArray[np.bool_]) -> dict[str, str]:
    return {verdict.check: verdict.level for verdict in quality_verdicts(image, **options)}


def disc(size: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    grid = np.mgrid[0:size, 0:size]
    return np.asarray(np.hypot(grid[0] - y, grid[1] - x) <= radius)


def test_a_good_picture_passes_every_check() -> None:
    found = levels(textured(), mask=disc(512, 256, 256, 100))
    light = {"dark", "bright", "burnt"}
    assert set(found) == {"short_side", "sharpness", "blocks", "lesion_area", "cut_share"} | light
    assert set(found.values()) == {"ok"}


def test_sharpness_of_pink_noise_is_what_its_spectrum_says() -> None:
    # A 1/f amplitude spectrum has equal energy in equal octaves: the two bands have equal energy, but for the
    # pixel grid's end that cuts a little off the finer one.
    assert sharpness(textured(256)) == pytest.approx(1, abs=0.15)


def test_sharpness_falls_with_every_blur_and_does_not_follow_contrast() -> None:
    picture = textured()
    values = [sharpness(measured_copy(cv2.GaussianBlur(picture, (0, 0), s) if s else picture)) for s in (0, 2, 4, 8)]
    assert values == sorted(values, reverse=True)
    assert levels(cv2.GaussianBlur(picture, (0, 0), 6))["sharpness"] == "refuse"
    paler = (128 + (picture.astype(float) - 128) / 3).astype(np.uint8)
    assert sharpness(measured_copy(paler)) == pytest.approx(values[0], rel=0.1)


def test_noise_does_not_make_a_blurred_picture_sharp() -> None:
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(textured(256), (0, 0), 3).astype(float)
    noisy = (blurred + rng.normal(0, 5, blurred.shape)).clip(0, 255).astype(np.uint8)
    assert levels(noisy)["sharpness"] == "refuse"


@pytest.mark.parametrize("size", [256, 400, 1500])
def test_the_same_scene_gets_the_same_measures_at_any_size(size: int) -> None:
    whole = textured(2000)
    values = measure_quality(resize(whole, size, size))
    expected = measure_quality(whole)
    assert values.short_side == size
    assert values.sharpness == pytest.approx(expected.sharpness, rel=0.1)
    assert values.brightness == pytest.approx(expected.brightness, abs=0.01)


def test_exposure() -> None:
    picture = textured().astype(float)
    assert levels((picture * 0.2).astype(np.uint8))["dark"] == "refuse"
    bright = levels((picture * 1.8).clip(0, 255).astype(np.uint8))
    assert (bright["bright"], bright["burnt"]) == ("refuse", "refuse")


def test_dark_corners_are_not_underexposure() -> None:
    picture = textured()
    picture[~disc(512, 256, 256, 250)] = 0
    assert set(levels(picture).values()) == {"ok"}


def test_a_blank_has_no_detail() -> None:
    assert measure_quality(np.full((300, 300, 3), 128, np.uint8)).sharpness == 0
    assert levels(np.full((300, 300, 3), 128, np.uint8))["sharpness"] == "refuse"


def test_a_thumbnail_is_refused_and_the_reason_says_what_to_do() -> None:
    verdict = quality_verdicts(textured(48))[0]
    assert (verdict.check, verdict.level, verdict.value) == ("short_side", "refuse", 48)
    assert "48 pixels" in verdict.reason
    assert "original" in verdict.reason


@pytest.mark.parametrize("shape", [(1, 12000), (12000, 1), (2, 50000)])
def test_a_line_is_measured_in_little_memory(shape: tuple[int, int]) -> None:
    line = np.full((*shape, 3), 120, np.uint8)
    assert max(measured_copy(line).shape) == 16 * 256
    assert measure_quality(line).short_side == min(shape)
    wide = np.full((300, 900, 3), 120, np.uint8)
    assert measured_copy(wide).shape == (256, 768, 3)


def test_blocks_are_seen_at_low_jpeg_quality_only() -> None:
    def saved(quality: int) -> NDArray[np.uint8]:
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))

    picture = textured(256)
    assert blockiness(picture) == pytest.approx(1, abs=0.05)
    assert levels(saved(90))["blocks"] == "ok"
    assert levels(saved(5))["blocks"] == "refuse"
    # Steps of known height: 8 at every eighth column, none elsewhere, none between rows.
    stairs = np.repeat(np.repeat(np.arange(0, 128, 8, dtype=np.uint8), 8)[None], 128, axis=0)
    assert blockiness(np.repeat(stairs[..., None], 3, axis=2)) == pytest.approx(((8 + 0.5) / 0.5 + 1) / 2)


def test_cut_share_of_a_square_at_the_edge_is_a_quarter() -> None:
    mask = np.zeros((40, 40), bool)
    mask[0:10, 10:20] = True
    assert cut_share(mask) == 0.25
    assert cut_share(np.roll(mask, 15, axis=0)) == 0
    assert cut_share(np.ones((7, 7), bool)) == 1
    assert cut_share(np.zeros((7, 7), bool)) is None


def test_no_lesion_and_a_cut_one_are_warned_of_with_the_reason() -> None:
    none = {v.check: v for v in quality_verdicts(textured(), mask=np.zeros((512, 512), bool), not_found="all skin")}
    assert none["lesion_area"].level == "warn"
    assert "no lesion was found (all skin)" in none["lesion_area"].reason.lower()
    assert "cut_share" not in none
    assert levels(textured(), mask=disc(512, 0, 256, 150))["cut_share"] == "warn"


def test_limits_are_the_configuration_s_own() -> None:
    config = QualityConfig()
    strict = config.model_copy(update={"lesion_area": config.lesion_area.model_copy(update={"refuse": 0.5})})
    measures = measure_quality(textured(), mask=disc(512, 256, 256, 100))
    verdict = next(v for v in judge_quality(measures, config=strict) if v.check == "lesion_area")
    assert (verdict.level, verdict.limit) == ("refuse", 0.5)
    assert QualityConfig.model_validate_json(strict.model_dump_json()) == strict


def test_what_is_no_image_is_refused_as_a_mistake() -> None:
    with pytest.raises(ImageError, match="uint8"):
        measure_quality(np.zeros((10, 10, 3)))  # type: ignore[arg-type]


def test_real_dermoscopy_passes_and_its_blurred_copies_do_not(shared: Path) -> None:
    files = sorted((shared / "data" / "isic2017" / "images" / "val").glob("*.jpg"))
    images = [decode_image(path) for path in files]
    refused = sum("refuse" in levels(image).values() for image in images)
    assert refused <= 0.02 * len(images)
    blurred = [levels(cv2.GaussianBlur(image, (0, 0), 2))["sharpness"] for image in images[::5]]
    assert blurred.count("refuse") >= 0.9 * len(blurred)
