"""The audit's first section where a figure is 0 or 1, and what it says of images that fitted the bundle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluate.audit.made_up import made_up_data, tables
from pesi.decide.calibration import VectorScaling
from pesi.evaluate.audit.data import AuditOptions
from pesi.evaluate.audit.performance import performance_section
from pesi.evaluate.evaluation import measured_scores
from pesi.predict.classifier import Classifier

OPTIONS = AuditOptions(replicates=200)
COUNTS = (6, 20, 40)


def answers(*, apart=True, fitted_on=False, counts=COUNTS):
    """Random probabilities; `apart`: the six melanomas have the highest of melanoma, all below one half."""
    classes = np.repeat(np.arange(3), counts)
    probabilities = np.random.default_rng(0).dirichlet((1, 1, 1), len(classes))
    if apart:
        probabilities[:, 0] = np.where(classes == 0, 0.4, 0.1)
        probabilities[:, 1:] *= (1 - probabilities[:, :1]) / probabilities[:, 1:].sum(1, keepdims=True)
    return made_up_data(classes, np.log(probabilities)[:, None], probabilities, fitted_on=fitted_on)


def with_changes(classifier, **changes):
    return Classifier(classifier.config.model_copy(update=changes), classifier.network, device="cpu")


def test_six_melanomas_wholly_apart_are_not_certainty(classifier):
    section = performance_section(answers(), classifier, options=OPTIONS)
    scores = section.values
    json.dumps(scores, allow_nan=False)
    melanoma, keratosis = scores["tasks"]["melanoma"], scores["tasks"]["seborrheic_keratosis"]
    low, high = melanoma["auc_ci"]
    assert (melanoma["auc"], high) == (1, 1)
    # Newcombe's equation: the AUC lies 1.96 standard errors (Hanley and McNeil's, at the bound) above its bound.
    spare = (6 + 60) / 2 - 1
    variance = low * (1 - low) * (1 + spare * (1 - low) / (2 - low) + spare * low / (1 + low)) / (6 * 60)
    assert 1 - low == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)
    assert f"melanoma 1.000 ({low:.3f} to 1.000), 6 with it" in section.summary
    assert scores["mean_auc_ci"] == pytest.approx(
        [(low + keratosis["auc_ci"][0]) / 2, (1 + keratosis["auc_ci"][1]) / 2]
    )
    assert measured_scores(scores, "here").scores["AUC melanoma"] == (1, low, 1)
    # None is called at one half: all are missed, and no other one is called.
    for key, found, count in (("sensitivity", 0, 6), ("specificity", 60, 60)):
        expected = binomtest(found, count).proportion_ci(method="wilson")
        assert melanoma[key] == found / count
        assert melanoma[f"{key}_ci"] == pytest.approx([expected.low, expected.high])
    assert melanoma["average_precision_ci"] is None
    for entry in melanoma["specificity_at_sensitivity"].values():
        assert entry["ci"][0] < entry["value"] == 1
    assert not any(f"{end} ({end} to {end})" in cell for end in ("0.000", "1.000")
                   for table in tables(section) for row in table.rows for cell in row)  # fmt: skip


def test_of_few_images_an_auc_has_newcombes_interval(classifier):
    section = performance_section(answers(apart=False), classifier, options=OPTIONS)
    task = section.values["tasks"]["melanoma"]
    for bound in task["auc_ci"]:
        spare = (6 + 60) / 2 - 1
        inner = 1 + spare * (1 - bound) / (2 - bound) + spare * bound / (1 + bound)
        deviation = np.sqrt(bound * (1 - bound) * inner / (6 * 60))
        assert abs(bound - task["auc"]) == pytest.approx(1.959964 * deviation, rel=1e-5)
    assert task["average_precision_ci"] is None


def test_elsewhere_the_intervals_are_the_bootstraps(classifier):
    section = performance_section(answers(apart=False, counts=(12, 20, 40)), classifier, options=OPTIONS)
    task = section.values["tasks"]["melanoma"]
    low, high = task["auc_ci"]
    assert 0 < low < task["auc"] < high < 1
    assert section.values["mean_auc_ci"][0] > np.mean([t["auc_ci"][0] for t in section.values["tasks"].values()])
    assert task["average_precision_ci"] is not None


def test_what_else_the_images_did_is_told(classifier):
    def summary(data, **changes):
        return performance_section(data, with_changes(classifier, **changes), options=OPTIONS).summary

    fitted = answers(fitted_on=True)
    for data in (replace(fitted, chose_epoch=True), replace(answers(), chose_epoch=True)):
        assert "chose the network's epoch" in summary(data)
    # Images that only set the calibration of a network whose epoch others chose (`pesi calibrate`).
    found = summary(fitted, provenance={"recipe": {"select": "best"}})
    assert "epoch" not in found
    assert "set the temperature and the thresholds" in found
    vector = VectorScaling(weight=(1.0, 1.0, 1.0), bias=(0.0, 0.0, 0.0))
    assert "set the vector scaling" in summary(fitted, vector=vector)
    assert "These images also" not in summary(answers())
