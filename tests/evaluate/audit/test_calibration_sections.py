"""The audit's calibration and operating points on made-up logits of known calibration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import binomtest

from evaluate.audit.made_up import every_plot_is_told, made_up_data, tables
from pesi.decide.calibration import VectorScaling, fit_temperature, view_probabilities
from pesi.decide.operating import threshold_at
from pesi.decide.triage import TriageLevel, TriageRule, fit_triage
from pesi.evaluate.audit.calibration import audit_targets, calibration_section, crossfitted_probabilities
from pesi.evaluate.audit.data import AuditOptions, grouped_folds
from pesi.evaluate.audit.operating import operating_section
from pesi.predict.classifier import Classifier

OPTIONS = AuditOptions(replicates=150, folds=4)


def audit_data(count, *, seed=0, too_sharp=1.0, tilt=(0.0, 0.0, 0.0), fitted_on=True):
    """Logits of four views of which softmax is the truth, then made too sharp and tilted towards some classes."""
    rng = np.random.default_rng(seed)
    z = rng.normal((-1.0, -0.5, 0.5), 1.5, (count, 3))
    classes = (softmax(z, axis=1).cumsum(1) > rng.random((count, 1))).argmax(1)
    logits = too_sharp * np.repeat(z[:, None], 4, axis=1) + tilt
    probabilities = view_probabilities(logits, "multiclass")
    return made_up_data(classes, logits, probabilities, fitted_on=fitted_on, images_a_lesion=2)


def test_too_sharp_probabilities_are_found_out_and_mended(classifier):
    data = audit_data(900, too_sharp=3.0)
    section = calibration_section(data, classifier, options=OPTIONS)
    json.dumps(section.values, allow_nan=False)
    methods = section.values["methods"]
    assert set(methods) == {"none", "temperature", "vector", "isotonic"}
    before, after = methods["none"]["ece_top"], methods["temperature"]["ece_top"]
    assert before["value"] > before["perfect_model"][2]
    assert before["ci"][0] > 0.05
    assert after["value"] < after["perfect_model"][2]
    assert after["ci"][0] == 0
    differences = section.values["differences_from_none"]
    assert all(found["nll"]["ci"][1] < 0 for found in differences.values())
    assert "temperature scaling, vector scaling, isotonic regression" in section.summary
    assert f"{after['value']:.3f}" in section.summary
    assert len(section.plots) == 2
    every_plot_is_told(section)
    assert set(section.values["diagrams"]["malignant"]) == {"none", "temperature", "vector"}


def test_a_tilt_is_mended_by_vector_scaling_alone(classifier):
    data = audit_data(900, tilt=(2.0, 0.0, 0.0))
    section = calibration_section(data, classifier, options=OPTIONS)
    melanoma = {method: found["ece/melanoma"] for method, found in section.values["methods"].items()}
    assert melanoma["vector"]["ci"][0] == 0
    assert melanoma["temperature"]["value"] > melanoma["temperature"]["perfect_model"][2]
    assert "melanoma, which stands out most" in section.summary


def test_what_is_right_already_is_not_said_to_be_bettered(classifier):
    section = calibration_section(audit_data(300), classifier, options=OPTIONS)
    assert "No calibration is shown to give a better likelihood" in section.summary


def test_each_fold_is_calibrated_by_the_others(classifier):
    data = audit_data(200, too_sharp=2.0)
    found = crossfitted_probabilities(data, classifier, OPTIONS)["temperature"]
    folds = grouped_folds(data.records, data.classes, 4, 0)
    lesions = data.records["lesion_id"].to_numpy()
    targets = audit_targets(data, classifier)
    for fold in range(4):
        held = folds == fold
        assert not set(lesions[held]) & set(lesions[~held])
        fitted = fit_temperature(data.logits[~held], targets[~held], "multiclass", on="")
        np.testing.assert_allclose(found[held], view_probabilities(data.logits[held], "multiclass", fitted.value))


def test_where_the_bundle_was_not_fitted_its_own_calibration_is_measured_too(classifier):
    data = audit_data(400, too_sharp=3.0, fitted_on=False)
    calibration = calibration_section(data, classifier, options=OPTIONS)
    assert calibration.values["methods"]["shipped"]["ece_top"] == calibration.values["methods"]["none"]["ece_top"]
    assert "that the bundle ships with" in calibration.summary
    operating = operating_section(data, classifier, options=OPTIONS)
    points = {(point["class"], point["name"]): point for point in operating.values["shipped_points"]}
    own = classifier.config.thresholds[0]
    called = data.probabilities[:, 0] >= own.value
    found = points[own.class_name, own.name]
    assert found["sensitivity"]["value"] == pytest.approx(called[data.classes == 0].mean())
    assert set(operating.values["triage"]) == {"cross-fitted", "as the bundle ships"}
    assert any("ships with" in table.caption for table in tables(operating))
    fitted = operating_section(audit_data(400), classifier, options=OPTIONS)
    assert fitted.values["shipped_points"] == []


def test_operating_points_are_set_on_the_other_folds(classifier):
    data = audit_data(600)
    section = operating_section(data, classifier, options=OPTIONS)
    json.dumps(section.values, allow_nan=False)
    assert section.values["disease"] == "melanoma"
    points = {(p["class"], p["criterion"], p["wanted"]): p for p in section.values["points"]}
    assert len(points) == 10
    found = points["melanoma", "sensitivity", 0.9]
    scores = crossfitted_probabilities(data, classifier, OPTIONS)["temperature"][:, 0]
    folds, labels = grouped_folds(data.records, data.classes, 4, 0), data.classes == 0
    hits = 0
    for fold in range(4):
        held = folds == fold
        # The temperature is another in each fold: set the threshold on probabilities of that fold's temperature.
        fitted = fit_temperature(data.logits[~held], audit_targets(data, classifier)[~held], "multiclass", on="")
        other = view_probabilities(data.logits[~held], "multiclass", fitted.value)[:, 0]
        value = threshold_at("sensitivity", 0.9, labels[~held], other, class_name="", on="").value
        hits += int((scores[held & labels] >= value).sum())
    assert found["sensitivity"]["value"] == pytest.approx(hits / labels.sum())
    assert found["expected_sensitivity"][0] < 0.9 < found["expected_sensitivity"][1]
    low, high = found["sensitivity"]["ci"]
    assert low < found["sensitivity"]["value"] < high
    assert points["melanoma", "sensitivity", 0.95]["sensitivity"]["value"] >= found["sensitivity"]["value"]
    assert set(section.values["decision_curves"]) == {"own", "0.02", "0.1"}
    assert len(section.plots) == 2
    levels = section.values["triage"]["cross-fitted"]
    assert [level["level"] for level in levels] == ["excise", "refer", "follow up", "no level reached"]
    assert sum(level["images"] for level in levels) == 600
    assert sum(level["classes"]["melanoma"] for level in levels) == labels.sum()


def test_vector_scaling_of_the_bundle_is_what_is_measured(classifier):
    vector = VectorScaling(weight=(1.0, 1.0, 1.0), bias=(0.0, 0.0, 0.0))
    config = classifier.config.model_copy(update={"vector": vector})
    other = Classifier(config, classifier.network, device="cpu")
    data = audit_data(400, tilt=(2.0, 0.0, 0.0))
    assert calibration_section(data, other, options=OPTIONS).values["method"] == "vector"
    curve = operating_section(data, other, options=OPTIONS).values["decision_curves"]["own"]
    assert min(curve["gain"][5:40]) > -0.01  # tilted probabilities would do harm, mended ones do not


def test_without_the_disease_the_section_says_so(classifier):
    data = audit_data(200)
    data = data.take(np.flatnonzero(data.classes == 2))
    section = operating_section(data, classifier, options=OPTIONS)
    assert "all of one kind" in section.summary
    assert section.plots == {}


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("fitted_on", [True, False])
def test_one_melanoma_sets_no_threshold(classifier, fitted_on):
    """The folds without it would be set by it, and its own by no melanoma: not a miss, but not measured."""
    data = audit_data(200, fitted_on=fitted_on)
    kept = np.concatenate([np.flatnonzero(data.classes == k)[:count] for k, count in enumerate((1, 6, 12))])
    section = operating_section(data.take(kept), classifier, options=OPTIONS)
    json.dumps(section.values, allow_nan=False)
    melanoma, other = (
        [point for point in section.values["points"] if point["class"] == name]
        for name in ("melanoma", "seborrheic_keratosis")
    )
    assert len(melanoma) == len(other) == 5
    for point in melanoma:
        assert point["called"] is None
        assert point["sensitivity"] == point["ppv@0.1"] == {"value": None, "ci": [None, None]}
        assert point["expected_specificity"] is None
    assert all(point["sensitivity"]["value"] is not None for point in other)
    assert section.values["triage"]["cross-fitted"] is None
    assert ("as the bundle ships" in section.values["triage"]) is not fitted_on
    assert "too few images to set it" in section.summary
    assert "triage is not measured" in section.summary
    rates = {row[:2]: row[2:4] for row in tables(section)[0].rows}
    assert rates["melanoma", "sensitivity 0.90"] == ("too few images to set it",) * 2
    assert not any("cross-fitted" in table.caption for table in tables(section))
    assert section.values["decision_curves"]["own"]["useful"] == []


def with_triage(classifier, *levels):
    return Classifier(classifier.config.model_copy(update={"triage": levels}), classifier.network, device="cpu")


def test_whether_each_promise_holds_is_measured_by_lesions(classifier):
    """Two images a lesion: a lesion is missed if either of its malignant images lies below."""
    data = audit_data(1200, fitted_on=False)
    score = data.probabilities[:, 0]
    rule, groups = TriageRule(), data.groups
    section = operating_section(
        data, with_triage(classifier, *fit_triage(rule, data.malignant, score, on="", groups=groups)), options=OPTIONS
    )
    json.dumps(section.values, allow_nan=False)
    kept = section.values["triage_promises"]
    assert set(kept) == {"cross-fitted", "as the bundle ships"}
    levels = fit_triage(rule, data.malignant, score, on="", groups=groups)
    for entry, level in zip(kept["as the bundle ships"], levels[:-1], strict=True):
        wrong = {}
        for lesion, bad, value in zip(data.records["lesion_id"], data.malignant, score, strict=True):
            if bad == (level.criterion == "sensitivity"):
                wrong[lesion] = wrong.get(lesion, False) or (value < level.at_least) == bad
        exact = binomtest(sum(wrong.values()), len(wrong)).proportion_ci(0.95, method="exact")
        assert (entry["failed"], entry["lesions"]) == (sum(wrong.values()), len(wrong))
        assert entry["share_ci"] == pytest.approx([exact.low, exact.high])
        assert entry["at_most"] == pytest.approx(1 - level.promised.rate)
        assert entry["share"] <= entry["at_most"]  # on the very images that set it
        assert entry["verdict"] == ("kept" if exact.high <= entry["at_most"] else "not shown to be broken")
    shown = [table for table in tables(section) if "promise, as the bundle ships" in table.caption]
    assert [row[:2] for row in shown[0].rows] == [(level.level, level.promise) for level in levels[:-1]]
    assert "Of what its levels promise, cross-fitted: 'excise'" in section.summary


def test_an_old_bundle_is_held_to_what_it_was_set_for(classifier):
    data = audit_data(900, fitted_on=False)
    values = [
        ("excise", "specificity", 0.95, 0.2),
        ("refer", "sensitivity", 0.5, 1e-4),
        ("look", "sensitivity", 0.6, 0),
    ]
    old = [TriageLevel(level=n, at_least=at, how="", criterion=c, wanted=w) for n, c, w, at in values]
    last = TriageLevel(level="reassure", at_least=0.0, how="", criterion="rest")
    section = operating_section(data, with_triage(classifier, *old, last), options=OPTIONS)
    found = section.values["triage_promises"]["as the bundle ships"]
    assert [entry["verdict"] for entry in found] == ["broken", "kept", "kept"]
    assert found[0]["share"] > 0.05
    assert "without a stated confidence" in found[0]["promise"]
    assert "'excise' broken" in section.summary
    assert section.values["triage"]["cross-fitted"][-1]["level"] == "reassure"
    older = [level.model_copy(update={"criterion": None, "wanted": None}) for level in (*old, last)]
    section = operating_section(data, with_triage(classifier, *older), options=OPTIONS)
    assert section.values["triage_promises"]["as the bundle ships"] == []
    assert "as the bundle ships:" not in section.summary
