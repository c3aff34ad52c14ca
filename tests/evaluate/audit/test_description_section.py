"""The description's section: agreement and retrieval against scipy and brute force, and on real images."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import pesi
from evaluate.audit.made_up import every_plot_is_told
from pesi.datasets.readers import read_dataset
from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.audit.description import agreements, as_photographed, compared, description_section, separations
from pesi.evaluate.retrieval import neighbours, retrieval
from pesi.stats.agreement import agreement
from pesi.taxonomy import TASKS

OPTIONS = AuditOptions(replicates=200, stress_images=30)


def test_agreement_is_scipys_and_bland_and_altmans():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    a, b = truth + 0.5 + 0.3 * rng.normal(size=80), truth
    found = agreement(a, b, replicates=400, rng=np.random.default_rng(1))
    assert found.spearman is not None
    assert found.spearman[0] == pytest.approx(spearmanr(a, b).statistic)
    assert found.bias[0] == pytest.approx((a - b).mean())
    assert found.upper[0] == pytest.approx((a - b).mean() + 1.96 * (a - b).std(ddof=1))
    assert found.lower[0] == pytest.approx((a - b).mean() - 1.96 * (a - b).std(ddof=1))
    # The bias's interval is about that of the mean's standard error.
    half = 1.96 * (a - b).std(ddof=1) / np.sqrt(80)
    assert found.bias[1] == pytest.approx(found.bias[0] - half, abs=0.25 * half)
    assert found.bias[2] == pytest.approx(found.bias[0] + half, abs=0.25 * half)
    for value, low, high in (found.spearman, found.bias, found.lower, found.upper):
        assert low < value < high


def test_agreement_with_ties_and_with_a_constant():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, 50).astype(float), rng.integers(0, 3, 50).astype(float)
    found = agreement(a, b, replicates=100, rng=rng)
    assert found.spearman is not None
    assert found.spearman[0] == pytest.approx(spearmanr(a, b).statistic)
    assert agreement(a, np.ones(50), replicates=100, rng=rng).spearman is None


def test_neighbours_leave_the_own_lesion_out():
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(30, 5)), np.repeat(np.arange(15), 2)
    near = neighbours(features, groups, 3)
    for index in range(30):
        cosine = [
            -np.inf
            if groups[other] == groups[index]
            else features[index] @ features[other] / np.linalg.norm(features[index]) / np.linalg.norm(features[other])
            for other in range(30)
        ]
        assert list(near[index]) == list(np.argsort(cosine)[::-1][:3])
    with pytest.raises(ValueError, match="29 images"):
        neighbours(features, groups, 29)


def test_retrieval_of_known_answers():
    classes = np.repeat([0, 1], (20, 10))
    groups = np.arange(30)
    apart = np.eye(2)[classes] + 0.01 * np.random.default_rng(0).normal(size=(30, 2))
    found = retrieval(apart, classes, groups, k=5)
    assert all(value.share == pytest.approx((1, 1, 1)) for value in found.values())
    assert found[0].chance == pytest.approx(19 / 29)
    assert found[1].chance == pytest.approx(9 / 29)
    assert found[None].chance == pytest.approx((19 + 9) / 2 / 29)
    assert found[None].gain[0] == pytest.approx(1 - 14 / 29)


def test_retrieval_on_features_without_meaning_is_chance_within_its_interval():
    classes = np.repeat([0, 1, 2], [30, 42, 78])
    held, gains = 0, []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(size=(150, 16))
        gain = retrieval(noise, classes, np.arange(150), k=5)[None].gain
        held += gain[1] <= 0 <= gain[2]
        gains.append(gain[0])
    assert held >= 52  # 95 % of 60 is 57; fewer than 52 come once in 100
    assert np.mean(gains) == pytest.approx(0, abs=0.01)


def test_separations_are_scikit_learns():
    rng = np.random.default_rng(0)
    target = np.arange(60) % 3 == 0
    measures = pd.DataFrame({"tells": rng.normal(size=60) + target, "blind": rng.normal(size=60), "same": np.ones(60)})
    measures.loc[:4, "tells"] = np.nan
    found = separations(measures, target, OPTIONS)
    assert set(found) == {"tells", "blind"}
    assert found["tells"][0] == pytest.approx(roc_auc_score(target[5:], measures["tells"][5:]))
    assert found["tells"][1] < found["tells"][0] < found["tells"][2]
    assert separations(measures[:9], target[:9], OPTIONS) == {}
    agreed = agreements(measures, measures, OPTIONS)
    assert agreed["tells"].images == 55
    assert agreed["tells"].spearman is not None
    assert agreed["tells"].spearman[0] == pytest.approx(1)


def test_squeezed_pictures_get_their_aspect_back(tmp_path):
    wide = cv2.ellipse(np.zeros((150, 300), np.uint8), (150, 75), (60, 60), 0, 0, 360, 255.0, -1)
    cv2.imwrite(str(tmp_path / "wide.png"), wide)
    square = cv2.resize(wide, (256, 256), interpolation=cv2.INTER_AREA)
    back = as_photographed(square, str(tmp_path / "wide.png"), "squeeze")
    assert back.shape == (128, 256)
    rows, columns = np.nonzero(back > 127)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)  # a circle again
    assert as_photographed(square, str(tmp_path / "wide.png"), "center_crop") is square


def audit_data(records: pd.DataFrame, classifier, rows: np.ndarray) -> AuditData:
    """What `read_audit_data` gives, of a few images."""
    from pesi.decide.calibration import view_probabilities
    from pesi.images.masks import read_mask_square

    chosen = records.iloc[rows].reset_index(drop=True)
    task, side = TASKS["isic2017"], classifier.config.preprocess.source_size
    squares = [classifier.squares(path) for path in chosen["path"]]
    out = classifier.outputs(squares)
    masks = [
        read_mask_square(mask, path, side, classifier.config.preprocess.geometry) > 127
        for mask, path in zip(chosen["mask_path"], chosen["path"], strict=True)
    ]
    logits = out.logits.astype(np.float64)
    return AuditData(
        "some",
        chosen,
        task,
        np.array([task.class_of(code) for code in chosen["diagnosis"]], np.int64),
        np.stack([square[0] for square in squares]),
        np.stack(masks),
        np.ones(len(chosen), bool),
        logits,
        out.mean_features,
        view_probabilities(logits, classifier.config.task.head, 1.0),
        np.full(len(chosen), -1),
    )


@pytest.mark.slow
def test_the_section_on_real_images(shared):
    records = read_dataset(shared / "data" / "isic2017_512")
    records = records[records["split"] == "val"]
    kinds = records["diagnosis"].to_numpy()
    rows = np.concatenate(
        [np.flatnonzero(kinds == code)[:count] for code, count in (("MEL", 12), ("NV", 12), ("SK", 6))]
    )
    classifier = pesi.load(device="cpu")
    data = audit_data(records, classifier, rows)
    done: list[tuple[int, int]] = []
    section = description_section(data, classifier, options=OPTIONS, progress=lambda what, a, b: done.append((a, b)))
    json.dumps(section.values, allow_nan=False)
    assert done[-1] == (30, 30)
    assert compared(data)[0] == section.values["target"] == "melanoma"
    assert section.values["images"] == 30
    assert section.values["found"] >= 25
    assert section.values["agreement"]["share of dark brown"]["spearman"][0] > 0.8
    nearest = section.values["retrieval"]["nearest_1"]
    assert set(nearest) == {"melanoma", "nevus", "seborrheic_keratosis", "all classes, each counted alike"}
    low, value, high = (nearest["melanoma"]["share"][i] for i in (1, 0, 2))
    assert 0 <= low <= value <= high <= 1
    every_plot_is_told(section)
    assert len(section.pictures) == 2
    assert "not measured" in section.method
    for figure in (section.summary, section.meaning):
        assert figure


def test_the_section_without_masks_or_neighbours(classifier, spots):
    data = audit_data(spots, classifier, np.arange(4))
    bare = AuditData(**{**data.__dict__, "has_mask": np.zeros(4, bool), "masks": np.zeros_like(data.masks)})
    section = description_section(bare, classifier, options=OPTIONS)
    json.dumps(section.values, allow_nan=False)
    assert section.values["images"] == 0
    assert "Too few images" in section.summary
    assert section.values["retrieval"]["nearest_5"] == {}
