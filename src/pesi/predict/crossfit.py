"""What a bundle of folds decides, measured on images that set nothing of it: fitted on the other folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.config import BundleConfig
from pesi.decide.calibration import calibrated_probabilities, fit_temperature
from pesi.decide.conformal import prediction_sets
from pesi.decide.novelty import NoveltyStatistics
from pesi.decide.triage import TriageRule
from pesi.errors import DataError
from pesi.predict.fitting import Calibration, Decisions, fit_decisions
from pesi.predict.members import Outputs, novelty_scores

SET, BETWEEN = "set ", "; "  # the out-of-fold table's columns "set 0.90", and what is between the names in them


class CrossFitted(NamedTuple):
    """Answers to N images by networks that have not seen them, decided by what the images of other folds set.

    Attributes:
        probabilities: Calibrated, (N, K).
        sets: Wanted coverage, such as "0.90" -> which classes are in each image's set, (N, K).
        triage: Level of each image, "" where there is no rule, (N,).
        strange: Which images are above the novelty threshold, (N,); None where there is none.
    """

    probabilities: NDArray[np.float64]
    sets: dict[str, NDArray[np.bool_]]
    triage: NDArray[np.str_]
    strange: NDArray[np.bool_] | None


class FoldDecisions(NamedTuple):
    """What the pooled out-of-fold answers set, and what that is worth."""

    decisions: Decisions
    crossed: CrossFitted


def fit_on_folds(
    config: BundleConfig,
    outputs: Outputs,
    classes: NDArray[np.int64],
    image_ids: Sequence[str],
    folds: NDArray[np.int64],
    *,
    on: str,
    calibration: Calibration = "temperature",
    rule: TriageRule | None = None,
    novelty: Sequence[NoveltyStatistics | None] = (),
    seed: int = 0,
    groups: NDArray | None = None,
    apart: NDArray[np.bool_] | None = None,
) -> FoldDecisions:
    """Set all that a bundle of folds decides by on the pooled out-of-fold answers, and measure it fold by fold.

    For a new image all networks are averaged, which is sharper and better than those of one fold: thresholds that the
    latter set are on the safe side for the former.

    Args:
        config: The bundle's.
        outputs: Of the networks that have not seen the images.
        classes, image_ids, on, calibration, rule, novelty, seed, groups: As for `fit_decisions`.
        folds: Of each image, (N,).
        apart: Images that are measured and set nothing, (N,); None: there are none.

    Raises:
        DataError: There are not two folds.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise DataError("All images are of one fold.", "Give those of at least two folds.")
    ids = np.asarray(image_ids, object)
    sets_something = np.ones(len(ids), bool) if apart is None else ~apart

    def fitted(chosen: NDArray[np.bool_], on: str) -> Decisions:
        chosen = chosen & sets_something
        return fit_decisions(
            config,
            outputs.take(chosen),
            classes[chosen],
            list(ids[chosen]),
            on=on,
            calibration=calibration,
            rule=rule,
            novelty=novelty,
            seed=seed,
            groups=None if groups is None else groups[chosen],
        )

    parts = [(folds == number, fitted(folds != number, f"{on}, without fold {number}").config) for number in numbers]
    probabilities = np.zeros((len(ids), outputs.logits.shape[2]))
    sets: dict[str, NDArray[np.bool_]] = {}
    triage = np.full(len(ids), "", object)
    scores = novelty_scores(outputs, novelty)
    strange = None if scores is None else np.zeros(len(ids), bool)
    for own, decided in parts:
        values = calibrated_probabilities(outputs.logits[own], decided.task.head, decided.temperature, decided.vector)
        probabilities[own] = values
        for each in decided.conformal:
            sets.setdefault(f"{each.coverage:.2f}", np.zeros(probabilities.shape, bool))[own] = prediction_sets(
                values, each
            )
        malignant = decided.malignant_probability(values)
        if malignant is not None and decided.triage:
            triage[own] = [next(t.level for t in decided.triage if p >= t.at_least) for p in malignant]
        if strange is not None and scores is not None and decided.novelty is not None:
            strange[own] = scores[own] > decided.novelty.threshold
    crossed = CrossFitted(probabilities, sets, triage.astype(str), strange)
    return FoldDecisions(fitted(np.ones(len(ids), bool), on), crossed)


def calibrated_members(
    config: BundleConfig, outputs: Outputs, classes: NDArray[np.int64], *, apart: NDArray[np.bool_] | None = None
) -> tuple[BundleConfig, Outputs]:
    """Each network calibrated by itself, on the images of the fold that it has not seen.

    Args:
        config: Of networks that are not calibrated.
        outputs: Out-of-fold outputs of these.
        classes: The truth, the index of the task's class, (N,).
        apart: Images that set nothing, (N,), as for `fit_on_folds`.

    Returns:
        The config and the outputs after calibration.
    """
    task, head = config.to_task(), config.task.head
    targets = np.column_stack([classes == task.class_names.index(name) for name in config.outputs]).astype(np.float64)
    logits = outputs.logits.astype(np.float64)
    each = logits.shape[1] // outputs.members.shape[1]  # views of a network
    members = []
    for index, member in enumerate(config.members):
        rows, places = np.nonzero(outputs.members == index)
        own = places[:, None] * each + np.arange(each)
        values = logits[rows[:, None], own]
        fits = np.ones(len(rows), bool) if apart is None else ~apart[rows]
        on = f"the images of fold {member.fold}"
        temperature = fit_temperature(values[fits], targets[rows][fits], head, on=on)
        logits[rows[:, None], own] = values / temperature.value
        members.append(member.model_copy(update={"temperature": temperature}))
    calibrated = outputs._replace(logits=logits.astype(np.float32))
    return config.model_copy(update={"members": tuple(members)}), calibrated
