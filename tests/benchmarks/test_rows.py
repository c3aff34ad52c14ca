from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import locks
import pandas as pd
import pool
import pytest
import rows
from sklearn.metrics import roc_auc_score

from benchmarks.conftest import BENCHMARKS, TABLE
from pesi.errors import PesiError
from pesi.synthetic import write_synthetic


def test_rows_come_seed_by_seed_then_fold_by_fold(table: rows.Table) -> None:
    names = [row.name for row in table.rows()]
    assert len(names) == len(set(names)) == 3 * 3 * 2
    assert names[:7] == [
        "none-s0-fold0",
        "spatial-s0-fold0",
        "sigmoid-s0-fold0",
        "none-s0-fold1",
        "spatial-s0-fold1",
        "sigmoid-s0-fold1",
        "none-s1-fold0",
    ]


def test_a_row_differs_from_the_recipe_in_its_variant_and_seed_only(table: rows.Table) -> None:
    by_name = {row.name: table.recipe(row) for row in table.rows()}
    spatial, none = by_name["spatial-s2-fold1"], by_name["none-s2-fold1"]
    assert (spatial.seed, spatial.network.attention, spatial.optimizer.alpha_lr_scale) == (2, "spatial", 20.0)
    same = spatial.model_copy(update={"network": none.network, "optimizer": none.optimizer})
    assert same == none


def test_patterns_choose_rows(table: rows.Table) -> None:
    assert {row.variant for row in rows.chosen(table.rows(), ["spatial-*", "none-s0-*"])} == {"spatial", "none"}
    assert rows.chosen(table.rows(), []) == table.rows()
    with pytest.raises(PesiError, match="No row matches 'sptial"):
        rows.chosen(table.rows(), ["sptial-*"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Made up"', "", "there is no 'title'"),
        ("seeds =", "seed =", "unknown entry 'seed'"),
        ('"fold1"]', '"fold1", "val"]', "unknown split 'val'"),
        ('"fold1"]', '"official"]', "official and folds"),
        ('"fold1"]', '"fold0"]', "stands twice"),
        ("[variants.sigmoid]", "[variants.t-0.5]", "variant 't-0'"),
        ("attention=sigmoid", "attention=sigmoide", "unknown attention 'sigmoide'"),
        ("attention=sigmoid", "atention=sigmoid", "unknown key 'network.atention'"),
        ("seeds = [0", "seeds = 0", "not valid TOML"),
        ("[variants.sigmoid]", "[variants.sigmoid]\nshare = 0", "'sigmoid' has a bad share"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nnetwork_of = "none"', "cannot take the networks of 'none'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nnetwork_of = "nine"', "cannot take the networks of 'nine'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nagainst = "nine"', "cannot be compared with 'nine'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nagainst = "sigmoid"', "cannot be compared with 'sigmoid'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nrelatives = "lose"', "'sigmoid' has a bad share or relatives"),
    ],
)
def test_a_bad_table_names_its_mistake(table: rows.Table, old: str, new: str, message: str) -> None:
    table.path.write_text(TABLE.replace(old, new))
    with pytest.raises(PesiError, match=message):
        rows.load_table(table.path)


def test_the_shipped_tables_are_sound() -> None:
    from results import all_tables

    tables = [rows.load_table(path) for path in all_tables()]
    assert {"attention/pesi18", "attention/pesi18-more"} <= {table.name for table in tables}
    for table in tables:
        assert all(table.recipe(row).select == "last" for row in table.rows())
        if table.reference:
            assert rows.load_table(table.reference).recipe_path == table.recipe_path


def test_a_claim_is_exclusive_and_let_go_of(tmp_path: Path) -> None:
    path = tmp_path / "work" / "row.claim"
    with locks.claim(path) as first:
        assert first
        assert path.read_text() == f"{os.getpid()}\n"
        assert locks.claimed(path)
        with locks.claim(path) as second:
            assert not second
        assert locks.claimed(path)
    assert not path.exists()
    assert not locks.claimed(path)


def test_a_dead_process_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "row.claim"
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\nimport time, pathlib, locks\n"
    code += f"with locks.claim(pathlib.Path({str(path)!r})):\n    print('mine', flush=True); time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with locks.claim(path) as ours:
        assert not ours
    other.kill()
    other.wait()
    other.stdout.close()
    assert path.read_text() == f"{other.pid}\n"  # left behind
    with locks.claim(path) as ours:
        assert ours


def test_near_duplicates_share_a_fold_and_leave_the_training_sets(records: pd.DataFrame) -> None:
    pairs = pd.DataFrame(
        {
            "image_a": ["I_000", "I_001", "I_010", "I_011", "I_061", "I_012"],
            "image_b": ["I_001", "I_002", "I_070", "I_091", "I_092", "I_093"],
        }
    )
    folds = pool.fold_list(records, pairs, count=3)
    assert folds.equals(pool.fold_list(records.sample(frac=1, random_state=1), pairs, count=3))
    by_id = folds.set_index("image_id")
    assert by_id["fold"].value_counts().between(26, 34).all()
    assert by_id["fold"][["I_000", "I_001", "I_002"]].nunique() == 1
    assert by_id["fold"]["I_010"] == by_id["fold"]["I_070"]
    assert by_id["duplicate_of"][by_id["duplicate_of"] != ""].to_dict() == {
        "I_010": "val",
        "I_011": "test",
        "I_012": "test",
        "I_061": "test",
    }
    held_out = []
    for split in ("fold0", "fold1", "fold2"):
        used = pool.split_records(records, folds, split)
        parts = {name: set(used["image_id"][used["split"] == name]) for name in ("train", "val", "test")}
        assert not parts["train"] & {"I_010", "I_011", "I_012", "I_061"}
        assert parts["test"] == set(records["image_id"][90:])
        assert not parts["train"] & parts["val"]
        held_out += sorted(parts["val"])
    assert sorted(held_out) == sorted(records["image_id"][:90])
    official = pool.split_records(records, folds, "official")
    assert set(official["image_id"][official["split"] == "val"]) == set(records["image_id"][60:90])
    assert (official["split"] == "train").sum() == 60 - 3
    with pytest.raises(PesiError, match="no fold7"):
        pool.split_records(records, folds, "fold7")


def test_a_share_is_stratified_and_part_of_a_larger_share(records: pd.DataFrame) -> None:
    folds = pool.fold_list(records, pd.DataFrame({"image_a": [], "image_b": []}), count=3)

    def training(share: float, seed: int = 0) -> pd.DataFrame:
        used = pool.split_records(records, folds, "fold1", share=share, seed=seed)
        assert (used["split"] == "val").sum() == 30
        return used[used["split"] == "train"]

    whole, half, tenth = training(1.0), training(0.5), training(0.1)
    assert half["diagnosis"].value_counts().to_dict() == {"MEL": 10, "SK": 10, "NV": 10}
    assert set(tenth["image_id"]) < set(half["image_id"]) < set(whole["image_id"])
    assert len(tenth) == 6
    assert set(training(0.5, seed=1)["image_id"]) != set(half["image_id"])


def test_relatives_are_dropped_or_as_many_others(records: pd.DataFrame) -> None:
    lesions = records.assign(split=None, lesion_id=[f"L{i // 2 if i < 40 else i}" for i in range(len(records))])
    lesions = lesions[lesions["diagnosis"].notna()].reset_index(drop=True)
    no_pairs = pd.DataFrame({"image_a": [], "image_b": []})
    together = pool.fold_list(lesions, no_pairs, count=3).merge(lesions[["image_id", "lesion_id"]])
    assert together.groupby("lesion_id")["fold"].nunique().max() == 1
    folds = pool.fold_list(lesions, no_pairs, count=3, grouped=False)
    assert folds.merge(lesions[["image_id", "lesion_id"]]).groupby("lesion_id")["fold"].nunique().max() == 2
    plain, apart, leaky = (
        pool.split_records(lesions, folds, "fold0", relatives=relatives) for relatives in ("", "drop", "keep")
    )
    parts = [{split: used[used["split"] == split] for split in ("train", "val")} for used in (plain, apart, leaky)]
    assert list(parts[0]["val"]["image_id"]) == list(parts[1]["val"]["image_id"]) == list(parts[2]["val"]["image_id"])
    shared = [set(part["train"]["lesion_id"]) & set(part["val"]["lesion_id"]) for part in parts]
    assert not shared[1]
    assert shared[2] == shared[0] != set()
    counts = [part["train"]["diagnosis"].value_counts().to_dict() for part in parts]
    assert counts[1] == counts[2]
    assert sum(counts[1].values()) < sum(counts[0].values())
    with pytest.raises(PesiError, match="no official validation"):
        pool.split_records(lesions, folds, "official")


def test_the_fold_list_is_read_not_made_again(records: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    listed = pool.fold_list(records, pd.DataFrame({"image_a": [], "image_b": []}), count=2)
    listed["fold"] = 1 - listed["fold"]
    listed.to_csv(path, index=False)
    folds = rows.Folds(path, count=2)
    read = pool.saved_folds(folds, records, tmp_path)
    pd.testing.assert_frame_equal(read, listed, check_dtype=False)
    listed.iloc[1:].to_csv(path, index=False)
    with pytest.raises(PesiError, match=r"1 images of the data have no fold.*I_000"):
        pool.saved_folds(folds, records, tmp_path)


def test_the_published_folds_keep_near_duplicates_together() -> None:
    folds = pd.read_csv(BENCHMARKS / "isic2017" / "folds.csv", index_col="image_id")
    pairs = pd.read_csv(BENCHMARKS / "isic2017" / "folds-pairs.csv")
    assert len(folds) == 2150
    both = pairs[pairs["image_a"].isin(folds.index) & pairs["image_b"].isin(folds.index)]
    assert len(both) > 0
    assert (folds["fold"][both["image_a"]].to_numpy() == folds["fold"][both["image_b"]].to_numpy()).all()
    one_apart = pairs[pairs["image_a"].isin(folds.index) ^ pairs["image_b"].isin(folds.index)]
    near_test = {i for pair in one_apart[["image_a", "image_b"]].to_numpy() for i in pair if i in folds.index}
    assert folds["duplicate_of"][sorted(near_test)].str.contains("test").all()


def test_a_killed_table_goes_on_to_the_same_result(tmp_path: Path) -> None:
    import train_row

    data = write_synthetic(tmp_path / "data", train=18, val=12, test=6, size=96)
    folder = tmp_path / "tables"
    folder.mkdir()
    recipe = BENCHMARKS / "attention" / "pesi18-128.recipe.toml"
    text = f"""
    title = "Killed"
    recipe = '{recipe}'
    splits = ["fold0"]
    seeds = [0]
    folds = "folds.csv"
    fold_count = 2
    set = ["network.name=pesi14", "picture.size=64", "picture.source_size=72", "batch_size=4", "epochs=3", "ema=0.5"]
    [variants.none]
    set = ["network.attention=none", "epochs=1"]
    [variants.spatial]
    set = ["network.attention=spatial"]
    [variants.looks]
    set = ["network.attention=spatial", "views=single"]
    network_of = "spatial"
    """
    for name in ("cut", "whole"):
        (folder / f"{name}.toml").write_text(text)
    cut, whole = (rows.load_table(folder / f"{name}.toml") for name in ("cut", "whole"))
    first, second, third = cut.rows()
    work = tmp_path / "work"
    command = [sys.executable, str(BENCHMARKS / "run.py"), str(cut.path), "--data", str(data), "--work", str(work)]
    run = work / "tables" / "cut" / second.name
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not (run / "log.csv").is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert cut.files(first).finished
    assert not cut.files(second).finished
    assert (run / "log.csv").is_file()
    stamp = cut.files(first).json.stat().st_mtime_ns

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[1/3 done] tables/cut: spatial-s0-fold0 ..." in done.stdout
    assert f"{second.name}: " in done.stdout
    assert "mean AUC 0." in done.stdout
    assert cut.files(first).json.stat().st_mtime_ns == stamp
    assert not list(work.rglob("*.ckpt"))
    assert not list(work.rglob("*.claim"))

    train_row.train_row(whole, whole.rows()[1], data=data, work=tmp_path / "elsewhere" / "tables" / "whole")
    files, others = cut.files(second), whole.files(whole.rows()[1])
    assert files.held_out.read_bytes() == others.held_out.read_bytes()
    assert files.test.read_bytes() == others.test.read_bytes()
    content, other = files.read(), others.read()
    assert content["log"] == other["log"]
    assert len(content["log"]) == 3
    assert content["splits"] == other["splits"]
    assert {"alpha/layer1.0", "energy/layer4.0"} <= set(content["log"][0])
    assert content["seconds"] > 0
    assert content["recipe"]["select"] == "last"
    assert str(tmp_path) not in files.json.read_text()

    assert content["git_commit"] == json.loads((run / "environment.json").read_text())["git_commit"]

    looked = cut.files(third)
    assert looked.read()["network_sha256"] == content["network_sha256"]
    assert looked.read()["seconds"] == content["seconds"]
    assert looked.held_out.read_bytes() != files.held_out.read_bytes()
    anew = tmp_path / "anew" / "tables" / "whole"  # where nothing is left of the network that it takes
    train_row.train_row(whole, whole.rows()[2], data=data, work=anew)
    assert whole.files(whole.rows()[2]).held_out.read_bytes() == looked.held_out.read_bytes()
    assert whole.files(whole.rows()[2]).read()["network_sha256"] == content["network_sha256"]

    # After another division, the network that is still there has learned from what is held out now.
    listed = pd.read_csv(folder / "folds.csv")
    listed.assign(fold=1 - listed["fold"]).to_csv(folder / "folds.csv", index=False)
    for index in (1, 2):
        with pytest.raises(PesiError, match="begun with other images"):
            train_row.train_row(whole, whole.rows()[index], data=data, work=anew)
    listed.to_csv(folder / "folds.csv", index=False)

    held_out = pd.read_csv(files.held_out).set_index("image_id")
    truth = pd.concat([pd.read_csv(path) for path in sorted(data.glob("ISIC-2017_*_Part3_GroundTruth.csv"))])
    truth = truth.set_index("image_id").loc[held_out.index]
    auc = roc_auc_score(truth["melanoma"], held_out["melanoma"])
    assert f"{second.name}: {content['seconds']:.0f} s, melanoma {auc:.3f}" in done.stdout
