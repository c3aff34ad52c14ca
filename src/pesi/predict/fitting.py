"""What turns networks' outputs into answers, fitted on labelled images that did not train them.

Calibration, thresholds, triage, prediction sets and the novelty threshold: all that a bundle's config holds besides the
network and how to feed it. A run fits them when it ends; `pesi calibrate` fits them again on a user's own images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.config import BundleConfig, IdList
from pesi.bundle.seen import packed_ids
from pesi.datasets.splits import id_hash
from pesi.decide.calibration import (
    TemperatureConfig,
    calibrated_probabilities,
    fit_temperature,
    fit_vector_scaling,
)
from pesi.decide.conformal import ConformalConfig, fit_conformal
from pesi.decide.novelty import FEWEST_HELD_OUT, NoveltyStatistics, fit_novelty, novelty_config
from pesi.decide.operating import Threshold, operating_points
from pesi.decide.triage import TriageRule, fit_triage
from pesi.errors import DataError
from pesi.predict.classifier import Classifier
from pesi.predict.members import Outputs, novelty_scores

Calibration = Literal["temperature", "vector"]

COVERAGES = (0.90, 0.95)
NOVELTY_IMAGES = 2500  # training images whose features tell what is not new; fewer than some thousand tell it worse


class Decisions(NamedTuple):
    """A bundle's config with everything fitted, and the networks' novelty statistics that its threshold is about."""

    config: BundleConfig
    novelty: tuple[NoveltyStatistics | None, ...]


def network_outputs(
    classifier: Classifier,
    squares: Callable[[int], NDArray[np.uint8]],
    count: int,
    *,
    folds: Sequence[int | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 16,
) -> Outputs:
    """What a classifier's networks give for many images, a batch at a time.

    Args:
        classifier: Whose networks.
        squares: Gives the regions of image i, (R, S, S, 3).
        count: How many images, at least 1.
        folds: Of each image, see `Classifier.outputs`.
        progress: Called with (done, total).
        batch_size: Images at a time.
    """
    own = [None] * count if folds is None else list(folds)
    # Fold by fold: a batch of five folds would be five small ones.
    order = sorted(range(count), key=lambda i: -1 if (fold := own[i]) is None else fold)
    batches = []
    for start in range(0, count, batch_size):
        batch = order[start : start + batch_size]
        batches.append(classifier.outputs([squares(i) for i in batch], folds=[own[i] for i in batch]))
        if progress:
            progress(start + len(batch), count)
    back = np.argsort(order)
    return Outputs(*(np.concatenate(parts)[back] for parts in zip(*batches, strict=True)))


def fit_decisions(
    config: BundleConfig,
    outputs: Outputs,
    classes: NDArray[np.int64],
    image_ids: Sequence[str],
    *,
    on: str,
    calibration: Calibration = "temperature",
    rule: TriageRule | None = None,
    training_features: NDArray[np.float32] | None = None,
    novelty: Sequence[NoveltyStatistics | None] = (),
    seed: int = 0,
    groups: NDArray | None = None,
) -> Decisions:
    """The config with calibration, thresholds, triage, prediction sets and novelty threshold set on labelled images.

    Args:
        config: What the networks are.
        outputs: What they give for images that did not train them.
        classes: The truth, the index of the task's class, (N,).
        image_ids: Of the images, (N,); their hashes are kept, so that nobody takes them for unseen ones.
        on: What the images were, for the record.
        calibration: `temperature`, or `vector` (a weight and a bias a class; needs more images).
        rule: The triage levels wanted, and what they promise; default: that of `TriageRule`.
        training_features: Pooled features of images that trained the networks, (n, M, C): what is not new to them.
            None: the statistics are kept as they are.
        novelty: The networks' own statistics, if there are any.
        seed: Of the thresholds' bootstrap intervals.
        groups: Patient or lesion of each image, (N,) (`repeated_groups`), which these intervals draw as a whole.

    Raises:
        DataError: There are no images.
    """
    if not len(classes):
        raise DataError(f"There are no labelled images in {on}.", "Calibration needs some of each diagnosis.")
    task, head, names = config.to_task(), config.task.head, config.outputs
    labels = {name: classes == task.class_names.index(name) for name in names}
    targets = np.column_stack([labels[name] for name in names]).astype(np.float64)
    logits = outputs.logits.astype(np.float64)
    temperature, vector = TemperatureConfig(value=1.0, how="part of the vector scaling"), None
    if calibration == "vector":
        vector = fit_vector_scaling(logits, targets, head, on=on)
    else:
        temperature = fit_temperature(logits, targets, head, on=on)
    probabilities = calibrated_probabilities(logits, head, temperature, vector)
    rng = np.random.default_rng(seed)
    thresholds: list[Threshold] = []
    for name in task.scored_names:
        scores = probabilities[:, names.index(name)]
        thresholds += operating_points(labels[name], scores, class_name=name, on=on, rng=rng, groups=groups)
    malignant = config.malignant_probability(probabilities)
    truth = np.array([bool(task.classes[index].malignant) for index in classes])
    triage = () if malignant is None else fit_triage(rule or TriageRule(), truth, malignant, on=on, groups=groups)
    conformal: list[ConformalConfig] = []
    for coverage in COVERAGES:
        found = fit_conformal(probabilities, classes, names, coverage=coverage, on=on, head=head)
        conformal += [found] if found is not None else []
    known = config.novelty
    if len(classes) >= FEWEST_HELD_OUT:  # fewer set no threshold: what the bundle has stays
        if training_features is not None:
            novelty = [
                fit_novelty(training_features[:, index]) if whole else None
                for index, whole in enumerate(told_by(config))
            ]
        strange, some = novelty_scores(outputs, novelty), [each for each in novelty if each is not None]
        widest = max(some, key=lambda each: each.basis.shape[1]) if some else None
        known = None if widest is None or strange is None else novelty_config(widest, {on: strange})
    return Decisions(
        config.model_copy(
            update={
                "temperature": temperature,
                "vector": vector,
                "thresholds": tuple(thresholds),
                "triage": triage,
                "conformal": tuple(conformal),
                "novelty": known,
                "fitted_on": id_list(image_ids),
            }
        ),
        tuple(novelty),
    )


def id_list(image_ids: Sequence[str]) -> IdList:
    """Images as a bundle's config names them."""
    return IdList(count=len(image_ids), sha256=id_hash(image_ids), ids=packed_ids(image_ids))


def told_by(config: BundleConfig) -> list[bool]:
    """Which networks tell what is new: those that look at the whole picture first; all, where none does."""
    whole = [member.preprocess.regions[0] == "image" for member in config.members]
    return whole if any(whole) else [True] * len(whole)
