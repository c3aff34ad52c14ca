"""The page that is read first: answers follow from the numbers; what ships stands beside what it is compared with."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import questions
import results
from page import read_published
from questions import Answer, Evidence, elsewhere_section, page_text, question_section, read_shipped, shipped_section
from scoring import ensemble_result
from sklearn.metrics import roc_auc_score
from table import Table, load_table

from benchmarks.conftest import BENCHMARKS, NAMES
from pesi.bundle.config import BundleConfig
from pesi.bundle.files import Measured
from pesi.datasets.records import record_table
from pesi.errors import PesiError
from pesi.evaluate.crossfit import FoldsEvaluation, TriageMeasured
from pesi.evaluate.evaluation import evaluate_predictions
from pesi.stats.coverage import Proportion, set_coverage
from pesi.stats.paired import PairedResult
from pesi.taxonomy import TASKS

Fabricate = Callable[..., None]
ASKED = tomllib.loads((BENCHMARKS / "questions.toml").read_text(encoding="utf-8"))
PUBLISHED = read_published(BENCHMARKS / "isic2017" / "published.toml")
QUESTION = {
    "title": "Does it help?",
    "first": {"made/table spatial": "attention", "made/table no-such": "nothing", "other/table x": "nothing"},
    "more": {"made/table sigmoid": "a sigmoid", "ensemble both": "averaging", "ensemble none": "nothing"},
}


@pytest.fixture
def evidence(table: Table, records: pd.DataFrame, fabricate: Fabricate) -> Evidence:
    """Attention helps by made-up skill; the sigmoid has one seed only."""
    for row in table.rows():
        if row.variant != "sigmoid" or row.seed == 0:
            fabricate(row.variant, row.seed, row.split, skill=0.5 if row.variant == "none" else 2.0)
    result = results.table_result(table.path, [records], replicates=200, seed=0)
    both = ensemble_result("both", [(result.outcome, "none"), (result.outcome, "spatial")])
    assert both is not None
    return Evidence({"made/table": result}, {"both": both})


def test_answers_are_the_differences_in_words(evidence: Evidence, tmp_path: Path) -> None:
    text = question_section(QUESTION, evidence, tmp_path / "results")
    d, one = evidence.results["made/table"].differences
    low, high = d.averaged.interval
    value = f"{d.averaged.difference:+.3f} ({low:+.3f} to {high:+.3f})"
    assert f"- **Shown: better**: attention changes the mean AUC by {value}; 90 images, 2 folds, 3 seeds." in text
    assert one.averaged.interval[0] > 0
    assert "| 90 images, 2 folds, 1 seed | not shown (the interval excludes zero, but not the luck of one train" in text
    gain = evidence.ensembles["both"].gain.difference
    assert f"| averaging | mean AUC | {gain:+.3f} (" in text
    assert "Of 2 other comparisons: none shown to be better;" in text
    assert "nothing" not in text
    assert not list(tmp_path.rglob("*.svg"))


def test_a_long_list_is_a_figure_and_an_unanswered_question_is_not_asked(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = QUESTION | {"more": {f"made/table {name}": name for name in ("spatial", "sigmoid")}}
    many["first"] = {"made/table spatial": "attention"}
    monkeypatch.setattr(questions, "MOST_ROWS", 2)
    text = question_section(many, evidence, tmp_path / "results")
    assert "![Does it help?](results/does-it-help.svg)" in text
    assert "<svg" in (tmp_path / "results" / "does-it-help.svg").read_text()
    assert question_section({"title": "?", "first": {"a/b c": "x"}}, evidence, tmp_path) == ""


def test_what_is_worse_or_unclear_is_called_so() -> None:
    def word(difference: float, shown: bool) -> str:
        result = PairedResult(0.5 + difference, 0.5, difference, (difference - 0.1, difference + 0.1), 0.5, "made")
        return Answer("x", "mean AUC", result, "", shown).word

    assert (word(-0.2, True), word(0.2, True), word(0.0, False)) == ("shown: worse", "shown: better", "not shown")


def test_every_entry_of_the_questions_is_a_row_of_a_table_or_an_ensemble() -> None:
    ensembles = tomllib.loads((BENCHMARKS / "ensembles.toml").read_text(encoding="utf-8"))
    entries = [*ASKED["out_of_fold"], *(e for q in ASKED["questions"] for e in (*q["first"], *q.get("more", {})))]
    assert len(entries) > 40
    for entry in entries:
        kind, _, which = entry.partition(" ")
        if kind == "ensemble":
            assert which in ensembles, entry
            continue
        table = load_table(BENCHMARKS / f"{which if kind == 'age' else kind}.toml")
        assert table.ages if kind == "age" else which in table.variants, entry


def made_up_scores(bundle: str) -> dict[str, Any]:
    """A cross-validation's scores as `ship.py` writes them, and the mean AUC by scikit-learn."""
    rng, task = np.random.default_rng(0), TASKS["isic2017"]
    codes = np.array(["MEL", "SK", "NV"])[np.arange(60) % 3]
    logits = rng.normal(size=(60, 3)) + 1.5 * np.eye(3)[np.arange(60) % 3]
    values = pd.DataFrame(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), columns=list(NAMES))
    ids = [f"I_{i}" for i in range(60)]
    records = record_table(
        [{"image_id": i, "path": i, "diagnosis": c, "source": "made"} for i, c in zip(ids, codes, strict=True)]
    )
    evaluation = evaluate_predictions(values.assign(image_id=ids), records, task, replicates=50, seed=0)
    classes = np.array([task.class_of(code) for code in codes])
    held = np.ones((60, 3), bool)
    held[0:30:3, 0] = False  # half of the melanomas
    coverage = {"0.90": set_coverage(held, classes, task.class_names)}
    triage = (TriageMeasured("urgent", "at most 2 % missed", Proportion(1, 20), Proportion(30, 40)),)
    measured = Measured(on="made", images=60, scores={})
    found = FoldsEvaluation(evaluation, coverage, triage, None, measured).to_dict()
    aucs = [roc_auc_score(codes == code, values[name]) for code, name in (("MEL", "melanoma"), ("SK", NAMES[1]))]
    return json.loads(json.dumps({"bundle": bundle, "mean": float(np.mean(aucs))} | found))


def test_cross_fitted_scores_of_a_bundle_stand_in_the_first_table(evidence: Evidence, tmp_path: Path) -> None:
    made = made_up_scores("made@0123")
    (tmp_path / "made.json").write_text(json.dumps(made))
    shipped = read_shipped(tmp_path / "no-bundles", tmp_path)
    compared = {
        "made/table none": "plain",
        "ensemble both": "averaged",
        "a/b c": "gone",
    }
    text = shipped_section(shipped, PUBLISHED, compared, evidence)
    row = next(line for line in text.splitlines() if line.startswith("| **ships**: `made@0123`, cross-fitted"))
    assert f"{made['mean']:.3f} (" in row.split(" | ")[4]
    assert row.split(" | ")[1] == "out of fold, 60 images"
    assert "| ARL-CNN50, Zhang et al. 2019 [S] | test | .875 | .958 | .917 |" in text
    assert "| **shipped earlier**: `isic2017-lite0@" in text  # its scores are not those of what ships
    assert "has not been scored on the official test images" in text
    scores = evidence.results["made/table"].scores["none"]
    assert scores is not None
    assert f"{scores.averaged['mean AUC'][0]:.3f} (" in next(x for x in text.splitlines() if x.startswith("| plain |"))
    assert "gone" not in text
    assert "lies within the interval of 2 of 3 classes" in text  # 10 of 20; all of the others: .83 to 1 holds .90
    assert "0.500 (" in next(x for x in text.splitlines() if "hold the truth: melanoma" in x)
    assert "0.050 (" in next(x for x in text.splitlines() if "triage `urgent` | at most 2 % missed" in x)


def test_the_package_as_it_is(evidence: Evidence, tmp_path: Path) -> None:
    bundles = results.HERE.parent / "src" / "pesi" / "bundles"
    for each in read_shipped(bundles, tmp_path / "none"):
        assert each.config is not None
        assert each.bundle_id in shipped_section([each], PUBLISHED, {}, evidence)
        if isinstance(each.config, BundleConfig) and each.folder and (each.folder / "audit.json").is_file():
            text = elsewhere_section([each], PUBLISHED)
            sets = json.loads((each.folder / "audit.json").read_text())["sets"]
            other = next(one for one in sets if not one["fitted_on"])
            value = other["sections"]["performance"]["values"]["mean_auc"]
            assert f"a mean AUC of {value:.3f} (" in text
    name = next(path.parent.name for path in bundles.glob("*/config.json"))
    (tmp_path / f"{name}.json").write_text(json.dumps({"bundle": "another@0000"}))
    with pytest.raises(PesiError, match="not of"):
        read_shipped(bundles, tmp_path)


def test_the_page_links_its_tables_and_is_the_same_each_time(evidence: Evidence, tmp_path: Path) -> None:
    asked = {"out_of_fold": {}, "questions": [QUESTION]}
    arguments: Any = [evidence, [], asked, PUBLISHED, tmp_path / "results.md", tmp_path / "results-tables.md"]
    text = page_text(*arguments)
    assert text == page_text(*arguments)
    assert "(results-tables.md#how-to-read-the-tables)" in text
    assert [line for line in text.splitlines() if line.startswith("## ")][1] == "## Does it help?"
    assert str(tmp_path) not in text
