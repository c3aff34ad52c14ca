"""An audit of three photographs of each lesion is as sure of its figures as one of a photograph each, and no surer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

import pesi
from evaluate.audit.made_up import made_up_data
from pesi.evaluate.audit.calibration import calibration_section
from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.audit.operating import operating_section
from pesi.evaluate.audit.performance import performance_section
from pesi.evaluate.audit.uncertainty import uncertainty_section

OPTIONS = AuditOptions(replicates=200, folds=3)
TIMES = 3


@pytest.fixture(scope="module")
def sets() -> tuple[AuditData, AuditData, AuditData]:
    """Made-up answers; each three times, as photographs of one lesion; and these without the lesions' names."""
    rng = np.random.default_rng(0)
    classes = rng.choice(3, 120, p=[0.25, 0.25, 0.5])
    logits = rng.normal(0, 1.3, (120, 4, 3)) + 1.5 * np.eye(3)[classes][:, None]
    parts = classes, logits, softmax(logits, axis=2).mean(1)
    repeated = [np.repeat(part, TIMES, axis=0) for part in parts]
    grouped = made_up_data(*repeated, images_a_lesion=TIMES)
    # Some patients are known, others not: the lesion holds its photographs together all the same.
    grouped.records.loc[::2, "patient_id"] = "p" + grouped.records["lesion_id"].iloc[::2]
    return made_up_data(*parts), grouped, made_up_data(*repeated)


def performance(data, classifier):
    scores = performance_section(data, classifier, options=OPTIONS).values
    return [scores["mean_auc_ci"], *(scores["tasks"]["melanoma"][f"{name}_ci"] for name in ("auc", "sensitivity"))]


def calibration(data, classifier):
    score = calibration_section(data, classifier, options=OPTIONS).values["methods"]["none"]
    return [score[name]["ci"] for name in ("brier", "nll", "ece_top")] + [score["ece_top"]["perfect_model"][1:]]


def operating(data, classifier):
    values = operating_section(data, classifier, options=OPTIONS).values
    shipped = [point[name]["ci"] for point in values["shipped_points"] for name in ("sensitivity", "specificity")]
    levels = [level["malignant_share_ci"] for level in values["triage"]["as the bundle ships"] if level["images"]]
    return shipped + levels


def uncertainty(data, classifier):
    values = uncertainty_section(data, classifier, options=OPTIONS, scores={}).values
    own = values["conformal_of_the_bundle"]["0.90"]
    entropy = [values["entropy"][kind]["total_ci"] for kind in ("all", "right", "wrong")]
    rates = [rests[0]["rate_ci"] for rests in values["no_result"].values()]
    return [own["overall"]["ci"], own["classes"]["melanoma"]["ci"], *entropy, *rates]


@pytest.mark.parametrize("measured", [performance, calibration, operating, uncertainty])
def test_intervals_are_those_of_the_lesions(sets, measured):
    classifier = pesi.load(device="cpu")
    once, grouped, naive = (np.ptp(np.array(measured(data, classifier), float), axis=1) for data in sets)
    np.testing.assert_allclose(grouped, once, rtol=0.05, atol=0.003)
    assert np.mean(naive[once > 0.02] / once[once > 0.02]) < 0.8  # about 0.58, the root of a third


def test_what_shares_a_lesion_is_known(sets):
    once, grouped, naive = sets
    assert once.groups is naive.groups is None
    np.testing.assert_array_equal(np.bincount(grouped.groups), [TIMES] * 120)
    assert grouped.take(np.arange(0, 360, TIMES)).groups is None
