"""How much a classifier's answers change when it gets other copies of the same photographs: another size or framing.

    python benchmarks/other_copies.py --data DIR --other DIR [--bundle NAME]

Both folders are data sets; the images that both have in the split count. Nothing is refused for its quality.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.datasets.readers import read_dataset
from pesi.errors import DataError, PesiError
from pesi.evaluate.answer_change import compare_answers
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load
from pesi.predict.prediction import Refusal


def answers(classifier: Classifier, records: pd.DataFrame) -> NDArray[np.float64]:
    """Calibrated probabilities of a record table's images, (N, K).

    Raises:
        DataError: An image cannot be read.
    """
    rows = []
    for result in classifier.predict_many(records["path"], image_ids=records["image_id"], gates=False):
        if isinstance(result, Refusal):
            raise DataError(f"{result.path}: {result.reason}", result.cure)
        rows.append(list(result.probabilities.values()))
    return np.array(rows)


def change_text(classifier: Classifier, first: pd.DataFrame, other: pd.DataFrame, *, replicates: int) -> str:
    """What changes from the first to the other copies, over the images that both tables have.

    Raises:
        DataError: They share no labelled image, or one cannot be read.
    """
    both = set(first["image_id"]) & set(other["image_id"][other["diagnosis"].map(classifier.task.has)])
    if not both:
        raise DataError("The two data sets share no labelled image in this split.", "Give two copies of one data set.")
    tables = [table[table["image_id"].isin(both)].sort_values("image_id") for table in (first, other)]
    classes = np.array([classifier.task.class_of(str(code)) for code in tables[1]["diagnosis"]], np.int64)
    before, after = (answers(classifier, table) for table in tables)
    change = compare_answers(classifier, classes, before, after, replicates=replicates, rng=np.random.default_rng(0))
    flips = change.class_flips
    lines = [
        f"{change.images} images; {classifier.config.answer_id}; first to other copies, with 95 % intervals",
        f"another {change.answer}: {flips.count}, {flips.value:.3f} ({flips.low:.3f} to {flips.high:.3f})",
    ]
    if change.call_flips is not None:
        calls = change.call_flips
        lines.append(
            f"another call at the threshold: {calls.count}, {calls.value:.3f} ({calls.low:.3f} to {calls.high:.3f})"
        )
    lines += [
        f"AUC {name}: {auc.before.value:.3f} -> {auc.after.value:.3f}; "
        f"{auc.change.value:+.3f} ({auc.change.low:+.3f} to {auc.change.high:+.3f})"
        for name, auc in change.auc.items()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set")
    parser.add_argument("--other", type=Path, required=True, help="other copies of the same photographs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--bundle", help="default: the one that ships")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap resamples")
    options = parser.parse_args()
    try:
        first, other = (read_dataset(folder) for folder in (options.data, options.other))
        parts = [table[table["split"] == options.split] for table in (first, other)]
        print(change_text(load(options.bundle), *parts, replicates=options.replicates))
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
