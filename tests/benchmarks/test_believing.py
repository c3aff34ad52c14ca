"""Calibration, prediction sets and the patient's age of cross-validated predictions, against known truths."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from believing import (
    age_log_odds,
    ages_table,
    answers_table,
    cross_fitted_ages,
    cross_fitted_temperature,
    cross_validated,
)
from outcome import read_outcome
from scipy.special import softmax
from scipy.stats import norm
from table import Table, load_table

from pesi.errors import PesiError


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
    outcome = read_outcome(table, None, records, replicates=200)
    found = cross_validated(outcome, "none")
    assert found is not None
    _, pooled, values = found
    np.testing.assert_allclose(values[:, 0], pooled.averaged[:, 0], atol=1e-4)
    np.testing.assert_allclose(values.sum(1), 1)
    text = answers_table(outcome)
    assert "temperature of the other folds" in text
    assert text.count("| all | 0.9") == 2
    assert "spatial" not in text


def test_log_odds_are_the_true_ones():
    """Two classes whose ages are normal with one spread: log odds of class and age are a straight line."""
    rng = np.random.default_rng(0)
    classes = rng.integers(2, size=40_000)
    ages = rng.normal(np.where(classes == 1, 60, 40), 15)
    at = np.array([30.0, 50.0, 70.0, np.nan])
    found = age_log_odds(np.where(rng.random(len(ages)) < 0.1, np.nan, ages), classes, at, 2)
    density = norm.pdf(at[:3, None], [40, 60], 15)
    expected = np.log(density / density.mean(1, keepdims=True))
    np.testing.assert_allclose(found[:3], expected, atol=0.06)
    np.testing.assert_array_equal(found[3], 0)


def test_age_counts_fully_where_the_image_tells_another_thing():
    """Image and age independent given the class: the weight is 1, and a patient without an age stays as he was."""
    rng = np.random.default_rng(1)
    classes = rng.integers(3, size=20_000)
    ages = rng.normal(np.array([60, 70, 35])[classes], 12)
    ages[:500] = np.nan
    evidence = rng.normal(2.0 * np.eye(3)[classes])  # log likelihoods 2 x: softmax of them is the posterior
    before = softmax(2.0 * evidence, axis=1)
    folds = np.arange(len(classes)) % 2
    after, weights = cross_fitted_ages(before, ages, classes, folds)
    np.testing.assert_allclose(weights, 1, atol=0.1)
    np.testing.assert_allclose(after[:500], before[:500], atol=1e-12)
    rows = np.arange(len(classes))
    assert np.log(after[rows, classes]).mean() > np.log(before[rows, classes]).mean() + 0.05
    alone, _ = cross_fitted_ages(before, rng.permutation(ages), classes, folds)  # ages that tell nothing
    np.testing.assert_allclose(alone, before, atol=0.05)


def test_the_table_tells_whose_melanomas_are_found(
    table: Table, records: pd.DataFrame, fabricate: Callable[..., None]
) -> None:
    for row in table.rows():
        if row.variant == "none":
            fabricate(row.variant, row.seed, row.split)
    rng = np.random.default_rng(0)
    old = records["diagnosis"].isin(["MEL", "SK"])
    records = records.assign(age=np.where(old, 60, 30) + rng.integers(-20, 20, len(records)))
    records.loc[records.index[:6], "age"] = np.nan
    text = ages_table(read_outcome(table, None, records, replicates=200), "none")
    assert "90 images, 84 of patients whose age is known" in text
    counts = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and "->" in line]
    assert counts[0] == "90, 30"
    assert sum(int(count.split(",")[0]) for count in counts[1:]) == 90
    assert "| missing | 6, 2 |" in text
    assert ages_table(read_outcome(table, None, records, replicates=200), "spatial") == ""


def test_a_variant_that_is_none_is_told(table: Table):
    table.path.write_text('ages = "other"\n' + table.path.read_text())
    with pytest.raises(PesiError, match="ages names 'other'"):
        load_table(table.path)
