"""A bundle of folds, measured and fitted on images that made it: each answered by the networks that did not see it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

import pesi
from conftest import FOLDS
from pesi.bundle.config import read_config
from pesi.cli.app import app
from pesi.decide.calibration import fit_temperature
from pesi.decide.novelty import fit_novelty
from pesi.evaluate.answer_change import single_view_probabilities
from pesi.evaluate.audit.calibration import METHODS, calibration_section
from pesi.evaluate.audit.claims import claims
from pesi.evaluate.audit.data import AuditData, AuditOptions, read_audit_data
from pesi.evaluate.audit.description import _retrieval
from pesi.evaluate.audit.uncertainty import uncertainty_section
from pesi.evaluate.scoring import predicted_table
from pesi.evaluate.stress import maps_of
from pesi.explain.maps import explain
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Prediction
from pesi.predict.predictions import probability_table

SAID = "24 of the {} images are of the folds that made several-multiclass: each is answered by the networks that have"


@pytest.fixture(scope="module")
def expected(several: Classifier, spots: pd.DataFrame) -> pd.DataFrame:
    """Every image's probabilities, each fold by the classifier of its networks."""
    folds = {**dict.fromkeys(FOLDS[0], 0), **dict.fromkeys(FOLDS[1], 1)}
    rows: list[Prediction] = []
    for fold in (0, 1, None):
        own = spots[spots["image_id"].map(lambda image_id, fold=fold: folds.get(image_id) == fold)]
        rows += several.of_fold(fold).predict_many(own["path"], image_ids=own["image_id"], gates=False)
    return probability_table(rows).set_index("image_id").loc[list(spots["image_id"])]


@pytest.fixture(scope="module")
def data(several: Classifier, spots: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> AuditData:
    return read_audit_data(several, spots, "spots", cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def spots_csv(spots: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "spots.csv"
    spots.to_csv(path, index=False)
    return path


def test_evaluate_answers_out_of_fold(several: Classifier, spots: pd.DataFrame, expected: pd.DataFrame) -> None:
    table = predicted_table(several, spots).set_index("image_id")
    np.testing.assert_allclose(table[list(expected)].to_numpy(), expected.to_numpy(), atol=1e-6)
    scores = pesi.evaluate(several, spots, split="train", replicates=20)
    part = expected.loc[[image_id for image_id in expected.index if image_id.startswith("train")]]
    labels = spots.set_index("image_id").loc[part.index, "diagnosis"] == "MEL"
    assert scores.to_dict()["tasks"]["melanoma"]["auc"] == pytest.approx(roc_auc_score(labels, part["melanoma"]))


def test_the_command_says_so(several_folder: Path, spots_csv: Path, expected: pd.DataFrame, tmp_path: Path) -> None:
    options = ["--data", str(spots_csv), "--split", "all", "--out", str(tmp_path / "scores"), "--replicates", "100"]
    done = CliRunner().invoke(app, ["evaluate", "--bundle", str(several_folder), *options, "--no-attention"])
    assert done.exit_code == 0, done.output
    assert SAID.format(36) in done.stderr
    written = pd.read_csv(tmp_path / "scores" / "predictions.csv").set_index("image_id")
    np.testing.assert_allclose(written.loc[expected.index, list(expected)].to_numpy(), expected.to_numpy(), atol=1e-5)
    report = (tmp_path / "scores" / "report.html").read_text()
    assert "4 networks (pesi_lite0)" in report
    assert "24 of the images, each answered by the networks that have not seen it" in report


def test_an_audit_reads_out_of_fold_answers(several: Classifier, data: AuditData, expected: pd.DataFrame) -> None:
    np.testing.assert_allclose(data.probabilities, expected.to_numpy(), atol=1e-6)
    folds = [0] * len(FOLDS[0]) + [1] * len(FOLDS[1]) + [-1] * 12
    assert data.made_fold.tolist() == folds
    part = data.take(np.array([1, 20, 30]))
    assert part.made_fold.tolist() == [0, 1, -1]
    assert part.novelty is not None
    one_view = single_view_probabilities(several, part.images, part.made_fold)
    for row, fold in enumerate((0, 1, None)):
        alone = several.of_fold(fold).predict(part.images[row], views="single", gates=False).probabilities
        assert one_view[row] == pytest.approx([*alone.values()], abs=1e-6)
    called = np.array([0, 1, 2])
    for row, maps in enumerate(maps_of(several, part.images, called, part.made_fold)):
        own = several.of_fold((0, 1, None)[row])
        explanation = explain(own, part.images[row], class_name=several.config.outputs[called[row]])
        np.testing.assert_allclose(maps.cam, explanation.cam, atol=1e-4)


def test_sections_say_what_several_networks_are(several: Classifier, data: AuditData) -> None:
    options = AuditOptions(replicates=20, folds=3)
    found = calibration_section(data, several, options=options)
    assert "each network calibrated by itself" in found.tables
    assert METHODS["none"] not in found.tables
    uncertain = uncertainty_section(data, several, options=options)
    assert uncertain.values["networks"] == 4
    assert uncertain.values["views"] == 16
    assert "shared by the networks and views" in uncertain.tables
    assert "4 networks see crops and flips of one picture" in re.sub(r"\\s+", " ", uncertain.method)
    texts = [claim.measured for claim in claims(several, data.take(np.arange(3)), [found])]
    (counted,) = (text for text in texts if "parameters" in text)
    assert counted.startswith("The first of 4 networks: ")


def test_similar_images_are_looked_for_among_those_of_the_same_networks(data: AuditData) -> None:
    """Images of another fold have features of other networks: were these compared, a shift of them would be seen."""
    found = _retrieval(data, 1)
    moved = data.features.copy()
    moved[data.made_fold == 1] = moved[data.made_fold == 1][:, ::-1]
    again = _retrieval(replace(data, features=moved), 1)
    assert {name: value.share for name, value in found.items()} == {name: value.share for name, value in again.items()}


def test_calibrate_sets_everything_on_out_of_fold_answers(
    several: Classifier, several_folder: Path, spots_csv: Path, spots: pd.DataFrame, tmp_path: Path
) -> None:
    options = ["--data", str(spots_csv), "--split", "all", "--known", "train", "--out", str(tmp_path / "new")]
    done = CliRunner().invoke(app, ["calibrate", str(several_folder), *options, "--no-progress"])
    assert done.exit_code == 0, done.output
    assert SAID.format(36) in done.stderr
    before, after = read_config(several_folder), read_config(tmp_path / "new")
    assert after.members == before.members
    assert after.bundle_id == before.bundle_id
    squares = [several.squares(path) for path in spots["path"]]
    outputs = several.outputs(squares, folds=several.folds_of(list(spots["image_id"])))
    targets = np.column_stack([spots["diagnosis"] == code for code in ("MEL", "SK", "NV")]).astype(float)
    fitted = fit_temperature(outputs.logits.astype(float), targets, "multiclass", on="spots")
    assert after.temperature.value == pytest.approx(fitted.value, rel=1e-3)
    # What is new to a network is told by what it gives for the images itself, not by its place in an answer.
    opened = Classifier.load(tmp_path / "new", device="cpu")
    features = several.outputs(squares[:24]).features
    for index in (0, 1):
        statistics = fit_novelty(features[:, index])
        np.testing.assert_allclose(opened.novelty[index].mean, statistics.mean, rtol=1e-3, atol=1e-5)
    assert opened.novelty[2:] == (None, None)
