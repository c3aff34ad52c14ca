"""Splits and folds: groups stay together, classes everywhere, shares near the wish; leaks are found."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pesi.datasets.readers import read_dataset
from pesi.datasets.records import record_table
from pesi.datasets.splits import folds, group_ids, id_lists, leak_report, read_ids, split_records
from pesi.errors import DataError


def table_of(rows: list[dict]) -> pd.DataFrame:
    return record_table({"path": f"/nowhere/{row['image_id']}.jpg", "source": "test"} | row for row in rows)


def plain(count: int, diagnoses: str = "NV", **columns: object) -> list[dict]:
    names = diagnoses.split()
    return [{"image_id": f"im{i:04}", "diagnosis": names[i % len(names)]} | columns for i in range(count)]


@st.composite
def grouped_tables(draw: st.DrawFn) -> tuple[pd.DataFrame, pd.Series]:
    count = draw(st.integers(12, 60))
    ids = [f"im{i:03}" for i in range(count)]
    some = st.one_of(st.none(), st.integers(0, count // 2).map(str))
    rows = [
        {
            "image_id": image_id,
            "diagnosis": draw(st.sampled_from(["NV", "NV", "NV", "MEL", "BKL", None])),
            "patient_id": draw(some),
            "lesion_id": draw(some),
        }
        for image_id in ids
    ]
    rows[0]["diagnosis"] = "NV"
    clusters = pd.Series([draw(st.integers(0, count)) for _ in ids], index=ids)
    return table_of(rows), clusters


def components(table: pd.DataFrame, clusters: pd.Series) -> list[set[str]]:
    """Groups by merging sets until nothing changes: slow, and by no code of ours."""
    sets: list[set[str]] = [{image_id} for image_id in table["image_id"]]
    for column in (table["patient_id"], table["lesion_id"], table["image_id"].map(clusters)):
        for key in column.dropna().unique():
            members = set(table.loc[column == key, "image_id"])
            touched = [group for group in sets if group & members]
            sets = [group for group in sets if not group & members] + [set().union(*touched)]
    return sets


@settings(max_examples=60, deadline=None)
@given(grouped_tables(), st.integers(0, 5))
def test_no_group_crosses_and_the_unlabelled_stay_out(drawn: tuple[pd.DataFrame, pd.Series], seed: int) -> None:
    table, clusters = drawn
    split = split_records(table, val=0.2, test=0.2, seed=seed, clusters=clusters).set_index("image_id")["split"]
    labelled = set(table.loc[table["diagnosis"].notna(), "image_id"])
    for group in components(table, clusters):
        assert len({split[image_id] for image_id in group & labelled}) <= 1
    assert split[sorted(labelled)].notna().all()
    assert split[sorted(set(split.index) - labelled)].isna().all()


@settings(max_examples=30, deadline=None)
@given(grouped_tables())
def test_group_ids_are_the_connected_components(drawn: tuple[pd.DataFrame, pd.Series]) -> None:
    table, clusters = drawn
    found = table["image_id"].groupby(group_ids(table, clusters)).agg(set)
    assert sorted(map(sorted, found)) == sorted(map(sorted, components(table, clusters)))


@settings(max_examples=30, deadline=None)
@given(grouped_tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_is_irrelevant(drawn: tuple[pd.DataFrame, pd.Series], random: object) -> None:
    table, clusters = drawn
    shuffled = table.sample(frac=1.0, random_state=random.randrange(1000)).reset_index(drop=True)  # type: ignore[attr-defined]
    one, other = (split_records(t, seed=3, clusters=clusters) for t in (table, shuffled))
    assert id_lists(one) == id_lists(other)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["A", "B", "C", "D"]), st.integers(3, 40), min_size=1),
    st.sampled_from([(0.15, 0.15), (0.2, 0.0), (0.1, 0.3)]),
    st.integers(0, 3),
)
def test_every_class_in_every_split_and_shares_near_the_wish(
    sizes: dict[str, int], shares: tuple[float, float], seed: int
) -> None:
    names = [name for name, size in sizes.items() for _ in range(size)]
    table = table_of([{"image_id": f"im{i:04}", "diagnosis": name} for i, name in enumerate(names)])
    val, test = shares
    split = split_records(table, val=val, test=test, seed=seed)
    wished = {"train": 1 - val - test, "val": val, "test": test}
    for name, size in sizes.items():
        counts = Counter(split.loc[split["diagnosis"] == name, "split"])
        for part, share in wished.items():
            assert (counts[part] >= 1) == (share > 0)
            # A whole image more or less, and one in each further split that would have had none.
            assert abs(counts[part] - share * size) <= 2


def test_shares_are_exact_for_ungrouped_images_in_round_numbers() -> None:
    split = split_records(table_of(plain(400, "NV NV NV MEL")), val=0.1, test=0.2)
    counts = split.groupby(["split", "diagnosis"]).size().to_dict()
    expected = {"train": (210, 70), "val": (30, 10), "test": (60, 20)}
    assert counts == {(s, d): n for s, pair in expected.items() for d, n in zip(("NV", "MEL"), pair, strict=True)}


def test_seeds_are_reproducible_and_differ() -> None:
    table = table_of(plain(60, "NV MEL"))
    hashes = [id_lists(split_records(table, seed=seed))["test"]["sha256"] for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_official_train_and_val_stay_but_for_unlabelled_rows() -> None:
    rows = [row | {"split": split} for row, split in zip(plain(6), ["train", "val", "test"] * 2, strict=True)]
    rows.append({"image_id": "zz", "split": "train"})
    table = table_of(rows)
    split = split_records(table, val=0.5, test=0.4)
    assert list(split["split"][:6]) == ["train", "val", "test"] * 2
    assert pd.isna(split["split"].iloc[6])
    assert table["split"].iloc[6] == "train"  # the given table is left alone


def test_val_comes_out_of_train_where_test_is_official() -> None:
    rows = plain(100, "NV MEL", split="train")
    rows += [{"image_id": f"te{i}", "split": "test", "lesion_id": "L1"} for i in range(3)]
    rows[0]["lesion_id"] = "L1"  # a relative of test images: it stays in train rather than go to val
    for seed in range(5):
        split = split_records(table_of(rows), val=0.2, test=0.3, seed=seed).set_index("image_id")["split"]
        assert (split[[f"te{i}" for i in range(3)]] == "test").all()
        assert split["im0000"] == "train"
        assert (split == "test").sum() == 3
        assert (split == "val").sum() in (19, 20)


def test_only_train_is_divided_into_three() -> None:
    split = split_records(table_of(plain(100, split="train")), val=0.1, test=0.2)["split"]
    assert split.value_counts().to_dict() == {"train": 70, "test": 20, "val": 10}


def test_unsplit_relatives_of_official_test_images_are_left_out() -> None:
    rows = [row | {"patient_id": f"p{i // 2}"} for i, row in enumerate(plain(40))]
    rows[0]["split"] = "test"
    split = split_records(table_of(rows)).set_index("image_id")["split"]
    assert split["im0000"] == "test"
    assert pd.isna(split["im0001"])
    assert split.iloc[2:].isin(["train", "val"]).all()


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.1), (1.0, 0.0), (float("nan"), 0.1)])
def test_bad_shares_are_refused(val: float, test: float) -> None:
    with pytest.raises(DataError, match="nothing to train"):
        split_records(table_of(plain(10)), val=val, test=test)


def test_a_table_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="None of the 3 images"):
        split_records(table_of([{"image_id": c} for c in "abc"]))


def test_folds_keep_groups_and_balance_classes() -> None:
    rng = np.random.default_rng(0)
    rows = [row | {"patient_id": str(rng.integers(0, 80))} for row in plain(300, "NV NV NV MEL")]
    rows.append({"image_id": "unlabelled"})
    table = table_of(rows)
    fold = folds(table, k=5, seed=1)
    assert fold.isna().sum() == 1
    assert table.assign(fold=fold).groupby("patient_id")["fold"].nunique().max() == 1
    shares = table.assign(fold=fold)[:300].groupby("fold")["diagnosis"].apply(lambda d: (d == "MEL").mean())
    assert sorted(shares.index) == [0, 1, 2, 3, 4]
    assert ((shares - 0.25).abs() < 0.06).all()
    shuffled = table.sample(frac=1.0, random_state=4)
    pd.testing.assert_series_equal(folds(shuffled, k=5, seed=1).sort_index(), fold)


def test_folds_need_enough_groups() -> None:
    with pytest.raises(DataError, match="cannot be divided"):
        folds(table_of(plain(30, patient_id="one")), k=5)


def test_leak_report_finds_each_kind() -> None:
    rows = [
        {"image_id": "a", "split": "train", "patient_id": "P", "lesion_id": "L"},
        {"image_id": "b", "split": "test", "patient_id": "P"},
        {"image_id": "c", "split": "val", "lesion_id": "L"},
        {"image_id": "d", "split": "test", "path": "/nowhere/x/../a.jpg"},
        {"image_id": "e", "patient_id": "P"},
    ]
    pairs = pd.DataFrame({"image_a": ["a", "b", "a"], "image_b": ["b", "d", "e"], "distance": [0.0, 0.1, 0.1]})
    report = leak_report(table_of(rows), pairs)
    assert report.leaks
    assert [(s.key, s.splits, s.images) for s in report.patients] == [("P", ("train", "test"), ("a", "b"))]
    assert [(s.key, s.splits, s.images) for s in report.lesions] == [("L", ("train", "val"), ("a", "c"))]
    assert [s.images for s in report.paths] == [("a", "d")]
    assert report.pairs is not None
    assert [(p.image_a, p.image_b) for p in report.pairs] == [("a", "b")]
    assert json.loads(json.dumps(report.to_dict()))["counts"] == {"patients": 1, "lesions": 1, "paths": 1, "pairs": 1}
    text = report.to_text()
    assert "P in train, test: a, b" in text
    assert "2 of 4 images have an id" in text


def test_a_clean_split_has_no_leaks_and_says_what_was_not_looked_for() -> None:
    rows = [row | {"patient_id": f"p{i // 3}", "lesion_id": f"l{i // 2}"} for i, row in enumerate(plain(90, "NV MEL"))]
    report = leak_report(split_records(table_of(rows)))
    assert not report.leaks
    assert report.to_dict()["counts"]["pairs"] is None
    assert "not looked for" in report.to_text()


def test_id_lists_hash_a_file_of_sorted_ids(tmp_path: Path) -> None:
    rows = [{"image_id": image_id, "split": "val"} for image_id in ("b", "ä", "a")] + [{"image_id": "c"}]
    lists = id_lists(table_of(rows))
    (tmp_path / "ids.txt").write_bytes("a\nb\nä\n".encode())
    digest = hashlib.sha256((tmp_path / "ids.txt").read_bytes()).hexdigest()
    assert lists == {"val": {"count": 3, "sha256": digest, "ids": ["a", "b", "ä"]}}


def test_ham10000_lesions_stay_together(real_data: Callable[[str], Path]) -> None:
    table = read_dataset(real_data("ham10000"))
    split = split_records(table, val=0.15, test=0.15, seed=0)
    assert not leak_report(split).leaks
    shares = pd.crosstab(split["diagnosis"], split["split"], normalize="index")
    assert (shares["test"].between(0.13, 0.17) & shares["val"].between(0.13, 0.17)).all()
    alone = table.assign(split=np.where(np.arange(len(table)) % 5 == 0, "test", "train"))
    assert len(leak_report(alone).lesions) > 500  # what a split by image would do


def test_isic2017_near_duplicates_cross_the_official_split(real_data: Callable[[str], Path]) -> None:
    folder = real_data("isic2017")
    pairs = pd.read_csv(folder / "near_duplicates.csv")
    report = leak_report(split_records(read_dataset(folder)), pairs)
    assert report.images == {"train": 2000, "val": 150, "test": 600}
    assert report.pairs is not None
    assert len(report.pairs) == (pairs["split_a"] != pairs["split_b"]).sum() == 6


def test_ids_are_read_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbfmole 1\r\n  img_2 \n\n\tthe last")
    assert read_ids(tmp_path / "ids.txt") == {"mole 1", "img_2", "the last"}
    (tmp_path / "ids.txt").write_bytes(b"")
    assert read_ids(tmp_path / "ids.txt") == set()
