"""Stress tests: what a classifier's answers do when a known image is changed in a known way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.evaluate.answer_change import AnswerChange, compare_answers, single_view_probabilities
from pesi.images.perturb import PERTURBATIONS, Perturbation, Perturbed
from pesi.images.transforms import resize
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import Estimate, mean_interval

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], None]


class Maps(NamedTuple):
    """Class activation and Pesi attention (None for a network without) of one image, each (S, S)."""

    cam: NDArray[np.float32]
    attention: NDArray[np.float32] | None


@dataclass(frozen=True)
class MassShift:
    """How much of a map's positive mass lies on the artefact, mean over the images.

    Attributes:
        before: On the same pixels without the artefact.
        after: With it.
        shift: after - before, paired.
        area: The artefact's share of the picture: what an even map would put there.
    """

    before: float
    after: float
    shift: Estimate
    area: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return vars(self) | {"shift": self.shift._asdict()}


@dataclass(frozen=True)
class StressResult:
    """What one perturbation did.

    Attributes:
        perturbation: Which one.
        without_mask: How many images could not be changed for want of a lesion mask.
        nothing_to_change: How many could not, for there was nothing to remove, or no room beside the lesion.
        answers: How the answers to the changed images changed; None where none could be.
        cam_mass, attention_mass: Of pasted artefacts; None for other groups, for a network without such maps, and
            where the maps do not lie in the image's geometry.
    """

    perturbation: Perturbation
    without_mask: int
    nothing_to_change: int
    answers: AnswerChange | None
    cam_mass: MassShift | None = None
    attention_mass: MassShift | None = None

    @property
    def images(self) -> int:
        """How many were changed."""
        return self.answers.images if self.answers is not None else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "group": self.perturbation.group,
            "description": self.perturbation.description,
            "images": self.images,
            "without_mask": self.without_mask,
            "nothing_to_change": self.nothing_to_change,
            "answers": self.answers.to_dict() if self.answers is not None else None,
            "cam_mass": self.cam_mass.to_dict() if self.cam_mass is not None else None,
            "attention_mass": self.attention_mass.to_dict() if self.attention_mass is not None else None,
        }


def stress_test(
    classifier: Classifier,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    masks: NDArray[np.bool_] | None = None,
    has_mask: NDArray[np.bool_] | None = None,
    perturbations: Sequence[Perturbation] = PERTURBATIONS,
    seed: int = 0,
    replicates: int = 1000,
    groups: NDArray | None = None,
    made_fold: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> list[StressResult]:
    """Change images, predict them again and compare, image by image, with the unchanged ones.

    Everything is predicted from one view (the whole square, unflipped), calibrated as the bundle does it.

    Args:
        classifier: What is tested.
        images: (N, S, S, 3) uint8, as `AuditData.images`.
        classes: Class of each image in the classifier's task, (N,).
        masks: Lesion masks (N, S, S); None: no image has one.
        has_mask: Which masks are to be used, (N,); default those that are not empty.
        perturbations: Which changes.
        seed: Of the artefacts and the bootstrap.
        replicates: Bootstrap resamples, stratified by class.
        groups: Patient or lesion of each image, (N,), drawn as a whole.
        made_fold: As `AuditData.made_fold`; None: all networks answer, and their maps are averaged.
        progress: Told what is done.

    Returns:
        One result a perturbation, in order.
    """
    if has_mask is None:
        has_mask = np.zeros(len(images), np.bool_) if masks is None else np.asarray(masks.any((1, 2)))
    made_fold = np.full(len(images), -1) if made_fold is None else made_fold
    before = single_view_probabilities(classifier, images, made_fold)
    maps_fit = classifier.config.preprocess.regions[0] == "image"
    called = before.argmax(1)
    plain: dict[int, Maps] = {}
    results = []
    for number, perturbation in enumerate(perturbations):
        if progress:
            progress("stress tests", number, len(perturbations))
        made: dict[int, Perturbed] = {}
        for index, image in enumerate(images):
            mask = masks[index] if masks is not None and has_mask[index] else None
            changed = perturbation.apply(np.ascontiguousarray(image), mask, perturbation.generator(seed, index))
            if changed is not None:
                made[index] = changed
        without_mask = int((~has_mask).sum()) if perturbation.needs_mask else 0
        nothing = len(images) - without_mask - len(made)
        if not made:
            results.append(StressResult(perturbation, without_mask, nothing, None))
            continue
        kept = np.array(list(made), np.int64)
        after = single_view_probabilities(classifier, [each.image for each in made.values()], made_fold[kept])
        rng = np.random.default_rng([seed, number])
        drawing = _Drawing(classes[kept], replicates, rng, None if groups is None else groups[kept])
        answers = compare_answers(
            classifier, classes[kept], before[kept], after, replicates=replicates, rng=rng, groups=drawing.groups
        )
        cam, attention = None, None
        if perturbation.group == "paste" and maps_fit:
            plain = plain or dict(enumerate(maps_of(classifier, images, called, made_fold)))
            cam, attention = _mass_shifts(classifier, made, called[kept], plain, drawing, made_fold[kept])
        results.append(StressResult(perturbation, without_mask, nothing, answers, cam, attention))
    if progress:
        progress("stress tests", len(perturbations), len(perturbations))
    return results


class _Drawing(NamedTuple):
    """What the bootstrap of the changed images takes."""

    classes: NDArray[np.int64]
    replicates: int
    rng: np.random.Generator
    groups: NDArray | None


def _mass_shifts(
    classifier: Classifier,
    made: dict[int, Perturbed],
    called: NDArray[np.int64],
    plain: dict[int, Maps],
    drawing: _Drawing,
    made_fold: NDArray[np.int64],
) -> tuple[MassShift | None, MassShift | None]:
    """Of the class activation map and of the Pesi attention, for the class `called` before, (N,)."""
    marked = maps_of(classifier, [each.image for each in made.values()], called, made_fold)
    rows: dict[str, list[tuple[float, float, float]]] = {"cam": [], "attention": []}
    for (index, perturbed), maps in zip(made.items(), marked, strict=True):
        cover = resize(np.where(perturbed.changed, np.uint8(255), np.uint8(0)), *maps.cam.shape) / 255
        area = float(cover.mean())
        rows["cam"].append((mass_on(plain[index].cam, cover), mass_on(maps.cam, cover), area))
        before, after = plain[index].attention, maps.attention
        if before is not None and after is not None:
            rows["attention"].append((mass_on(before, cover), mass_on(after, cover), area))
    results: list[MassShift | None] = []
    for triples in rows.values():
        if not triples:
            results.append(None)
            continue
        old, new, areas = np.array(triples).T
        shift = mean_interval(
            new - old, drawing.classes, replicates=drawing.replicates, rng=drawing.rng, groups=drawing.groups
        )
        results.append(MassShift(float(old.mean()), float(new.mean()), shift, float(areas.mean())))
    return results[0], results[1]


def maps_of(
    classifier: Classifier,
    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    called: NDArray[np.int64],
    made_fold: NDArray[np.int64],
) -> Iterator[Maps]:
    """The maps that `explain` gives, of the networks that have not seen an image.

    Args:
        classifier: Its first region must be the whole image, so that the maps lie in the image's geometry.
        images: (N, S, S, 3).
        called: Index of the output whose activation map is wanted, one an image, (N,).
        made_fold: As `AuditData.made_fold`.
    """
    for image, output, fold in zip(images, called, made_fold, strict=True):
        own = classifier.of_fold(None if fold < 0 else int(fold))
        picture = own.look(np.ascontiguousarray(image))
        size = picture.image.shape[0]
        stages: dict[str, list[NDArray[np.float32]]] = {}
        for block, values in picture.maps.attention.items():
            stages.setdefault(block.split(".")[0], []).append(values[0])
        cam = _enlarged(picture.maps.cam[0, output], size)
        # Each stage's mean over its blocks as a density, then the mean over the stages: all stages weigh alike.
        grown = [_enlarged(np.mean(each, axis=0), size) for each in stages.values()]
        shares = [values / max(float(values.sum()), 1e-12) for values in grown]
        yield Maps(cam, np.asarray(np.mean(shares, axis=0), np.float32) if shares else None)


def _enlarged(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def mass_on(values: NDArray[np.float32], cover: Floats) -> float:
    """Share of a map's positive mass on an artefact, 0..1.

    Args:
        values: (S, S); negative values count as nothing. A map without any positive value counts as even.
        cover: How much of each pixel the artefact covers, (S, S) in 0..1.
    """
    positive = np.clip(np.asarray(values, np.float64), 0, None)
    total = positive.sum()
    return float((positive * cover).sum() / total) if total > 0 else float(cover.mean())
