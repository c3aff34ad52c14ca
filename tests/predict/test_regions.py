"""A classifier of the whole image and the lesion: trained, kept, loaded, averaged; the segmenter is a stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pesi.predict.classifier
import pesi.predict.regions
from conftest import TINY
from pesi.cli.explain import draw_explanation
from pesi.decide.calibration import view_probabilities
from pesi.errors import BundleError, DataError
from pesi.explain.localisation import check_whole_image, localise
from pesi.explain.maps import explain
from pesi.images.regions import Seen
from pesi.images.transforms import Geometry, resize
from pesi.predict.classifier import Classifier
from pesi.predict.segmenter import LesionMask
from pesi.taxonomy import TASKS
from pesi.train.folder import RunSettings
from pesi.train.recipe import load_recipe
from pesi.train.run import run_training, start_run


class DarkSpot:
    """Finds what is darker than skin; stands in for the segmenter that ships."""

    def __init__(self, bundle_id: str = "dark@1") -> None:
        self.bundle_id = bundle_id

    def find(self, image: np.ndarray) -> np.ndarray | None:
        mask = image[..., 2] < 110
        return mask if mask.any() else None

    def segment(self, image: np.ndarray) -> LesionMask:
        mask = image[..., 2] < 110
        return LesionMask(mask, mask.astype(np.float32), float(mask.mean()), bool(mask.any()), "")

    def find_seen(self, image: Seen, size: int, geometry: Geometry) -> np.ndarray | None:
        return self.find(image.square(size, geometry))

    def segment_seen(self, image: Seen, height: int, width: int) -> LesionMask:
        return self.segment(resize(image.image, height, width))


def use(monkeypatch: pytest.MonkeyPatch, segmenter: DarkSpot) -> None:
    for module in (pesi.predict.classifier, pesi.predict.regions):
        monkeypatch.setattr(module, "shipped_segmenter", lambda device=None: segmenter)


@pytest.fixture
def bundle(spots, tmp_path, monkeypatch):
    use(monkeypatch, DarkSpot())
    sets = [*TINY, 'picture.regions=["image", "lesion"]', "picture.lesion_margin=0.5", "views=flips4", "epochs=1"]
    sets += ["weights=float16", "select=last"]
    start_run(load_recipe("pesi50", sets), spots, tmp_path, RunSettings(data="spots", threads=1), TASKS["isic2017"])
    run_training(tmp_path, show_progress=False)
    return tmp_path / "bundle"


def test_both_regions_are_seen_and_averaged(bundle, spots, monkeypatch):
    classifier = Classifier.load(bundle, device="cpu")
    assert classifier.config.preprocess.segmenter == "dark@1"
    path = spots["path"].iloc[0]
    squares = classifier.squares(path)
    assert squares.shape == (2, 72, 72, 3)
    # The lesion fills half of its square's side with a margin of half its size; in the image it is smaller.
    dark = [(square[..., 2] < 110).mean() for square in squares]
    assert dark[1] > 1.2 * dark[0]
    logits = classifier.logits([squares])
    assert logits.shape == (1, 8, 3)
    for region in range(2):
        alone = classifier.logits([squares[region : region + 1]])
        np.testing.assert_allclose(logits[:, 4 * region : 4 * region + 4], alone, atol=1e-4)
    expected = view_probabilities(logits.astype(float), "multiclass", classifier.config.temperature.value)[0]
    np.testing.assert_allclose(list(classifier.predict(path).probabilities.values()), expected, atol=1e-6)
    assert len(localise(classifier, spots.iloc[:2])) == 2

    use(monkeypatch, DarkSpot("dark@2"))
    with pytest.raises(BundleError, match=r"made with the segmenter dark@1; dark@2 is here"):
        Classifier.load(bundle)


def test_what_a_classifier_looks_at_changes_no_training(spots, tmp_path, monkeypatch):
    use(monkeypatch, DarkSpot())
    settings = RunSettings(data="spots", threads=1)
    weights, probabilities = [], []
    for name, looks in (("image", "[]"), ("both", '["lesion", "image"]')):
        recipe = load_recipe("pesi50", [*TINY, "epochs=1", f"predict_regions={looks}"])
        start_run(recipe, spots, tmp_path / name, settings, TASKS["isic2017"])
        run_training(tmp_path / name, show_progress=False)
        weights.append((tmp_path / name / "bundle" / "model.safetensors").read_bytes())
        probabilities.append((tmp_path / name / "predictions" / "val.csv").read_text())
    assert weights[0] == weights[1]
    assert probabilities[0] != probabilities[1]
    both = Classifier.load(tmp_path / "both" / "bundle", device="cpu")
    assert both.config.preprocess.regions == ("lesion", "image")
    path = spots[spots["split"] == "val"]["path"].iloc[0]
    expected = [float(value) for value in probabilities[1].splitlines()[1].split(",")[1:]]
    np.testing.assert_allclose(list(both.predict(path).probabilities.values()), expected, atol=1e-5)


def test_float16_bundle_is_half_as_large_and_scored_as_stored(bundle, tiny_run, spots):
    half, full = ((b / "model.safetensors").stat().st_size for b in (bundle, tiny_run / "bundle"))
    assert half < 0.51 * full
    classifier = Classifier.load(bundle, device="cpu")
    saved = (bundle.parent / "predictions" / "val.csv").read_text().splitlines()[1].split(",")
    record = spots[spots["image_id"] == saved[0]].iloc[0]
    again = classifier.predict(record["path"]).probabilities
    np.testing.assert_allclose([float(v) for v in saved[1:]], list(again.values()), atol=1e-5)


def test_masks_do_not_fit_a_classifier_of_the_lesion_alone(bundle):
    classifier = Classifier.load(bundle, device="cpu")
    alone = classifier.config.preprocess.model_copy(update={"regions": ("lesion",)})
    lesion_only = Classifier(classifier.config.with_preprocess(alone), classifier.network)
    with pytest.raises(DataError, match="square around the lesion"):
        check_whole_image(lesion_only)


def test_the_picture_explains_what_is_looked_at(bundle, spots, tmp_path):
    classifier = Classifier.load(bundle, device="cpu")
    path = Path(spots["path"].iloc[0])
    both = draw_explanation(classifier, path, tmp_path / "both.png", class_name="nevus")
    alone = classifier.config.preprocess.model_copy(update={"regions": ("image",)})
    whole = Classifier(classifier.config.with_preprocess(alone), classifier.network, device="cpu")
    draw_explanation(whole, path, tmp_path / "whole.png", class_name="nevus")
    sizes = [Image.open(tmp_path / f"{name}.png").size for name in ("both", "whole")]
    assert sizes[0] == (sizes[1][0], 2 * sizes[1][1])
    assert both.probability == classifier.predict(path, gates=False).probabilities["nevus"]
    lesion = explain(classifier, path, region=1)
    np.testing.assert_array_equal(lesion.image, explain(whole, classifier.squares(path)[1]).image)
