"""Test predictions of the tables' variants and of the ensembles, in the challenge's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from ensembles import EnsembleResult
from outcome import Outcome
from sections import counted

from pesi.errors import PesiError
from pesi.files import write_text
from pesi.predict.tables import ISIC2017_COLUMNS, read_prediction_table

ROOT = Path(__file__).resolve().parent.parent


def write_test_predictions(outcome: Outcome, folder: Path) -> list[str]:
    """Write the test predictions of each variant, averaged over the fold models and seeds, in the official format.

    Returns:
        A line for each file.
    """
    found = {variant: mean_test_predictions(outcome, variant) for variant in outcome.own}
    return [
        _submission(folder / f"{outcome.table.path.stem}-{variant}.csv", *predicted)
        for variant, predicted in found.items()
        if predicted is not None
    ]


def write_ensemble_predictions(ensembles: list[EnsembleResult], folder: Path) -> list[str]:
    """The same of each ensemble: its members have equal weight, however many networks each is."""
    lines = []
    for ensemble in ensembles:
        found = [mean_test_predictions(outcome, variant) for outcome, variant in ensemble.members]
        members = [predicted for predicted in found if predicted is not None]
        if len(members) < len(found) or any(set(m.index) != set(members[0][0].index) for m, _ in members):
            continue
        ids = members[0][0].index
        values = np.mean([member.loc[ids].to_numpy() for member, _ in members], axis=0)
        mean = pd.DataFrame(values, index=ids, columns=list(ISIC2017_COLUMNS))
        path = folder / f"ensemble-{ensemble.name}.csv"
        lines.append(_submission(path, mean, sum(count for _, count in members)))
    return lines


def mean_test_predictions(outcome: Outcome, variant: str) -> tuple[pd.DataFrame, int] | None:
    """A variant's test predictions, averaged, and how many networks made them; None where there are none.

    Returns:
        Index image_id, sorted; columns those of the challenge.

    Raises:
        PesiError: Its rows predict different images.
    """
    if outcome.columns != ISIC2017_COLUMNS:
        return None
    files = [outcome.table.files(row.row).test for row in outcome.finished[variant].values()]
    tables = [read_prediction_table(file).set_index("image_id") for file in sorted(files) if file.is_file()]
    if not tables:
        return None
    if any(set(table.index) != set(tables[0].index) for table in tables):
        raise PesiError(f"{outcome.table.name}, {variant}: rows predict different test images.", "Run them again.")
    ids = sorted(tables[0].index)
    values = np.mean([table.loc[ids, list(ISIC2017_COLUMNS)].to_numpy() for table in tables], axis=0)
    return pd.DataFrame(values, index=pd.Index(ids, name="image_id"), columns=list(ISIC2017_COLUMNS)), len(tables)


def _submission(path: Path, predictions: pd.DataFrame, networks: int) -> str:
    write_text(path, predictions.to_csv(float_format="%.6f"))
    return f"- `{repository_path(path)}`: {counted(len(predictions), 'image')}, {counted(networks, 'network')} averaged"


def repository_path(path: Path) -> str:
    """A path as the page shows it: from the project's folder, or only the name."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
