"""The audit's novelty and quality sections, on a tiny classifier and drawn pictures; the shipped one on a cat."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage
from sklearn.metrics import roc_auc_score

import pesi
from evaluate.audit.made_up import tables
from pesi.datasets.readers import read_dataset
from pesi.decide.novelty import fit_novelty, novelty_config, novelty_score
from pesi.evaluate.audit import quality
from pesi.evaluate.audit.data import AuditData, AuditOptions, read_audit_data
from pesi.evaluate.audit.novelty import novelty_section, section_of_novelty
from pesi.evaluate.audit.quality import jpeg, quality_section, scaled
from pesi.evaluate.outliers import drawn_outliers, packaged_outliers
from pesi.predict import classifier as classifier_module
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import network_outputs
from pesi.predict.gate import shipped_gate
from pesi.predict.runtimes.runtime import Runtime
from pesi.predict.segmenter import shipped_segmenter

OPTIONS = AuditOptions(replicates=50, stress_images=24)


@pytest.fixture
def data(classifier: Classifier, spots: pd.DataFrame, tmp_path: Path) -> AuditData:
    return read_audit_data(classifier, spots, "spots", cache_dir=str(tmp_path))


def test_a_bundle_without_statistics_says_so(data: AuditData, classifier: Classifier) -> None:
    section = novelty_section(replace(data, novelty=None), classifier, options=OPTIONS)
    assert "Not available" in section.summary
    assert section.values["available"] is False


@pytest.mark.usefixtures("real_gate")
def test_the_novelty_section_counts_what_its_scores_say(data: AuditData, classifier: Classifier) -> None:
    statistics = fit_novelty(data.features)
    classifier.novelty = (statistics,)
    own = novelty_score(data.features, statistics)
    data = replace(data, novelty=own)
    families = {
        name: pictures
        for name, pictures in drawn_outliers(2, rng=np.random.default_rng(0)).items()
        if name in ("noise", "chart", "blank")
    }
    config = novelty_config(statistics, {"spots": own}).model_copy(update={"threshold": 1.2, "how": "by the test"})
    section = section_of_novelty(data, classifier, config, families=families, options=OPTIONS)
    assert section.values["false_warning"][0] == pytest.approx((own > 1.2).mean())
    segmenter = shipped_segmenter(device="cpu")
    gated = shipped_gate(segmenter).refused(np.stack([segmenter.segment(image).features for image in data.images]))
    assert section.values["false_refusal"][0] == pytest.approx((gated | (own > 1.8)).mean())
    assert section.values["families"]["noise"]["refused"][0] == 1
    noise = novelty_score(
        classifier.outputs([classifier.squares(picture) for picture in families["noise"]]).features[:, 0], statistics
    )
    expected = roc_auc_score(np.repeat([0, 1], [len(own), 2]), np.concatenate([own, noise]))
    assert section.values["families"]["noise"]["auroc"][0] == pytest.approx(expected)
    assert len(tables(section)[0].rows) == 3
    assert "had a say in choosing the score" in section.method
    script = next(word for word in section.method.split() if word.startswith("benchmarks/"))
    assert (Path(__file__).parents[3] / script).is_file()
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


@pytest.fixture
def photographs(spots: pd.DataFrame, tmp_path: Path) -> pd.DataFrame:
    """The validation spots as files of 640 x 400 pixels, in JPEG of quality 10."""
    records = spots[spots["split"] == "val"].reset_index(drop=True)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, path in enumerate(records["path"]):
        with PillowImage.open(path) as picture:
            large = picture.resize((640, 400), PillowImage.Resampling.BICUBIC)
        records.loc[index, "path"] = str(folder / f"{index}.jpg")
        large.save(folder / f"{index}.jpg", quality=10)
    return records.assign(mask_path=None)


def test_the_gate_of_the_audit_is_the_gate_of_a_prediction(
    photographs: pd.DataFrame, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "DEGRADATIONS", {"darker": ("share of the light", (1.0,), scaled)})
    data = read_audit_data(classifier, photographs, "photographs", cache_dir=str(tmp_path / "cache"))
    values = quality_section(data, classifier, options=OPTIONS).values
    verdicts = [verdict for path in photographs["path"] for verdict in classifier.predict(path).verdicts]
    assert values["checks"]["blocks"]["refuse"] == len(photographs)  # nothing of it is left in a square of 72 pixels
    assert values["from_squares"] == 0
    for name, row in values["checks"].items():
        own = [verdict for verdict in verdicts if verdict.check == name]
        assert {level: row[level] for level in ("ok", "warn", "refuse")} == {
            level: Counter(verdict.level for verdict in own)[level] for level in ("ok", "warn", "refuse")
        }, name
        assert row["median"] == pytest.approx(np.median([verdict.value for verdict in own])), name


def test_files_that_are_gone_are_judged_by_their_squares_and_counted(
    photographs: pd.DataFrame, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "DEGRADATIONS", {"darker": ("share of the light", (1.0,), scaled)})
    data = read_audit_data(classifier, photographs, "photographs", cache_dir=str(tmp_path / "cache"))
    for path in photographs["path"][:5]:
        Path(path).unlink()
    section = quality_section(data, classifier, options=OPTIONS)
    assert section.values["from_squares"] == 5
    assert "The files of 5 of them could not be read" in section.summary
    assert section.values["checks"]["short_side"] == {"measured": 12, "ok": 7, "warn": 5, "refuse": 0, "median": 400}


def test_the_gate_s_segmenter_computes_where_the_classifier_does(
    data: AuditData, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []
    load = classifier_module.shipped_segmenter

    def shipped_segmenter(runtime: Runtime) -> object:
        places.append(runtime.place)
        return load(runtime)

    monkeypatch.setattr(classifier_module, "shipped_segmenter", shipped_segmenter)
    monkeypatch.setattr(quality, "DEGRADATIONS", {"darker": ("share of the light", (1.0,), scaled)})
    quality_section(data.take(np.arange(3)), classifier, options=OPTIONS)
    assert set(places) == {"cpu"}


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


@pytest.mark.slow
def test_photographs_of_other_things_are_strange_to_the_shipped_networks(shared: Path) -> None:
    """Stranger than dermoscopy that they have not seen, by the bundle's own statistics."""
    classifier = pesi.load(device="cpu")
    records = read_dataset(shared / "data" / "isic2017")
    # Drawn at random: the archive's first pictures are of one clinic.
    held = records[records["split"] == "val"].sample(60, random_state=0)
    squares = [classifier.squares(path) for path in held["path"]]
    folds = classifier.folds_of(list(held["image_id"]))
    own = classifier.novelty_scores(network_outputs(classifier, squares.__getitem__, len(squares), folds=folds))
    rng = np.random.default_rng(0)
    pictures = packaged_outliers(1, rng=rng) | drawn_outliers(1, rng=rng)
    strange = classifier.novelty_scores(
        classifier.outputs([classifier.squares(pictures[name][0]) for name in OTHER_THINGS])
    )
    assert own is not None
    assert strange is not None
    labels = np.repeat([0, 1], [len(own), len(strange)])
    assert roc_auc_score(labels, np.concatenate([own, strange])) >= 0.95


@pytest.mark.usefixtures("real_gate")
def test_they_are_refused_with_the_shipped_bundle(shared: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image brings the photographs")
    classifier = pesi.load(device="cpu")
    rng = np.random.default_rng(0)
    pictures = packaged_outliers(1, rng=rng) | drawn_outliers(1, rng=rng)
    found = {name: classifier.predict(pictures[name][0]) for name in OTHER_THINGS}
    assert np.mean([bool(one.no_result) for one in found.values()]) >= 0.8
    for one in found.values():  # what the gate lets pass is new to the classifier
        levels = {verdict.check: verdict.level for verdict in one.verdicts}
        assert one.no_result or levels["novelty"] == "warn"
    files = sorted((shared / "data" / "ham10000" / "images").glob("*.jpg"))[::400]
    assert np.mean([bool(found.no_result) for found in classifier.predict(files)]) <= 0.15
