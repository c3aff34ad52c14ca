"""Prediction files: the promised columns, and what can go wrong with them."""

from __future__ import annotations

import dataclasses
import json
import re

import pandas as pd
import pytest

from pesi.errors import DataError, PesiError
from pesi.predict import tables
from pesi.predict.prediction import Refusal
from pesi.predict.tables import (
    isic2017_submission,
    prediction_frame,
    read_prediction_table,
    read_predictions,
    write_predictions,
    write_rows,
)


@pytest.fixture
def results(classifier, spots):
    return [
        *classifier.predict_many(spots["path"].iloc[:3]),
        Refusal("bad", "bad.jpg", "not an image", "save it again"),
    ]


NAMES = ["melanoma", "seborrheic_keratosis", "nevus"]
BESIDE = ["triage", "no_result", "path", "diagnosis", "malignant", "prediction_set", "warnings", "bundle"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(tmp_path, results, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, results)
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert list(frame.columns) == ["image", *NAMES, *BESIDE]
    assert list(frame["image"]) == ["train_000", "train_001", "train_002", "bad"]
    assert list(frame["path"][:3]) == [result.path for result in results[:3]]
    assert frame.iloc[3][[*NAMES, "malignant"]].isna().all()
    assert frame["no_result"].iloc[3] == "cannot be read: not an image"
    read = read_predictions(path)
    assert list(read.table.columns) == ["image_id", *NAMES]
    answered = [result for result in results[:3] if not result.no_result]
    assert list(read.table["image_id"]) == [result.image_id for result in answered]
    assert set(read.no_result) == {result.image_id for result in results} - set(read.table["image_id"])
    digits = 1e-5 if suffix == ".csv" else 1e-12
    for row, result in zip(frame.itertuples(), results[:3], strict=False):
        if not result.no_result:
            best = max(result.probabilities.items(), key=lambda item: item[1])
            assert row.diagnosis == best[0]
            assert getattr(row, best[0]) == pytest.approx(best[1], rel=digits)
            assert row.malignant == pytest.approx(result.malignant, rel=digits)
            assert row.prediction_set.split("; ") == list(result.sets["0.90"] or ["none of these"])
            assert row.bundle == result.bundle_id


def test_numbers_are_short_and_read_back(tmp_path, results):
    write_predictions(tmp_path / "p.csv", results)
    numbers = re.findall(r"(?<=,)\d\.\d+(?:e-\d+)?(?=,)", (tmp_path / "p.csv").read_text())
    assert numbers
    assert max(len(number.partition("e")[0].lstrip("0.")) for number in numbers) <= 7  # six digits and a point


def test_the_frame_is_the_table(tmp_path, results):
    write_predictions(tmp_path / "p.parquet", results)
    pd.testing.assert_frame_equal(prediction_frame(results), pd.read_parquet(tmp_path / "p.parquet"), check_dtype=False)
    assert list(prediction_frame([]).columns) == ["image", *BESIDE]


def test_many_rows_are_written_in_pieces(tmp_path, monkeypatch, results):
    rows = [result.to_dict() | {"image": f"i{n}"} for n, result in enumerate(results * 5)]
    write_rows(tmp_path / "whole.csv", rows, NAMES)
    monkeypatch.setattr(tables, "_AT_ONCE", 3)
    for suffix in (".csv", ".parquet"):
        write_rows(tmp_path / f"p{suffix}", iter(rows), NAMES)
        assert len(read_predictions(tmp_path / f"p{suffix}").no_result) + len(
            read_predictions(tmp_path / f"p{suffix}").table
        ) == len(rows)
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "whole.csv").read_text()


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_holds_refusals_too(tmp_path, results, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, results)
    text = path.read_text()
    values = json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    assert [v["image"] for v in values] == ["train_000", "train_001", "train_002", "bad"]
    assert values[3]["refused"] == "not an image"
    promised = {"image", "path", "probabilities", "malignant", "triage", "no_result", "prediction_sets"}
    assert promised <= set(values[0])
    assert values[0]["probabilities"]["nevus"] == pytest.approx(results[0].probabilities["nevus"])
    read = read_predictions(path)
    assert len(read.table) + len(read.no_result) == 4
    assert read.no_result["bad"] == "cannot be read: not an image"
    for row in read.table.itertuples():
        (own,) = [result for result in results if result.image_id == row.image_id]
        assert row.nevus == own.probabilities["nevus"]


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
@pytest.mark.parametrize(
    "image_id", ["NA", "007", "null", "1e5", "", " a", "nan", "True", "é\u2028x", 'with "quotes", commas']
)
def test_ids_are_read_back_as_they_are(tmp_path, results, suffix, image_id):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, [dataclasses.replace(results[0], image_id=image_id, no_result="")])
    assert list(read_predictions(path).table["image_id"]) == [image_id]


def test_other_columns_are_passed_over(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("age;isic;melanoma;image;nevus\n70;x;0.5;NA;0.25\n80;y;1;b;0\n")
    table = read_predictions(path, ("melanoma", "seborrheic_keratosis", "nevus")).table
    assert table.to_dict("list") == {"image_id": ["NA", "b"], "melanoma": [0.5, 1], "nevus": [0.25, 0]}
    with pytest.raises(DataError, match="no column of the classes MEL, BCC; it has: age, isic"):
        read_predictions(path, ("MEL", "BCC"))


def test_submission(results):
    lines = isic2017_submission(result.to_dict() for result in results[:3]).splitlines()
    assert lines[0] == "image_id,melanoma,seborrheic_keratosis"
    for line, result in zip(lines[1:], results[:3], strict=True):
        image_id, melanoma, keratosis = line.split(",")
        assert image_id == result.image_id
        assert float(melanoma) == pytest.approx(result.probabilities["melanoma"], abs=1e-8)
        assert float(keratosis) == pytest.approx(result.probabilities["seborrheic_keratosis"], abs=1e-8)
    with pytest.raises(DataError, match=r"refused, the first is bad\.jpg"):
        isic2017_submission(result.to_dict() for result in results)


def test_bad_tables_are_named(tmp_path):
    with pytest.raises(PesiError, match="ending"):
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
    path.write_text("image_id,melanoma\na,\n")
    with pytest.raises(DataError, match="row 2, column melanoma: '' is no probability"):
        read_prediction_table(path)
    for name, text in (
        ("p.json", "[1]"),
        ("p.json", "{"),
        ("p.jsonl", "no"),
        ("p.parquet", "PAR1"),
        ("p.json", "[{}]"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="cannot be read as predictions"):
            read_prediction_table(tmp_path / name)
