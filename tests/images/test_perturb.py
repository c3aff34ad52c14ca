"""Perturbations: what they change and what they leave, on drawn pictures of known answer and on real ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio

from pesi.datasets.readers import read_dataset
from pesi.images.masks import LESION_ABOVE, read_mask_square
from pesi.images.perturb import PERTURBATIONS, Perturbation
from pesi.images.regions import WholeImage, read_region

SIZE = 192
SKIN = np.array([210.0, 165.0, 145.0])
BY_NAME = {each.name: each for each in PERTURBATIONS}


def lesion_on_skin(*, radius: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """A dark disc on skin with a fall of light and a little grain, and its mask."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    mask = np.hypot(x - 0.5, y - 0.5) < radius
    image = SKIN * (1 - 0.1 * y[..., None]) + np.random.default_rng(5).normal(0, 1.5, (SIZE, SIZE, 1))
    image[mask] = (95, 60, 50)
    return np.round(image).astype(np.uint8), mask


def applied(name: str, image: np.ndarray, mask: np.ndarray | None, seed: int = 0):
    perturbation = BY_NAME[name]
    return perturbation.apply(image, mask, perturbation.generator(seed, 0))


def group(name: str) -> list[Perturbation]:
    return [each for each in PERTURBATIONS if each.group == name]


def test_names_are_unique_and_every_group_is_there():
    assert len(BY_NAME) == len(PERTURBATIONS) >= 30
    assert {each.group for each in PERTURBATIONS} == {"paste", "remove", "lesion", "capture", "geometry"}


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda each: each.name)
def test_the_same_seed_gives_the_same_picture_and_the_input_stays(perturbation):
    image, mask = lesion_on_skin()
    image[:20, :20] = 0  # a dark corner, a ruler and a hair, so that there is something to remove
    cv2.line(image, (10, 170), (180, 150), (30, 25, 20), 1)
    before = image.copy()
    first = perturbation.apply(image, mask, perturbation.generator(3, 1))
    again = perturbation.apply(image, mask, perturbation.generator(3, 1))
    assert np.array_equal(image, before)
    if first is None:
        assert again is None
        assert perturbation.name in ("dark corners pasted",)
        return
    assert first.image.shape == image.shape
    assert first.image.dtype == np.uint8
    assert first.changed.shape == mask.shape
    assert first.changed.any()
    assert not np.array_equal(first.image, image)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.changed, again.changed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("perturbation", group("paste"), ids=lambda each: each.name)
def test_pasted_artefacts_leave_the_lesion_to_be_seen(perturbation, seed):
    image, mask = lesion_on_skin(radius=0.25)
    result = perturbation.apply(image, mask, perturbation.generator(seed, 0))
    if result is None:
        return
    differs = np.abs(result.image.astype(int) - image).max(2) > 12
    # What changed is marked, but for soft edges and the faintest hairs.
    around = ndimage.binary_dilation(result.changed, iterations=14 if "corners" in perturbation.name else 5)
    assert (differs & ~around).sum() <= 0.05 * result.changed.sum()
    over = "hair" in perturbation.name or "bubbles" in perturbation.name
    if over:
        return
    allowed = 0.02 if "corners" in perturbation.name else 0.0
    assert (result.changed & mask).sum() <= allowed * mask.sum()
    assert (differs & mask).sum() <= allowed * mask.sum()


def test_hair_and_bubbles_do_cross_the_lesion():
    image, mask = lesion_on_skin(radius=0.3)
    image[mask] = (150, 110, 95)
    for name in ("dense hair pasted", "gel bubbles pasted"):
        hits = [applied(name, image, mask, seed).changed & mask for seed in range(8)]
        assert any(hit.any() for hit in hits)


def test_no_room_beside_a_lesion_that_fills_the_picture():
    image, _ = lesion_on_skin()
    full = np.ones((SIZE, SIZE), bool)
    for name in (
        "ruler pasted",
        "ink pasted",
        "colour patch pasted",
        "large colour patch pasted",
        "dark corners pasted",
    ):
        assert applied(name, image, full) is None


def test_without_a_mask_what_needs_one_cannot_be_made():
    image, _ = lesion_on_skin()
    empty = np.zeros((SIZE, SIZE), bool)
    needing = [each for each in PERTURBATIONS if each.needs_mask]
    assert {each.group for each in needing} == {"remove", "lesion"}
    for each in needing:
        assert each.apply(image, None, each.generator(0, 0)) is None
        assert each.apply(image, empty, each.generator(0, 0)) is None
    assert applied("ruler pasted", image, None) is not None


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="squares"):
        applied("rotated 90 degrees", np.zeros((10, 12, 3), np.uint8), None)
    with pytest.raises(ValueError, match="mask"):
        applied("lesion blackened", np.zeros((10, 10, 3), np.uint8), np.zeros((12, 12), bool))


def test_clean_skin_has_nothing_to_remove():
    image, mask = lesion_on_skin()
    for each in group("remove"):
        assert each.apply(image, mask, each.generator(0, 0)) is None


def test_removed_dark_corners_become_skin():
    image, mask = lesion_on_skin()
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    vignette = np.hypot(x - 0.5, y - 0.5) > 0.56
    dark = image.copy()
    dark[vignette] = 8
    result = applied("dark corners removed", dark, mask)
    assert result.changed[vignette].all()
    assert np.abs(result.image.astype(float) - image)[vignette].mean() < 6
    assert np.array_equal(result.image[mask], dark[mask])


@pytest.mark.parametrize("mark", ["ruler", "ink", "patch"])
def test_removed_marks_become_skin_and_the_lesion_stays(mark):
    image, mask = lesion_on_skin()
    marked = image.copy()
    where = np.zeros((SIZE, SIZE), np.uint8)
    if mark == "ruler":
        cv2.line(where, (20, 170), (170, 170), 1, 2)
        for x in range(20, 171, 10):
            cv2.line(where, (x, 160), (x, 170), 1, 1)
        colour = (30, 30, 30)
    elif mark == "ink":
        cv2.line(where, (20, 20), (45, 85), 1, 6)
        colour = (110, 60, 160)
    else:
        cv2.ellipse(where, (SIZE, 96), (44, 60), 0, 0, 360, 1, -1)
        colour = (245, 165, 35)
    where = where > 0
    marked[where] = colour
    result = applied("marks beside the lesion removed", marked, mask)
    assert result.changed[where].mean() > 0.98
    assert np.abs(result.image.astype(float) - image)[where].mean() < 6
    assert np.array_equal(result.image[mask], image[mask])
    assert result.changed.mean() < 3 * where.mean() + 0.02


def test_a_replaced_lesion_is_skin_again():
    image, mask = lesion_on_skin()
    y = (np.arange(SIZE) + 0.5) / SIZE
    skin = SKIN * (1 - 0.1 * y[:, None, None]) * np.ones((SIZE, SIZE, 1))
    result = applied("lesion replaced by skin", image, mask)
    assert result.changed[mask].all()
    assert np.abs(cv2.blur(result.image.astype(float), (9, 9)) - skin)[mask].max() < 4
    assert np.array_equal(result.image[~result.changed], image[~result.changed])
    # The grain goes on.
    fine = result.image[..., 1].astype(float) - ndimage.gaussian_filter(result.image[..., 1].astype(float), 2)
    away = ~ndimage.binary_dilation(mask, iterations=20)
    assert fine[mask].std() == pytest.approx(fine[away].std(), rel=0.4)


def test_hidden_lesions_and_backgrounds():
    image, mask = lesion_on_skin()
    black = applied("lesion blackened", image, mask)
    assert not black.image[mask].any()
    assert np.array_equal(black.image[~black.changed], image[~black.changed])
    box = applied("lesion's box blackened", image, mask)
    rows, columns = np.nonzero(box.changed)
    assert box.changed.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert (black.changed & ~box.changed).sum() == 0
    only = applied("background replaced by even skin", image, mask)
    assert np.array_equal(only.image[mask], image[mask])
    assert len(np.unique(only.image[only.changed], axis=0)) == 1
    assert np.abs(only.image[0, 0].astype(float) - np.median(image[~mask], axis=0)).max() < 8


def test_capture_changes_against_their_closed_forms():
    image, _ = lesion_on_skin()
    noise = applied("moderate noise", np.full((SIZE, SIZE, 3), 128, np.uint8), None).image.astype(float) - 128
    assert noise.std() == pytest.approx(12, rel=0.03)
    assert abs(noise.mean()) < 0.3
    blurred = applied("moderate blur", image, None).image
    expected = ndimage.gaussian_filter(image.astype(float), (0.01 * SIZE, 0.01 * SIZE, 0), mode="mirror")
    assert np.abs(blurred - expected).max() <= 2
    warm = applied("warm light", image, None).image.astype(float)
    assert np.abs(warm - np.clip(image * np.array([1.15, 1.0, 0.85]), 0, 255)).max() <= 1
    dim = applied("brightness 60%", image, None).image.astype(float)
    assert np.abs(dim - 0.6 * image).max() <= 1


def test_each_further_strength_changes_more():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.normal(128, 60, (SIZE, SIZE, 3)), (1, 1, 0)).clip(0, 255).astype(np.uint8)
    for names in (
        ("slight blur", "moderate blur", "strong blur"),
        ("slight noise", "moderate noise", "strong noise"),
        ("JPEG quality 60", "JPEG quality 30", "JPEG quality 10"),
        ("slightly warm light", "warm light"),
        ("slightly cool light", "cool light"),
    ):
        quality = [peak_signal_noise_ratio(image, applied(name, image, None).image) for name in names]
        assert quality == sorted(quality, reverse=True)


def test_turns_and_scales_move_a_dot_to_where_they_should():
    image = np.full((SIZE, SIZE, 3), 200, np.uint8)
    cv2.circle(image, (130, 80), 3, (0, 0, 0), -1)
    middle = (SIZE - 1) / 2
    offset = np.array([130 - middle, 80 - middle])  # x, y

    def dot(picture: np.ndarray) -> np.ndarray:
        y, x = ndimage.center_of_mass(200.0 - picture[..., 0])
        return np.array([x - middle, y - middle])

    cos = np.cos(np.pi / 4)
    turned = np.array([cos * offset[0] + cos * offset[1], -cos * offset[0] + cos * offset[1]])
    assert dot(applied("rotated 45 degrees", image, None).image) == pytest.approx(turned, abs=0.3)
    assert dot(applied("rotated 90 degrees", image, None).image) == pytest.approx([offset[1], -offset[0]], abs=0.1)
    assert dot(applied("scaled 120%", image, None).image) == pytest.approx(1.2 * offset, abs=0.3)
    assert dot(applied("scaled 85%", image, None).image) == pytest.approx(0.85 * offset, abs=0.5)


def test_generators_do_not_depend_on_the_company():
    first, second = BY_NAME["ruler pasted"], BY_NAME["ink pasted"]
    assert first.generator(0, 5).random() == first.generator(0, 5).random()
    assert len({p.generator(s, i).random() for p in (first, second) for s in (0, 1) for i in (0, 1)}) == 8


def test_real_images_pasted_and_hidden(shared):
    records = read_dataset(shared / "data" / "isic2017")
    table = records[(records["split"] == "val") & records["mask_path"].notna()].iloc[::20]
    made = dict.fromkeys(BY_NAME, 0)
    for path, mask_path in zip(table["path"], table["mask_path"], strict=True):
        image = read_region(path, WholeImage(256, "squeeze"))
        mask = read_mask_square(mask_path, path, 256, "squeeze") > LESION_ABOVE
        for name in BY_NAME:
            result = applied(name, image, mask)
            if result is None:
                continue
            made[name] += 1
            if name == "lesion replaced by skin":
                # No darker than the skin around it: the lesion is gone.
                ring = ndimage.binary_dilation(result.changed, iterations=12) & ~result.changed
                inside = np.median(result.image[result.changed].mean(1))
                assert inside > np.quantile(image[ring].mean(1), 0.1) - 5
    for name, count in made.items():
        assert count >= (1 if BY_NAME[name].group == "remove" else len(table) / 2), name
