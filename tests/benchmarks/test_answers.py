"""The page's calibration and prediction sets of cross-validated predictions, against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from answers import all_classes, answers_table, cross_fitted_temperature
from outcome import read_outcome
from rows import Table
from scipy.special import softmax


def test_a_fold_gets_the_temperature_of_the_others():
    """Fold 0 is right, fold 1 three times too sharp: each gets what the other needs."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (8000, 3))
    truth = softmax(logits, axis=1)
    classes = (truth.cumsum(1) > rng.random((len(truth), 1))).argmax(1)
    folds = np.repeat([0, 1], 4000)
    given = softmax(np.where(folds[:, None] == 1, 3.0, 1.0) * logits, axis=1)
    found = cross_fitted_temperature(given, np.eye(3)[classes], folds)
    expected = softmax(np.where(folds[:, None] == 1, 3.0, 1 / 3) * logits, axis=1)
    assert np.abs(found - expected).max() < 0.03


def test_the_table_tells_calibration_and_coverage(
    table: Table, records: pd.DataFrame, fabricate: Callable[..., None]
) -> None:
    for row in table.rows():
        if row.variant == "none":
            fabricate(row.variant, row.seed, row.split, skill=1.2)
    outcome = read_outcome(table, None, records)
    pooled = outcome.pooled("none", outcome.block("none"))
    values = all_classes(outcome, pooled)
    assert values is not None
    np.testing.assert_allclose(values[:, 0], pooled.averaged[:, 0], atol=1e-4)
    np.testing.assert_allclose(values.sum(1), 1)
    text = answers_table(outcome, 100)
    assert "temperature of the other folds" in text
    assert text.count("| all | 0.9") == 2
    assert "spatial" not in text
