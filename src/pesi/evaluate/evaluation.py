"""From per-image predictions and a record table to every score of the protocol, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.bundle.files import Measured
from pesi.datasets.splits import repeated_groups
from pesi.errors import DataError
from pesi.stats import metrics
from pesi.stats.intervals import bootstrap, newcombe_interval, percentile_interval, units, wilson_interval
from pesi.stats.paired import FEW, PairedResult, delong, paired_bootstrap
from pesi.taxonomy import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aligned:
    """Predictions and truth of the same images, in the same order.

    Attributes:
        image_ids: (N,).
        classes: Class index of each image, (N,).
        names: Columns of `scores`.
        scores: Probabilities, (N, K).
        groups: Number of each image's patient or lesion, (N,); None where no two images share one.
    """

    image_ids: tuple[str, ...]
    classes: NDArray[np.int64]
    names: tuple[str, ...]
    scores: Floats
    groups: NDArray[np.int64] | None = None

    def task_labels(self, task: Task, name: str) -> NDArray[np.bool_]:
        """Which images have the class, (N,)."""
        return np.asarray(self.classes == task.class_names.index(name))

    @property
    def drawn(self) -> str:
        """What the bootstrap draws."""
        return "images" if self.groups is None else "lesions or patients, with all of their images"

    def units(self, chosen: NDArray[np.bool_]) -> int:
        """How many of what the bootstrap draws are among the chosen images, (N,)."""
        return units(self.groups, chosen)

    def column(self, name: str) -> Floats:
        """Probabilities of one class, (N,)."""
        return np.asarray(self.scores[:, self.names.index(name)])


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of predictions; `to_dict()` is what `metrics.json` holds."""

    scores: Mapping[str, Any]
    aligned: Aligned = field(repr=False)
    task: Task
    bands: Mapping[str, Floats] = field(repr=False)  # class -> (3, 101): false positive rate, low and high sensitivity

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dict(self.scores)


def align(predictions: pd.DataFrame, records: pd.DataFrame, task: Task) -> Aligned:
    """Match predictions to the labelled records.

    Raises:
        DataError: An image is predicted twice, has no prediction or no record, or a needed class has no column.
    """
    labelled = records[records["diagnosis"].notna()]
    if not len(labelled):
        raise DataError("None of the images has a diagnosis.", "Evaluation needs a ground truth: choose another split.")
    twice = predictions["image_id"][predictions["image_id"].duplicated()]
    if len(twice):
        raise DataError(f"{len(twice)} images are predicted twice, the first is {twice.iloc[0]}.", "Keep one row each.")
    for missing, what in (
        (sorted(set(labelled["image_id"]) - set(predictions["image_id"])), "have no prediction"),
        (sorted(set(predictions["image_id"]) - set(records["image_id"])), "are not among the images of the data"),
    ):
        if missing:
            raise DataError(
                f"{len(missing)} images {what}, the first is {missing[0]}.",
                "Predictions and data must be of the same images: check the split.",
            )
    absent = [name for name in task.scored_names if name not in predictions]
    if absent:
        raise DataError(
            f"The predictions have no column {absent[0]!r}; they have: {', '.join(predictions.columns[1:])}.",
            f"The task {task.name} needs: {', '.join(task.scored_names)}.",
        )
    names = tuple(name for name in task.class_names if name in predictions)
    ordered = predictions.set_index("image_id").loc[list(labelled["image_id"]), list(names)]
    classes = np.array([task.class_of(str(code)) for code in labelled["diagnosis"]], np.int64)
    groups = repeated_groups(labelled)
    return Aligned(tuple(labelled["image_id"]), classes, names, ordered.to_numpy(np.float64), groups)


def evaluate_predictions(
    predictions: pd.DataFrame,
    records: pd.DataFrame,
    task: Task,
    *,
    replicates: int = 2000,
    seed: int = 0,
    thresholds: Mapping[str, float] | None = None,
) -> Evaluation:
    """Score predictions by the rules of the ISIC 2017 challenge, with stratified-bootstrap 95 % intervals.

    Where images share a lesion or a patient, the bootstrap draws these and not single images.

    Where a score is 0 or 1 no resample of it varies, which would claim certainty from a handful of images. There an AUC
    has Newcombe's interval, also where fewer than 10 images are with or without the class; a share has Wilson's, and an
    average precision none (null); a mean over the classes then has the mean of its classes' limits.

    Args:
        predictions: `image_id`, then one column of probabilities a class.
        records: Record table of the same images; those without a diagnosis are left out.
        task: The classes; `task.scored_names` make the mean AUC.
        replicates: Bootstrap resamples, stratified by class.
        seed: Of the bootstrap.
        thresholds: Class -> threshold for accuracy, sensitivity and specificity; default 0.5.

    Raises:
        DataError: Predictions and records do not match.
    """
    data = align(predictions, records, task)
    thresholds = thresholds or {}
    scorable: list[str] = []
    for name in task.scored_names:
        labels = data.task_labels(task, name)
        if labels.any() and not labels.all():
            scorable.append(name)
    multiclass = len(data.names) == len(task.classes) > 2
    called = data.scores.argmax(1)
    grid = np.linspace(0, 1, 101)

    def statistics(weights: NDArray) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for name in scorable:
            labels, column = data.task_labels(task, name), data.column(name)
            for key, value in metrics.binary_scores(
                labels, column, weights, threshold=thresholds.get(name, 0.5)
            ).items():
                values[f"{name}/{key}"] = value
        if scorable:
            values["mean_auc"] = np.mean([values[f"{name}/auc"] for name in scorable], axis=0)
            values["mean_average_precision"] = np.mean([values[f"{n}/average_precision"] for n in scorable], axis=0)
        if multiclass:
            for key, value in metrics.multiclass_scores(data.classes, called, weights).items():
                values[f"multiclass/{key}"] = value
        return values

    point = {name: float(value[0]) for name, value in statistics(np.ones((1, len(data.classes)))).items()}
    rng = np.random.default_rng(seed)
    draws = bootstrap(statistics, data.classes, replicates=replicates, rng=rng, groups=data.groups)
    interval = {name: list(percentile_interval(values)) for name, values in draws.items()}
    all_scored = len(scorable) == len(task.scored_names)
    result: dict[str, Any] = {
        "task": task.name,
        "images": len(data.classes),
        "bootstrap": {"replicates": replicates, "seed": seed, "stratified_by": "class", "drawn": data.drawn},
        "mean_auc": point["mean_auc"] if all_scored else None,
        "mean_auc_ci": interval["mean_auc"] if all_scored else None,
        "mean_average_precision": point["mean_average_precision"] if all_scored else None,
        "mean_average_precision_ci": interval["mean_average_precision"] if all_scored else None,
        "tasks": {},
    }
    for name in task.scored_names:
        labels = data.task_labels(task, name)
        entry: dict[str, Any] = {"positives": int(labels.sum()), "negatives": int((~labels).sum())}
        entry["threshold"] = thresholds.get(name, 0.5)
        if name in scorable:
            for key in ("auc", "average_precision", "accuracy", "sensitivity", "specificity", "brier"):
                entry[key], entry[f"{key}_ci"] = point[f"{name}/{key}"], interval[f"{name}/{key}"]
            entry["specificity_at_sensitivity"] = {
                f"{s:.2f}": {
                    "value": point[f"{name}/specificity_at_sensitivity_{s:.2f}"],
                    "ci": interval[f"{name}/specificity_at_sensitivity_{s:.2f}"],
                }
                for s in metrics.SENSITIVITIES
            }
            c = metrics.curve(labels, data.column(name))
            precision = c.true_positives[0, 1:] / (c.true_positives[0, 1:] + c.false_positives[0, 1:])
            entry["curves"] = {
                "threshold": c.thresholds[1:].tolist(),
                "sensitivity": (c.true_positives[0, 1:] / c.positives[0]).tolist(),
                "false_positive_rate": (c.false_positives[0, 1:] / c.negatives[0]).tolist(),
                "precision": precision.tolist(),
            }
        else:
            entry |= {"auc": None, "auc_ci": None, "reason": "only one of the two classes occurs among these images"}
        result["tasks"][name] = entry
    if multiclass:
        result["multiclass"] = {
            key: value
            for name in ("accuracy", "balanced_accuracy")
            for key, value in ((name, point[f"multiclass/{name}"]), (f"{name}_ci", interval[f"multiclass/{name}"]))
        } | {
            "confusion_matrix": {
                "classes": list(task.class_names),
                "rows_are": "truth",
                "counts": metrics.confusion_matrix(data.classes, called, len(task.classes)).tolist(),
            }
        }
    _give_width(result, data, task)
    bands = {name: _roc_band(data, task, name, grid, min(replicates, 500), seed) for name in scorable}
    return Evaluation(result, data, task, bands)


def _give_width(result: dict[str, Any], data: Aligned, task: Task) -> None:
    """Put other intervals in place of the bootstrap's where that is too narrow, in `result`."""
    everything = np.ones(len(data.classes), bool)
    entries = {name: entry for name, entry in result["tasks"].items() if entry["auc"] is not None}
    narrow = False
    for name, entry in entries.items():
        labels = data.task_labels(task, name)
        positives, negatives = data.units(labels), data.units(~labels)
        if entry["auc"] in (0, 1) or min(positives, negatives) < FEW:
            entry["auc_ci"] = list(newcombe_interval(entry["auc"], positives, negatives))
            narrow = True
        if entry["average_precision"] == 1 or min(positives, negatives) < FEW:
            entry["average_precision_ci"] = result["mean_average_precision_ci"] = None
        for key, count in (
            ("accuracy", data.units(everything)),
            ("sensitivity", positives),
            ("specificity", negatives),
        ):
            if entry[key] in (0, 1):
                entry[f"{key}_ci"] = list(wilson_interval(round(entry[key]) * count, count))
        for at in entry["specificity_at_sensitivity"].values():
            if at["value"] in (0, 1):
                at["ci"] = list(wilson_interval(round(at["value"]) * negatives, negatives))
    if result["mean_auc"] is not None and narrow:
        # The classes are of the same images: half-widths add, however the AUCs hang together.
        result["mean_auc_ci"] = np.mean([entry["auc_ci"] for entry in entries.values()], axis=0).tolist()
    if "multiclass" in result:
        entry, count = result["multiclass"], data.units(everything)
        if entry["accuracy"] in (0, 1):
            entry["accuracy_ci"] = list(wilson_interval(round(entry["accuracy"]) * count, count))
        if entry["balanced_accuracy"] in (0, 1):  # then every recall is that too
            counts = [data.units(own) for own in _members(data.classes)]
            recalls = [wilson_interval(round(entry["balanced_accuracy"]) * count, count) for count in counts]
            entry["balanced_accuracy_ci"] = np.mean(recalls, axis=0).tolist()


def _members(classes: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """The images of each class that occurs."""
    return [classes == index for index in np.unique(classes)]


def measured_scores(scores: Mapping[str, Any], on: str) -> Measured:
    """The AUCs of an evaluation as a bundle keeps them.

    Args:
        scores: `Evaluation.to_dict()`.
        on: Which images, and what else they were used for; the numbers of each class are added.
    """
    tasks = {name: task for name, task in scores["tasks"].items() if task["auc"] is not None}
    found = {f"AUC {name}": (task["auc"], *task["auc_ci"]) for name, task in tasks.items()}
    if scores["mean_auc"] is not None:
        found = {"mean AUC": (scores["mean_auc"], *scores["mean_auc_ci"])} | found
    counts = ", ".join(f"{task['positives']} with {name}" for name, task in scores["tasks"].items())
    return Measured(on=f"{on} ({counts})", images=scores["images"], scores=found)


def _roc_band(data: Aligned, task: Task, name: str, grid: Floats, replicates: int, seed: int) -> Floats:
    """Pointwise 95 % band of the sensitivity over a grid of false positive rates, (3, G)."""
    labels, column = data.task_labels(task, name), data.column(name)

    def sensitivities(weights: NDArray) -> dict[str, Floats]:
        c = metrics.curve(labels, column, weights)
        rows = [
            np.interp(grid, c.false_positives[r] / c.negatives[r], c.true_positives[r] / c.positives[r])
            for r in range(len(weights))
        ]
        return {"sensitivity": np.asarray(rows)}

    rng = np.random.default_rng([seed, 1])
    draws = bootstrap(sensitivities, data.classes, replicates=replicates, rng=rng, groups=data.groups)["sensitivity"]
    return np.vstack([grid, np.quantile(draws, [0.025, 0.975], axis=0)])


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images.

    Attributes:
        images: How many.
        drawn: What the bootstrap drew.
        results: What was compared -> A minus B.
    """

    images: int
    drawn: str
    results: Mapping[str, PairedResult]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "images": self.images,
            "drawn": self.drawn,
            "results": {
                name: {
                    "a": r.a,
                    "b": r.b,
                    "difference": r.difference,
                    "ci": list(r.interval),
                    "p_value": r.p_value,
                    "method": r.method,
                    "few": r.few,
                }
                for name, r in self.results.items()
            },
        }

    def to_text(self) -> str:
        """A table, each row with a plain sentence."""
        lines = [f"{self.images} images; A - B with 95 % intervals; the bootstrap draws {self.drawn}", ""]
        width = max(len(name) for name in self.results)
        for name, r in self.results.items():
            verdict = "A is better" if r.interval[0] > 0 else "B is better" if r.interval[1] < 0 else ""
            verdict = verdict or "the interval includes zero: no difference shown"
            if r.few:
                verdict = f"fewer than {FEW} with or without a class: too few to tell"
            lines.append(
                f"{name:<{width}}  {r.a:.4f} - {r.b:.4f} = {r.difference:+.4f} "
                f"[{r.interval[0]:+.4f}, {r.interval[1]:+.4f}]  p = {r.p_value:.3g} ({r.method}): {verdict}"
            )
        return "\n".join(lines) + "\n"


def compare_predictions(
    a: pd.DataFrame, b: pd.DataFrame, records: pd.DataFrame, task: Task, *, replicates: int = 2000, seed: int = 0
) -> Comparison:
    """Paired DeLong of each task's AUC, paired bootstrap of the mean AUC and of each average precision.

    DeLong's test takes images as independent. Where they share a lesion or a patient, the bootstrap takes its place,
    and draws these and not single images.

    Args:
        a, b: `image_id`, then one column of probabilities a class; of the same images.
        records: Record table of these images.
        task: The classes.
        replicates: Bootstrap resamples, stratified by class.
        seed: Of the bootstrap.

    Raises:
        DataError: Predictions and records do not match, or a class does not occur.
    """
    both = (align(a, records, task), align(b, records, task))
    classes, groups = both[0].classes, both[0].groups

    def resampled(score: Callable[[Aligned, str, NDArray], Floats], names: Sequence[str]) -> PairedResult:
        def mean(which: int, weights: NDArray) -> Floats:
            return np.asarray(np.mean([score(both[which], name, weights) for name in names], axis=0))

        rng = np.random.default_rng(seed)
        return paired_bootstrap(mean, classes, replicates=replicates, rng=rng, groups=groups)

    def curve(data: Aligned, name: str, weights: NDArray) -> metrics.Curve:
        return metrics.curve(data.task_labels(task, name), data.column(name), weights)

    def auc(data: Aligned, name: str, weights: NDArray) -> Floats:
        return metrics.auc(curve(data, name, weights))

    results: dict[str, PairedResult] = {}
    few: set[str] = set()
    for name in task.scored_names:
        labels = both[0].task_labels(task, name)
        if min(both[0].units(labels), both[0].units(~labels)) < FEW:
            few.add(name)
        if labels.all() or not labels.any():
            raise DataError(f"Only one of the two classes of {name!r} occurs.", "Compare on more images.")
        independent = groups is None
        a_scores, b_scores = both[0].column(name), both[1].column(name)
        results[f"AUC {name}"] = delong(labels, a_scores, b_scores) if independent else resampled(auc, [name])
    results["mean AUC"] = resampled(auc, task.scored_names)
    for name in task.scored_names:
        results[f"average precision {name}"] = resampled(
            lambda data, name, weights: metrics.average_precision(curve(data, name, weights)), [name]
        )
    of_few = {f"{score} {name}" for name in few for score in ("AUC", "average precision")}
    of_few |= {"mean AUC"} if few else set()
    told = {key: replace(result, few=key in of_few) for key, result in results.items()}
    return Comparison(len(classes), both[0].drawn, told)
