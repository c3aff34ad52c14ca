"""Faithfulness: a score whose truth is known, curves of closed form, pointing and mass on made masks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import auc

from pesi.explain.baselines import centre_gaussian, random_map
from pesi.explain.faithfulness import (
    CENTRE,
    RANDOM,
    SCATTERED,
    class_score,
    curve_area,
    curve_pictures,
    explaining_maps,
    faithfulness_curves,
    measure_faithfulness,
    pixel_order,
    pointing_hit,
)
from pesi.explain.maps import explain
from pesi.images.transforms import resize

SIZE = 32
PATCH = (slice(4, 12), slice(20, 28))  # 1/16 of the picture


def picture_and_score(seed=0):
    """A picture of extremes, and a network that looks at one patch only: how many of its pixels are as they were."""
    picture = np.random.default_rng(seed).choice([0, 255], (SIZE, SIZE, 3)).astype(np.uint8)

    def score(pictures):
        return (pictures[:, *PATCH] == picture[PATCH]).all(-1).mean((1, 2))

    return picture, score


def marked(value=1.0):
    values = np.zeros((SIZE, SIZE), np.float32)
    values[PATCH] = value
    return values


def read_squares(spots, count):
    rows = spots.iloc[:count]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in rows["path"]]
    return images, [np.asarray(Image.open(path)) > 127 for path in rows["mask_path"]]


def test_the_map_of_the_truth_has_the_closed_form():
    picture, score = picture_and_score()
    deletion, insertion = faithfulness_curves(picture, [marked(), marked(-1)], score, steps=16, batch_size=7)
    # 1/16 of the pixels is the patch: gone after the first step, or only with the last.
    assert deletion[0] == pytest.approx([1] + [0] * 16)
    assert insertion[0] == pytest.approx([0] + [1] * 16)
    assert deletion[1] == pytest.approx([1] * 16 + [0])
    assert insertion[1] == pytest.approx([0] * 16 + [1])
    assert curve_area(deletion) == pytest.approx([1 / 32, 31 / 32])
    assert curve_area(insertion) == pytest.approx([31 / 32, 1 / 32])


def test_the_truth_beats_chance_and_the_middle():
    areas = []
    for seed in range(40):
        picture, score = picture_and_score(seed)
        maps = [marked(), random_map(SIZE, np.random.default_rng(seed)), centre_gaussian(SIZE)]
        areas.append([curve_area(curve) for curve in faithfulness_curves(picture, maps, score, steps=8)])
    (truth, chance, middle), (truth_in, chance_in, middle_in) = np.mean(areas, axis=0)
    assert truth < 0.1 < 0.9 < truth_in
    assert 0.3 < chance < 0.7
    assert 0.3 < chance_in < 0.7
    assert middle > truth + 0.3
    assert middle_in < truth_in - 0.3


def test_areas_agree_with_scikit_learn():
    curves = np.random.default_rng(0).random((3, 5, 9))
    for row, area in zip(curves.reshape(-1, 9), curve_area(curves).ravel(), strict=True):
        assert area == pytest.approx(auc(np.linspace(0, 1, 9), row))


def test_pixels_are_taken_from_the_highest_and_equal_ones_by_region():
    values = np.random.default_rng(0).permutation(SIZE * SIZE).reshape(SIZE, SIZE).astype(np.float32)
    assert np.array_equal(values.ravel()[pixel_order(values)], np.arange(SIZE * SIZE)[::-1])
    order = pixel_order(marked())
    assert sorted(order) == list(range(SIZE * SIZE))
    rows, columns = np.unravel_index(order, (SIZE, SIZE))
    distance = np.hypot(rows - 7.5, columns - 23.5)
    assert distance[:64].max() < 6
    assert distance[64:128].mean() < 10 < distance[-64:].mean()


def test_pictures_hold_the_right_share_of_both():
    picture, other = np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 3), 9, np.uint8)
    pictures = curve_pictures(picture, other, random_map(SIZE, np.random.default_rng(0)), 8)
    assert pictures.shape == (7, SIZE, SIZE, 3)
    assert [(p == 9).all(-1).mean() for p in pictures] == pytest.approx(np.arange(1, 8) / 8)
    assert all(((b == 9) | (a != 9)).all() for a, b in pairwise(pictures))  # they only grow


def test_pointing_on_made_masks():
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    values = np.zeros((100, 100), np.float32)
    for point, tolerance, hit in [
        ((50, 50), 0.0, 1),
        ((59, 59), 0.0, 1),
        ((50, 62), 0.0, 0),
        ((50, 62), 0.03, 1),  # three pixels off, three allowed
        ((50, 63), 0.03, 0),
        ((5, 5), 0.03, 0),
    ]:
        values[:] = 0
        values[point] = 1
        assert pointing_hit(values, mask, tolerance=tolerance) == hit, point
    values[:] = 0
    values[50, [10, 50]] = 1  # two maxima, one on the lesion
    assert pointing_hit(values, mask) == 0.5
    assert pointing_hit(np.ones((100, 100), np.float32), mask, tolerance=0) == mask.mean()


def test_measured_on_a_classifier(classifier, spots):
    images, masks = read_squares(spots, 3)
    seen = []
    result = measure_faithfulness(
        classifier, images, masks, rng=np.random.default_rng(0), steps=4, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert result.maps[0] == "class activation"
    assert result.maps[-3:] == (RANDOM, SCATTERED, CENTRE)
    assert len(result.maps) == 8
    assert result.fractions == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert result.deletion.shape == result.insertion.shape == (3, 8, 5)
    for index, image in enumerate(images):
        explanation = explain(classifier, image)
        assert result.classes[index] == explanation.class_name
        # Nothing deleted, and everything inserted, is the picture itself.
        assert result.deletion[index, :, 0] == pytest.approx(explanation.probability, abs=1e-5)
        assert result.insertion[index, :, -1] == pytest.approx(explanation.probability, abs=1e-5)
        flat = np.broadcast_to(np.round(explanation.image.mean((0, 1))), explanation.image.shape).astype(np.uint8)
        blank = explain(classifier, flat, class_name=explanation.class_name).probability
        assert result.deletion[index, :, -1] == pytest.approx(blank, abs=1e-5)
        small = resize(masks[index].astype(np.uint8) * 255, 64, 64) > 127
        assert result.area[index] == pytest.approx(small.mean())
        centre = centre_gaussian(64)
        assert result.inside[index, -1] == pytest.approx(centre[small].sum() / centre.sum(), abs=1e-4)
    assert set(np.unique(result.pointing)) <= {0.0, 0.5, 1.0}


def test_without_masks_and_with_wrong_ones(classifier, spots):
    images, masks = read_squares(spots, 1)
    result = measure_faithfulness(classifier, images, None, rng=np.random.default_rng(0), steps=2)
    assert result.pointing is None
    assert result.inside is None
    assert result.area is None
    with pytest.raises(ValueError, match="1 images and 2"):
        measure_faithfulness(classifier, images, [masks[0]] * 2, rng=np.random.default_rng(0))


def test_the_score_is_the_classifiers_own_probability(classifier, spots):
    images, _ = read_squares(spots, 2)
    picture, _, maps = explaining_maps(classifier, images[0], rng=np.random.default_rng(0))
    score = class_score(classifier, "melanoma")(picture[None])[0]
    single = classifier.predict(images[0], views="single").probabilities["melanoma"]
    assert score == pytest.approx(single, abs=1e-6)
    assert all(values.shape == (64, 64) for values in maps.values())
