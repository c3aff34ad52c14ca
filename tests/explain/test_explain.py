"""Explanations: maps against occlusion and closed forms, masks in the image's geometry, pictures that can be read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pesi.errors import DataError, ImageError
from pesi.explain.localisation import attention_inside, lesion_mask, localise
from pesi.explain.maps import explain
from pesi.explain.overlay import explanation_png


def test_maps_are_densities_in_the_pictures_geometry(classifier, spots):
    explanation = explain(classifier, spots["path"].iloc[0], class_name="melanoma")
    assert explanation.image.shape == (64, 64, 3)
    assert list(explanation.attention) == [f"stage {k}.0" for k in (1, 2, 3, 4)] or list(explanation.attention) == [
        f"stage {k}" for k in (1, 2, 3, 4)
    ]
    for values in (*explanation.attention.values(), explanation.blended):
        assert values.shape == (64, 64)
        assert values.min() >= 0
        assert values.sum() == pytest.approx(1, abs=1e-4)
    assert explanation.cam.shape == (64, 64)


def test_the_default_class_is_the_most_probable(classifier, spots):
    path = spots["path"].iloc[1]
    explanation = explain(classifier, path)
    single = classifier.predict(path, views="single")
    assert explanation.class_name == single.diagnosis
    assert explanation.probability == pytest.approx(single.probabilities[single.diagnosis], abs=1e-6)
    with pytest.raises(DataError, match="melanoma, seborrheic_keratosis, nevus"):
        explain(classifier, path, class_name="BCC")


def test_attention_inside_closed_forms():
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    assert attention_inside(np.ones((10, 10), np.float32), mask) == 0.5
    assert attention_inside(mask.astype(np.float32), mask) == 1.0
    assert attention_inside((~mask).astype(np.float32), mask) == 0.0
    assert attention_inside(np.where(mask, 3.0, 1.0).astype(np.float32), mask) == 0.75
    assert attention_inside(np.where(mask, 1.0, -9.0).astype(np.float32), mask) == 1.0
    assert attention_inside(np.zeros((10, 10), np.float32), mask) == 0.5


def test_masks_follow_the_geometry(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[:, :50] = 255  # the left quarter
    paths = tmp_path / "m.png", tmp_path / "image.png"
    Image.fromarray(mask).save(paths[0])
    Image.new("RGB", (200, 100)).save(paths[1])
    Image.new("RGB", (100, 100)).save(tmp_path / "square.png")
    squeezed = lesion_mask(*paths, size=40, geometry="squeeze")
    assert squeezed[:, :10].all()
    assert not squeezed[:, 10:].any()
    with pytest.raises(ImageError, match="empty"):
        lesion_mask(*paths, size=40, geometry="center_crop")  # the lesion lies outside of the crop
    with pytest.raises(ImageError, match="another shape"):
        lesion_mask(paths[0], tmp_path / "square.png", size=40, geometry="squeeze")
    with pytest.raises(ImageError, match=r"missing\.png"):
        lesion_mask(tmp_path / "missing.png", paths[1], size=40, geometry="squeeze")


def test_localise_gives_a_row_an_image(classifier, spots):
    done: list[int] = []
    shares = localise(classifier, spots.iloc[:4], progress=done.append)
    assert done == [1, 2, 3, 4]
    assert list(shares["image_id"]) == list(spots["image_id"].iloc[:4])
    for image_id, path, area in zip(
        spots["image_id"].iloc[:4], spots["mask_path"].iloc[:4], shares["area"], strict=True
    ):
        assert area == pytest.approx((np.asarray(Image.open(path)) > 0).mean(), abs=0.02), image_id
    assert shares.drop(columns="image_id").to_numpy().min() >= 0
    assert shares.drop(columns="image_id").to_numpy().max() <= 1


def test_the_picture(classifier, spots):
    explanation = explain(classifier, spots["path"].iloc[0])
    mask = lesion_mask(spots["mask_path"].iloc[0], spots["path"].iloc[0], size=64, geometry="squeeze")
    plain = Image.open(io.BytesIO(explanation_png(explanation, title="a title")))
    marked = Image.open(io.BytesIO(explanation_png(explanation, mask=mask, inside={"blended": 0.5})))
    assert plain.format == "PNG"
    assert plain.size[0] > 1000
    assert np.asarray(plain.convert("L")).std() > 20
    assert marked.size[0] == plain.size[0]
