"""A table's finished rows, read: which splits and seeds can be compared, and their held-out predictions, pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pack import read_rows
from pydantic import ValidationError
from table import Row, Table

from pesi.bundle.segmenter import SegmenterConfig
from pesi.datasets.splits import id_hash, repeated_groups
from pesi.errors import PesiError
from pesi.predict.segmenter import shipped_segmenter_folder
from pesi.stats import metrics
from pesi.taxonomy import Task, task_of
from pesi.train.recipe import Recipe

Floats = NDArray[np.float64]


def counted(number: int, word: str) -> str:
    """Such as "1 seed", "3 seeds"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class FinishedRow:
    """A row with its results: predictions of the held-out and of the test images, as `pack.RowResult` has them."""

    row: Row
    content: Mapping[str, Any]
    predictions: pd.DataFrame = field(repr=False)
    test: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def precision(self) -> str:
        """The arithmetic that it was trained in, "auto" resolved."""
        return str(self.content["recipe"]["precision"])

    @property
    def network(self) -> tuple[str, ...]:
        """What the network is known by: two rows of one network have the same."""
        if self.content.get("network_sha256"):
            return (self.content["network_sha256"],)
        source = self.row.settings.network_of or self.row.variant  # rows made before the hash was kept
        return (str(self.content["table"]), source, str(self.row.seed), self.row.split)

    @property
    def crops(self) -> bool:
        """Whether the lesion was cropped, in training or in prediction."""
        recipe = self.content["recipe"]
        return "lesion" in {*recipe.get("predict_regions", ()), *recipe["picture"].get("regions", ())}


@dataclass(frozen=True)
class Block:
    """Splits and seeds of which every combination is finished."""

    splits: tuple[str, ...]
    seeds: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.splits)

    @property
    def cells(self) -> list[tuple[int, str]]:
        """(seed, split) of its rows."""
        return [(seed, split) for seed in self.seeds for split in self.splits]

    def __str__(self) -> str:
        if not self:
            return "nothing finished"
        where = f"{counted(len(self.splits), 'fold')} ({', '.join(split[4:] for split in self.splits)})"
        where = "the official validation images" if self.splits == ("official",) else where
        return f"{where}, {counted(len(self.seeds), 'seed')} ({', '.join(map(str, self.seeds))})"


def largest_block(finished: Iterable[tuple[int, str]], splits: Sequence[str], *, most: str = "splits") -> Block:
    """The block with most splits, and among those most seeds; or (`most="seeds"`) the other way round.

    Args:
        finished: (seed, split) of the rows that are there.
        splits: All splits, in the table's order.
        most: "splits" or "seeds".
    """
    cells, best = set(finished), Block((), ())
    every = sorted({seed for seed, _ in cells})
    order = 1 if most == "splits" else -1
    for seeds in (chosen for n in range(1, len(every) + 1) for chosen in combinations(every, n)):
        has = tuple(split for split in splits if all((seed, split) in cells for seed in seeds))
        if has:
            best = max(best, Block(has, seeds), key=lambda block: (len(block.splits), len(block.seeds))[::order])
    return best


@dataclass(frozen=True)
class Pooled:
    """Held-out predictions of a block, pooled over its splits.

    Attributes:
        image_ids: (N,).
        classes: Class of each image, (N,).
        folds: Number of the split that held the image out, (N,).
        scores: Probabilities, (seeds, N, K).
        groups: Number of each image's patient or lesion, (N,); None where no two images share one.
    """

    image_ids: tuple[str, ...]
    classes: NDArray[np.int64]
    folds: NDArray[np.int64]
    scores: Floats
    groups: NDArray[np.int64] | None

    def take(self, chosen: NDArray[np.bool_]) -> Pooled:
        """The same of some images only."""
        return Pooled(
            tuple(np.array(self.image_ids)[chosen]),
            self.classes[chosen],
            self.folds[chosen],
            self.scores[:, chosen],
            None if self.groups is None else self.groups[chosen],
        )

    @property
    def averaged(self) -> Floats:
        """Probabilities averaged over the seeds, (N, K)."""
        return np.asarray(self.scores.mean(axis=0))


@dataclass(frozen=True)
class Outcome:
    """A table, the rows of it that are finished, and the labels of the images.

    Attributes:
        records: Record table of the labelled images.
        finished: Variant -> (seed, split) -> row; of `reference` too, whose variants are added.
        left_out: Why finished rows are not counted.
        own: The variants of the table itself, in its order.
        reference: The variant that the others are compared with where they name no other.
        replicates, seed: Of the bootstrap.
        few_classes: With more classes than these, the page shows no column for each.
    """

    table: Table
    task: Task
    records: pd.DataFrame = field(repr=False)
    finished: Mapping[str, Mapping[tuple[int, str], FinishedRow]]
    own: tuple[str, ...]
    reference: str
    left_out: tuple[str, ...]
    replicates: int = 2000
    seed: int = 0
    few_classes: int = 3

    def compared_with(self, variant: str) -> str:
        """The variant that one of the table's own is compared with."""
        return self.table.variants[variant].against or self.reference

    def block(self, *variants: str, most: str = "splits") -> Block:
        """The largest block that all these variants have; `most` as in `largest_block`."""
        cells = [set(self.finished[variant]) for variant in variants]
        return largest_block(set.intersection(*cells), self.table.splits, most=most)

    def pooled(self, variant: str, block: Block) -> Pooled:
        """The variant's held-out predictions in a block.

        Raises:
            PesiError: Two seeds or folds do not hold out what belongs together.
        """
        rows = self.finished[variant]
        held = [sorted(rows[block.seeds[0], split].predictions.index) for split in block.splits]
        ids, folds = [i for own in held for i in own], np.repeat(np.arange(len(held)), list(map(len, held)))
        frames = [pd.concat([rows[seed, split].predictions for split in block.splits]) for seed in block.seeds]
        if len(set(ids)) < len(ids) or any(set(frame.index) != set(ids) for frame in frames):
            raise PesiError(
                f"{self.table.name}, {variant}: an image is held out twice, or the seeds held out different images.",
                "Drop the rows that were made with another fold list.",
            )
        scores = np.stack([frame.loc[ids, list(self.columns)].to_numpy(np.float64) for frame in frames])
        held_out = self.records.set_index("image_id", drop=False).loc[ids]
        classes = np.array([self.task.class_of(str(code)) for code in held_out["diagnosis"]])
        return Pooled(tuple(ids), classes, folds, scores, repeated_groups(held_out))

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes whose probabilities are scored."""
        return self.task.scored_names

    def labels(self, pooled: Pooled, name: str) -> NDArray[np.bool_]:
        """Which images have the class, (N,)."""
        return np.asarray(pooled.classes == self.task.class_names.index(name))

    @property
    def few(self) -> bool:
        """Whether each class has a column of its own; else the page shows balanced accuracy and mean AUC only."""
        return len(self.columns) <= self.few_classes

    @property
    def headline(self) -> str:
        """The measure that variants are compared by."""
        return "mean AUC" if self.few else "balanced accuracy"

    def measures(self, pooled: Pooled, scores: Floats, weights: NDArray) -> dict[str, Floats]:
        """The measures that the page shows, (R,) each, of probabilities (N, K) with weights (R, N)."""
        aucs = {
            auc_name(name): metrics.auc(metrics.curve(self.labels(pooled, name), scores[:, k], weights))
            for k, name in enumerate(self.columns)
        }
        mean = {"mean AUC": np.asarray(np.mean(list(aucs.values()), axis=0))}
        return aucs | mean if self.few else self._balanced(pooled, scores, weights) | mean

    def headline_value(self, pooled: Pooled, scores: Floats, weights: NDArray) -> Floats:
        """The headline measure alone, (R,); as `measures`."""
        values = self.measures(pooled, scores, weights) if self.few else self._balanced(pooled, scores, weights)
        return values[self.headline]

    def headline_of(self, pooled: Pooled, scores: Floats, chosen: NDArray[np.bool_] | None = None) -> float:
        """The headline measure of probabilities (N, K), of all images or of some, (N,)."""
        weights = np.ones(len(scores)) if chosen is None else chosen.astype(float)
        return float(self.headline_value(pooled, scores, weights[None])[0])

    def _balanced(self, pooled: Pooled, scores: Floats, weights: NDArray) -> dict[str, Floats]:
        values = metrics.multiclass_scores(pooled.classes, scores.argmax(1), weights)
        return {"balanced accuracy": values["balanced_accuracy"]}


def auc_name(name: str) -> str:
    """A class's AUC as the page calls it."""
    return f"{name.replace('_', ' ')} AUC"


def read_outcome(
    table: Table, reference: Table | None, records: pd.DataFrame, *, replicates: int = 2000, seed: int = 0
) -> Outcome:
    """Read the finished rows of a table, and of that which holds its reference variant, where it has one.

    Raises:
        PesiError: A result file is damaged, or names an image of which the records have no label.
    """
    labelled = records[records["diagnosis"].notna()]
    task = task_of(table.recipe(table.rows()[0]).task, labelled["diagnosis"])
    known = set(labelled["image_id"])
    finished: dict[str, dict[tuple[int, str], FinishedRow]] = {}
    left_out: list[str] = []
    for source in [table, *([reference] if reference else [])]:
        results = read_rows(source)
        for row in source.rows():
            cells = finished.setdefault(row.variant, {})
            result = results.get(row.name)
            if result is None or (row.seed, row.split) in cells:
                continue
            settings = (result.content.get("share", 1.0), result.content.get("relatives", ""))
            same = _same_recipe(result.content, source.recipe(row))
            if not same or settings != (row.settings.share, row.settings.relatives):
                left_out.append(f"{row.name}: made by another recipe than the one that stands here now")
                continue
            predictions = result.predictions["held_out"]
            strangers = sorted(set(predictions.index) - known)
            if strangers:
                what = f"{source.name}, {row.name}: the data have no label for {strangers[0]}."
                raise PesiError(what, "Give the data set that the rows were trained on: --data DIR.")
            cells[row.seed, row.split] = FinishedRow(row, result.content, predictions, result.predictions.get("test"))
    first = next(iter((reference or table).variants))
    return Outcome(table, task, labelled, finished, tuple(table.variants), first, tuple(left_out), replicates, seed)


def _same_recipe(content: Mapping[str, Any], wanted: Recipe) -> bool:
    """Whether a row was made by this recipe; how "auto" precision was resolved may differ."""
    try:
        made = Recipe.model_validate(content["recipe"])
    except (KeyError, ValidationError):
        return False
    same = {"name": wanted.name, "description": wanted.description}
    if wanted.precision == "auto":
        same["precision"] = "auto"
    return made.model_copy(update=same) == wanted


def segmenter_saw(records: pd.DataFrame) -> set[str]:
    """The images that the segmenter which ships, and which crops in the rows, had learned from or was chosen by.

    They are recognised by the hash of their ids; the records have the official splits.
    """
    saw: set[str] = set()
    folder = shipped_segmenter_folder()
    splits = SegmenterConfig.read(folder).provenance["splits"] if folder else {}
    for split, part in splits.items():
        ids = records["image_id"][(records["split"] == split) & records["mask_path"].notna()]
        saw |= set(ids) if id_hash(ids) == part["sha256"] else set()
    return saw
