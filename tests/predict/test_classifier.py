"""The classifier: one image or many, files or pixels, the same answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.errors import ChoiceError
from pesi.images.views import VIEWS, cut_views
from pesi.predict.prediction import Prediction, Refusal


def test_it_learned_the_spots(classifier, spots):
    """And its probabilities are the run's own predictions of the validation images."""
    validation = spots[spots["split"] == "val"]
    results = list(classifier.predict_many(validation["path"]))
    hits = [classifier.task.class_of(d) for d in validation["diagnosis"]]
    called = [classifier.task.class_names.index(r.most_probable) for r in results]
    assert np.mean(np.equal(hits, called)) > 0.6


def test_run_and_classifier_agree(classifier, spots, tiny_run):
    stored = pd.read_csv(tiny_run / "predictions" / "val.csv").set_index("image_id")
    for path in spots[spots["split"] == "val"]["path"]:
        prediction = classifier.predict(path)
        for name, value in prediction.probabilities.items():
            assert stored.loc[prediction.image_id, name] == pytest.approx(value, abs=1e-5)


def test_file_bytes_and_pixels_agree(classifier, spots):
    path = spots["path"].iloc[0]
    pixels = np.asarray(Image.open(path).convert("RGB"))
    results = [classifier.predict(source) for source in (path, Path(path).read_bytes(), pixels)]
    for result in results[1:]:
        assert result.probabilities == results[0].probabilities
    assert results[0].image_id == "train_000"
    assert sum(results[0].probabilities.values()) == pytest.approx(1)
    assert results[0].malignant == pytest.approx(results[0].probabilities["melanoma"])
    assert results[0].bundle_id == classifier.config.answer_id
    assert results[0].bundle_id.startswith(classifier.config.bundle_id)
    assert results[0].triage in {level.level for level in classifier.config.triage}
    assert f"{results[0].malignant:.3f}" in results[0].triage_reason


def test_a_bad_file_is_refused_and_the_rest_is_done(classifier, spots, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    paths = [spots["path"].iloc[0], bad, spots["path"].iloc[1]]
    results = list(classifier.predict_many(paths, batch_size=2))
    assert [type(r) for r in results] == [Prediction, Refusal, Prediction]
    assert results[1].path == str(bad)
    assert results[1].reason
    alone = classifier.predict(paths[2])
    for name, value in alone.probabilities.items():
        assert results[2].probabilities[name] == pytest.approx(value, abs=1e-5)


def test_views_are_averaged(classifier, spots):
    squares = classifier.squares(spots["path"].iloc[0])
    assert squares.shape == (1, 72, 72, 3)
    logits = classifier.logits([squares], "flips4")[0]
    flipped = [squares, squares[:, ::-1], squares[:, :, ::-1], squares[:, ::-1, ::-1]]
    alone = [classifier.logits([np.ascontiguousarray(s)], "single")[0, 0] for s in flipped]
    np.testing.assert_allclose(logits, alone, atol=1e-4)
    with pytest.raises(ChoiceError, match="Choose one of: single"):
        classifier.predict(spots["path"].iloc[0], views="none")


def test_many_views_take_several_passes(classifier, spots):
    """More pictures than go through the network at once: each image has its own answer still."""
    squares = [classifier.squares(path) for path in spots["path"].iloc[:5]]
    together = classifier.outputs(squares, "flips4")
    assert together.logits.shape[:2] == (5, 4)
    for number, one in enumerate(squares):
        alone = classifier.outputs([one], "flips4")
        np.testing.assert_allclose(together.logits[number], alone.logits[0], atol=1e-4)
        np.testing.assert_allclose(together.features[number], alone.features[0], atol=1e-4)


def test_views_cut_what_they_say():
    square = np.arange(100 * 100 * 3, dtype=np.int64).reshape(100, 100, 3).astype(np.uint8)
    for views in VIEWS.values():
        assert all(cut.shape == (64, 64, 3) for cut in cut_views(square, views, 64))
    assert len(VIEWS["grid9"]) == 9
    np.testing.assert_array_equal(cut_views(square, VIEWS["grid9"], 80)[0], square[:80, :80])
    np.testing.assert_array_equal(cut_views(square, VIEWS["grid9"], 80)[8], square[20:, 20:])
