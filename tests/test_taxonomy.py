"""Diagnoses and tasks: every ISIC label finds its class, and nothing else does."""

from __future__ import annotations

import pytest

from pesi.datasets.records import COLUMNS, record_table
from pesi.errors import DataError
from pesi.taxonomy import DIAGNOSES, TASKS, task_of


def test_parents_and_tasks_name_known_diagnoses():
    assert all(d.parent in DIAGNOSES or d.parent == "" for d in DIAGNOSES.values())
    for task in TASKS.values():
        assert set(task.scored) <= set(task.class_names)
        assert all(code in DIAGNOSES for c in task.classes for code in c.diagnoses)
        for index, c in enumerate(task.classes):
            assert all(task.class_of(code) == index for code in c.diagnoses)


def test_classes_of():
    task = TASKS["isic2017"]
    assert [task.class_of(code) for code in ("MEL", "SK", "NV", "BKL")] == [0, 1, 2, 1]
    assert TASKS["ham10000"].class_of("SK") == TASKS["ham10000"].class_names.index("BKL")
    assert task.scored_names == ("melanoma", "seborrheic_keratosis")
    assert [c.malignant for c in task.classes] == [True, False, False]
    with pytest.raises(DataError, match="'BCC' belongs to no class"):
        task.class_of("BCC")


def test_a_users_own_classes():
    task = task_of("classes", ["wart", "mole", "wart"])
    assert task.class_names == ("mole", "wart")
    assert task.classes[0].malignant is None
    with pytest.raises(DataError, match="at least two"):
        task_of("classes", ["mole"])
    with pytest.raises(DataError, match="Unknown task"):
        task_of("isic2042")


def row(**changes):
    return {"image_id": "a", "path": "a.jpg", "source": "s"} | changes


def test_record_table():
    table = record_table([row(age="54", split="train"), row(image_id="b")])
    assert tuple(table.columns) == COLUMNS
    assert table["age"].tolist()[0] == 54
    assert table["split"].tolist() == ["train", None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "No images"),
        ([row(colour="red")], "Unknown record columns: colour"),
        ([row(), row()], "'a'"),
        ([row(path=None)], "Row 1 has no path"),
        ([row(split="dev")], "Unknown split 'dev'"),
    ],
)
def test_bad_records(rows, message):
    with pytest.raises(DataError, match=message):
        record_table(rows)
