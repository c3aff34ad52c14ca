from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pool
import pytest
import results
import table as tables
from pack import finished, read_rows
from run import claim
from sklearn.metrics import roc_auc_score
from train_row import EnergyMeter

from benchmarks.conftest import BENCHMARKS, TABLE
from pesi.errors import PesiError
from pesi.synthetic import write_synthetic


def test_rows_come_seed_by_seed_then_fold_by_fold(table: tables.Table) -> None:
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


def test_a_row_differs_from_the_recipe_in_its_variant_and_seed_only(table: tables.Table) -> None:
    by_name = {row.name: table.recipe(row) for row in table.rows()}
    spatial, none = by_name["spatial-s2-fold1"], by_name["none-s2-fold1"]
    assert (spatial.seed, spatial.network.attention, spatial.optimizer.alpha_lr_scale) == (2, "spatial", 20.0)
    same = spatial.model_copy(update={"network": none.network, "optimizer": none.optimizer})
    assert same == none


def test_patterns_choose_rows(table: tables.Table) -> None:
    assert {row.variant for row in tables.chosen(table.rows(), ["spatial-*", "none-s0-*"])} == {"spatial", "none"}
    assert tables.chosen(table.rows(), []) == table.rows()
    with pytest.raises(PesiError, match="No row matches 'sptial"):
        tables.chosen(table.rows(), ["sptial-*"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "Made up"', "", "title: Field required"),
        ("seeds =", "seed =", "seed: Extra inputs"),
        ('"fold1"]', '"fold1", "val"]', "splits: 2: String should match"),
        ('"fold1"]', '"official"]', "official and folds"),
        ('"fold1"]', '"fold0"]', "stands twice"),
        ("[variants.sigmoid]", "[variants.t-0.5]", r"variants: t-0.*Extra inputs"),
        ("attention=sigmoid", "attention=sigmoide", "unknown attention 'sigmoide'"),
        ("attention=sigmoid", "atention=sigmoid", "unknown key 'network.atention'"),
        ("seeds = [0", "seeds = 0", "not valid TOML"),
        (
            "[variants.sigmoid]",
            "[variants.sigmoid]\nshare = 0",
            "variants: sigmoid: share: Input should be",
        ),
        ("[variants.sigmoid]", '[variants.sigmoid]\nnetwork_of = "none"', "cannot take the networks of 'none'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nnetwork_of = "nine"', "cannot take the networks of 'nine'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nagainst = "nine"', "cannot be compared with 'nine'"),
        ("[variants.sigmoid]", '[variants.sigmoid]\nagainst = "sigmoid"', "cannot be compared with 'sigmoid'"),
        (
            "[variants.sigmoid]",
            '[variants.sigmoid]\nrelatives = "lose"',
            "sigmoid: relatives: Input should be",
        ),
    ],
)
def test_a_bad_table_names_its_mistake(table: tables.Table, old: str, new: str, message: str) -> None:
    table.path.write_text(TABLE.replace(old, new))
    with pytest.raises(PesiError, match=message):
        tables.load_table(table.path)


def test_the_shipped_tables_are_sound() -> None:
    shipped = [tables.load_table(path) for path in results.all_tables()]
    assert {"attention/pesi18", "attention/pesi18-more"} <= {table.name for table in shipped}
    for table in shipped:
        assert all(table.recipe(row).select == "last" for row in table.rows())
        if table.reference:
            other = tables.load_table(table.path.parent / table.reference)
            files = {(each.path.parent / each.recipe_file).resolve() for each in (table, other)}
            assert len(files) == 1


def test_a_claim_is_exclusive_and_let_go_of(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with claim(work, "one", "two") as first:
        assert first
        for names in (("two",), ("other", "one")):
            with claim(work, *names) as second:
                assert not second
        with claim(work, "other") as other:  # let go of, where another could not be had
            assert other
    with claim(work, "one", "two") as again:
        assert again


def test_a_dead_process_claims_nothing(tmp_path: Path) -> None:
    code = f"import sys, time, pathlib\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom run import claim\n"
    code += f"with claim(pathlib.Path({str(tmp_path)!r}), 'row'):\n    print('mine', flush=True); time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with claim(tmp_path, "row") as ours:
        assert not ours
    other.kill()
    other.wait()
    other.stdout.close()
    with claim(tmp_path, "row") as ours:
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


def test_the_fold_list_is_read_not_made_again(table: tables.Table, records: pd.DataFrame, tmp_path: Path) -> None:
    path = table.folds_path
    listed = pool.fold_list(records, pd.DataFrame({"image_a": [], "image_b": []}), count=2)
    listed["fold"] = 1 - listed["fold"]
    path.parent.mkdir()
    listed.to_csv(path, index=False)
    read = pool.saved_folds(table, records, tmp_path)
    pd.testing.assert_frame_equal(read, listed, check_dtype=False)
    listed.iloc[1:].to_csv(path, index=False)
    with pytest.raises(PesiError, match=r"1 images of the data have no fold.*I_000"):
        pool.saved_folds(table, records, tmp_path)


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


@pytest.mark.slow
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
    cut, whole = (tables.load_table(folder / f"{name}.toml") for name in ("cut", "whole"))
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
    assert finished(cut) == {first.name}
    assert (run / "log.csv").is_file()
    stamp = (cut.rows_folder / f"{first.name}.json").stat().st_mtime_ns

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[1/3 done] tables/cut: spatial-s0-fold0 ..." in done.stdout
    assert f"{second.name}: " in done.stdout
    assert "mean AUC 0." in done.stdout
    assert (cut.rows_folder / f"{first.name}.json").stat().st_mtime_ns == stamp
    assert not list(work.rglob("*.ckpt"))

    train_row.train_row(whole, whole.rows()[1], data=data, work=tmp_path / "elsewhere" / "tables" / "whole")
    done_rows, others = read_rows(cut), read_rows(whole)
    mine, other = done_rows[second.name], others[second.name]
    for part in ("held_out", "test"):
        pd.testing.assert_frame_equal(mine.predictions[part], other.predictions[part], check_exact=True)
    content = mine.content
    assert content["log"] == other.content["log"]
    assert len(content["log"]) == 3
    assert content["splits"] == other.content["splits"]
    assert {"alpha/layer1.0", "energy/layer4.0"} <= set(content["log"][0])
    assert content["seconds"] > 0
    assert content["recipe"]["select"] == "last"
    assert str(tmp_path) not in mine.line

    assert content["git_commit"] == json.loads((run / "environment.json").read_text())["git_commit"]

    looked = done_rows[third.name]
    assert looked.content["network_sha256"] == content["network_sha256"]
    assert looked.content["seconds"] == content["seconds"]
    assert not looked.predictions["held_out"].equals(mine.predictions["held_out"])
    anew = tmp_path / "anew" / "tables" / "whole"  # where nothing is left of the network that it takes
    train_row.train_row(whole, whole.rows()[2], data=data, work=anew)
    again = read_rows(whole)[third.name]
    assert again.predictions["held_out"].equals(looked.predictions["held_out"])
    assert again.content["network_sha256"] == content["network_sha256"]

    # After another division, the network that is still there has learned from what is held out now.
    listed = pd.read_csv(folder / "folds.csv")
    listed.assign(fold=1 - listed["fold"]).to_csv(folder / "folds.csv", index=False)
    for index in (1, 2):
        with pytest.raises(PesiError, match="begun with other images"):
            train_row.train_row(whole, whole.rows()[index], data=data, work=anew)
    listed.to_csv(folder / "folds.csv", index=False)

    held_out = mine.predictions["held_out"]
    truth = pd.concat([pd.read_csv(path) for path in sorted(data.glob("ISIC-2017_*_Part3_GroundTruth.csv"))])
    truth = truth.set_index("image_id").loc[held_out.index]
    auc = roc_auc_score(truth["melanoma"], held_out["melanoma"])
    assert f"{second.name}: {content['seconds']:.0f} s, melanoma {auc:.3f}" in done.stdout


def counter(root: Path, name: str, microjoules: int) -> None:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        counter(tmp_path, name, 5_000_000)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 7_500_000)
    counter(tmp_path, "intel-rapl:1", 6_000_000)
    counter(tmp_path, "intel-rapl:0:0", 100_000_000)
    assert meter.joules() == pytest.approx(3.5)
    assert meter.joules() == 0


def test_a_counter_that_began_anew(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 262_143_000_000)
    meter = EnergyMeter(tmp_path)
    counter(tmp_path, "intel-rapl:0", 1_000_000)
    assert meter.joules() == pytest.approx(1.32885)


def test_without_a_readable_counter_nothing_is_claimed(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path / "none").joules() is None
    counter(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert EnergyMeter(tmp_path).joules() is None
