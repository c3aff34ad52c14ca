"""Pictures and labels for training, with all randomness from (seed, epoch, position), so that a run can resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pesi.errors import DataError
from pesi.images.masks import augment_pair
from pesi.images.transforms import Augmentation, augment, to_tensor
from pesi.images.views import VIEWS, cut_views
from pesi.taxonomy import Task


def class_indices(records: pd.DataFrame, task: Task) -> NDArray[np.int64]:
    """Each record's class in the task, (N,).

    Raises:
        DataError: An image has no diagnosis, or one that the task does not know; the first is named.
    """
    indices = np.empty(len(records), np.int64)
    for row, (image_id, diagnosis) in enumerate(zip(records["image_id"], records["diagnosis"], strict=True)):
        if diagnosis is None or pd.isna(diagnosis):
            raise DataError(f"Image {image_id} has no diagnosis.", "Leave it out of the split, or add its label.")
        try:
            indices[row] = task.class_of(str(diagnosis))
        except DataError as error:
            raise DataError(f"Image {image_id}: {error.problem}", error.cure) from error
    return indices


class EpochSampler(Sampler[tuple[int, int]]):
    """Gives (index, seed) pairs: which picture, and the seed of its augmentation.

    Args:
        classes: Class of each picture, (N,).
        mode: `shuffle` gives each picture once an epoch; `balanced` draws with replacement so that classes are
            equally frequent, `sqrt` half-way (weights 1 / sqrt(count)).
        seed: The run's seed.
        rank, world_size: This process's share; all shares are equally long.
    """

    def __init__(self, classes: NDArray[np.int64], mode: str, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.classes, self.mode, self.seed = classes, mode, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.classes) // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        count = len(self.classes)
        if self.mode == "shuffle":
            order = rng.permutation(count)
        else:
            frequency = np.bincount(self.classes)[self.classes].astype(float)
            weights = 1 / (np.sqrt(frequency) if self.mode == "sqrt" else frequency)
            order = rng.choice(count, size=count, p=weights / weights.sum())
        seeds = rng.integers(2**62, size=count)
        share = slice(self.rank, len(self) * self.world_size, self.world_size)
        for index, seed in zip(order[share], seeds[share], strict=True):
            yield int(index), int(seed)


# One memory-mapped array (N, S, S, 3) a region of the images.
Squares = Sequence[NDArray[np.uint8]]


class TrainingPictures(Dataset[tuple[Tensor | int, ...]]):
    """Augmented pictures, of a region at random: item (index, seed) -> (uint8 tensor (3, size, size), class).

    Args:
        squares: The pictures.
        classes: Their classes, (N,).
        augmentation: How they are varied.
        size: Side of the results.
        masks: Lesion masks (N, S, S) uint8 as `datasets.cache.cached_masks` gives them, all 0 where there is none. With
            them an item has a third part: the mask, warped as its picture, bool (size, size).
    """

    def __init__(
        self,
        squares: Squares,
        classes: NDArray[np.int64],
        augmentation: Augmentation,
        size: int,
        masks: NDArray[np.uint8] | None = None,
    ) -> None:
        self.squares, self.classes, self.augmentation, self.size = squares, classes, augmentation, size
        self.masks = masks

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor | int, ...]:
        index, seed = item
        rng = np.random.default_rng(seed)
        draw = self.augmentation.draw(rng)
        squares = self.squares[int(rng.integers(len(self.squares)))] if len(self.squares) > 1 else self.squares[0]
        label = int(self.classes[index])
        if self.masks is None:
            return to_tensor(augment(squares[index], draw, self.size)), label
        picture, mask = augment_pair(squares[index], self.masks[index], draw, self.size)
        return to_tensor(picture), label, torch.from_numpy(mask)


class ValidationPictures(Dataset[tuple[Tensor, int, int]]):
    """Pictures of the first region as the classifier sees them: item -> (uint8 tensor (3, size, size), class, index).

    One region and no flips, to keep the validation of each epoch cheap.
    """

    def __init__(self, squares: Squares, classes: NDArray[np.int64], size: int) -> None:
        self.squares, self.classes, self.size = squares, classes, size

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        picture = cut_views(self.squares[0][index], VIEWS["single"], self.size)[0]
        return to_tensor(picture), int(self.classes[index]), index


class ShardSampler(Sampler[int]):
    """Every picture in order, dealt out to the processes; short shares repeat a picture so that all are equal."""

    def __init__(self, count: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.count, self.rank, self.world_size = count, rank, world_size

    def __len__(self) -> int:
        return -(-self.count // self.world_size)

    def __iter__(self) -> Iterator[int]:
        for position in range(len(self)):
            yield min(position * self.world_size + self.rank, self.count - 1)


def targets_of(classes: Tensor, task: Task, head: str) -> Tensor:
    """Class indices (N,) -> one-hot (N, K) for `multiclass`; the scored classes' columns of it for `multilabel`."""
    one_hot = torch.nn.functional.one_hot(classes, len(task.classes)).float()
    if head == "multiclass":
        return one_hot
    return one_hot[:, [task.class_names.index(name) for name in task.scored_names]]


def output_names(task: Task, head: str) -> tuple[str, ...]:
    """Names of the network's outputs: all classes, or the scored ones for `multilabel`."""
    return task.class_names if head == "multiclass" else task.scored_names
