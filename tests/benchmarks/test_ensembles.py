from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import results
from outcome import read_outcome
from page import ensemble_tables
from scoring import ensemble_result, read_ensembles
from sklearn.metrics import roc_auc_score
from table import Table, load_table

from benchmarks.conftest import BENCHMARKS, NAMES
from pesi.errors import PesiError

Fabricate = Callable[..., None]


def test_an_ensemble_is_scored_on_what_all_members_held_out(
    table: Table, records: pd.DataFrame, fabricate: Fabricate, tmp_path: Path
) -> None:
    for seed in (0, 1):
        fabricate("none", seed, "fold0", skill=0.8)
        fabricate("none", seed, "fold1", skill=0.8)
    fabricate("spatial", 0, "fold1", skill=0.8)
    outcome = read_outcome(table, None, records, replicates=200)
    result = ensemble_result("two", [(outcome, "none"), (outcome, "spatial")])
    assert result is not None
    assert (result.splits, result.images, result.networks) == (("fold1",), 45, 3)

    folder = table.rows_folder
    none = sum(pd.read_csv(folder / f"none-s{s}-fold1.csv").set_index("image_id") for s in (0, 1)) / 2
    spatial = pd.read_csv(folder / "spatial-s0-fold1.csv").set_index("image_id")
    truth = records.set_index("image_id")["diagnosis"].loc[none.index]

    def mean_auc(scores: pd.DataFrame) -> float:
        return float(
            np.mean([roc_auc_score(truth == c, scores[n]) for c, n in zip(("MEL", "SK"), NAMES, strict=False)])
        )

    expected = mean_auc((none + spatial) / 2)
    assert result.averaged["mean AUC"][0] == pytest.approx(expected, abs=1e-12)
    best = max(mean_auc(none), mean_auc(spatial))
    assert result.gain.difference == pytest.approx(expected - best, abs=1e-12)
    assert result.best[1] == ("none" if best == mean_auc(none) else "spatial")
    assert "made/table none<br>made/table spatial" in ensemble_tables([result])

    tables = [results.table_result(table.path, [records], replicates=50, seed=0)]
    text = results.tables_text(tables, tmp_path / "results-tables.md", tmp_path / "predictions", [result])
    assert "| two | made/table none<br>made/table spatial |" in text
    submission = pd.read_csv(tmp_path / "predictions" / "ensemble-two.csv").set_index("image_id")
    files = [f"none-s{s}-fold{f}-test.csv" for s in (0, 1) for f in (0, 1)]
    members = sum(pd.read_csv(folder / f).set_index("image_id") for f in files) / 4
    other = pd.read_csv(folder / "spatial-s0-fold1-test.csv").set_index("image_id")
    wanted = ((members + other) / 2).loc[submission.index, list(NAMES[:2])]
    np.testing.assert_allclose(submission.to_numpy(), wanted.to_numpy(), atol=1e-6)


def test_ensembles_of_other_classes_have_a_table_of_their_own(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    for variant in ("none", "spatial"):
        fabricate(variant, 0, "fold0")
    outcome = read_outcome(table, None, records, replicates=200)
    other = replace(outcome, task=replace(outcome.task, scored=("melanoma",)))
    found = [ensemble_result(f"of-{len(o.columns)}", [(o, "none"), (o, "spatial")]) for o in (outcome, other, outcome)]
    first, second = ensemble_tables([result for result in found if result is not None]).split("\n\n")
    assert first.count("| of-2 |") == 2
    assert "seborrheic" in first
    assert second.count("| of-1 |") == 1
    assert "seborrheic" not in second


def test_members_without_a_common_fold_are_no_ensemble(
    table: Table, records: pd.DataFrame, fabricate: Fabricate
) -> None:
    fabricate("none", 0, "fold0")
    fabricate("spatial", 0, "fold1")
    outcome = read_outcome(table, None, records, replicates=200)
    assert ensemble_result("none", [(outcome, "none"), (outcome, "spatial")]) is None


def test_an_ensemble_file_is_checked(table: Table, records: pd.DataFrame, tmp_path: Path) -> None:
    outcomes = {"made/table": read_outcome(table, None, records, replicates=200)}
    path = tmp_path / "ensembles.toml"
    assert read_ensembles(path, outcomes) == {}
    path.write_text('[a]\nmembers = ["made/table none", "made/table spatial"]\n[b]\nmembers = ["x none", "y none"]\n')
    assert list(read_ensembles(path, outcomes)) == ["a"]  # the tables of b are not on this page
    for text, words in (
        ('[a]\nmembers = ["made/table none"]', "1 members"),
        ('[a]\nmembers = ["made/table none", "made/table other"]', "no variant 'other'"),
        ("[a]\nnetworks = 3", "cannot be read"),
        ("[a", "cannot be read"),
    ):
        path.write_text(text)
        with pytest.raises(PesiError, match=words):
            read_ensembles(path, outcomes)


def test_the_projects_ensembles_name_what_there_is() -> None:
    entries = tomllib.loads((BENCHMARKS / "ensembles.toml").read_text())
    named = {member for entry in entries.values() for member in entry["members"]}
    known = {f"{t.name} {variant}" for t in map(load_table, results.all_tables()) for variant in t.variants}
    assert named
    assert named <= known
