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
from pesi.images.masks import augment_pair, resize_mask
from pesi.images.transforms import Augmentation, augment, to_tensor
from pesi.images.views import VIEWS, cut_views
from pesi.taxonomy import Task
from pesi.train.device_augmentation import unvaried


def class_indices(records: pd.DataFrame, task: Task) -> NDArray[np.int64]:
    """Each record's class in the task, (N,).

    Raises:
        DataError: Images have no diagnosis, or one that the task does not know; they are counted, the first named.
    """
    without = records.loc[records["diagnosis"].isna(), "image_id"]
    if len(without):
        raise DataError(
            f"{len(without)} of {len(records)} images have no diagnosis; the first is {without.iloc[0]}.",
            "Leave them out of the split, or add their labels; `pesi data check` shows what was read.",
        )
    other = records[~records["diagnosis"].map(task.has).astype(bool)]
    if len(other):
        try:
            task.class_of(str(other["diagnosis"].iloc[0]))
        except DataError as error:
            first = other["image_id"].iloc[0]
            raise DataError(
                f"{len(other)} of {len(records)} images, the first {first}: {error.problem}", error.cure
            ) from error
    return np.array([task.class_of(str(diagnosis)) for diagnosis in records["diagnosis"]], np.int64)


def class_counts(training: NDArray[np.int64], validation: NDArray[np.int64], names: Sequence[str]) -> str:
    """How many images each class has, in training and validation, and which has none to learn from."""
    counts = [np.bincount(part, minlength=len(names)) for part in (training, validation)]
    each = ", ".join(f"{name} {a} + {b}" for name, a, b in zip(names, *counts, strict=True))
    absent = [name for name, count in zip(names, counts[0], strict=True) if not count]
    return f"{each}" + (f"; no training image shows {', '.join(absent)}: it cannot be learned" if absent else "")


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


class PictureRows:
    """Some rows of a memory-mapped array of pictures (P, S, S, 3), which are read when they are asked for.

    Args:
        pool: All pictures.
        rows: Which of them, (N,).
    """

    def __init__(self, pool: NDArray[np.uint8], rows: NDArray[np.integer] | None = None) -> None:
        self.pool = pool
        self.rows = np.arange(len(pool)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """A picture, (S, S, 3)."""
        picture: NDArray[np.uint8] = self.pool[self.rows[index]]
        return picture


AnySquares = PictureRows | NDArray[np.uint8]  # pictures, N of (S, S, 3)
Squares = Sequence[AnySquares]  # a region of the images each


class TrainingPictures(Dataset[tuple[Tensor | int, ...]]):
    """Augmented pictures, of a region at random: item (index, seed) -> (uint8 tensor (3, size, size), class).

    Args:
        squares: The pictures.
        classes: Their classes, (N,).
        augmentation: How they are varied.
        size: Side of the results.
        masks: Lesion masks (N, S, S) uint8 as `datasets.cache.cached_masks` gives them, all 0 where there is none. With
            them an item has a third part: the mask, warped as its picture, bool (size, size).
        on_device: Leave what can be done for a whole batch to `device_augmentation.varied`: items are `Unvaried`.
    """

    def __init__(
        self,
        squares: Squares,
        classes: NDArray[np.int64],
        augmentation: Augmentation,
        size: int,
        masks: NDArray[np.uint8] | None = None,
        *,
        on_device: bool = False,
    ) -> None:
        self.squares, self.classes, self.augmentation, self.size = squares, classes, augmentation, size
        self.masks, self.on_device = masks, on_device

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor | int, ...]:
        index, seed = item
        rng = np.random.default_rng(seed)
        draw = self.augmentation.draw(rng)
        squares = self.squares[int(rng.integers(len(self.squares)))] if len(self.squares) > 1 else self.squares[0]
        label = int(self.classes[index])
        if self.on_device:
            return unvaried(squares[index], label, draw, self.size, None if self.masks is None else self.masks[index])
        if self.masks is None:
            return to_tensor(augment(squares[index], draw, self.size)), label
        picture, mask = augment_pair(squares[index], self.masks[index], draw, self.size)
        return to_tensor(picture), label, torch.from_numpy(mask)


class ValidationPictures(Dataset[tuple[Tensor | int, ...]]):
    """Pictures of the first region as the classifier sees them: item -> (uint8 tensor (3, size, size), class, index).

    With masks a fourth part: the picture's, bool (size, size). One region and no flips, to keep the validation of each
    epoch cheap.
    """

    def __init__(
        self, squares: Squares, classes: NDArray[np.int64], size: int, masks: NDArray[np.uint8] | None = None
    ) -> None:
        self.squares, self.classes, self.size, self.masks = squares, classes, size, masks

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> tuple[Tensor | int, ...]:
        picture = to_tensor(cut_views(self.squares[0][index], VIEWS["single"], self.size)[0].copy())
        if self.masks is None:
            return picture, int(self.classes[index]), index
        return picture, int(self.classes[index]), index, torch.from_numpy(resize_mask(self.masks[index], self.size))


def targets_of(classes: Tensor, task: Task, head: str) -> Tensor:
    """Class indices (N,) -> one-hot (N, K) for `multiclass`; the scored classes' columns of it for `multilabel`."""
    one_hot = torch.nn.functional.one_hot(classes, len(task.classes)).float()
    if head == "multiclass":
        return one_hot
    return one_hot[:, [task.class_names.index(name) for name in task.scored_names]]


def output_names(task: Task, head: str) -> tuple[str, ...]:
    """Names of the network's outputs: all classes, or the scored ones for `multilabel`."""
    return task.class_names if head == "multiclass" else task.scored_names
