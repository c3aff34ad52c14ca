"""What a run trains on: its pictures and masks, decoded once, and the loaders that deal them out."""

from __future__ import annotations

import lightning as L
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from pesi.datasets.cache import cached_masks, cached_squares
from pesi.errors import DataError
from pesi.images.regions import Region
from pesi.train.dataset import EpochSampler, TrainingPictures, ValidationPictures
from pesi.train.folder import Pictures
from pesi.train.recipe import CommonPicture, CommonRecipe


def training_loader(
    pictures: Pictures, recipe: CommonRecipe, workers: int, trainer: L.Trainer, *, on_device: bool = False
) -> DataLoader:
    """Batches of augmented pictures, classes and, where there are any, masks; this process's share of each epoch.

    With `on_device` batches are `device_augmentation.Unvaried`.
    """
    squares, size = [pictures.squares[name] for name in recipe.regions], recipe.picture.size
    share = {"rank": trainer.global_rank, "world_size": trainer.world_size}
    return DataLoader(
        TrainingPictures(squares, pictures.classes, recipe.augmentation, size, pictures.masks, on_device=on_device),
        recipe.batch_size,
        sampler=EpochSampler(pictures.classes, recipe.sampler, seed=recipe.seed, **share),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def validation_loader(pictures: Pictures, recipe: CommonRecipe, workers: int, trainer: L.Trainer) -> DataLoader:
    """Batches of unvaried pictures, classes, indices and, where there are any, masks; this process's share."""
    squares = [pictures.squares[name] for name in recipe.regions]
    dataset = ValidationPictures(squares, pictures.classes, recipe.picture.size, pictures.masks)
    return DataLoader(
        dataset,
        recipe.batch_size,
        sampler=DistributedSampler(dataset, trainer.world_size, trainer.global_rank, shuffle=False),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def read_squares(records: pd.DataFrame, region: Region, cache_dir: str | None, show: bool) -> NDArray[np.uint8]:
    """The region of all images, (N, S, S, 3), with a bar where `show` says so.

    Raises:
        DataError: An image cannot be read.
    """
    with _bar(len(records), "decoding", show) as bar:
        return cached_squares(
            list(records["path"]), region, cache_dir=cache_dir, progress=lambda done, total: _move(bar, done)
        )


def read_masks(records: pd.DataFrame, picture: CommonPicture, cache_dir: str | None, show: bool) -> NDArray[np.uint8]:
    """The lesion masks of all images, (N, S, S), all 0 where there is none.

    Raises:
        DataError: No image has a mask, or a mask cannot be read.
    """
    marked = records["mask_path"].notna().to_numpy()
    if not marked.any():
        raise DataError("loss.attention_mask needs lesion masks, and no training image has one.", "Set it to 0.")
    rows = records[marked]
    with _bar(len(rows), "reading masks", show) as bar:
        known = cached_masks(
            list(rows["mask_path"]),
            list(rows["path"]),
            size=picture.source_size,
            geometry=picture.geometry,
            cache_dir=cache_dir,
            progress=lambda done, total: _move(bar, done),
        )
    if marked.all():
        return known
    masks = np.zeros((len(records), *known.shape[1:]), np.uint8)
    masks[marked] = known
    return masks


def _bar(total: int, what: str, show: bool) -> tqdm:
    return tqdm(total=total, unit="image", desc=what, leave=False, disable=not show)


def _move(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)
