"""Stress tests: against scikit-learn, scipy and `explain`, and on a network that is known to read the spot only."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from conftest import write_spots
from pesi.decide.operating import Threshold
from pesi.evaluate import stress
from pesi.evaluate.answer_change import call_threshold, compare_answers, single_view_probabilities
from pesi.evaluate.stress import Maps, maps_of, mass_on, stress_test
from pesi.explain.localisation import attention_inside
from pesi.explain.maps import explain
from pesi.images.masks import LESION_ABOVE, read_mask_square
from pesi.images.perturb import PERTURBATIONS, Perturbation, Perturbed
from pesi.images.regions import WholeImage, read_region

NAMES = {each.name: each for each in PERTURBATIONS}


def arrays(classifier, records):
    """Images (N, 72, 72, 3), masks and classes of spots."""
    preprocess = classifier.config.preprocess
    size, geometry = preprocess.source_size, preprocess.geometry
    pairs = list(zip(records["mask_path"], records["path"], strict=True))
    images = np.stack([read_region(path, WholeImage(size, geometry)) for _, path in pairs])
    masks = np.stack([read_mask_square(mask, path, size, geometry) > LESION_ABOVE for mask, path in pairs])
    return images, masks, np.array([classifier.task.class_of(code) for code in records["diagnosis"]])


@pytest.fixture
def squares(classifier, spots):
    """Those of the twelve validation spots."""
    return arrays(classifier, spots[spots["split"] == "val"])


def with_threshold(classifier, value: float):
    """The classifier with one threshold on melanoma."""
    threshold = Threshold(
        name="sensitivity_0.90", class_name="melanoma", value=value, sensitivity=0.9, specificity=0.5, how="by hand"
    )
    classifier.config = classifier.config.model_copy(update={"thresholds": (threshold,)})
    return classifier


def test_one_view_is_what_predict_gives(classifier, squares):
    images, _, _ = squares
    together = single_view_probabilities(classifier, images)
    for image, row in zip(images, together, strict=True):
        alone = classifier.predict(image, views="single").probabilities
        assert row == pytest.approx(list(alone.values()), abs=1e-5)


def test_answers_are_compared_as_scikit_learn_and_scipy_do(classifier):
    classifier = with_threshold(classifier, 0.4)
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 90)
    before = rng.dirichlet(np.ones(3), 90)
    before[np.arange(90), classes] += 0.5
    before /= before.sum(1, keepdims=True)
    after = 0.5 * before + 0.5 * rng.dirichlet(np.ones(3), 90)
    change = compare_answers(classifier, classes, before, after, replicates=400, rng=np.random.default_rng(1))
    areas = {}
    for name in ("melanoma", "seborrheic_keratosis"):
        column = classifier.config.outputs.index(name)
        truth = classes == classifier.task.class_names.index(name)
        areas[name] = roc_auc_score(truth, before[:, column]), roc_auc_score(truth, after[:, column])
        found = change.auc[name]
        assert (found.before.value, found.after.value) == pytest.approx(areas[name])
        assert found.change.value == pytest.approx(areas[name][1] - areas[name][0])
        assert found.change.low < found.change.value < found.change.high
        # Paired: narrower than if the two were drawn apart.
        apart = np.hypot(found.before.high - found.before.low, found.after.high - found.after.low)
        assert found.change.high - found.change.low < apart
    assert change.auc["mean"].after.value == pytest.approx(np.mean([pair[1] for pair in areas.values()]))
    flipped = int((before.argmax(1) != after.argmax(1)).sum())
    interval = binomtest(flipped, 90).proportion_ci(method="wilson")
    assert change.class_flips.count == flipped
    assert change.class_flips.interval == pytest.approx((interval.low, interval.high))
    melanoma = classifier.config.outputs.index("melanoma")
    calls = (before[:, melanoma] >= 0.4) != (after[:, melanoma] >= 0.4)
    assert (change.call_flips.count, change.call_flips.of) == (int(calls.sum()), 90)
    assert change.malignant_shift.value == pytest.approx((after - before)[:, melanoma].mean())
    assert change.malignant_shift.low < change.malignant_shift.value < change.malignant_shift.high


def test_the_call_is_the_malignant_threshold_next_to_090(classifier):
    def threshold(name: str, class_name: str, sensitivity: float) -> Threshold:
        return Threshold(
            name=name, class_name=class_name, value=0.1, sensitivity=sensitivity, specificity=0.5, how="by hand"
        )

    thresholds = (
        threshold("sensitivity_0.90", "nevus", 0.90),
        threshold("sensitivity_0.80", "melanoma", 0.80),
        threshold("sensitivity_0.90", "melanoma", 0.92),
        threshold("specificity_0.95", "melanoma", 0.90),
    )
    classifier.config = classifier.config.model_copy(update={"thresholds": thresholds})
    assert call_threshold(classifier) == thresholds[2]
    classifier.config = classifier.config.model_copy(update={"thresholds": thresholds[:1]})
    assert call_threshold(classifier) is None


def test_an_unchanged_image_changes_nothing(classifier, squares):
    images, masks, classes = squares
    same = Perturbation(
        "same", "paste", "Nothing.", lambda image, mask, rng: Perturbed(image.copy(), image[..., 0] > 99)
    )
    (result,) = stress_test(classifier, images, classes, masks=masks, perturbations=[same], replicates=50)
    assert result.images == len(images)
    assert result.answers.class_flips.count == 0
    for change in result.answers.auc.values():
        assert (change.change.value, change.change.low, change.change.high) == pytest.approx((0, 0, 0), abs=1e-12)
    for estimate in (result.answers.malignant_shift, result.cam_mass.shift, result.attention_mass.shift):
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((0, 0, 0), abs=1e-5)


def test_a_network_that_reads_the_spot_knows_nothing_once_it_is_hidden(classifier, tmp_path):
    images, masks, classes = arrays(classifier, write_spots(tmp_path, train=0, val=90, seed=9))
    chosen = [NAMES["lesion replaced by skin"], NAMES["rotated 90 degrees"]]
    hidden, turned = stress_test(classifier, images, classes, masks=masks, perturbations=chosen, replicates=200)
    mean = hidden.answers.auc["mean"]
    assert mean.before.value > 0.9
    assert mean.change.high < 0
    assert mean.after.low <= 0.5 <= mean.after.high
    assert turned.answers.auc["mean"].after.value > 0.9
    assert hidden.cam_mass is None


def test_what_cannot_be_made_is_counted(classifier, squares):
    images, masks, classes = squares
    has_mask = np.arange(len(images)) >= 5
    chosen = [NAMES["lesion blackened"], NAMES["dark corners removed"], NAMES["ruler pasted"]]
    black, corners, ruler = stress_test(
        classifier, images, classes, masks=masks, has_mask=has_mask, perturbations=chosen, replicates=20
    )
    assert (black.images, black.without_mask, black.nothing_to_change) == (len(images) - 5, 5, 0)
    assert (corners.images, corners.without_mask, corners.nothing_to_change) == (0, 0, len(images))
    assert corners.answers is None
    assert ruler.images + ruler.nothing_to_change == len(images)
    for result in (black, corners, ruler):
        json.dumps(result.to_dict(), allow_nan=False)


def test_a_result_does_not_depend_on_the_other_perturbations(classifier, squares):
    images, masks, classes = squares
    ruler, ink = NAMES["ruler pasted"], NAMES["ink pasted"]
    alone = stress_test(classifier, images, classes, masks=masks, perturbations=[ink], replicates=20)[0]
    second = stress_test(classifier, images, classes, masks=masks, perturbations=[ruler, ink], replicates=20)[1]
    assert np.array_equal(alone.answers.after, second.answers.after)
    other = stress_test(classifier, images, classes, masks=masks, perturbations=[ink], replicates=20, seed=1)[0]
    assert not np.array_equal(alone.answers.after, other.answers.after)


def test_maps_agree_with_explain(classifier, squares):
    images, _, _ = squares
    names = classifier.config.outputs
    called = np.arange(len(images)) % len(names)
    for image, index, maps in zip(
        images, called, maps_of(classifier, images, called, np.full(len(images), -1)), strict=True
    ):
        explanation = explain(classifier, image, class_name=names[index])
        assert maps.cam == pytest.approx(explanation.cam, abs=1e-4)
        attention = np.mean(list(explanation.attention.values()), axis=0)
        assert maps.attention == pytest.approx(attention, rel=1e-3, abs=1e-8)


def test_mass_on_an_artefact():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 20)).astype(np.float32)
    mask = rng.random((20, 20)) < 0.3
    assert mass_on(values, mask.astype(float)) == pytest.approx(attention_inside(values, mask))
    assert mass_on(np.ones((4, 4), np.float32), np.full((4, 4), 0.25)) == pytest.approx(0.25)
    assert mass_on(np.full((4, 4), -1, np.float32), np.eye(4)) == pytest.approx(0.25)


def test_activation_moves_onto_what_the_maps_mark(classifier, squares, monkeypatch):
    """Spots of the called class's colour pasted beside the lesion draw to themselves maps that mark that colour."""
    images, masks, classes = squares
    spot_of = {
        int(k): np.median(np.concatenate([images[i][masks[i]] for i in np.flatnonzero(classes == k)]), axis=0)
        for k in np.unique(classes)
    }

    def marked(image, colour):
        return np.exp(-np.linalg.norm(image - colour, axis=2) / 20).astype(np.float32)

    def colour_of(image, mask):
        lesion = np.median(image[mask], axis=0)
        return min(spot_of.values(), key=lambda value: float(np.linalg.norm(value - lesion)))

    def paste(image, mask, rng):
        layer = cv2.circle(np.zeros(image.shape[:2], np.uint8), (17, 17), 16, 1, -1) > 0
        changed = layer & ~mask
        result = image.copy()
        result[changed] = colour_of(image, mask).astype(np.uint8)
        return Perturbed(result, changed)

    def maps_of_colours(classifier, images, called, made_fold):
        for image, output in zip(images, called, strict=True):
            yield Maps(marked(image, spot_of[int(output)]), None)

    monkeypatch.setattr(stress, "maps_of", maps_of_colours)
    pasted = Perturbation("spot", "paste", "A spot of the same colour in a corner.", paste)
    (result,) = stress_test(classifier, images, classes, masks=masks, perturbations=[pasted], replicates=200)
    assert result.attention_mass is None
    called = single_view_probabilities(classifier, images).argmax(1)
    expected = []
    for image, mask, output in zip(images, masks, called, strict=True):
        made = paste(image, mask, None)
        before, after = (marked(each, spot_of[int(output)]) for each in (image, made.image))
        expected.append([each[made.changed].sum() / each.sum() for each in (before, after)])
    assert (result.cam_mass.before, result.cam_mass.after) == pytest.approx(tuple(np.mean(expected, axis=0)), rel=1e-3)
    assert result.cam_mass.area == pytest.approx(797 / 72**2, rel=0.15)  # but for the lesion
    assert result.cam_mass.shift.value == pytest.approx(result.cam_mass.after - result.cam_mass.before)
    assert result.cam_mass.shift.low > 0
