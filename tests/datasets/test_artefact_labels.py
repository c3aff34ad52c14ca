"""Artefact labels: found beside the data set, put into the records' order, missing where an image is not labelled."""

from __future__ import annotations

import pandas as pd
import pytest

from pesi.datasets.artefact_labels import ARTEFACTS, artefact_table, find_artefact_labels, read_artefact_labels
from pesi.datasets.readers import read_dataset
from pesi.datasets.records import record_table
from pesi.errors import DataError

HEADER = "image_id,dark_corner,hair,gel_border,gel_bubble,ruler,ink,patches\n"


def records_in(folder, names):
    return record_table([{"image_id": n, "path": str(folder / f"{n}.jpg"), "source": "x"} for n in names])


def test_labels_follow_the_records(tmp_path):
    (tmp_path / "set" / "images" / "val").mkdir(parents=True)
    (tmp_path / "set" / "artefacts.csv").write_text(HEADER + "B,0,1,0,0,1,0,0\nA,1,0,0,0,0,0,1\n")
    records = records_in(tmp_path / "set" / "images" / "val", ["A", "C", "B"])
    assert find_artefact_labels(records) == (tmp_path / "set" / "artefacts.csv",)
    table = artefact_table(records)
    assert list(table.columns) == list(ARTEFACTS)
    assert table["hair"].tolist() == [False, None, True]
    assert table["dark_corner"].tolist() == [True, None, False]
    assert table["patches"].tolist() == [True, None, False]


def test_no_file_or_no_label_is_none(tmp_path):
    far = tmp_path / "a" / "b" / "c" / "d" / "e"
    far.mkdir(parents=True)
    assert artefact_table(records_in(far, ["A"])) is None
    (tmp_path / "a" / "artefacts.csv").write_text(HEADER + "A,1,0,0,0,0,0,1\n")
    assert artefact_table(records_in(far, ["A"])) is None  # too far above the images to be theirs
    assert artefact_table(records_in(far.parent, ["Z"])) is None


def test_two_data_sets_each_with_its_file(tmp_path):
    for name, row in (("one", "A,1,0,0,0,0,0,0"), ("two", "B,0,1,0,0,0,0,0")):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "artefacts.csv").write_text(HEADER + row + "\n")
    records = pd.concat(
        [records_in(tmp_path / "one" / "images", ["A"]), records_in(tmp_path / "two" / "images", ["B"])],
        ignore_index=True,
    )
    table = artefact_table(records)
    assert table["dark_corner"].tolist() == [True, False]
    assert table["hair"].tolist() == [False, True]


def test_a_bad_file_is_named(tmp_path):
    file = tmp_path / "artefacts.csv"
    file.write_text("image_id,hair\nA,1\n")
    with pytest.raises(DataError, match="dark_corner"):
        read_artefact_labels(file)
    file.write_text(HEADER + "A,1,0,0,0,0,0,2\n")
    with pytest.raises(DataError, match="row 2: patches is '2'"):
        read_artefact_labels(file)


def test_the_real_labels(shared):
    records = read_dataset(shared / "data" / "isic2017")
    table = artefact_table(records[records["split"] == "val"].reset_index(drop=True))
    plain = pd.read_csv(shared / "data" / "isic2017" / "artefacts.csv").set_index("image_id")
    ids = records["image_id"][records["split"] == "val"]
    assert table["ruler"].sum() == plain["ruler"].reindex(ids).sum()
    assert table["ruler"].isna().sum() == (~ids.isin(plain.index)).sum()
