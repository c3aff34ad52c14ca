"""Classifiers where it is hard: against scikit-learn and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from robustness import answers, change_text, changed, mean_auc, recalibrated, share_difference, with_artefact
from sklearn.metrics import roc_auc_score

from pesi.datasets.artefact_labels import ARTEFACTS
from pesi.errors import DataError
from pesi.evaluate.audit.data import AuditData, read_audit_data
from pesi.predict.classifier import Classifier
from pesi.predict.members import Outputs

DRAWING = {"replicates": 300, "seed": 0}


@pytest.fixture
def data(classifier: Classifier, spots: pd.DataFrame) -> AuditData:
    return read_audit_data(classifier, spots, "spots")


def test_the_mean_auc_is_that_of_scikit_learn(data):
    rng = np.random.default_rng(0)
    a, b = rng.random((2, len(data), 3))
    names = ("melanoma", "seborrheic_keratosis")
    columns = [data.task.class_names.index(name) for name in names]
    at = np.flatnonzero(rng.random(len(data)) < 0.8)
    result = mean_auc(data, a[at], b[at], at=at, **DRAWING)
    for score, values in ((result.a, a), (result.b, b)):
        areas = [roc_auc_score(data.labels(n)[at], values[at, c]) for n, c in zip(names, columns, strict=True)]
        assert score == pytest.approx(np.mean(areas))
    assert result.interval[0] < result.difference < result.interval[1]


def test_a_difference_of_shares():
    a, b = np.repeat([True, False], 100), np.tile([True, False, False, False], 50)
    result = share_difference(a, b, np.zeros(200), **DRAWING)
    assert (result.a, result.b, result.difference) == (0.5, 0.25, 0.25)
    # Of independent pairs: sqrt of the two binomial variances.
    half = 1.96 * np.sqrt(0.25 / 200 + 0.1875 / 200)
    np.testing.assert_allclose(result.interval, (0.25 - half, 0.25 + half), atol=0.03)
    assert result.shown
    assert not share_difference(a, a, np.zeros(200), **DRAWING).shown


def test_artefacts_are_those_that_people_labelled(data, tmp_path):
    rng = np.random.default_rng(1)
    a, b = rng.random((2, len(data), 3))
    assert list(with_artefact(data, a, b)) == []  # nobody labelled them
    records = data.records.assign(path=[str(tmp_path / f"{i}.png") for i in data.records["image_id"]])
    labels = pd.DataFrame(0, index=data.records["image_id"], columns=list(ARTEFACTS))
    labels["ruler"] = 1
    labels.iloc[:4, labels.columns.get_loc("ink")] = 1  # too few to compare
    labels.to_csv(tmp_path / "artefacts.csv")
    labelled = AuditData(**{**vars(data), "records": records})
    (row,) = with_artefact(labelled, a, b)
    assert row[:2] == ("ruler", len(data))
    column = data.task.class_names.index("melanoma")
    assert row[2].a == pytest.approx(roc_auc_score(data.labels("melanoma"), a[:, column]))


def test_a_classifier_is_as_robust_as_itself(data, classifier):
    few = data.take(data.sample(12, 0))
    rows = list(changed(few, (classifier, classifier), **DRAWING))
    assert {perturbation.group for perturbation, *_ in rows} >= {"paste"}
    for _, (_, count, share), area in rows:
        assert 0 < count <= 12
        assert share.difference == 0
        assert share.interval == (0, 0)
        assert area is None or area[2].difference == 0


def test_the_same_copies_change_nothing(classifier: Classifier, spots: pd.DataFrame) -> None:
    val = spots[spots["split"] == "val"]
    text = change_text(classifier, val, val.iloc[::-1], replicates=50)
    assert text.startswith("12 images; ")
    assert "another most probable diagnosis: 0, 0.000" in text
    assert text.count("+0.000 (+0.000 to +0.000)") == 3


def test_other_pictures_of_the_same_ids_change_answers(
    classifier: Classifier, spots: pd.DataFrame, tmp_path: Path
) -> None:
    val = spots[spots["split"] == "val"].reset_index(drop=True)
    paths = []
    for index, name in enumerate(val["image_id"]):
        paths.append(str(tmp_path / f"{name}.png"))
        source = val["path"].iloc[(index + 1) % len(val)]  # another class's: the answers move on with it
        Image.open(source).resize((144, 144)).save(paths[-1])
    other = val.assign(path=paths)
    before, after = (answers(classifier, table).argmax(1) for table in (val, other))
    changed = int((before != after).sum())
    assert changed > 0
    text = change_text(classifier, val, other, replicates=50)
    assert f"another most probable diagnosis: {changed}, {changed / 12:.3f}" in text
    with pytest.raises(DataError, match="share no labelled image"):
        change_text(classifier, val, spots[spots["split"] == "train"], replicates=50)


def test_sets_of_a_recalibrated_bundle_hold_what_they_promise_on_another_source(classifier):
    """Against what the theory says of exchangeable images: rank / (n + 1) of each class on average."""
    rng = np.random.default_rng(0)
    classes = rng.choice(3, 900, p=[0.3, 0.3, 0.4])
    logits = (rng.normal(size=(900, 1, 3)) + 1.5 * np.eye(3)[classes][:, None]).astype(np.float32)
    outputs = Outputs(logits, np.zeros((900, 1, 1), np.float32), np.zeros((900, 1), np.int64))
    config = classifier.config.model_copy(update={"novelty": None})
    found = recalibrated(config, outputs, classes, fitted=150, draws=12, seed=1)
    assert [each.wanted for each in found] == ["0.90", "0.95"]
    for each in found:
        for name in each.means:
            # Between the promise and one image of a class more, give or take the draws' own spread.
            spread = 3 * max(each.deviations[name], 0.01) / np.sqrt(12)
            assert float(each.wanted) - spread <= each.means[name] <= float(each.wanted) + 1 / 30 + spread
    assert 1 <= found[0].size <= found[1].size <= 3
    with pytest.raises(DataError, match="too few"):
        recalibrated(config, outputs, classes, fitted=500, draws=1, seed=1)
