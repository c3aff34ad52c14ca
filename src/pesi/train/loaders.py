"""What a run trains on: its pictures and masks, decoded once, and the loaders that deal them out."""

from __future__ import annotations

import lightning as L
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from pesi.datasets.cache import cached_masks, cached_squares
from pesi.errors import DataError
from pesi.images.regions import Region, RegionName
from pesi.predict.regions import regions_of
from pesi.train.dataset import EpochSampler, ShardSampler, Squares, TrainingPictures, ValidationPictures
from pesi.train.finish import preprocess_config
from pesi.train.recipe import Recipe


def training_loader(
    squares: Squares,
    classes: NDArray[np.int64],
    masks: NDArray[np.uint8] | None,
    recipe: Recipe,
    workers: int,
    trainer: L.Trainer,
) -> DataLoader:
    """Batches of augmented pictures, classes and, where given, masks; this process's share of each epoch."""
    return DataLoader(
        TrainingPictures(squares, classes, recipe.augmentation, recipe.picture.size, masks),
        recipe.batch_size,
        sampler=EpochSampler(
            classes,
            recipe.loss.sampler,
            seed=recipe.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        ),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def validation_loader(
    squares: Squares, classes: NDArray[np.int64], recipe: Recipe, workers: int, trainer: L.Trainer
) -> DataLoader:
    """Batches of unvaried pictures, classes and indices; this process's share."""
    return DataLoader(
        ValidationPictures(squares, classes, recipe.picture.size),
        recipe.batch_size,
        sampler=ShardSampler(len(classes), rank=trainer.global_rank, world_size=trainer.world_size),
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def read_squares(
    records: pd.DataFrame, recipe: Recipe, cache_dir: str | None, show_progress: bool
) -> dict[RegionName, NDArray[np.uint8]]:
    """The pictures of all images, (N, S, S, 3), of each region that the recipe trains with or looks at.

    Raises:
        BundleError: The lesion is wanted, and no segmenter ships.
        DataError: An image cannot be read.
    """
    paths = list(records["path"])

    def read(region: Region) -> NDArray[np.uint8]:
        with tqdm(total=len(paths), unit="image", desc="decoding", leave=False, disable=not show_progress) as bar:

            def progress(done: int, total: int) -> None:
                bar.update(done - bar.n)

            return cached_squares(paths, region, cache_dir=cache_dir, progress=progress)

    names = tuple(dict.fromkeys((*recipe.picture.regions, *recipe.looks_at)))
    regions = regions_of(preprocess_config(recipe.picture, names))
    return {name: read(region) for name, region in zip(names, regions, strict=True)}


def read_masks(records: pd.DataFrame, recipe: Recipe, cache_dir: str | None) -> NDArray[np.uint8]:
    """The lesion masks of all images, (N, S, S), all 0 where there is none.

    Raises:
        DataError: No image has a mask, or a mask cannot be read.
    """
    size, marked = recipe.picture.source_size, records["mask_path"].notna().to_numpy()
    if not marked.any():
        raise DataError("loss.attention_mask needs lesion masks, and no training image has one.", "Set it to 0.")
    rows = records[marked]
    known = cached_masks(
        list(rows["mask_path"]),
        list(rows["path"]),
        size=size,
        geometry=recipe.picture.geometry,
        cache_dir=cache_dir,
    )
    masks = np.zeros((len(records), size, size), np.uint8)
    masks[marked] = known
    return masks
