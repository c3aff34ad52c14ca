"""The audit's novelty and quality sections, on a tiny classifier and drawn pictures; the shipped one on a cat."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import pesi
from pesi.data.readers import read_dataset
from pesi.evaluate.audit import quality
from pesi.evaluate.audit.data import AuditData, AuditOptions, read_audit_data
from pesi.evaluate.audit.novelty import novelty_section, section_of_novelty
from pesi.evaluate.audit.quality import jpeg, quality_section, scaled
from pesi.evaluate.outliers import drawn_outliers, packaged_outliers
from pesi.predict.classifier import Classifier
from pesi.predict.novelty import fit_novelty, novelty_score, novelty_verdict

OPTIONS = AuditOptions(replicates=50, stress_images=24)


@pytest.fixture
def data(classifier: Classifier, spots: pd.DataFrame, tmp_path: Path) -> AuditData:
    return read_audit_data(classifier, spots, "spots", cache_dir=str(tmp_path))


def test_a_bundle_without_statistics_says_so(data: AuditData, classifier: Classifier) -> None:
    classifier.novelty = None
    section = novelty_section(data, classifier, options=OPTIONS)
    assert "Not available" in section.summary
    assert section.values["available"] is False


def test_the_novelty_section_counts_what_its_scores_say(data: AuditData, classifier: Classifier) -> None:
    statistics = fit_novelty(data.features)
    families = {
        name: pictures
        for name, pictures in drawn_outliers(2, rng=np.random.default_rng(0)).items()
        if name in ("noise", "chart", "blank")
    }
    section = section_of_novelty(
        data, classifier, statistics, threshold=1.2, how="by the test", families=families, options=OPTIONS
    )
    own = novelty_score(data.features, statistics)
    assert section.values["false_refusal"][0] == pytest.approx((own > 1.2).mean())
    noise = novelty_score(
        classifier.outputs([classifier.squares(picture) for picture in families["noise"]]).features, statistics
    )
    expected = roc_auc_score(np.repeat([0, 1], [len(own), 2]), np.concatenate([own, noise]))
    assert section.values["families"]["noise"]["auroc"][0] == pytest.approx(expected)
    assert len(section.tables[0].rows) == 3
    json.dumps(dict(section.values), allow_nan=False)


def test_the_quality_section(data: AuditData, classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: quality.DEGRADATIONS[name] for name in ("darker", "smaller")}
    monkeypatch.setattr(quality, "DEGRADATIONS", kept)
    section = quality_section(data, classifier, options=OPTIONS)
    values = section.values
    assert values["images"] == len(data)
    # The spots' files are 72 pixels wide: above 64, below 160.
    assert values["checks"]["short_side"]["warn"] == len(data)
    dark = [row for row in values["degraded"] if row["degradation"] == "darker"]
    assert dark[-1]["refused"][0] == 1
    assert dark[-1]["passed"] == {"auc": None, "fall": None}
    small = [row for row in values["degraded"] if row["degradation"] == "smaller"]
    assert small[-1]["refused"][0] == 1
    json.dumps(dict(values), allow_nan=False)


def test_an_undegraded_copy_has_the_classifier_s_own_auc(
    data: AuditData, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "DEGRADATIONS", {"darker": ("share of the light", (1.0,), scaled)})
    row = quality_section(data, classifier, options=OPTIONS).values["degraded"][0]
    assert row["all"]["fall"] == [0, 0, 0]
    logits = classifier.logits([classifier.squares(np.asarray(image)) for image in data.images], "single")[:, 0]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = classifier.config.outputs
    areas = [roc_auc_score(data.labels(n), probabilities[:, names.index(n)]) for n in data.task.scored_names]
    assert row["all"]["auc"][0] == pytest.approx(np.mean(areas), abs=1e-6)


def test_jpeg_keeps_the_colours_in_order() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    assert jpeg(red, 90).mean((0, 1)) == pytest.approx((200, 0, 0), abs=6)


OTHER_THINGS = ("cat", "motorcycle", "flower", "noise", "page of text", "temple", "coins", "brick")


def test_photographs_of_other_things_are_strange_to_the_shipped_network(shared: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the photographs")
    classifier = pesi.load(device="cpu")
    records = read_dataset(shared / "data" / "isic2017")
    # Drawn at random: the archive's first pictures are of one clinic.
    rows = [records[records["split"] == s].sample(n, random_state=0) for s, n in (("train", 240), ("val", 60))]
    train, held = (
        np.concatenate(
            [
                classifier.outputs([classifier.squares(p) for p in table["path"].iloc[i : i + 20]], "single").features
                for i in range(0, len(table), 20)
            ]
        )
        for table in rows
    )
    statistics = fit_novelty(train, rank=64)
    rng = np.random.default_rng(0)
    pictures = packaged_outliers(1, rng=rng) | drawn_outliers(1, rng=rng)
    squares = [classifier.squares(pictures[name][0]) for name in OTHER_THINGS]
    strange = novelty_score(classifier.outputs(squares, "single").features, statistics)
    own = novelty_score(held, statistics)
    labels = np.repeat([0, 1], [len(own), len(strange)])
    assert roc_auc_score(labels, np.concatenate([own, strange])) >= 0.95


def test_the_shipped_bundle_refuses_them(shared: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the photographs")
    classifier = pesi.load(device="cpu")
    config, statistics = classifier.config.novelty, classifier.novelty
    if config is None or statistics is None:
        pytest.skip("the bundle that ships holds no novelty statistics")
    rng = np.random.default_rng(0)
    pictures = packaged_outliers(1, rng=rng) | drawn_outliers(1, rng=rng)
    for name in OTHER_THINGS:
        out = classifier.outputs([classifier.squares(pictures[name][0])])
        score = float(novelty_score(out.features, statistics)[0])
        assert novelty_verdict(score, config).level == "refuse", name
    files = sorted((shared / "data" / "ham10000" / "images").glob("*.jpg"))[::400]
    out = classifier.outputs([classifier.squares(path) for path in files])
    assert (novelty_score(out.features, statistics) > config.threshold).mean() <= 0.15
