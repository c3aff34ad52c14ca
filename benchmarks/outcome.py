"""A table's finished rows, read: which splits and seeds can be compared, and their held-out predictions, pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from rows import Row, Table

from pesi.datasets.splits import repeated_groups
from pesi.errors import PesiError
from pesi.predict.tables import read_prediction_table
from pesi.stats import metrics
from pesi.taxonomy import Task, task_of
from pesi.train.recipe import Recipe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FinishedRow:
    """A row with its result files, read."""

    row: Row
    content: Mapping[str, Any]
    predictions: pd.DataFrame = field(repr=False)  # index image_id, a column a class

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
        if self.splits == ("official",):
            where = "the official validation images"
        else:
            where = f"{len(self.splits)} fold{'s' * (len(self.splits) != 1)} ({_list(s[4:] for s in self.splits)})"
        return f"{where}, {len(self.seeds)} seed{'s' * (len(self.seeds) != 1)} ({_list(map(str, self.seeds))})"


def largest_block(finished: Iterable[tuple[int, str]], splits: Sequence[str], *, most: str = "splits") -> Block:
    """The block with most splits, and among those most seeds; or the other way round.

    Args:
        finished: (seed, split) of the rows that are there.
        splits: All splits, in the table's order.
        most: "splits" or "seeds": what counts first.
    """
    cells = set(finished)
    every = sorted({seed for seed, _ in cells})
    best = Block((), ())
    for seeds in (chosen for n in range(1, len(every) + 1) for chosen in combinations(every, n)):
        has = tuple(split for split in splits if all((seed, split) in cells for seed in seeds))
        if has and _size(Block(has, seeds), most) > _size(best, most):
            best = Block(has, seeds)
    return best


def _size(block: Block, most: str) -> tuple[int, int]:
    splits, seeds = len(block.splits), len(block.seeds)
    return (splits, seeds) if most == "splits" else (seeds, splits)


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
        few_classes: With more classes than these, the page shows no column for each.
    """

    table: Table
    task: Task
    records: pd.DataFrame = field(repr=False)
    finished: Mapping[str, Mapping[tuple[int, str], FinishedRow]]
    own: tuple[str, ...]
    reference: str
    left_out: tuple[str, ...]
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
            PesiError: Two seeds held out different images.
        """
        rows = self.finished[variant]
        ids: list[str] = []
        folds: list[int] = []
        for number, split in enumerate(block.splits):
            own = sorted(rows[block.seeds[0], split].predictions.index)
            ids += own
            folds += [number] * len(own)
        if len(set(ids)) < len(ids):
            raise PesiError(
                f"{self.table.name}, {variant}: an image is held out twice.", "Delete the rows of old folds."
            )
        scores = []
        for seed in block.seeds:
            frame = pd.concat([rows[seed, split].predictions for split in block.splits])
            if set(frame.index) != set(ids):
                raise PesiError(
                    f"{self.table.name}, {variant}: seed {seed} held out other images than seed {block.seeds[0]}.",
                    "Delete the rows that were made with another fold list.",
                )
            scores.append(frame.loc[ids, list(self.columns)].to_numpy(np.float64))
        held_out = self.records.set_index("image_id", drop=False).loc[ids]
        classes = np.array([self.task.class_of(str(code)) for code in held_out["diagnosis"]])
        return Pooled(tuple(ids), classes, np.array(folds), np.stack(scores), repeated_groups(held_out))

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
        """The measures that the page shows, (R,) each.

        Args:
            pooled: Whose images and labels.
            scores: (N, K).
            weights: (R, N).
        """
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

    def _balanced(self, pooled: Pooled, scores: Floats, weights: NDArray) -> dict[str, Floats]:
        values = metrics.multiclass_scores(pooled.classes, scores.argmax(1), weights)
        return {"balanced accuracy": values["balanced_accuracy"]}


def auc_name(name: str) -> str:
    """A class's AUC as the page calls it."""
    return f"{name.replace('_', ' ')} AUC"


def read_outcome(table: Table, reference: Table | None, records: pd.DataFrame) -> Outcome:
    """Read a table's finished rows.

    Args:
        table: The table.
        reference: The table that holds its reference variant, where it has one.
        records: Record table with the labels.

    Raises:
        PesiError: A result file is damaged, or names an image that the data do not have.
    """
    labelled = records[records["diagnosis"].notna()]
    recipe = table.recipe(table.rows()[0])
    task = task_of(recipe.task, labelled["diagnosis"])
    known = set(labelled["image_id"])
    finished: dict[str, dict[tuple[int, str], FinishedRow]] = {}
    left_out: list[str] = []
    for source in [table, *([reference] if reference else [])]:
        for row in source.rows():
            cells = finished.setdefault(row.variant, {})
            files = source.files(row)
            if not files.finished or (row.seed, row.split) in cells:
                continue
            content = files.read()
            same = _same_recipe(content, source.recipe(row))
            settings = (content.get("share", 1.0), content.get("relatives", ""))
            if not same or settings != (row.settings.share, row.settings.relatives):
                left_out.append(f"{row.name}: made by another recipe than the one that stands here now")
                continue
            predictions = read_prediction_table(files.held_out).set_index("image_id")
            strangers = sorted(set(predictions.index) - known)
            if strangers:
                raise PesiError(
                    f"{files.held_out}: the data have no label for {strangers[0]}.",
                    "Give the data set that the rows were trained on: --data DIR.",
                )
            cells[row.seed, row.split] = FinishedRow(row, content, predictions)
    first = next(iter((reference or table).variants))
    return Outcome(table, task, labelled, finished, tuple(table.variants), first, tuple(left_out))


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


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
