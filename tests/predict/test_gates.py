"""No result: an image of poor quality, or unlike those learned from, gives its reason and no probability."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from PIL import Image

from pesi.predict.classifier import Classifier
from pesi.predict.tables import read_predictions, write_predictions

BLACK = np.zeros((200, 200, 3), np.uint8)


def test_a_black_picture_gives_no_result(classifier):
    prediction = classifier.predict(BLACK)
    assert "too dark" in prediction.no_result
    assert prediction.triage is None
    assert prediction.triage_reason == "no result"
    assert prediction.diagnosis is None
    assert prediction.most_probable in prediction.probabilities
    levels = {verdict.check: verdict.level for verdict in prediction.verdicts}
    assert levels["dark"] == "refuse"
    assert levels["bright"] == "ok"
    assert "novelty" in levels


def test_without_the_gates_it_is_answered_as_ever(classifier):
    free, gated = classifier.predict(BLACK, gates=False), classifier.predict(BLACK)
    assert free.no_result == ""
    assert free.verdicts == ()
    assert free.diagnosis == max(free.probabilities, key=free.probabilities.get)
    assert free.triage is not None
    assert free.probabilities == gated.probabilities


def test_novelty_alone_refuses(classifier):
    """With a threshold of almost nothing everything is new; without statistics nothing is."""
    strict = classifier.config.model_copy(
        update={"novelty": classifier.config.novelty.model_copy(update={"threshold": 1e-9})}
    )
    picture = np.full((200, 200, 3), 128, np.uint8)
    assert (
        "does not look at all like"
        in Classifier(strict, classifier.network, classifier.novelty).predict(picture).no_result
    )
    assert "does not look at all like" not in Classifier(strict, classifier.network).predict(picture).no_result


def test_every_output_leaves_the_probabilities_out(classifier, spots, tmp_path):
    Image.fromarray(BLACK).save(tmp_path / "black.png")
    paths = [tmp_path / "black.png", spots["path"].iloc[0]]
    results = list(classifier.predict_many(paths))
    write_predictions(tmp_path / "out.csv", results)
    frame = pd.read_csv(tmp_path / "out.csv").set_index("image")
    assert frame.loc["black", ["melanoma", "seborrheic_keratosis", "nevus"]].isna().all()
    assert "too dark" in frame.loc["black", "no_result"]
    read = read_predictions(tmp_path / "out.csv")
    assert "too dark" in read.no_result["black"]
    assert "black" not in set(read.table["image_id"])
    write_predictions(tmp_path / "out.json", results)
    entry = json.loads((tmp_path / "out.json").read_text())[0]
    assert "too dark" in entry["no_result"]
    assert {verdict["check"] for verdict in entry["verdicts"]} >= {"dark", "sharpness", "novelty"}


def test_a_prediction_tells_its_uncertainty_and_sets(classifier, spots):
    prediction = classifier.predict(spots["path"].iloc[0])
    assert prediction.uncertainty.samples == 4
    assert 0 <= prediction.uncertainty.mutual_information <= prediction.uncertainty.total <= 1
    assert set(prediction.sets) == {"0.90", "0.95"}
    assert set(prediction.sets["0.90"]) <= set(prediction.sets["0.95"]) <= set(prediction.probabilities)
    for name, (low, high) in prediction.uncertainty.range.items():
        assert low <= prediction.probabilities[name] <= high
