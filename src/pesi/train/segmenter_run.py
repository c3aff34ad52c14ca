"""The run folder of the lesion segmenter's training.

It holds: `recipe.toml` (resolved), `segmenter-run.json` (what was asked for), `splits.json` (id lists and hashes),
`records.csv`, `environment.json`, `pretrained.json`, `log.csv`, `tensorboard/`, `checkpoints/`, `bundle/`, and last of
all `result.json`, whose presence says that the run is finished.
"""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pesi.datasets.records import record_table, with_absolute_paths
from pesi.datasets.splits import id_lists
from pesi.errors import DataError, ImageError, PesiError
from pesi.files import write_json, write_text
from pesi.images.decode import image_size
from pesi.images.masks import mask_of_another_size
from pesi.train.segmenter_recipe import SegmenterRecipe, load_segmenter_recipe
from pesi.train.trainer import absolute_path, check_new_run, weights_file

_RUN = "segmenter-run.json"


@dataclass(frozen=True)
class SegmenterRunSettings:
    """What a run needs besides its recipe; kept in `segmenter-run.json`.

    Attributes:
        data: Where the images came from, as the user gave it.
        pretrained: Weights of the encoder: a checkpoint's path, "imagenet", or None for what the recipe says.
        accelerator: "auto", "cpu" or "gpu".
        threads: Torch threads; 0: one a core.
        workers: Loader processes; 0 loads in the training process.
        cache_dir: Where decoded images and masks are kept, or None for the default.
    """

    data: str
    pretrained: str | None = None
    accelerator: str = "auto"
    threads: int = 0
    workers: int = 0
    cache_dir: str | None = None


class SegmenterRun(NamedTuple):
    """A run folder, read."""

    recipe: SegmenterRecipe
    records: pd.DataFrame
    settings: SegmenterRunSettings


def start_segmenter_run(
    recipe: SegmenterRecipe, records: pd.DataFrame, folder: str | Path, settings: SegmenterRunSettings
) -> None:
    """Make the run folder of a new run; it uses the train and val images that have a mask.

    Args:
        recipe: What to do.
        records: Record table with a `split` for every image to use.
        folder: The run folder; must not hold another run.
        settings: The rest.

    Raises:
        PesiError: The folder holds a run already.
        DataError: There are no masks to train or validate on, or a validation image's mask has another size.
    """
    folder = Path(folder)
    check_new_run(folder)
    used = records[records["split"].isin(["train", "val"]) & records["mask_path"].notna()].reset_index(drop=True)
    for split in ("train", "val"):
        if not (used["split"] == split).any():
            raise DataError(f"The data have no {split} images with a lesion mask.", "Name a data set with masks.")
    _check_sizes(used[used["split"] == "val"])
    used = with_absolute_paths(used)
    settings = replace(
        settings, pretrained=absolute_path(settings.pretrained), cache_dir=absolute_path(settings.cache_dir)
    )
    write_text(folder / "recipe.toml", recipe.resolved().to_toml())
    write_text(folder / "records.csv", used.to_csv(index=False))
    write_json(folder / "splits.json", id_lists(used))
    write_json(folder / _RUN, asdict(settings))  # last: the run exists


def _check_sizes(scored: pd.DataFrame) -> None:
    """Refuse, before the training, what its final scoring would."""
    for path, mask_path in zip(scored["path"], scored["mask_path"], strict=True):
        with suppress(ImageError):  # what cannot be read is refused where it is decoded, all files together
            sizes = image_size(mask_path), image_size(path)
            if sizes[0] != sizes[1]:
                raise mask_of_another_size(mask_path, *sizes)


def open_segmenter_run(folder: str | Path) -> SegmenterRun:
    """Read a run folder that `start_segmenter_run` made.

    Raises:
        PesiError: It is none.
    """
    folder = Path(folder)
    if not (folder / _RUN).is_file():
        raise PesiError(
            f"{folder} is not a segmenter's run folder: it has no {_RUN}.",
            "Give the folder that `pesi segmenter train` made.",
        )
    with (folder / "records.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
    settings = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    return SegmenterRun(
        load_segmenter_recipe(folder / "recipe.toml"), record_table(rows), SegmenterRunSettings(**settings)
    )


def pretrained_encoder(recipe: SegmenterRecipe, settings: SegmenterRunSettings) -> Path | None:
    """The weights that the encoder starts from; None: random ones.

    Raises:
        CheckpointError: They are missing.
    """
    return weights_file(recipe.pretrained if settings.pretrained is None else settings.pretrained, recipe.network.name)
