"""Of few images with a class: intervals that hold what they say, and no verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import auc as area_below
from sklearn.metrics import average_precision_score, roc_auc_score

from pesi.datasets.records import record_table
from pesi.evaluate.evaluation import compare_predictions, evaluate_predictions
from pesi.evaluate.figures import precision_figure
from pesi.stats.intervals import newcombe_interval
from pesi.taxonomy import TASKS


@pytest.mark.parametrize("positives", [1, 3, 5])
def test_newcombes_interval_holds_the_auc_as_often_as_it_says(positives: int) -> None:
    """Binormal scores whose AUC is known: a percentile bootstrap of 3 positives would hold it in 73 % of sets."""
    rng = np.random.default_rng(0)
    true = float(norm.cdf(1.5 / np.sqrt(2)))
    labels = np.arange(150) < positives
    held = []
    for _ in range(400):
        low, high = newcombe_interval(
            roc_auc_score(labels, rng.normal(size=150) + 1.5 * labels), positives, 150 - positives
        )
        held.append(low <= true <= high)
    assert np.mean(held) > 0.9


def predictions(seed: int, diagnoses: list[str]) -> pd.DataFrame:
    p = np.random.default_rng(seed).dirichlet((1, 1, 1), len(diagnoses))
    frame = pd.DataFrame(p, columns=["melanoma", "seborrheic_keratosis", "nevus"])
    frame.insert(0, "image_id", [f"i{i}" for i in range(len(diagnoses))])
    return frame


def table(diagnoses: list[str]) -> pd.DataFrame:
    rows = [
        {"image_id": f"i{i}", "path": f"{i}.jpg", "diagnosis": d, "source": "made"} for i, d in enumerate(diagnoses)
    ]
    return record_table(rows)


def test_two_classifiers_are_not_told_apart_by_one_melanoma() -> None:
    diagnoses = ["MEL"] + ["SK"] * 30 + ["NV"] * 60
    better, worse = predictions(0, diagnoses), predictions(1, diagnoses)
    better.loc[0, "melanoma"], worse.loc[0, "melanoma"] = 1.0, 0.0
    compared = compare_predictions(better, worse, table(diagnoses), TASKS["isic2017"], replicates=200)
    for name, few in (("AUC melanoma", True), ("average precision melanoma", True), ("mean AUC", True)):
        assert compared.results[name].few is few
        assert not compared.results[name].shown
    assert not compared.results["AUC seborrheic_keratosis"].few
    assert "too few to tell" in compared.to_text()
    assert "is better" not in compared.to_text().split("AUC melanoma")[1].splitlines()[0]


def test_the_precision_curve_is_drawn_over_the_area_that_it_is_labelled_with(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnoses = ["MEL"] * 12 + ["SK"] * 40 + ["NV"] * 100
    frame = predictions(2, diagnoses)
    evaluation = evaluate_predictions(frame, table(diagnoses), TASKS["isic2017"], replicates=50)
    steps = {}
    from matplotlib.axes import Axes

    draw = Axes.step

    def kept(self, x, y, *arguments, label, **options):  # type: ignore[no-untyped-def]
        (line,) = draw(self, x, y, *arguments, label=label, **options)
        steps[label.split(":")[0]] = line.get_drawstyle(), (x, y)
        return [line]

    monkeypatch.setattr(Axes, "step", kept)
    precision_figure(evaluation)
    for name, code in (("melanoma", "MEL"), ("seborrheic_keratosis", "SK")):
        style, (x, y) = steps[name]
        assert style == "steps-pre"
        drawn = area_below(np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:])  # before each point, its own height
        labels = np.array([d == code for d in diagnoses])
        assert drawn == pytest.approx(average_precision_score(labels, frame[name]), abs=1e-9)
