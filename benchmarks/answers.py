"""How far cross-validated probabilities can be believed: calibration and prediction sets, fitted on the other folds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from outcome import Floats, Outcome, Pooled
from sections import cell

from pesi.decide.calibration import calibrated_probabilities, fit_temperature
from pesi.decide.conformal import Proportion, cross_fitted_sets, set_coverage
from pesi.predict.fitting import COVERAGES
from pesi.stats.reliability import CalibrationScores, calibration_scores


def answers_table(outcome: Outcome, replicates: int) -> str:
    """Calibration and coverage of each variant that is finished in two folds or more; else empty.

    The temperature of a fold's images is fitted on the log probabilities of the other folds' (averages of four views),
    their prediction sets on the other folds' calibrated ones.
    """
    blocks = {variant: outcome.block(variant) for variant in outcome.own}
    lines = []
    for variant, block in blocks.items():
        if len(block.splits) < 2:
            continue
        pooled = outcome.pooled(variant, block)
        before = all_classes(outcome, pooled)
        if before is None:
            continue
        names, targets = outcome.task.class_names, np.eye(before.shape[1])[pooled.classes]
        after = cross_fitted_temperature(before, targets, pooled.folds)
        lines += [
            f"`{variant}`, {len(pooled.classes)} images, {block}. Calibration error (ECE, equal-mass bins):",
            "",
            "| | of the most probable class | a perfect model would show | mean of the classes | melanoma's |",
            "|---|---|---|---|---|",
        ]
        for label, values in (("as trained", before), ("temperature of the other folds", after)):
            scores = calibration_scores(values, targets, "multiclass", names=names, replicates=replicates, seed=0)
            lines.append(f"| {label} | {_errors(scores)} |")
        lines += ["", "| prediction sets | wanted | covered | mean size | one class only |", "|---|---|---|---|---|"]
        for coverage in COVERAGES:
            sets = cross_fitted_sets(after, pooled.classes, names, pooled.folds, coverage=coverage)
            found = set_coverage(sets, pooled.classes, names)
            parts = [("all", found.overall), *found.classes.items()]
            lines += [
                f"| {name.replace('_', ' ')} | {coverage:.2f} | {_share(share, coverage)} | "
                + (f"{found.mean_size:.2f} | {_share(found.singletons)} |" if name == "all" else "| |")
                for name, share in parts
            ]
        lines.append("")
    return "\n".join(lines).rstrip()


def all_classes(outcome: Outcome, pooled: Pooled) -> Floats | None:
    """Probabilities of all classes, seeds averaged, (N, K); None where more than one class is not among the columns."""
    names, columns = outcome.task.class_names, outcome.columns
    rest = [name for name in names if name not in columns]
    if len(rest) > 1:
        return None
    known = dict(zip(columns, pooled.averaged.T, strict=True))
    if rest:
        known[rest[0]] = 1 - pooled.averaged.sum(axis=1)
    values = np.clip(np.column_stack([known[name] for name in names]), 1e-6, None)  # the files have five digits
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def cross_fitted_temperature(probabilities: Floats, targets: Floats, folds: NDArray[np.int64]) -> Floats:
    """Probabilities (N, K) with the temperature that the other folds' images want."""
    calibrated = np.empty_like(probabilities)
    logits = np.log(probabilities)[:, None, :]
    for fold in np.unique(folds):
        held = folds == fold
        temperature = fit_temperature(logits[~held], targets[~held], "multiclass", on="the other folds")
        calibrated[held] = calibrated_probabilities(logits[held], "multiclass", temperature)
    return calibrated


def _errors(scores: CalibrationScores) -> str:
    def value(name: str) -> str:
        return cell((scores.values[name], *scores.intervals[name]))

    mean, low, high = scores.perfect["ece_top"]
    cells = [value("ece_top"), cell((mean, low, high)), value("ece_classes")]
    cells.append(value("ece/melanoma") if "ece/melanoma" in scores.values else "")
    return " | ".join(cells)


def _share(share: Proportion, wanted: float | None = None) -> str:
    low, high = share.interval
    text = "-" if share.share is None else cell((share.share, low, high))
    if wanted is None:
        return text
    return text + (", within" if low <= wanted <= high else ", **outside**")
