"""The subgroup section: its values are those of scikit-learn, small groups are said, artefacts come from their file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluate.audit.made_up import every_plot_is_told, tables
from pesi.datasets.records import record_table
from pesi.evaluate.audit import subgroups
from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.audit.subgroups import subgroups_section, targets_of
from pesi.taxonomy import TASKS

SIDE = 48


@pytest.fixture
def data(tmp_path: Path) -> AuditData:
    """90 pictures of spots on two skins, in a folder with artefact labels; rulers spoil the scores of melanoma."""
    rng = np.random.default_rng(0)
    count = 90
    classes = np.arange(count) % 3
    ruler = rng.random(count) < 0.5
    wrong = np.where(ruler, 3.0, 0.4)
    logits = 2.0 * np.eye(3)[classes] + wrong[:, None] * rng.normal(size=(count, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    folder = tmp_path / "images" / "val"
    folder.mkdir(parents=True)
    rows = [
        {
            "image_id": f"i{n}",
            "path": str(folder / f"i{n}.png"),
            "source": "made",
            "diagnosis": ["MEL", "SK", "NV"][c],
            "sex": ["female", "male", None][n % 7 % 3],
            "age": float(20 + n % 60),
        }
        for n, c in enumerate(classes)
    ]
    labels = pd.DataFrame({"image_id": [row["image_id"] for row in rows]})
    for name in ("dark_corner", "hair", "gel_border", "gel_bubble", "ink", "patches"):
        labels[name] = 0
    labels["ruler"] = ruler.astype(int)
    labels.to_csv(tmp_path / "artefacts.csv", index=False)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    images[::2] = (235, 205, 185)
    images[1::2] = (120, 85, 60)
    images[:, 18:30, 18:30] = (60, 35, 30)
    masks = np.zeros((count, SIDE, SIDE), bool)
    masks[:, 18:30, 18:30] = True
    return AuditData(
        "made",
        record_table(rows),
        TASKS["isic2017"],
        classes,
        images,
        masks,
        np.ones(count, bool),
        logits[:, None],
        np.zeros((count, 4), np.float32),
        probabilities,
        np.full(count, -1),
    )


def test_values_agree_with_scikit_learn(classifier, data, tmp_path):
    section = subgroups_section(data, classifier, options=AuditOptions(replicates=200))
    values = section.values
    assert json.loads(json.dumps(values, allow_nan=False))["images"] == 90
    found = {(a["target"], a["attribute"]): a for a in values["attributes"]}
    ruler = pd.read_csv(tmp_path / "artefacts.csv")["ruler"].to_numpy() == 1
    melanoma = found["melanoma", "ruler"]
    for group in melanoma["groups"]:
        chosen = ruler == (group["name"] == "present")
        expected = roc_auc_score(data.classes[chosen] == 0, data.probabilities[chosen, 0])
        assert group["auc"] == pytest.approx(expected)
        assert group["images"] == chosen.sum()
    assert melanoma["gap"]["worst"] == "present"
    assert melanoma["gap"]["adjusted"] < 0.05
    assert melanoma["gap"]["adjusted"] >= melanoma["gap"]["p_value"]
    assert "melanoma by ruler" in section.summary
    # Even and odd pictures have two skins; nothing else about skin differs.
    tones = found["melanoma", "skin tone"]["groups"]
    assert [group["images"] for group in tones] == [45, 45]
    assert ("melanoma", "hair") not in found  # no picture has any


def test_small_groups_are_said_to_be_small(classifier, data):
    few = data.take(np.arange(24))
    section = subgroups_section(few, classifier, options=AuditOptions(replicates=50))
    assert all(a["gap"] is None for a in section.values["attributes"])
    assert section.summary.startswith("0 of ")
    table = tables(section)[1]
    assert all("(small)" in row[1] for row in table.rows)
    assert all(row[3] == "too few images" for row in tables(section)[0].rows)


def test_without_labels_and_masks_it_says_so(classifier, data, tmp_path):
    (tmp_path / "artefacts.csv").unlink()
    bare = dataclasses.replace(data, masks=np.zeros_like(data.masks), has_mask=np.zeros(len(data), bool))
    seen = []
    section = subgroups_section(
        bare.take(np.arange(12)), classifier, options=AuditOptions(replicates=20), progress=lambda *s: seen.append(s)
    )
    assert "no artefact labels" in section.summary
    assert not section.values["artefact_labels"]
    assert seen[-1] == ("scoring subgroups of made", 1, 1)


def test_the_segmenter_computes_where_the_classifier_does(classifier, data, monkeypatch):
    devices = []
    load = subgroups.shipped_segmenter
    monkeypatch.setattr(
        subgroups, "shipped_segmenter", lambda *, device=None: devices.append(device) or load(device=device)
    )
    bare = dataclasses.replace(data, has_mask=np.zeros(len(data), bool)).take(np.arange(6))
    subgroups_section(bare, classifier, options=AuditOptions(replicates=20))
    assert devices == ["cpu"]


def test_images_that_set_the_thresholds_are_said_to_flatter(classifier, data):
    few, options = data.take(np.arange(24)), AuditOptions(replicates=20)
    own = subgroups_section(dataclasses.replace(few, fitted_on=True), classifier, options=options)
    assert "thresholds and calibration were set on these images" in own.summary
    assert own.values["fitted_on"]
    other = subgroups_section(few, classifier, options=options)
    assert "flatter" not in other.summary
    assert not other.values["fitted_on"]


def test_targets_and_thresholds(classifier, data):
    targets = targets_of(data, classifier)
    assert [target.name for target in targets] == ["melanoma", "seborrheic_keratosis"]
    kept = {t.class_name: t.value for t in classifier.config.thresholds if t.name == "sensitivity_0.90"}
    assert [target.threshold for target in targets] == [kept.get("melanoma"), kept.get("seborrheic_keratosis")]
    assert targets_of(data.take(np.flatnonzero(data.classes == 2)), classifier) == ()


def test_figures_are_drawings(classifier, data):
    section = subgroups_section(data, classifier, options=AuditOptions(replicates=50))
    assert len(section.plots) == 2
    every_plot_is_told(section)
    for svg in section.plots.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
