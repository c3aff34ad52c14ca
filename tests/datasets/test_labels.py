"""Labels of a task, labels that make no sense, and files that are not there: told, left out or refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pesi.datasets.check import check_records
from pesi.datasets.labels import near_names, of_task, refuse_senseless, senseless_labels
from pesi.datasets.readers import read_dataset
from pesi.datasets.records import record_table
from pesi.errors import DataError
from pesi.taxonomy import TASK_NAMES, TASKS, task_of


def table(diagnoses: Iterable[str | None]) -> pd.DataFrame:
    return record_table(
        {"image_id": f"i{n}", "path": f"i{n}.png", "diagnosis": d, "source": "made"} for n, d in enumerate(diagnoses)
    )


@pytest.mark.parametrize(
    ("diagnoses", "parts"),
    [
        ([None] * 4, ["0 of 4 images have a diagnosis"]),
        (["NV"] * 4, ["all 4 images with a diagnosis are NV"]),
        (["p1", "p2", "p3"], ["3 of 3 classes have one image only: p1, p2, p3"]),
        (["NV", "NV", "MEL", "MEL", "melonoma", "melonoma"], ["'melonoma' is written nearly as 'melanoma'"]),
        (["wart", "wart", "Wart ", "Wart "], ["'Wart ' is written nearly as 'wart'", "'wart' is written nearly"]),
        (["NV", "NV", "MEL", "MEL"], []),
        (["NV", "NV", "wart", "wart", "grade 1", "grade 1", "grade 2", "grade 2", None], []),
        (["0", "0", "1", "1"], []),
    ],
)
def test_labels_without_sense_are_said_and_refused(
    diagnoses: list[str | None], parts: list[str], tmp_path: Path
) -> None:
    records = table(diagnoses)
    told = senseless_labels(records)
    assert len(told) == len(parts)
    assert all(any(part in text for text in told) for part in parts)
    for path in records["path"]:
        noise = np.random.default_rng(len(path) + int(path[1:-4])).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / path)
    report = check_records(records.assign(path=[str(tmp_path / path) for path in records["path"]]))
    assert report.ok is (not parts)
    assert ("Everything is in order" in report.to_text()) is (not parts)
    assert list(report.to_dict()["labels"]) == told
    known = {d for d in diagnoses if d is not None}
    task = task_of("classes", known) if len(known) > 1 else TASKS["isic2017"]
    if parts:
        with pytest.raises(DataError) as error:
            refuse_senseless(records, task)
        assert any(part[:12].lower() in error.value.problem.lower() for part in parts)
        assert error.value.cure
    else:
        refuse_senseless(records, task)


def test_kinds_of_one_class_are_nothing_to_tell_apart() -> None:
    with pytest.raises(DataError, match="'benign'"):
        refuse_senseless(table(["NV", "NV", "DF", "BENIGN", None]), TASKS["melanoma"])
    refuse_senseless(table(["NV", "NV", "DF", "MEL", None]), TASKS["melanoma"])  # one melanoma is few, not none


@pytest.mark.parametrize("name", ["melanoma", "BENIGN", "nv", "Seborrheic_Keratosis", "lentigo", "hand", "MELA-1"])
def test_names_that_are_known_or_far_from_known_ones(name: str) -> None:
    from pesi.datasets.diagnosis_names import diagnosis_code

    assert near_names([diagnosis_code(name)]) == []


def test_diagnoses_of_no_class_are_counted_or_left_out() -> None:
    records = table(["MEL", "SK", None, *["BCC"] * 12, "UNK", "melonoma"])
    said: list[str] = []
    with pytest.raises(DataError) as error:
        of_task(records, TASKS["isic2017"], skip=False, say=said.append)
    text = error.value.problem
    assert "14 image(s)" in text
    assert "BCC (12), UNK (1), melonoma (1)" in text
    assert "nearly as 'melanoma'" in text
    assert text.count("\n  i") == 10
    assert "and 4 more" in text
    assert "--skip-other-diagnoses" in error.value.cure
    assert not said
    kept = of_task(records, TASKS["isic2017"], skip=True, say=said.append)
    assert list(kept["image_id"]) == ["i0", "i1", "i2"]  # one without a diagnosis has no other one
    assert "14 image(s)" in said[0]
    with pytest.raises(DataError, match="BCC"):
        of_task(table(["BCC"]), TASKS["isic2017"], skip=True, say=said.append)


def test_known_malignancy_of_unknown_kind_is_of_use_to_a_binary_task(tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(tmp_path / f"{name}.png")
    file = tmp_path / "t.csv"
    file.write_text("image,diagnosis,benign_malignant\na,unknown,benign\nb,unknown,malignant\nc,unknown,\n")
    melanoma = TASKS["melanoma"]
    with pytest.raises(DataError, match=r"UNK \(1\)"):
        read_dataset(file, task=melanoma, say=lambda text: None)
    said: list[str] = []
    records = read_dataset(file, task=melanoma, skip_other_diagnoses=True, say=said.append)
    assert "1 image(s) are MALIGNANT, of no known kind" in said[0]
    assert "1 image(s) have a diagnosis of no class" in said[1]
    assert "left out: UNK (1)" in said[1]
    assert [melanoma.class_names[melanoma.class_of(d)] for d in records["diagnosis"]] == ["benign", "melanoma"]


def test_task_names_are_those_that_there_are() -> None:
    assert {task_of(name, ["a", "b"]).name for name in TASK_NAMES} == {*TASKS, "classes"}
