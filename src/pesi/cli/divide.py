"""The record table that a command works on: read, without what is to be left out, divided where it must be."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    from pesi.predict.classifier import Classifier
    from pesi.taxonomy import Task

NearDuplicatesOption = Annotated[
    bool, typer.Option(help="Keep near-duplicate images in one part, where a part is made (reads every image).")
]
SkipMissingOption = Annotated[
    bool, typer.Option("--skip-missing", help="Leave out images (and masks) whose files are not there.")
]
SkipOtherDiagnosesOption = Annotated[
    bool, typer.Option("--skip-other-diagnoses", help="Leave out images with a diagnosis that the task does not know.")
]


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(text, file=sys.stderr)


def read_records(data: str, dataset: str | None, skip_missing: bool) -> pd.DataFrame:
    """`pesi.datasets.readers.read_dataset`, which tells what it leaves out on stderr."""
    from pesi.datasets.readers import read_dataset

    return read_dataset(data, dataset=dataset, skip_missing=skip_missing, say=lambda text: say(f"pesi: {text}"))


def records_of_task(records: pd.DataFrame, task: Task, skip_other_diagnoses: bool) -> pd.DataFrame:
    """`pesi.datasets.labels.of_task`, which tells what it leaves out on stderr."""
    from pesi.datasets.labels import of_task

    return of_task(records, task, skip=skip_other_diagnoses, say=lambda text: say(f"pesi: {text}"))


def say_held_out(classifier: Classifier, held_out: int, images: int) -> None:
    """Say that images which trained some networks of a bundle are answered by the others."""
    if held_out:
        say(
            f"{held_out} of the {images} images are of the folds that made {classifier.config.name}: each is answered "
            "by the networks that have not seen it."
        )


def training_records(records: pd.DataFrame, task: str, skip_other_diagnoses: bool) -> pd.DataFrame:
    """The records without other diagnoses among what could be trained or validated with.

    Args:
        records: A record table.
        task: The task's name.
        skip_other_diagnoses: Leave out images of other diagnoses; else they are an error.

    Raises:
        DataError: The diagnoses make no sense for a classifier, or some are others.
    """
    from pesi.datasets.labels import refuse_senseless
    from pesi.taxonomy import task_of

    used = records[records["split"] != "test"]
    known = task_of(task, used["diagnosis"].dropna())
    used = records_of_task(used, known, skip_other_diagnoses)
    refuse_senseless(used, known)
    kept = (records["split"] == "test") | records["image_id"].isin(set(used["image_id"]))
    return records[kept].reset_index(drop=True)


def with_train_and_val(
    records: pd.DataFrame,
    *,
    val: float,
    seed: int,
    near_duplicates: bool,
    progress: bool,
    masked: bool = False,
) -> pd.DataFrame:
    """The record table with train and val images; a data set's own stay as they are.

    Args:
        records: A record table.
        val: Share of the images that goes to val.
        seed: Of the division.
        near_duplicates: Whether near-duplicates are found and kept together, as patients and lesions are.
        progress: Whether to show a bar on stderr.
        masked: Whether it is a mask that an image needs, and not a diagnosis: the result has the images with a mask,
            and those without a diagnosis are divided as a class of their own.

    Raises:
        ImageError: An image cannot be read.
        DataError: There are no labelled images to divide, or no masks.
    """
    from pesi.datasets.duplicates import clusters
    from pesi.datasets.splits import split_records

    if masked:
        records = records[records["mask_path"].notna()].reset_index(drop=True)
        if not (records["split"] != "test").any():
            raise DataError("No image that could be trained with has a lesion mask.", "Name a data set with masks.")
    if {"train", "val"} <= set(records["split"].dropna()):
        return records
    cluster_of = clusters(records, near_duplicate_pairs(records, progress=progress)) if near_duplicates else None
    diagnosis = records["diagnosis"]
    divided = records.assign(diagnosis=diagnosis.where(diagnosis.notna(), "none")) if masked else records
    divided = split_records(divided, val=val, test=0.0, seed=seed, clusters=cluster_of)
    return divided.assign(diagnosis=diagnosis)


def fold_table(records: pd.DataFrame, count: int, *, seed: int, near_duplicates: bool, progress: bool) -> pd.DataFrame:
    """A fold for each image: columns image_id, fold, group; a patient's, lesion's and near-duplicates' in one.

    Left out are test images, those without a diagnosis, and relatives of test images that have no split of the data
    set's own. Which classes are in one fold alone is told on stderr.

    Args:
        records: A record table.
        count: Folds.
        seed: Of the division.
        near_duplicates: Whether near-duplicates are found and kept together, as patients and lesions are.
        progress: Whether to show a bar on stderr.

    Raises:
        ImageError: An image cannot be read.
        DataError: There are fewer patients or lesions, or images of every diagnosis, than folds; or a fold is empty.
    """
    from pesi.datasets.duplicates import clusters
    from pesi.datasets.splits import folds, group_ids

    cluster_of = clusters(records, near_duplicate_pairs(records, progress=progress)) if near_duplicates else None
    groups, test = group_ids(records, cluster_of), records["split"] == "test"
    related = ~test & records["split"].isna() & groups.isin(set(groups[test]))
    if related.any():
        say(f"{related.sum()} images are left out: of the patients or lesions of test images, or nearly their copies.")
    used = records[~test & ~related & records["diagnosis"].notna()].assign(lesion_id=groups)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        table = used[["image_id"]].assign(fold=folds(used, k=count, seed=seed), group=groups).astype({"fold": int})
    spread = table["fold"].groupby(used["diagnosis"]).nunique()
    if table["fold"].nunique() < count:
        raise DataError(f"Of {count} folds some have no image: the patients are too unequal.", "Choose fewer folds.")
    if alone := ", ".join(str(name) for name in spread.index[spread == 1]):
        say(f"All images of {alone} are in one fold: the networks that they are measured with have not learned them.")
    return table.reset_index(drop=True)


def near_duplicate_pairs(records: pd.DataFrame, against: pd.DataFrame | None = None, *, progress: bool) -> pd.DataFrame:
    """`pesi.datasets.duplicates.near_duplicates` with a bar."""
    from pesi.datasets.duplicates import near_duplicates

    with image_bar("comparing", len(records) + (0 if against is None else len(against)), progress) as report:
        return near_duplicates(records, against=against, progress=report)


@contextmanager
def image_bar(what: str, total: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; gives the function that sets it to a number of images."""
    from tqdm import tqdm

    from pesi.cli.bars import move

    show = progress and sys.stderr.isatty()
    with tqdm(total=total, unit="image", desc=what, disable=not show, leave=False) as bar:
        yield lambda done: move(bar, done)
