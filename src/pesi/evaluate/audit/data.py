"""What every section of an audit measures on: one set of labelled images, decoded and predicted once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from pesi.datasets.cache import cached_squares
from pesi.datasets.splits import group_ids, repeated_groups
from pesi.decide.calibration import calibrated_probabilities
from pesi.errors import DataError
from pesi.images.masks import LESION_ABOVE, read_mask_square
from pesi.images.regions import Region, WholeImage
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import network_outputs
from pesi.taxonomy import Task

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]  # what is being done, how much of it, how much in all


def silent(what: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class AuditOptions:
    """How an audit measures.

    Attributes:
        replicates: Bootstrap resamples.
        seed: Of everything random.
        stress_images: At most so many images (drawn at random, stratified by class) go through the stress tests and
            the faithfulness curves, which predict each image many times.
        folds: Parts for cross-fitting: what is fitted is measured on images that it was not fitted on.
    """

    replicates: int = 1000
    seed: int = 0
    stress_images: int = 150
    folds: int = 5


@dataclass(frozen=True)
class AuditData:
    """Labelled images of one source, with what the classifier said of them.

    Attributes:
        name: Such as "isic2017 val".
        records: Record table; its rows are the order of everything below. Every row has a diagnosis of the task.
        task: The classifier's.
        classes: Class of each image, (N,).
        images: Each whole image as a square uint8 (N, S, S, 3), S the bundle's `source_size`, in its geometry. A
            classifier takes one as it takes a decoded image: `classifier.squares(images[i])`; but a box around the
            lesion is then cut from this square, not from the larger file.
        masks: Lesion masks in the same squares, (N, S, S) bool; all False where there is none.
        has_mask: Which images have one, (N,).
        logits: Of all views, (N, S, K), as `Outputs.logits`.
        features: Pooled features, (N, C), see `Outputs.mean_features`.
        made_fold: The fold of the bundle in which each image is, whose networks alone answer it, (N,); -1: in none.
        novelty: How strange each image is, (N,); None where the bundle does not know.
        probabilities: Calibrated as the bundle does it, (N, K), columns `classifier.config.outputs`.
        fitted_on: Whether the bundle's calibration, thresholds and the rest were set on these images, or on some of
            them.
        chose_epoch: Whether these images, or some of them, chose the network's epoch.
    """

    name: str
    records: pd.DataFrame
    task: Task
    classes: NDArray[np.int64]
    images: NDArray[np.uint8] = field(repr=False)
    masks: NDArray[np.bool_] = field(repr=False)
    has_mask: NDArray[np.bool_] = field(repr=False)
    logits: Floats = field(repr=False)
    features: NDArray[np.float32] = field(repr=False)
    probabilities: Floats = field(repr=False)
    made_fold: NDArray[np.int64] = field(repr=False)
    novelty: Floats | None = field(repr=False, default=None)
    fitted_on: bool = False
    chose_epoch: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """Number of each image's patient or lesion, (N,): what intervals draw; None where no two images share one."""
        return repeated_groups(self.records)

    def labels(self, name: str) -> NDArray[np.bool_]:
        """Which images have the class, (N,)."""
        return np.asarray(self.classes == self.task.class_names.index(name))

    @property
    def malignant(self) -> NDArray[np.bool_]:
        """Which images are of a malignant class, (N,)."""
        return np.array([bool(self.task.classes[index].malignant) for index in self.classes])

    def folds(self, count: int, seed: int) -> NDArray[np.int64]:
        """Fold of each image, (N,): stratified by class, images of one patient or lesion in one fold."""
        return grouped_folds(self.records, self.classes, count, seed)

    def sample(self, count: int, seed: int) -> NDArray[np.int64]:
        """Indices of at most `count` images, drawn stratified by class, sorted."""
        if count >= len(self):
            return np.arange(len(self))
        rng = np.random.default_rng(seed)
        shares = np.bincount(self.classes, minlength=len(self.task.classes)) / len(self)
        chosen: list[int] = []
        for index, share in enumerate(shares):
            members = np.flatnonzero(self.classes == index)
            wanted = min(len(members), max(1, round(share * count))) if len(members) else 0
            chosen += rng.choice(members, wanted, replace=False).tolist()
        return np.sort(np.array(chosen, np.int64))

    def take(self, indices: NDArray[np.int64]) -> AuditData:
        """The same of some images only."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        parts = {name: values[indices] for name, values in arrays.items()}
        return replace(self, records=self.records.iloc[indices].reset_index(drop=True), **parts)


def one_image_a_lesion(records: pd.DataFrame, seed: int) -> pd.DataFrame:
    """One record of each lesion, drawn at random, in the order of the records.

    Photographs of one lesion are alike: an interval that takes them for separate lesions is too narrow.

    Args:
        records: Record table; rows without a lesion id are lesions of their own.
        seed: Of the draw.
    """
    shuffled = records.sample(frac=1, random_state=seed)
    return shuffled[~lesions_of(shuffled).duplicated()].sort_index().reset_index(drop=True)


def lesions_of(records: pd.DataFrame) -> pd.Series[str]:
    """The lesion of each image; without an id, one of its own."""
    return records["lesion_id"].fillna(records["image_id"])


def lesion_grouped_part(records: pd.DataFrame, task: Task, count: int, seed: int) -> pd.DataFrame:
    """At most `count` records, one a lesion, drawn so that each diagnosis of the task keeps its share.

    Args:
        records: Record table; rows without a lesion id are lesions of their own.
        task: Rows with a diagnosis that it does not have are left out.
        count: How many at most.
        seed: Of the draw.
    """
    kept = records[records["diagnosis"].map(task.has)].sample(frac=1, random_state=seed)
    kept = kept[~lesions_of(kept).duplicated()]
    if len(kept) > count:
        place = kept.groupby("diagnosis").cumcount()  # the first of each diagnosis, then by how much of it is there
        kept = kept.loc[
            ((place + 0.5) / kept.groupby("diagnosis")["image_id"].transform("size")).nsmallest(count).index
        ]
    return kept.sort_values("image_id").reset_index(drop=True)


def grouped_folds(records: pd.DataFrame, classes: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Fold of each record, (N,): stratified by class; images that share a patient or a lesion share a fold.

    Args:
        records: Record table.
        classes: Of its rows, (N,).
        count: Folds wanted; fewer where there are fewer patients or lesions, or images of the commonest class.
        seed: Of the split.

    Raises:
        DataError: There are not even two.
    """
    groups = group_ids(records)
    count = min(count, groups.nunique(), int(np.bincount(classes).max()))
    if count < 2:
        raise DataError(
            f"{len(records)} image(s) of {groups.nunique()} patient(s) or lesion(s) cannot be divided in two.",
            "What is fitted must be measured on other images: audit on more of them.",
        )
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    folds = np.zeros(len(classes), np.int64)
    for index, (_, held_out) in enumerate(splitter.split(np.zeros(len(classes)), classes, groups)):
        folds[held_out] = index
    return folds


def read_audit_data(
    classifier: Classifier,
    records: pd.DataFrame,
    name: str,
    *,
    fitted_on: bool = False,
    chose_epoch: bool = False,
    cache_dir: str | None = None,
    progress: Progress = silent,
) -> AuditData:
    """Decode and predict labelled images, once.

    Args:
        classifier: What is audited.
        records: Record table; rows without a diagnosis, or with one that the task does not have, are left out.
        name: What the images are called in the report.
        fitted_on: Whether the bundle's calibration was fitted on them, or some of them.
        chose_epoch: Whether they chose the network's epoch.
        cache_dir: Where decoded images are kept; default the user's cache.
        progress: Told what is done.

    Raises:
        DataError: No image is left, too few to divide them, or one cannot be read.
    """
    task = classifier.task
    kept = records[records["diagnosis"].map(task.has)].reset_index(drop=True)
    if not len(kept):
        raise DataError(
            f"None of the images of {name} has a diagnosis of the task {task.name} ({', '.join(task.class_names)}).",
            "Audit on labelled images: choose another split or data set.",
        )
    classes = np.array([task.class_of(str(code)) for code in kept["diagnosis"]], np.int64)
    grouped_folds(kept, classes, 2, 0)  # too few to divide are refused before the work
    preprocess = classifier.config.preprocess
    whole = WholeImage(preprocess.source_size, preprocess.geometry)

    def cut(region: Region) -> NDArray[np.uint8]:
        return cached_squares(
            list(kept["path"]),
            region,
            cache_dir=cache_dir,
            progress=lambda done, total: progress(f"decoding {name}", done, total),
        )

    images = cut(whole)
    # As `pesi predict` cuts them, from the files: a lesion's box has more pixels there than in the square.
    regions = [images if region.key == whole.key else cut(region) for region in classifier.regions]
    masks = np.zeros(images.shape[:3], bool)
    has_mask = kept["mask_path"].notna().to_numpy()
    for index in np.flatnonzero(has_mask):
        mask = read_mask_square(
            kept["mask_path"].iloc[index], kept["path"].iloc[index], preprocess.source_size, preprocess.geometry
        )
        masks[index] = mask > LESION_ABOVE
    has_mask = has_mask & masks.any((1, 2))
    made = classifier.folds_of(list(kept["image_id"]))
    outputs = network_outputs(
        classifier,
        lambda i: np.stack([region[i] for region in regions]),
        len(classes),
        folds=made,
        progress=lambda done, total: progress(f"predicting {name}", done, total),
    )
    logits, config = outputs.logits.astype(np.float64), classifier.config
    return AuditData(
        name,
        kept,
        task,
        classes,
        images,
        masks,
        has_mask,
        logits,
        outputs.mean_features,
        calibrated_probabilities(logits, config.task.head, config.temperature, config.vector),
        np.array([-1 if fold is None else fold for fold in made], np.int64),
        classifier.novelty_scores(outputs),
        fitted_on,
        chose_epoch,
    )
