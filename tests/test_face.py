"""The package's face: the few names that most people need, each the same as what lies beneath it."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import pesi
from pesi.explain import maps
from pesi.images.decode import decode_image
from pesi.predict.segmenter import shipped_segmenter


def test_the_face_is_light_and_whole():
    """`import pesi` loads no torch, and every name that it promises is there."""
    code = (
        "import sys, pesi; heavy = {'torch', 'pandas', 'cv2', 'numpy'} & set(sys.modules); assert not heavy, heavy;"
        "assert set(pesi.__all__) <= set(dir(pesi)); assert all(callable(getattr(pesi, name)) or name == '__version__'"
        " for name in pesi.__all__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'wheel'"):
        _ = pesi.wheel


def test_rooms_can_be_called_and_are_rooms_still():
    import pesi.evaluate.evaluation
    import pesi.explain.maps as same

    assert same is maps is pesi.explain.maps
    assert inspect.ismodule(pesi.evaluate)
    assert list(inspect.signature(pesi.explain).parameters)[:2] == ["image", "classifier"]
    assert list(inspect.signature(pesi.evaluate).parameters)[:2] == ["bundle_or_predictions", "data"]


def test_explain(classifier, tiny_run, spots):
    path = spots["path"].iloc[0]
    expected = maps.explain(classifier, path, class_name="nevus")
    for opened in (classifier, tiny_run / "bundle"):
        found = pesi.explain(path, opened, class_name="nevus", device="cpu")
        np.testing.assert_allclose(found.cam, expected.cam, atol=1e-5)
        assert found.class_name == "nevus"
    assert pesi.explain(decode_image(path), device="cpu").image.shape == (192, 192, 3)


def test_segment(spots):
    path = spots["path"].iloc[0]
    expected = shipped_segmenter().segment(decode_image(path))
    for segmenter in (None, shipped_segmenter(), "lesion-segmenter"):
        np.testing.assert_array_equal(pesi.segment(path, segmenter).mask, expected.mask)


def test_evaluate_a_bundle_or_what_it_predicted(classifier, tiny_run, spots, tmp_path):
    """Whatever it is given, the scores are the same, and the AUC is scikit-learn's."""
    from sklearn.metrics import roc_auc_score

    few = {"replicates": 100}
    expected = pesi.evaluate(classifier, spots, **few).to_dict()
    validation = spots[spots["split"] == "val"]
    predictions = classifier.predict(list(validation["path"]), gates=False)
    table = predictions.to_frame().rename(columns={"image": "image_id"})[["image_id", *classifier.config.outputs]]
    truth = validation["diagnosis"] == "MEL"
    assert expected["tasks"]["melanoma"]["auc"] == pytest.approx(roc_auc_score(truth, table["melanoma"]), abs=1e-9)
    predictions.to_frame().to_csv(tmp_path / "p.csv", index=False)
    spots.to_csv(tmp_path / "data.csv", index=False)
    for given in (tiny_run / "bundle", predictions, table, tmp_path / "p.csv"):
        found = pesi.evaluate(given, spots, device="cpu", **few).to_dict()
        assert found["mean_auc"] == pytest.approx(expected["mean_auc"], abs=1e-6)
        assert found["images"] == 12
    assert pesi.evaluate(table, tmp_path / "data.csv", **few).to_dict()["mean_auc"] == pytest.approx(
        expected["mean_auc"], abs=1e-6
    )
    with pytest.raises(pesi.DataError, match="1 images have no prediction"):
        pesi.evaluate(table.iloc[1:], spots, **few)
    with pytest.raises(pesi.PesiError, match="no operating point 'none'"):
        pesi.evaluate(classifier, spots, operating_point="none", **few)
    with pytest.raises(pesi.DataError, match="Unknown split"):
        pesi.evaluate(table, spots, split="half", **few)


def test_read_dataset(spots, tmp_path):
    spots.to_csv(tmp_path / "data.csv", index=False)
    assert isinstance(pesi.read_dataset(tmp_path / "data.csv"), pd.DataFrame)
    assert len(pesi.read_dataset(str(tmp_path / "data.csv"))) == len(spots)
