from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results
import scoring
from outcome import Block, FinishedRow, largest_block, read_outcome, segmenter_saw
from page import cost_table, difference_table, progress, verdict
from plots import trajectories
from scoring import Difference, difference, variant_scores
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from table import Table, load_table

from benchmarks.conftest import NAMES
from pesi.datasets.readers import read_dataset
from pesi.errors import PesiError
from pesi.files import write_json
from pesi.taxonomy import TASKS, Task

Fabricate = Callable[..., None]
CODES = {"melanoma": "MEL", "seborrheic_keratosis": "SK"}


def independent_mean_auc(frames: list[pd.DataFrame], records: pd.DataFrame) -> float:
    """Mean AUC of the two tasks, averaged probabilities, by scikit-learn."""
    mean = sum(frame.set_index("image_id").sort_index() for frame in frames) / len(frames)
    diagnosis = records.set_index("image_id")["diagnosis"].loc[mean.index]
    return float(np.mean([roc_auc_score(diagnosis == code, mean[name]) for name, code in CODES.items()]))


def pooled_files(table: Table, variant: str, seed: int) -> pd.DataFrame:
    paths = [table.rows_folder / f"{variant}-s{seed}-{split}.csv" for split in table.splits]
    return pd.concat([pd.read_csv(path) for path in paths])


def fill(fabricate: Fabricate, table: Table, skill: dict[str, float]) -> None:
    for row in table.rows():
        if row.variant in skill:
            fabricate(row.variant, row.seed, row.split, skill=skill[row.variant])


def test_pooled_scores_and_differences_are_scikit_learns(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    fill(fabricate, table, {"none": 0.5, "spatial": 1.4})
    outcome = read_outcome(table, None, records, replicates=200)
    scores = {v: variant_scores(outcome, v) for v in ("none", "spatial")}
    d = difference(outcome, "spatial", "none")
    assert d is not None
    expected: dict[str, float] = {}
    for variant, s in scores.items():
        assert s is not None
        frames = [pooled_files(table, variant, seed) for seed in table.seeds]
        expected[variant] = independent_mean_auc(frames, records)
        value, low, high = s.averaged["mean AUC"]
        assert value == pytest.approx(expected[variant], abs=1e-12)
        assert low < value < high
        for seed, frame in zip(table.seeds, frames, strict=True):
            assert s.seeds[seed] == pytest.approx(independent_mean_auc([frame], records), abs=1e-12)
        folds = [pd.read_csv(path) for path in sorted(table.rows_folder.glob(f"{variant}-s?-fold?.csv"))]
        within = np.mean([independent_mean_auc([fold], records) for fold in folds])
        assert s.within == pytest.approx(within, abs=1e-12)
        assert s.images == 90
    assert d.averaged.difference == pytest.approx(expected["spatial"] - expected["none"], abs=1e-12)
    seeds = {v: np.mean(list(s.seeds.values())) for v, s in scores.items() if s}
    assert d.single.difference == pytest.approx(seeds["spatial"] - seeds["none"], abs=1e-12)
    assert d.shown
    assert "**shown: better**" in verdict(d)
    assert "90 images, 2 folds (0, 1), 3 seeds (0, 1, 2)" in verdict(d)


def test_a_variant_is_compared_with_the_one_that_it_names(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    fill(fabricate, table, {"none": 0.5, "spatial": 1.4, "sigmoid": 1.0})
    named = table.path.read_text().replace("[variants.sigmoid]", '[variants.sigmoid]\nagainst = "spatial"')
    table.path.write_text(named)
    found = results.table_result(table.path, [records], replicates=50, seed=0)
    assert [d.name for d in found.differences] == ["spatial minus none", "sigmoid minus spatial"]
    means = [
        independent_mean_auc([pooled_files(table, v, s) for s in table.seeds], records) for v in ("sigmoid", "spatial")
    ]
    assert found.differences[1].averaged.difference == pytest.approx(means[0] - means[1], abs=1e-12)
    text = difference_table(found.outcome, found.differences)
    assert "\n| sigmoid minus spatial |" in text
    assert "\n- `sigmoid` against `spatial`, 90 images" in text


def test_an_alpha_below_zero_has_a_size_too(table: Table, records: pd.DataFrame) -> None:
    """Two rows whose alphas grow in opposite directions do not cancel out."""
    row = table.rows()[0]
    rows = [
        FinishedRow(row, {"log": [{"alpha/layer1.0": sign * size} for size in (0.1, 0.3)]}, records) for sign in (1, -1)
    ]
    assert trajectories(rows, "alpha") == {"layer1.0": pytest.approx([0.1, 0.3])}


def test_no_difference_is_not_shown(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    fill(fabricate, table, {"none": 1.0, "sigmoid": 1.0})
    d = difference(read_outcome(table, None, records, replicates=200), "sigmoid", "none")
    assert d is not None
    low, high = d.averaged.interval
    assert low < 0 < high
    assert "**not shown**" in verdict(d)


def changed(table: Table, variant: str, change: Callable[[dict], None]) -> None:
    """Change what the finished rows of a variant say of themselves."""
    for path in table.rows_folder.glob(f"{variant}-s*.json"):
        content = json.loads(path.read_text())
        change(content)
        write_json(path, content)


def test_one_training_against_one_shows_nothing_unless_they_are_the_same_network(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    for split in table.splits:
        fabricate("none", 0, split, skill=0.5)
        fabricate("spatial", 0, split, skill=2.0)

    def compared() -> Difference:
        d = difference(read_outcome(table, None, records, replicates=200), "spatial", "none")
        assert d is not None
        return d

    d = compared()
    assert d.apart
    assert not d.shown
    assert "**not shown**" in verdict(d)
    assert "One seed" in verdict(d)
    for variant in ("none", "spatial"):
        changed(table, variant, lambda content: content.update(network_sha256="ef" * 32))
    assert compared().shown
    assert "The same networks" in verdict(compared())
    changed(table, "spatial", lambda content: content.update(network_sha256="01" * 32))  # trained anew
    assert not compared().shown


def test_another_arithmetic_shows_nothing(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    fill(fabricate, table, {"none": 0.5, "spatial": 2.0})
    changed(table, "spatial", lambda content: content["recipe"].update(precision="bf16"))
    changed(table, "none", lambda content: content["recipe"].update(precision="32"))
    outcome = read_outcome(table, None, records, replicates=200)
    d = difference(outcome, "spatial", "none")
    assert d is not None
    assert d.apart
    assert not d.shown
    assert "bf16 against 32" in verdict(d)
    assert "| spatial | 6 | 17 | 17 | - |" in cost_table(outcome)


def test_a_gain_of_crops_must_be_there_without_what_the_segmenter_had_learned_from(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(fabricate, table, {"none": 1.0, "spatial": 1.0})
    changed(table, "spatial", lambda content: content["recipe"].update(predict_regions=["image", "lesion"]))
    looking = '[variants.spatial]\nset = [\'predict_regions=["image", "lesion"]\', '
    table.path.write_text(table.path.read_text().replace("[variants.spatial]\nset = [", looking))
    table = load_table(table.path)
    seen = {f"I_{i:03d}" for i in range(60)}
    truth = records.set_index("image_id")["diagnosis"].map({"MEL": 0, "SK": 1, "NV": 2})
    for path in table.rows_folder.glob("spatial-*-fold?.csv"):  # right for those, and only for those
        frame = pd.read_csv(path).set_index("image_id")
        for image_id in seen & set(frame.index):
            frame.loc[image_id, list(NAMES)] = np.eye(3)[int(truth[image_id])]
        frame.to_csv(path)
    monkeypatch.setattr(scoring, "segmenter_saw", lambda records: seen)
    d = difference(read_outcome(table, None, records, replicates=200), "spatial", "none")
    assert d is not None
    assert d.apart
    assert not d.shown
    assert d.unseen is not None
    assert (d.unseen.saw, d.unseen.images) == (60, 30)
    assert "had learned from 60 of these images; over the other 30" in verdict(d)
    left = records[~records["image_id"].isin(seen)]
    aucs = []
    for variant in ("spatial", "none"):
        frames = [pooled_files(table, variant, seed) for seed in table.seeds]
        aucs.append(independent_mean_auc([f[f["image_id"].isin(left["image_id"])] for f in frames], left))
    assert d.unseen.averaged is not None
    assert d.unseen.averaged.difference == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
    monkeypatch.setattr(scoring, "segmenter_saw", lambda records: set())
    d = difference(read_outcome(table, None, records, replicates=200), "spatial", "none")
    assert d is not None
    assert d.unseen is None
    assert d.shown


def test_the_shipped_segmenter_saw_the_images_with_masks(shared: Path) -> None:
    records = read_dataset(shared / "data" / "isic2017")
    saw = segmenter_saw(records)
    of_them = records[records["image_id"].isin(saw)]
    assert of_them["split"].value_counts().to_dict() == {"train": 1800, "val": 121}
    assert of_them["mask_path"].notna().all()
    assert segmenter_saw(records.drop(of_them.index[0])) < saw  # other images: nothing is known of them


def test_the_block_has_all_folds_first_then_seeds() -> None:
    cells = [(0, "fold0"), (0, "fold1"), (1, "fold0"), (2, "fold1"), (2, "fold0")]
    assert largest_block(cells, ("fold0", "fold1", "fold2")) == Block(("fold0", "fold1"), (0, 2))
    assert largest_block([(1, "fold2"), (0, "fold2")], ("fold0", "fold1", "fold2")) == Block(("fold2",), (0, 1))
    assert not largest_block([], ("fold0",))


def test_the_block_with_most_seeds() -> None:
    cells = [(0, "fold0"), (0, "fold1"), (1, "fold0"), (2, "fold1"), (2, "fold0")]
    assert largest_block(cells, ("fold0", "fold1", "fold2"), most="seeds") == Block(("fold0",), (0, 1, 2))
    both = [(seed, split) for seed in (0, 1) for split in ("fold0", "fold1")]
    assert largest_block(both, ("fold0", "fold1"), most="seeds") == Block(("fold0", "fold1"), (0, 1))


def test_one_fold_with_more_seeds_is_compared_too(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, tmp_path: Path
) -> None:
    for variant in ("none", "spatial", "sigmoid"):
        for split in table.splits:
            fabricate(variant, 0, split)
    for variant in ("none", "spatial"):
        for seed in (1, 2):
            fabricate(variant, seed, "fold0")
    result = results.table_result(table.path, [records], replicates=50, seed=0)
    assert [d.block for d in result.differences] == [Block(("fold0", "fold1"), (0,))] * 2
    assert [(d.variant, d.block) for d in result.more_seeds] == [("spatial", Block(("fold0",), (0, 1, 2)))]
    aucs = {
        (variant, seed): independent_mean_auc(
            [pd.read_csv(table.rows_folder / f"{variant}-s{seed}-fold0.csv")], records
        )
        for variant in ("none", "spatial")
        for seed in table.seeds
    }
    expected = {seed: aucs["spatial", seed] - aucs["none", seed] for seed in table.seeds}
    assert result.more_seeds[0].seeds == pytest.approx(expected)
    text = page_of(result, tmp_path)
    assert "3 comparisons with a reference" in text
    assert "45 images, 1 fold (0), 3 seeds (0, 1, 2)" in text[text.index("with more seeds**") :]


def test_an_unfinished_table_compares_what_both_have(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    for split in table.splits:
        for seed in table.seeds:
            fabricate("none", seed, split)
    fabricate("spatial", 0, "fold1")
    outcome = read_outcome(table, None, records, replicates=200)
    d = difference(outcome, "spatial", "none")
    assert d is not None
    assert (d.block, d.images) == (Block(("fold1",), (0,)), 45)
    assert "One seed" in verdict(d)
    assert difference(outcome, "sigmoid", "none") is None
    assert "7 of 18 rows" in progress(outcome)


def test_rows_of_another_recipe_are_left_out(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    fill(fabricate, table, {"none": 1.0})
    table.path.write_text(
        table.path.read_text().replace('"network.attention=none"', '"network.attention=none", "epochs=3"')
    )
    outcome = read_outcome(results.load_table(table.path), None, records, replicates=200)
    assert not outcome.finished["none"]
    assert "none-s0-fold0: made by another recipe" in progress(outcome)


def test_the_page_of_a_half_done_table(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, tmp_path: Path
) -> None:
    for variant in ("none", "spatial"):
        for split in table.splits:
            fabricate(variant, 0, split, skill=2.0)
    result = results.table_result(table.path, [records], replicates=100, seed=0)
    page = tmp_path / "docs" / "results-tables.md"
    arguments = (page, tmp_path / "predictions")
    text = results.tables_text([result], *arguments)
    assert text == results.tables_text([result], *arguments)  # the same rows give the same page
    assert "**Incomplete: 4 of 18 rows are finished.**" in text
    assert "| sigmoid |  |  |  |  |  | no row finished yet |" in text
    assert "| spatial | layer1 | 0.0015 -> 0.0030 |" in text  # mean of two blocks
    assert "| spatial | 2 | 17 | 17 | 1.21 |" in text  # 14 s without
    assert str(tmp_path) not in text

    submission = pd.read_csv(tmp_path / "predictions" / "table-spatial.csv")
    assert list(submission.columns) == ["image_id", *NAMES[:2]]
    assert list(submission["image_id"]) == [f"I_{i:03d}" for i in range(90, 98)]
    one, other = (pd.read_csv(table.rows_folder / f"spatial-s0-{split}-test.csv") for split in table.splits)
    assert np.allclose(submission["melanoma"], (one["melanoma"] + other["melanoma"]) / 2, atol=1e-6)


def test_a_learning_curve_is_by_the_number_of_training_images(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, tmp_path: Path
) -> None:
    text = table.path.read_text().replace("[variants.sigmoid]", "[variants.sigmoid]\nshare = 0.25")
    table.path.write_text(text)
    for row in load_table(table.path).rows():
        fabricate(row.variant, row.seed, row.split, skill=2.0)
    changed(table, "sigmoid", lambda content: content.update(share=0.25, splits={"train": {"count": 10}}))
    result = results.table_result(table.path, [records], replicates=100, seed=0)
    section = results.section(result, tmp_path / "figures", tmp_path / "page.md")
    curve = section[section.index("**Learning curve**") :].splitlines()[2:]
    assert [line.split(" | ")[0] for line in curve[2:4]] == ["| 10", "| 40"]
    assert "made-table-learning.svg" in section

    (table.rows_folder / "sigmoid-s0-fold1.json").unlink()  # the same held-out images for all
    result = results.table_result(table.path, [records], replicates=100, seed=0)
    section = results.section(result, tmp_path / "figures", tmp_path / "page.md")
    curve = section[section.index("**Learning curve**") :].splitlines()[2:]
    assert all(line.endswith("| 2 folds (0, 1), 2 seeds (1, 2) |") for line in curve[2:4])


def test_many_classes_are_compared_by_balanced_accuracy(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    fill(fabricate, table, {"none": 0.5, "spatial": 1.4})
    outcome = read_outcome(table, None, records, replicates=200)
    seven = TASKS["ham10000"]
    many = replace(outcome, task=Task("three", tuple(replace(c) for c in outcome.task.classes)), few_classes=2)
    assert seven.scored_names == seven.class_names
    s = variant_scores(many, "spatial")
    d = difference(many, "spatial", "none")
    assert s is not None
    assert d is not None
    frames = [pooled_files(table, "spatial", seed).set_index("image_id").sort_index() for seed in table.seeds]
    mean = (frames[0] + frames[1] + frames[2]) / 3
    truth = records.set_index("image_id")["diagnosis"].loc[mean.index]
    called = mean.idxmax(axis=1).map({"melanoma": "MEL", "seborrheic_keratosis": "SK", "nevus": "NV"})
    assert s.averaged["balanced accuracy"][0] == pytest.approx(balanced_accuracy_score(truth, called))
    assert d.averaged.a == pytest.approx(balanced_accuracy_score(truth, called))
    assert d.shown
    assert not d.tasks


def page_of(result: results.TableResult, folder: Path) -> str:
    return results.tables_text([result], folder / "docs" / "results-tables.md", folder / "predictions")


def test_an_empty_table_is_said_to_be_empty(table: Table, records: pd.DataFrame, tmp_path: Path) -> None:
    text = page_of(results.table_result(table.path, [records], replicates=100, seed=0), tmp_path)
    assert text[text.index("## Not trained yet") :].count(table.path.name) == 1
    assert f"## {table.title}" not in text


def test_a_search_ranks_and_submits_nothing(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, tmp_path: Path
) -> None:
    fill(fabricate, table, {"none": 1.0})
    page_of(results.table_result(table.path, [records], replicates=50, seed=0), tmp_path)
    assert (tmp_path / "predictions" / "table-none.csv").is_file()
    table.path.write_text("ranked = false\n" + table.path.read_text())
    text = page_of(results.table_result(table.path, [records], replicates=50, seed=0), tmp_path / "other")
    assert f"## {table.title}" in text
    assert not list((tmp_path / "other" / "predictions").glob("*"))


def test_images_of_one_lesion_are_drawn_together(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    fill(fabricate, table, {"none": 1.0})
    lesions = records.assign(lesion_id=[f"L{i // 3}" for i in range(len(records))])
    outcome = read_outcome(table, None, lesions, replicates=200)
    pooled = outcome.pooled("none", outcome.block("none"))
    lesion = dict(zip(lesions["image_id"], lesions["lesion_id"], strict=True))
    assert pooled.groups is not None
    groups = pd.Series(pooled.groups).groupby([lesion[i] for i in pooled.image_ids])
    assert (groups.nunique() == 1).all()
    assert groups.first().nunique() == 30
    alone = read_outcome(table, None, records, replicates=200)
    assert alone.pooled("none", alone.block("none")).groups is None


def test_labels_of_other_images_are_refused(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> None:
    fabricate("none", 0, "fold0")
    with pytest.raises(PesiError, match="No data set has labels"):
        results.table_result(table.path, [records.iloc[10:]], replicates=10, seed=0)
