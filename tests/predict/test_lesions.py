"""A lesion's answer is the mean of its images' answers, and the bundle's rule at that mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pesi.decide.triage import TriageLevel
from pesi.errors import DataError
from pesi.predict.lesions import lesion_answers, lesions_by_folder, lesions_by_table, write_lesions

NAMES = ("mel", "bcc", "nv")
LEVELS = (
    TriageLevel(level="excise", at_least=0.55, how=""),
    TriageLevel(level="refer", at_least=0.45, how=""),
    TriageLevel(level="reassure", at_least=0.0, how=""),
)


def malignant(probabilities):
    return probabilities[:, :2].sum(1)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    found = []
    for number, values in enumerate(rng.dirichlet((1, 1, 2), 60)):
        row = {"image": f"i{number}", "probabilities": dict(zip(NAMES, values.tolist(), strict=True)), "bundle": "b"}
        row |= {"no_result": "too dark" if number % 7 == 0 else None, "lesion_id": f"l{number % 13}"}
        if number % 11 == 0:
            row = {"image": f"i{number}", "path": "p", "refused": "torn", "cure": "", "lesion_id": f"l{number % 13}"}
        if number % 10 == 5:
            row["lesion_id"] = None
        found.append(row)
    found.append({"image": "x", "path": "p", "refused": "torn", "cure": "", "lesion_id": "unread"})
    return found


def test_the_mean_of_the_answered_images(rows):
    answers = {answer["lesion_id"]: answer for answer in lesion_answers(rows, LEVELS, malignant)}
    frame = pd.DataFrame(
        [
            {"lesion": row["lesion_id"], **row["probabilities"]}
            for row in rows
            if not row.get("no_result") and "refused" not in row and row["lesion_id"]
        ]
    )
    means = frame.groupby("lesion").mean()
    assert set(answers) == {row["lesion_id"] for row in rows} - {None}
    for lesion, answer in answers.items():
        own = [row for row in rows if row["lesion_id"] == lesion]
        assert answer["images"] == len(own)
        assert answer["answered"] == (frame["lesion"] == lesion).sum()
        if lesion == "unread":
            assert (answer["probabilities"], answer["triage"], answer["diagnosis"]) == ({}, None, None)
            assert answer["no_result"]
            continue
        assert answer["probabilities"] == pytest.approx(means.loc[lesion].to_dict())
        assert answer["diagnosis"] == means.loc[lesion].idxmax()
        score = means.loc[lesion, "mel"] + means.loc[lesion, "bcc"]
        assert answer["malignant"] == pytest.approx(score)
        assert answer["triage"] == ("excise" if score >= 0.55 else "refer" if score >= 0.45 else "reassure")
    assert {answer["triage"] for answer in answers.values()} == {"excise", "refer", "reassure", None}
    assert {answer["triage"] for answer in lesion_answers(rows, (), malignant)} == {None}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_files(tmp_path, rows, suffix):
    answers, path = lesion_answers(rows, LEVELS, malignant), tmp_path / f"l{suffix}"
    write_lesions(path, answers, NAMES)
    if suffix in (".csv", ".parquet"):
        frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        beside = ["diagnosis", "malignant", "triage", "no_result", "bundle"]
        assert list(frame.columns) == ["lesion_id", "images", "answered", *NAMES, *beside]
        assert list(frame["lesion_id"]) == [answer["lesion_id"] for answer in answers]
        assert list(frame["mel"].dropna()) == pytest.approx(
            [answer["probabilities"]["mel"] for answer in answers if answer["answered"]], rel=1e-5
        )
    else:
        text = path.read_text()
        assert answers == (json.loads(text) if suffix == ".json" else [json.loads(line) for line in text.splitlines()])


def test_a_folder_is_a_lesion():
    assert lesions_by_folder([Path("d/l1/a.jpg"), Path("d/l1/b.jpg"), Path("d/l2/a.jpg")]) == ["l1", "l1", "l2"]
    assert lesions_by_folder([Path("d/p/l1/a.jpg"), Path("d/q/l1/b.jpg")]) == ["p/l1", "q/l1"]
    assert lesions_by_folder([Path("d/x.jpg"), Path("d/l1/b.jpg")]) == [None, "l1"]
    assert lesions_by_folder([Path("d/l1/x.jpg"), Path("d/l1/b.jpg")]) == ["l1", "l1"]


def test_a_table_names_images_by_id_or_file(tmp_path):
    paths = [Path("d/007.jpg"), Path("d/NA.jpg"), Path("d/c.png"), Path("d/none.jpg")]
    ids = ["007", "NA", "c", "none"]
    table = tmp_path / "t.csv"
    table.write_text("lesion_id;image_id;age\n1;007;50\n2;NA.jpg;60\n1;other/c;\n;none;\n")
    assert lesions_by_table(table, ids, paths) == ["1", "2", "1", None]
    table.write_text("lesion_id,isic_id\n1,007\n2,007\n")
    with pytest.raises(DataError, match="row 3: lesion_id is '2', and before it was '1' for 007"):
        lesions_by_table(table, ids, paths)
    table.write_text("lesion_id,image\n1,x\n")
    with pytest.raises(DataError, match="none of the images"):
        lesions_by_table(table, ids, paths)
    table.write_text("lesion_id,file\n1,x\n")
    with pytest.raises(DataError, match="no column image_id"):
        lesions_by_table(table, ids, paths)
    table.write_text("lesion,image\n1,x\n")
    with pytest.raises(DataError, match="lesion_id"):
        lesions_by_table(table, ids, paths)
