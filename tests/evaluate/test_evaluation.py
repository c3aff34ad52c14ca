"""Evaluation of whole tables: against scikit-learn, the official scorer, and a page that asks for nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from pesi.datasets.records import record_table
from pesi.errors import DataError
from pesi.evaluate.attention import summarise_attention
from pesi.evaluate.evaluation import compare_predictions, evaluate_predictions
from pesi.evaluate.report import write_report
from pesi.taxonomy import TASKS

TASK = TASKS["isic2017"]


def tables(n: int = 150, seed: int = 0, sharpness: float = 2.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Plausible predictions and their records."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(3, n, p=[0.2, 0.2, 0.6])
    logits = rng.normal(size=(n, 3)) + sharpness * np.eye(3)[classes]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ids = [f"ISIC_{i:07d}" for i in range(n)]
    rows = [
        {"image_id": i, "path": f"{i}.jpg", "diagnosis": ("MEL", "SK", "NV")[c], "split": "val", "source": "made"}
        for i, c in zip(ids, classes, strict=True)
    ]
    return pd.DataFrame({"image_id": ids} | dict(zip(TASK.class_names, p.T, strict=True))), record_table(rows)


def test_perfect_scores_are_not_certainty():
    predictions, records = tables(n=40)
    for k, code in enumerate(("MEL", "SK", "NV")):
        predictions[TASK.class_names[k]] = np.where(records["diagnosis"] == code, 0.9, 0.05)
    scores = evaluate_predictions(predictions, records, TASK, replicates=50).to_dict()
    lows = []
    for entry in scores["tasks"].values():
        assert (entry["auc"], entry["auc_ci"][1], entry["average_precision_ci"]) == (1, 1, None)
        lows.append(entry["auc_ci"][0])
        expected = binomtest(40, 40).proportion_ci(method="wilson")
        assert entry["accuracy_ci"] == pytest.approx([expected.low, expected.high])
    assert all(0.5 < low < 0.99 for low in lows)
    assert scores["mean_auc_ci"] == pytest.approx([np.mean(lows), 1])
    assert scores["mean_average_precision_ci"] is None
    counts = records["diagnosis"].value_counts()
    recalls = [binomtest(int(count), int(count)).proportion_ci(method="wilson").low for count in counts]
    assert scores["multiclass"]["balanced_accuracy_ci"] == pytest.approx([np.mean(recalls), 1])
    assert scores["multiclass"]["accuracy_ci"][0] < 1
    twice = [table.assign(image_id=table["image_id"] + end) for end in ("a", "b") for table in (predictions, records)]
    photographs = pd.concat(twice[1::2]).assign(lesion_id=lambda table: table["image_id"].str[:-1])
    again = evaluate_predictions(pd.concat(twice[::2]), photographs.reset_index(drop=True), TASK, replicates=50)
    for name in ("melanoma", "seborrheic_keratosis"):  # a second photograph of each lesion adds no certainty
        for key in ("auc_ci", "accuracy_ci", "sensitivity_ci", "specificity_ci"):
            assert again.to_dict()["tasks"][name][key] == pytest.approx(scores["tasks"][name][key])
    assert again.to_dict()["multiclass"]["balanced_accuracy_ci"] == pytest.approx([np.mean(recalls), 1])


def test_every_figure_agrees_with_scikit_learn():
    predictions, records = tables()
    shuffled = predictions.sample(frac=1, random_state=1)
    scores = evaluate_predictions(shuffled, records, TASK, replicates=200).to_dict()
    truth = records["diagnosis"].to_numpy()
    aucs = []
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        y, s, entry = truth == code, predictions[name].to_numpy(), scores["tasks"][name]
        aucs.append(sk.roc_auc_score(y, s))
        assert entry["auc"] == pytest.approx(aucs[-1])
        assert entry["average_precision"] == pytest.approx(sk.average_precision_score(y, s))
        assert (entry["positives"], entry["negatives"]) == (y.sum(), (~y).sum())
        assert entry["auc_ci"][0] < entry["auc"] < entry["auc_ci"][1]
    assert scores["mean_auc"] == pytest.approx(np.mean(aucs))
    called = np.array(["MEL", "SK", "NV"])[predictions[list(TASK.class_names)].to_numpy().argmax(1)]
    assert scores["multiclass"]["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, called))
    expected = sk.confusion_matrix(truth, called, labels=["MEL", "SK", "NV"])
    np.testing.assert_array_equal(scores["multiclass"]["confusion_matrix"]["counts"], expected)
    json.dumps(scores, allow_nan=False)


def test_thresholds_move_sensitivity_only():
    predictions, records = tables()
    plain = evaluate_predictions(predictions, records, TASK, replicates=100).to_dict()["tasks"]["melanoma"]
    moved = evaluate_predictions(predictions, records, TASK, replicates=100, thresholds={"melanoma": 0.2})
    entry = moved.to_dict()["tasks"]["melanoma"]
    assert entry["sensitivity"] > plain["sensitivity"]
    assert entry["specificity"] < plain["specificity"]
    assert entry["auc"] == plain["auc"]


def test_only_one_class_is_not_measured():
    predictions, records = tables()
    benign = records[records["diagnosis"] != "MEL"]
    chosen = predictions[predictions["image_id"].isin(benign["image_id"])]
    scores = evaluate_predictions(chosen, benign, TASK, replicates=100).to_dict()
    assert scores["mean_auc"] is None
    assert scores["tasks"]["melanoma"]["auc"] is None
    assert "only one" in scores["tasks"]["melanoma"]["reason"]
    assert scores["tasks"]["seborrheic_keratosis"]["auc"] > 0.5


def test_images_that_do_not_match_are_named():
    predictions, records = tables(20)
    with pytest.raises(DataError, match="1 images have no prediction, the first is ISIC_0000019"):
        evaluate_predictions(predictions[:-1], records, TASK, replicates=100)
    with pytest.raises(DataError, match="are not among the images"):
        evaluate_predictions(predictions, records[:-1], TASK, replicates=100)
    with pytest.raises(DataError, match="predicted twice"):
        evaluate_predictions(pd.concat([predictions, predictions[:1]]), records, TASK, replicates=100)
    with pytest.raises(DataError, match="no column 'melanoma'"):
        evaluate_predictions(predictions.drop(columns="melanoma"), records, TASK, replicates=100)
    with pytest.raises(DataError, match="has a diagnosis"):
        evaluate_predictions(predictions, records.assign(diagnosis=None), TASK, replicates=100)


def test_compare_sees_a_real_difference_and_none():
    good, records = tables(400, sharpness=2.5)
    noise = np.random.default_rng(5).normal(0, 0.02, (len(good), 3))
    names = list(TASK.class_names)
    same = good.assign(**dict(zip(names, np.clip(good[names].to_numpy() + noise, 0, 1).T, strict=True)))
    bad, _ = tables(400, sharpness=0.5)
    worse = compare_predictions(good, bad, records, TASK, replicates=300)
    assert all(result.shown and result.difference > 0 for result in worse.results.values())
    assert "A is better" in worse.to_text()
    equal = compare_predictions(good, same, records, TASK, replicates=300)
    assert not equal.results["mean AUC"].shown
    assert "no difference shown" in equal.to_text()
    assert equal.to_dict()["results"]["AUC melanoma"]["method"] == "DeLong"


def test_images_of_one_lesion_count_as_one():
    """Every image three times, as photographs of one lesion: scores and intervals are those of the images once."""
    predictions, records = tables(120)
    once = evaluate_predictions(predictions, records, TASK, replicates=1000).to_dict()
    names = [f"_{k}" for k in range(3)]
    more = pd.concat([predictions.assign(image_id=predictions["image_id"] + name) for name in names])
    photographs = pd.concat(
        [records.assign(image_id=records["image_id"] + name, lesion_id=records["image_id"]) for name in names]
    ).reset_index(drop=True)
    thrice = evaluate_predictions(more, photographs, TASK, replicates=1000).to_dict()
    assert thrice["mean_auc"] == pytest.approx(once["mean_auc"])
    assert thrice["mean_auc_ci"] == pytest.approx(once["mean_auc_ci"], abs=0.01)
    assert (once["bootstrap"]["drawn"], thrice["bootstrap"]["drawn"][:7]) == ("images", "lesions")
    strangers = evaluate_predictions(more, photographs.assign(lesion_id=None), TASK, replicates=1000).to_dict()
    low, high = once["mean_auc_ci"]
    assert np.diff(strangers["mean_auc_ci"])[0] == pytest.approx((high - low) / 3**0.5, rel=0.15)

    worse, _ = tables(120, sharpness=0.5)
    other = pd.concat([worse.assign(image_id=worse["image_id"] + name) for name in names])
    compared = compare_predictions(more, other, photographs, TASK, replicates=1000)
    delong = compare_predictions(predictions, worse, records, TASK, replicates=1000).results["AUC melanoma"]
    ours = compared.results["AUC melanoma"]
    assert (ours.method, delong.method) == ("paired bootstrap", "DeLong")
    assert ours.difference == pytest.approx(delong.difference)
    assert np.diff(ours.interval)[0] == pytest.approx(np.diff(delong.interval)[0], rel=0.15)
    assert "lesions" in compared.to_text()


class Requests(HTMLParser):
    """Everything in a page that would fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "action") and not str(value).startswith(("data:", "#")):
                self.found.append(f"{tag} {name}={value}")


def test_the_report_is_one_page_that_asks_for_nothing(tmp_path):
    predictions, records = tables()
    evaluation = evaluate_predictions(predictions, records, TASK, replicates=200)
    shares = pd.DataFrame({"image_id": records["image_id"].head(3), "area": [0.2, 0.3, 0.25]})
    shares["blended"] = [0.5, 0.6, 0.4]
    summary = summarise_attention(shares, records, replicates=200)
    assert summary["maps"]["blended"]["above"] == pytest.approx(0.25)
    one_lesion = summarise_attention(shares, records.assign(lesion_id="the same"), replicates=200)
    assert one_lesion["maps"]["blended"]["above_ci"] == pytest.approx([0.25, 0.25])  # nothing but it can be drawn
    path = tmp_path / "report.html"
    write_report(
        evaluation,
        path,
        title="A <b>title</b> & more",
        provenance={"bundle": "<script>alert(1)</script>"},
        pictures=[("one", b"\x89PNG")],
        attention=summary,
    )
    text = path.read_text()
    page = Requests()
    page.feed(text)
    assert page.found == []
    assert "script" not in page.tags
    assert {"svg", "table", "img"} <= page.tags
    assert "A &lt;b&gt;title&lt;/b&gt; &amp; more" in text
    assert f"{evaluation.scores['mean_auc']:.3f}" in text
    assert not re.search(r"\b(nan|None|Undefined)\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.S))


@pytest.fixture(scope="session")
def scoring_python() -> Path:
    """The Python of the official scorer's own environment (it needs an older pandas); `make setup` makes it."""
    beside = Path(__file__).resolve().parents[2] / ".venv-scoring" / "bin" / "python"
    python = Path(os.environ.get("PESI_SCORING_PYTHON") or beside)
    if not python.is_file():
        pytest.skip("needs the official scorer: make setup")
    return python


@pytest.mark.parametrize("decimals", [6, 1])
def test_the_official_scorer_agrees(tmp_path, scoring_python, decimals):
    """isic-challenge-scoring on the seven classes of HAM10000, with and without many ties."""
    rng = np.random.default_rng(decimals)
    task, n = TASKS["ham10000"], 400
    classes = np.concatenate([np.arange(7), rng.integers(0, 7, n - 7)])
    p = np.round(rng.dirichlet(np.ones(7) * 0.7, n) * 0.6 + 0.4 * np.eye(7)[classes] * rng.random((n, 1)), decimals)
    ids = [f"ISIC_{i:07d}" for i in range(n)]
    columns = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    truth = pd.DataFrame(np.eye(7)[classes], columns=columns)
    predictions = pd.DataFrame(p, columns=columns)
    for name, frame in (("truth", truth), ("predictions", predictions)):
        frame.insert(0, "image", ids)
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    script = Path(__file__).with_name("official_scorer.py")
    files = [str(tmp_path / f"{name}.csv") for name in ("truth", "predictions")]
    done = subprocess.run([str(scoring_python), str(script), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    official = json.loads(done.stdout)
    codes = {"AKIEC": "AK"}
    records = record_table(
        {"image_id": i, "path": i, "diagnosis": codes.get(columns[c], columns[c]), "source": "made"}
        for i, c in zip(ids, classes, strict=True)
    )
    ours = evaluate_predictions(predictions.rename(columns={"image": "image_id"}), records, task, replicates=100)
    for name in columns:
        entry, theirs = ours.scores["tasks"][name], official[name]
        assert entry["auc"] == pytest.approx(theirs["auc"], abs=1e-9)
        assert entry["average_precision"] == pytest.approx(theirs["ap"], abs=1e-9)
        for ours_name, theirs_name in (
            ("accuracy", "accuracy"),
            ("sensitivity", "sensitivity"),
            ("specificity", "specificity"),
        ):
            # The scorer calls a score above 0.5 positive, we one of at least 0.5: equal unless a score is exactly 0.5.
            if not (predictions[name] == 0.5).any():
                assert entry[ours_name] == pytest.approx(theirs[theirs_name], abs=1e-9)
    if decimals > 1:  # with ties for the highest class, "the predicted class" is not defined
        balanced = ours.scores["multiclass"]["balanced_accuracy"]
        assert balanced == pytest.approx(official["balanced_accuracy"], abs=1e-9)
