"""A cross-validated bundle, measured on the images that made it: each answered by networks that have not seen it, and
decided by what the other folds set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.bundle.config import BundleConfig
from pesi.bundle.files import Measured
from pesi.evaluate.evaluation import Evaluation, evaluate_predictions, measured_scores
from pesi.predict.crossfit import BETWEEN, SET
from pesi.stats.coverage import Proportion, SetCoverage, set_coverage
from pesi.stats.intervals import effective_count


@dataclass(frozen=True)
class TriageMeasured:
    """What a triage level did on images that did not set it.

    Attributes:
        level: Its name.
        promise: What such a level promises, in words.
        missed: Malignant lesions below it; None for the last level.
        bothered: Benign lesions at it or above.
    """

    level: str
    promise: str
    missed: Proportion
    bothered: Proportion


@dataclass(frozen=True)
class FoldsEvaluation:
    """A cross-validation's scores.

    Attributes:
        evaluation: Of the cross-fitted probabilities.
        coverage: Wanted coverage, such as "0.90" -> what the sets held.
        triage: Of each level but the last.
        strange: Images above the novelty threshold; None where there is none.
        measured: What the bundle keeps of it.
    """

    evaluation: Evaluation
    coverage: dict[str, SetCoverage]
    triage: tuple[TriageMeasured, ...]
    strange: Proportion | None
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return self.evaluation.to_dict() | {
            "cross_fitted": {
                "coverage": {wanted: found.to_dict() for wanted, found in self.coverage.items()},
                "triage": [
                    {
                        "level": each.level,
                        "promise": each.promise,
                        "malignant_below": each.missed.to_dict(),
                        "benign_at_or_above": each.bothered.to_dict(),
                    }
                    for each in self.triage
                ],
                "above_novelty_threshold": None if self.strange is None else self.strange.to_dict(),
            }
        }

    def decided_text(self) -> str:
        """What was decided, a line each."""
        lines = []
        for wanted, found in self.coverage.items():
            each = ", ".join(f"{name} {_text(part)}" for name, part in found.classes.items())
            lines.append(f"sets of {wanted} hold the truth: {each}; {found.mean_size:.2f} classes on average")
        lines += [
            f"{level.level} ({level.promise}): malignant below it {_text(level.missed)}, benign at it or above "
            f"{_text(level.bothered)}"
            for level in self.triage
        ]
        if self.strange is not None:
            lines.append(f"unlike the training images: {_text(self.strange)}")
        return "\n".join(lines)


def evaluate_folds(
    table: Path | pd.DataFrame,
    records: pd.DataFrame,
    groups: pd.Series,
    config: BundleConfig,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> FoldsEvaluation:
    """Score the out-of-fold table of a cross-validation (`train.folds.out_of_fold_table`).

    Intervals draw patients, lesions and near-duplicates as a whole.

    Args:
        table: It, or its file.
        records: Record table of the same images, in its order.
        groups: Group of each image: patient, lesion or near-duplicates.
        config: The bundle's.
        replicates, seed: Of the bootstrap.

    Raises:
        DataError: The table does not match the records.
    """
    if isinstance(table, Path):
        numbers: dict[str, type] = dict.fromkeys((*config.outputs, "fold", "strange"), float)
        table = pd.read_csv(table, dtype=defaultdict[str, type](lambda: str, numbers), keep_default_na=False)
    task, names = config.to_task(), list(config.outputs)
    grouped = records.assign(patient_id=None, lesion_id=groups.to_numpy())
    evaluation = evaluate_predictions(table[["image_id", *names]], grouped, task, replicates=replicates, seed=seed)
    classes = np.array([task.class_of(str(code)) for code in table["diagnosis"]], np.int64)
    codes = pd.factorize(groups)[0]
    drawn = codes if len(codes) > codes.max() + 1 else None
    coverage = {}
    for column in (str(name) for name in table.columns if str(name).startswith(SET)):
        inside = np.array([[name in held.split(BETWEEN) for name in names] for held in table[column]])
        coverage[column.removeprefix(SET)] = set_coverage(inside, classes, task.class_names, drawn)
    malignant = np.array([bool(task.classes[index].malignant) for index in classes])
    triage = _triage(config, table["triage"].to_numpy(), malignant, drawn)
    strange = None
    if "strange" in table:
        strange = _proportion(table["strange"].to_numpy().astype(int) > 0, np.ones(len(table), bool), drawn)
    sources = "/".join(sorted({str(source) for source in records["source"]}))
    on = (
        f"{sources}, each image answered by the networks that have not seen it; what the bundle decides by, but for "
        "one temperature a network, was set on the other folds"
    )
    measured = measured_scores(evaluation.to_dict(), on)
    found: dict[str, tuple[float, float, float]] = dict(measured.scores)
    for wanted, sets in coverage.items():
        for name, part in sets.classes.items():
            found |= _score(f"{wanted} sets hold {name}", part)
    for level in triage:
        found |= _score(f"malignant lesions below {level.level}", level.missed)
        found |= _score(f"benign lesions at {level.level} or above", level.bothered)
    if strange is not None:
        found |= _score("unlike the training images", strange)
    return FoldsEvaluation(evaluation, coverage, triage, strange, measured.model_copy(update={"scores": found}))


def _triage(
    config: BundleConfig, levels: NDArray[Any], malignant: NDArray[np.bool_], groups: NDArray | None
) -> tuple[TriageMeasured, ...]:
    names = [level.level for level in config.triage]
    if not names:
        return ()
    place = np.array([names.index(str(level)) if str(level) in names else len(names) for level in levels])
    return tuple(
        TriageMeasured(
            level.level,
            level.promise,
            _proportion(place > index, malignant, groups),
            _proportion(place <= index, ~malignant, groups),
        )
        for index, level in enumerate(config.triage[:-1])
    )


def _proportion(happened: NDArray[np.bool_], of: NDArray[np.bool_], groups: NDArray | None) -> Proportion:
    count = effective_count(happened[of], None if groups is None else groups[of])
    return Proportion(int(happened[of].sum()), int(of.sum()), count)


def _score(name: str, part: Proportion) -> Mapping[str, tuple[float, float, float]]:
    return {} if part.share is None else {name: (part.share, *part.interval)}


def _text(part: Proportion) -> str:
    if part.share is None:
        return "none"
    low, high = part.interval
    return f"{part.share:.3f} ({low:.3f} to {high:.3f}; {part.successes} of {part.trials})"
