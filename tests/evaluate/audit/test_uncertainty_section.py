"""The section on uncertainty, on made-up answers of known properties and on the shipped classifier's own."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from crepes import WrapClassifier
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

import pesi
from evaluate.audit.made_up import every_plot_is_told, made_up_data
from pesi.bundle.config import TemperatureConfig, task_config
from pesi.datasets.readers import read_dataset
from pesi.decide.conformal import fit_conformal
from pesi.evaluate.audit.data import AuditData, AuditOptions, read_audit_data
from pesi.evaluate.audit.uncertainty import malignant_threshold, uncertainty_section
from pesi.images.views import VIEWS
from pesi.predict.classifier import Classifier
from pesi.taxonomy import TASKS

OPTIONS = AuditOptions(replicates=200, folds=4)
TASK = TASKS["isic2017"]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    shipped = pesi.load(device="cpu")
    config = shipped.config.model_copy(update={"temperature": TemperatureConfig(value=1.0)})
    return Classifier(config, shipped.network, device="cpu")


def answers(count: int, *, head: str = "multiclass", fitted_on: bool = False, seed: int = 0) -> AuditData:
    """Answers of four views that scatter around a sensible logit."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, count, p=[0.2, 0.3, 0.5])
    centre = rng.normal(0, 1.3, (count, 1, 3)) + 1.8 * np.eye(3)[classes][:, None]
    logits = centre + rng.normal(0, 0.3, (count, 4, 3))
    if head == "multilabel":
        logits = logits[..., :2]
    p = softmax(logits, axis=2).mean(1) if head == "multiclass" else (1 / (1 + np.exp(-logits))).mean(1)
    return made_up_data(classes, logits, p, fitted_on=fitted_on)


class GivenProbabilities:
    classes_ = np.arange(3)

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return x


def test_coverage_is_that_of_crepes_over_the_same_folds(classifier):
    data = answers(240)
    section = uncertainty_section(data, classifier, options=OPTIONS)
    folds = data.folds(4, 0)
    for wanted in (0.90, 0.95):
        sets = np.zeros((240, 3), bool)
        for fold in range(4):
            theirs = WrapClassifier(GivenProbabilities())
            theirs.calibrate(data.probabilities[folds != fold], data.classes[folds != fold], class_cond=True)
            sets[folds == fold] = (
                theirs.predict_p(data.probabilities[folds == fold], smoothing=False) > 1 - wanted + 1e-9
            )
        found = section.values["conformal"][f"{wanted:.2f}"]
        held = sets[np.arange(240), data.classes]
        assert found["overall"]["count"] == held.sum()
        assert found["mean_size"] == pytest.approx(sets.sum(1).mean())
        for index, name in enumerate(TASK.class_names):
            entry = found["classes"][name]
            assert entry["share"] == pytest.approx(held[data.classes == index].mean())
            assert entry["ci"][0] < entry["share"] <= entry["ci"][1]
            assert entry["against_wanted"] == "within"


def test_entropies_errors_and_thresholds(classifier):
    data = answers(200, seed=1)
    values = uncertainty_section(data, classifier, options=OPTIONS).values
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    p = softmax(data.logits, axis=2)
    wrong = data.probabilities.argmax(1) != data.classes
    assert values["entropy"]["wrong"]["images"] == wrong.sum()
    expected = scipy_entropy(p[wrong].mean(1), base=3, axis=1).mean()
    assert values["entropy"]["wrong"]["total"] == pytest.approx(expected)
    assert values["entropy"]["wrong"]["total"] > values["entropy"]["right"]["total"]
    threshold, how = malignant_threshold(classifier)
    assert values["malignant_threshold"] == {"value": threshold, "how": how}
    assert threshold in {level.at_least for level in classifier.config.triage}
    called = data.probabilities[:, 0] >= threshold
    assert values["selective"]["most_probable_class"]["error"] == pytest.approx(wrong.mean())
    malignant = data.classes == 0
    assert values["selective"]["malignant_at_threshold"]["error"] == pytest.approx(np.mean(called != malignant))
    rates = values["no_result"]
    assert rates["error of the most probable class"][0]["rate"] == pytest.approx(wrong.mean())
    assert rates["sensitivity for malignant"][0]["rate"] == pytest.approx(called[malignant].mean())
    surest = np.argsort(-data.probabilities.max(1))[:180]
    tenth = next(r for r in rates["error of the most probable class"] if r["withheld"] == 0.10)
    assert tenth["rate"] == pytest.approx(wrong[surest].mean())
    missed = next(r for r in rates["answered benign, of all malignant"] if r["withheld"] == 0.10)
    assert missed["rate"] == pytest.approx((malignant & ~called)[surest].sum() / malignant.sum())
    odds = data.probabilities[:, 0] / (1 - data.probabilities[:, 0])
    farthest = np.argsort(-np.abs(np.log(odds / (threshold / (1 - threshold)))))[:180]
    nearest = rates["answered benign, of all malignant; no result nearest the threshold"][2]
    assert nearest["withheld"] == 0.10
    assert nearest["rate"] == pytest.approx((malignant & ~called)[farthest].sum() / malignant.sum())


def test_a_given_score_is_compared_too(classifier):
    data = answers(200, seed=2)
    wrong = data.probabilities.argmax(1) != data.classes
    oracle = -wrong.astype(float)
    section = uncertainty_section(data, classifier, options=OPTIONS, scores={"oracle": oracle})
    found = section.values["selective"]["most_probable_class"]["measures"]["oracle"]
    assert found["verdict"] == "better"
    assert found["excess"] == pytest.approx(0)
    assert "oracle" in section.summary
    every_plot_is_told(section)
    assert len(section.plots) == 3


def test_the_bundles_own_sets_are_measured_on_new_images_only(classifier):
    new = answers(150, seed=3)
    config = fit_conformal(new.probabilities, new.classes, TASK.class_names, coverage=0.9, on="others")
    found = uncertainty_section(answers(150, seed=4), classifier, options=OPTIONS, conformal=(config,))
    assert found.values["conformal_of_the_bundle"]["0.90"]["overall"]["of"] == 150
    fitted = uncertainty_section(answers(150, seed=4, fitted_on=True), classifier, options=OPTIONS, conformal=(config,))
    assert fitted.values["conformal_of_the_bundle"] == {}
    assert "flatter" in fitted.summary


def test_multilabel_heads_have_no_sets_and_the_rest_works(classifier):
    config = classifier.config.model_copy(update={"task": task_config(TASK, "multilabel"), "triage": ()})
    section = uncertainty_section(
        answers(120, head="multilabel"), Classifier(config, classifier.network, device="cpu"), options=OPTIONS
    )
    assert section.values["conformal"] is None
    assert len(section.plots) == 2
    assert section.values["malignant_threshold"]["value"] == 0.5
    assert "negative_set_size" not in section.values["selective"]["most_probable_class"]["measures"]


def test_without_a_malignant_image_only_the_class_is_asked(classifier):
    data = answers(200, seed=5)
    benign = data.take(np.flatnonzero(data.classes != 0))
    section = uncertainty_section(benign, classifier, options=OPTIONS)
    assert list(section.values["selective"]) == ["most_probable_class"]
    assert section.values["malignant_threshold"] is None
    assert section.values["conformal"]["0.90"]["classes"]["melanoma"]["share"] is None


def test_progress_is_told(classifier):
    told: list[tuple[str, int, int]] = []
    uncertainty_section(answers(90), classifier, options=OPTIONS, progress=lambda *a: told.append(a))
    assert told[-1][1:] == (3, 3)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.slow
def test_on_real_images(shared, tmp_path):
    """The shipped classifier: sets that keep their promise on its own validation images, a few of them here."""
    classifier = pesi.load(device="cpu")
    records = read_dataset(shared / "data" / "isic2017")
    records = records[records["split"] == "val"]
    records = pd.concat([part.head(14) for _, part in records.groupby("diagnosis")])
    records["mask_path"] = None
    data = read_audit_data(classifier, records, "isic2017 val", fitted_on=True, cache_dir=str(tmp_path))
    section = uncertainty_section(data, classifier, options=AuditOptions(replicates=100, folds=3))
    json.dumps(section.values, allow_nan=False)
    # Two of the ten networks have not seen an image; their views stand there five times (`members.Outputs`).
    assert section.values["views"] == len(classifier.config.members) * len(VIEWS[classifier.config.views])
    assert section.values["conformal"]["0.90"]["overall"]["ci"][1] >= 0.90
    assert section.values["conformal"]["0.90"]["mean_size"] < 3
    assert "Few images" in section.summary
