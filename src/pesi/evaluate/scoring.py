"""A bundle or a table of predictions, scored on a data set: what `pesi.evaluate` and the command line do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pesi.datasets.image_files import SUFFIXES as IMAGE_SUFFIXES
from pesi.datasets.readers import read_dataset
from pesi.datasets.records import check_split
from pesi.errors import DataError, PesiError
from pesi.evaluate.evaluation import Evaluation, evaluate_predictions
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load
from pesi.predict.prediction import Prediction
from pesi.predict.predictions import Predictions, probability_table
from pesi.predict.tables import SUFFIXES, ReadPredictions, read_predictions
from pesi.taxonomy import Task, task_of


def evaluate(
    bundle_or_predictions: Classifier | Predictions | pd.DataFrame | str | Path | None,
    data: str | Path | pd.DataFrame,
    *,
    dataset: str | None = None,
    split: str = "val",
    task: str = "isic2017",
    views: str | None = None,
    operating_point: str | None = None,
    replicates: int = 2000,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score a classifier, or predictions that were made, by the rules of the ISIC 2017 challenge, with 95 % intervals.

    Args:
        bundle_or_predictions: A Classifier, a bundle's folder or name (None: the one that ships); or Predictions, a
            table of probabilities (`image_id`, one column a class), or a file that `pesi predict` wrote. Images
            without a result are left out.
        data: A data set's folder, a CSV file, or a record table as `read_dataset` gives it.
        dataset: Which data set it is, where that cannot be found out.
        split: train, val, test or all.
        task: Of predictions: the task.
        views: Of a classifier: a key of `VIEWS`; default the bundle's.
        operating_point: Of a classifier: the thresholds of that name in the bundle; default 0.5.
        replicates, seed: Of the bootstrap.
        device: Of a bundle that is opened here.
        progress: Called with the number of images predicted.

    Raises:
        DataError: There are no labelled images, some cannot be read, or predictions and data do not match.
        PesiError: The bundle has no such operating point.
    """
    whole = data if isinstance(data, pd.DataFrame) else read_dataset(data, dataset=dataset)
    records = labelled_part(whole, split, "The table" if isinstance(data, pd.DataFrame) else str(data))
    given = bundle_or_predictions
    if isinstance(given, str | Path) and Path(given).suffix.lower() in SUFFIXES:
        read = predictions_of(given, records, task_of(task, records["diagnosis"].dropna()))
        given, records = read.table, records[~records["image_id"].isin(list(read.no_result))]
    elif isinstance(given, Predictions):
        refused = [each.image_id for each in given if not isinstance(each, Prediction) or each.no_result]
        records = records[~records["image_id"].isin(refused)]
        given = probability_table(each for each in given if isinstance(each, Prediction) and not each.no_result)
    if isinstance(given, pd.DataFrame):
        table = given[given["image_id"].isin(set(records["image_id"]))]
        known = task_of(task, records["diagnosis"].dropna())
        return evaluate_predictions(table, records, known, replicates=replicates, seed=seed)
    classifier = given if isinstance(given, Classifier) else load(given, device=device, runtime="eager")
    thresholds = thresholds_of(classifier, operating_point)
    table = predicted_table(classifier, records, views=views, progress=progress)
    return evaluate_predictions(
        table, records, classifier.task, replicates=replicates, seed=seed, thresholds=thresholds
    )


def predictions_of(path: str | Path, records: pd.DataFrame, task: Task) -> ReadPredictions:
    """The predictions in a file of those images that are among the records; an id may have the file's ending.

    An image without a row has no result either.

    Raises:
        DataError: The file is no table of predictions; it has no row for most of the images, or no result for any.
    """

    def stem(image_id: str) -> str:
        return image_id.rpartition(".")[0] if Path(image_id).suffix.lower() in IMAGE_SUFFIXES else image_id

    read = read_predictions(path, task.class_names)
    ids = set(records["image_id"])
    stems = {stem(image_id): image_id for image_id in ids}

    def own(image_id: str) -> str:
        return image_id if image_id in ids else stems.get(stem(image_id), image_id)

    table = read.table.assign(image_id=read.table["image_id"].map(own))
    no_result = {own(image_id): reason for image_id, reason in read.no_result.items() if own(image_id) in ids}
    absent = sorted(ids - set(table["image_id"]) - set(no_result))
    if 2 * len(absent) > len(ids):
        raise DataError(
            f"{path} has no row for {len(absent)} of {len(ids)} images, the first is {absent[0]}.",
            "Predictions and data must be of the same images: check the split.",
        )
    no_result |= dict.fromkeys(absent, "no row")
    if len(no_result) == len(ids):
        raise DataError(
            f"{path}: none of the images has a result.",
            "Predict them without the gates: pesi predict DIR --out FILE --no-gates.",
        )
    return ReadPredictions(table[table["image_id"].isin(ids)], no_result, read.bundles)


def labelled_part(records: pd.DataFrame, split: str, name: str) -> pd.DataFrame:
    """The labelled images of one split.

    Args:
        records: Record table.
        split: train, val, test or all.
        name: Of the data, for messages.

    Raises:
        DataError: The split's name is unknown, or it holds no labelled images.
    """
    check_split(split)
    chosen = records if split == "all" else records[records["split"] == split]
    if not len(chosen):
        found = ", ".join(sorted(set(records["split"].dropna()))) or "none"
        raise DataError(f"{name} has no {split} images; its splits: {found}.", "Choose another --split, or all.")
    chosen = chosen[chosen["diagnosis"].notna()].reset_index(drop=True)
    if not len(chosen):
        raise DataError(
            f"The {split} images of {name} have no labels.",
            "Evaluation needs a ground truth. To write their predictions: pesi predict DIR --out FILE",
        )
    return chosen


def predicted_table(
    classifier: Classifier,
    records: pd.DataFrame,
    *,
    views: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Probabilities of all records' images, without gates: `image_id`, then one column a class.

    An image of the folds that made the classifier is answered by the networks that have not seen it.

    Raises:
        DataError: Some images cannot be read; evaluating the rest would flatter.
    """
    results = Predictions(
        classifier.predict_many(
            list(records["path"]),
            image_ids=list(records["image_id"]),
            views=views,
            gates=False,
            held_out=True,
            progress=progress,
        )
    )
    if refused := results.refusals:
        raise DataError(
            f"{len(refused)} image(s) cannot be read, the first is {refused[0].path}: {refused[0].reason}",
            "Repair or remove them (pesi data check): scores of the rest alone would not be comparable.",
        )
    return probability_table(result for result in results if isinstance(result, Prediction))


def thresholds_of(classifier: Classifier, name: str | None) -> dict[str, float]:
    """The thresholds of a bundle's operating point, by class; none where no point is named.

    Raises:
        PesiError: The bundle has no such point.
    """
    found = {point.class_name: point.value for point in classifier.config.thresholds if point.name == name}
    if name is not None and not found:
        names = sorted({point.name for point in classifier.config.thresholds})
        raise PesiError(f"This bundle has no operating point {name!r}.", f"It has: {', '.join(names) or 'none'}.")
    return found
