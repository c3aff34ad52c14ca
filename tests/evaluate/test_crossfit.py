"""Cross-validations scored: counted again with pandas and scikit-learn, whatever the classes are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from pesi.bundle.config import BundleConfig, MemberConfig, NetworkConfig, PreprocessConfig, task_config
from pesi.datasets.records import record_table
from pesi.decide.conformal import ConformalConfig
from pesi.decide.triage import TriageLevel
from pesi.evaluate.crossfit import FoldsEvaluation, evaluate_folds
from pesi.predict.crossfit import CrossFitted
from pesi.predict.fitting import id_list
from pesi.taxonomy import TASKS, Task, task_of
from pesi.train.folder import RunSettings
from pesi.train.folds import FoldsRun, out_of_fold_table
from pesi.train.recipe import Recipe

COUNT = 120
LEVELS = ("excise", "refer", "no level reached")


class Made:
    """A cross-validation's table by chance, as a run writes it."""

    def __init__(self, task: Task, head: str = "multiclass", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        classes = rng.integers(0, len(task.classes), COUNT)
        codes = [task.classes[index].diagnoses[0] for index in classes]
        self.records = record_table(
            {"image_id": f"00{i}", "path": f"{i}.png", "diagnosis": code, "source": "made"}
            for i, code in enumerate(codes)
        )
        self.folds = pd.DataFrame({"image_id": self.records["image_id"], "fold": np.arange(COUNT) % 3})
        self.folds["group"] = self.records["image_id"]
        none: tuple[float, ...] = (0.5,) * len(task.classes)
        conformal = [ConformalConfig(coverage=c, quantiles=none, counts=(9,) * len(none), how="") for c in (0.9, 0.95)]
        triage = [TriageLevel(level=name, at_least=1 - i / 2, how="") for i, name in enumerate(LEVELS)]
        multiclass = head == "multiclass"
        grey = (0.5, 0.5, 0.5)
        preprocess = PreprocessConfig(source_size=64, size=64, geometry="squeeze", mean=grey, std=grey)
        outputs = task.class_names if multiclass else task.scored_names
        network = NetworkConfig(name="pesi14", num_classes=len(outputs), options={})
        malignant = any(each.malignant for each in task.classes)
        self.config = BundleConfig(
            name="made",
            members=tuple(MemberConfig(network=network, preprocess=preprocess, fold=fold) for fold in range(3)),
            folds=tuple(id_list(list(part)) for _, part in self.folds.groupby("fold")["image_id"]),
            task=task_config(task, head),  # type: ignore[arg-type]
            conformal=tuple(conformal) if multiclass else (),
            triage=tuple(triage) if malignant else (),
        )
        logits = rng.normal(0, 1, (COUNT, len(outputs)))
        known = classes < len(outputs)
        logits[np.flatnonzero(known), classes[known]] += 1
        self.crossed = CrossFitted(
            np.exp(logits) / np.exp(logits).sum(1, keepdims=True),
            {f"{each.coverage:.2f}": rng.random((COUNT, len(outputs))) < 0.7 for each in self.config.conformal},
            rng.choice(LEVELS, COUNT) if malignant else np.full(COUNT, ""),
            rng.random(COUNT) < 0.1,
        )
        self.classes = classes
        run = FoldsRun(Path("run"), Recipe(name="made"), self.records, self.folds, RunSettings("made"), task, 1)
        self.table = out_of_fold_table(run, self.config, self.crossed)

    def evaluated(self, folder: Path, groups: pd.Series | None = None) -> FoldsEvaluation:
        """By way of its file."""
        self.table.to_csv(folder / "out-of-fold.csv", index=False)
        own = self.folds["group"] if groups is None else groups
        return evaluate_folds(folder / "out-of-fold.csv", self.records, own, self.config, replicates=200)


def test_what_was_decided_is_counted(tmp_path):
    made = Made(TASKS["isic2017"])
    found = made.evaluated(tmp_path)
    values = found.to_dict()
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        truth = made.records["diagnosis"] == code
        assert values["tasks"][name]["auc"] == pytest.approx(roc_auc_score(truth, made.table[name]))
    for wanted, inside in made.crossed.sets.items():
        held = pd.Series(inside[np.arange(COUNT), made.classes]).groupby(made.classes)
        parts = found.coverage[wanted].classes.values()
        assert [(part.successes, part.trials) for part in parts] == list(zip(held.sum(), held.count(), strict=True))
        assert found.coverage[wanted].mean_size == pytest.approx(inside.sum(1).mean())
    malignant, level = made.classes == 0, pd.Series(made.crossed.triage).map(LEVELS.index).to_numpy()
    assert [each.level for each in found.triage] == ["excise", "refer"]
    for index, each in enumerate(found.triage):
        assert (each.missed.successes, each.missed.trials) == ((level > index)[malignant].sum(), malignant.sum())
        assert each.bothered.successes == (level <= index)[~malignant].sum()
        exact = binomtest(each.missed.successes, each.missed.trials).proportion_ci(method="exact")
        assert each.missed.interval == pytest.approx((exact.low, exact.high))
    assert found.strange is not None
    assert (found.strange.successes, found.strange.trials) == (made.crossed.strange.sum(), COUNT)
    # What the bundle keeps has each of these figures, and says how they were got.
    scores = found.measured.scores
    assert scores["malignant lesions below refer"][0] == found.triage[1].missed.share
    assert scores["0.90 sets hold nevus"][0] == found.coverage["0.90"].classes["nevus"].share
    assert found.measured.images == COUNT
    assert "have not seen it" in found.measured.on
    assert "sets of 0.90 hold the truth: melanoma " in found.decided_text()


def test_images_of_one_group_count_as_fewer(tmp_path):
    made = Made(TASKS["isic2017"])
    together = pd.Series(np.repeat(made.records["image_id"].to_numpy()[::6], 6))
    order = np.lexsort((made.crossed.triage, made.classes))  # alike images in one group
    groups = pd.Series(np.empty(COUNT, object))
    groups.iloc[order] = together.to_numpy()
    alone, grouped = made.evaluated(tmp_path), made.evaluated(tmp_path, groups)
    for one, other in zip(alone.triage, grouped.triage, strict=True):
        assert other.missed.share == one.missed.share
        assert np.ptp(other.missed.interval) > np.ptp(one.missed.interval)


@pytest.mark.parametrize("names", [("actinic keratosis", "nevus", "skin"), ("01", "1", "02"), ("NA", "None", "True")])
def test_classes_may_have_any_names(names, tmp_path):
    """Of more than one word, of digits alone, or what pandas takes for no value."""
    made = Made(task_of("classes", names))
    found = made.evaluated(tmp_path)
    for wanted, inside in made.crossed.sets.items():
        assert found.coverage[wanted].overall.successes == inside[np.arange(COUNT), made.classes].sum()
        assert found.coverage[wanted].mean_size == pytest.approx(inside.sum(1).mean())
    assert found.triage == ()
    assert set(found.to_dict()["tasks"]) == set(names)


def test_heads_of_several_answers_have_no_sets(tmp_path):
    made = Made(TASKS["isic2017"], "multilabel")
    found = made.evaluated(tmp_path)
    assert found.coverage == {}
    assert found.to_dict()["tasks"]["melanoma"]["auc"] == pytest.approx(
        roc_auc_score(made.classes == 0, made.crossed.probabilities[:, 0])
    )
