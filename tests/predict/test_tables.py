"""Prediction files: the promised columns, and what can go wrong with them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from pesi.errors import DataError, PesiError
from pesi.predict.prediction import Refusal
from pesi.predict.tables import isic2017_submission, read_prediction_table, write_predictions


@pytest.fixture
def results(classifier, spots):
    return [
        *classifier.predict_many(spots["path"].iloc[:3]),
        Refusal("bad", "bad.jpg", "not an image", "save it again"),
    ]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(tmp_path, results, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, results)
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    names = ["melanoma", "seborrheic_keratosis", "nevus"]
    assert list(frame.columns) == ["image", *names, "triage", "no_result", "path"]
    assert list(frame["image"]) == ["train_000", "train_001", "train_002", "bad"]
    assert list(frame["path"][:3]) == [result.path for result in results[:3]]
    assert frame.iloc[3][names].isna().all()
    assert frame["no_result"].iloc[3] == "cannot be read: not an image"
    assert frame["melanoma"].iloc[1] == pytest.approx(results[1].probabilities["melanoma"])
    read = read_prediction_table(path)
    assert list(read.columns) == ["image_id", *names]
    assert list(read["image_id"]) == ["train_000", "train_001", "train_002"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_holds_refusals_too(tmp_path, results, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, results)
    text = path.read_text()
    values = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert [v["image"] for v in values] == ["train_000", "train_001", "train_002", "bad"]
    assert values[3]["refused"] == "not an image"
    assert values[0]["probabilities"]["nevus"] == pytest.approx(results[0].probabilities["nevus"])


def test_submission(results):
    lines = isic2017_submission(results[:3]).splitlines()
    assert lines[0] == "image_id,melanoma,seborrheic_keratosis"
    for line, result in zip(lines[1:], results[:3], strict=True):
        image_id, melanoma, keratosis = line.split(",")
        assert image_id == result.image_id
        assert float(melanoma) == pytest.approx(result.probabilities["melanoma"], abs=1e-8)
        assert float(keratosis) == pytest.approx(result.probabilities["seborrheic_keratosis"], abs=1e-8)
    with pytest.raises(DataError, match=r"refused, the first is bad\.jpg"):
        isic2017_submission(results)


def test_bad_tables_are_named(tmp_path):
    with pytest.raises(PesiError, match="format of"):
        write_predictions(tmp_path / "out.xlsx", [])
    with pytest.raises(DataError, match="no predictions file"):
        read_prediction_table(tmp_path / "missing.csv")
    path = tmp_path / "bad.csv"
    path.write_text("image_id,melanoma\na,0.5\nb,1.5\n")
    with pytest.raises(DataError, match=r"row 3, column melanoma: .*1\.5"):
        read_prediction_table(path)
    path.write_text("name,melanoma\na,0.5\n")
    with pytest.raises(DataError, match="no column image_id"):
        read_prediction_table(path)
