"""Whether a map shows what the network used: deletion and insertion curves, the pointing game, mass in the lesion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.decide.calibration import calibrated_probabilities
from pesi.explain.baselines import centre_gaussian, grad_cam, pixel_noise, random_map
from pesi.explain.localisation import attention_inside
from pesi.explain.maps import Map, explain
from pesi.images.masks import Mask, resize_mask
from pesi.images.transforms import Image
from pesi.predict.classifier import Classifier

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.uint8]], Floats]  # pictures (N, S, S, 3) -> probability of the explained class, (N,)

RANDOM, SCATTERED, CENTRE = "random", "random pixels", "middle of the picture"
ATTENTION = "Pesi attention, mean of the stages"
BASELINES = (RANDOM, SCATTERED, CENTRE)
TOLERANCE = 0.03  # of the side: Zhang et al. allow 15 pixels on pictures of about 500
BLUR = 0.08  # of the side, standard deviation: no structure of a lesion is left, only its place and colour


@dataclass(frozen=True)
class Faithfulness:
    """Several maps of each of N images, measured; everything is in the order of `maps`.

    Attributes:
        maps: Names of the M maps.
        classes: The class that was explained in each image, (N,).
        fractions: Share of the pixels deleted or inserted, (T,), from 0 to 1.
        deletion, insertion: Probability of the explained class, (N, M, T).
        pointing: Whether the map's maximum lies on the lesion, (N, M), 0 or 1 (between for several equal maxima); None
            without masks.
        inside: Share of the map's mass inside the lesion, (N, M); None without masks.
        area: Share of the picture that is lesion, (N,): what an even map has inside; None without masks.
    """

    maps: tuple[str, ...]
    classes: tuple[str, ...]
    fractions: Floats
    deletion: Floats
    insertion: Floats
    pointing: Floats | None
    inside: Floats | None
    area: Floats | None

    @property
    def deletion_area(self) -> Floats:
        """Area under each deletion curve, (N, M): the lower, the better the map."""
        return curve_area(self.deletion)

    @property
    def insertion_area(self) -> Floats:
        """Area under each insertion curve, (N, M): the higher, the better the map."""
        return curve_area(self.insertion)


def curve_area(curve: Floats) -> Floats:
    """Area under curves (..., T) of evenly spaced fractions from 0 to 1, by trapezes."""
    return np.asarray((curve[..., 1:] + curve[..., :-1]).mean(axis=-1) / 2)


def pixel_order(values: Map) -> NDArray[np.int64]:
    """Indices of a map's pixels (S, S), flattened, the highest first.

    Equal pixels (a map is 0 over wide parts) go by how high the map is around them, so that they are taken region by
    region and not row by row.
    """
    near = cv2.GaussianBlur(values.astype(np.float64), (0, 0), max(1.0, values.shape[0] / 8))
    return np.lexsort((-near.ravel(), -values.ravel()))


def curve_pictures(picture: Image, substitute: Image, values: Map, steps: int) -> NDArray[np.uint8]:
    """A picture whose most marked pixels are replaced, step by step: all but the first and the last of the steps.

    Args:
        picture: (S, S, 3).
        substitute: What takes their place, (S, S, 3).
        values: The map, (S, S).
        steps: How many steps from the one picture to the other.

    Returns:
        (steps - 1, S, S, 3): 1/steps, 2/steps, .. of the pixels replaced.
    """
    order = pixel_order(values)
    pictures = np.repeat(picture[None], steps - 1, axis=0)
    flat, source = pictures.reshape(steps - 1, -1, 3), substitute.reshape(-1, 3)
    for index in range(steps - 1):
        chosen = order[: round((index + 1) / steps * len(order))]
        flat[index, chosen] = source[chosen]
    return pictures


def faithfulness_curves(
    picture: Image, maps: Sequence[Map], score: Score, *, steps: int, batch_size: int = 32
) -> tuple[Floats, Floats]:
    """Deletion and insertion curves of several maps of one picture (RISE: Petsiuk, Das, Saenko, BMVC 2018).

    Deletion replaces the pixels, the most marked first, by the picture's mean colour; insertion puts them into a
    blurred picture.

    Args:
        picture: (S, S, 3).
        maps: M maps, (S, S) each.
        score: Probability of the explained class.
        steps: How many steps; a curve has one value more.
        batch_size: Pictures at a time.

    Returns:
        Deletion and insertion, (M, steps + 1) each.
    """
    mean = np.broadcast_to(np.round(picture.mean((0, 1))).astype(np.uint8), picture.shape)
    blurred = np.asarray(cv2.GaussianBlur(picture, (0, 0), BLUR * picture.shape[0]), np.uint8)
    ends = score(np.stack([picture, mean, blurred]))
    parts = [
        curve_pictures(first, second, values, steps)
        for values in maps
        for first, second in ((picture, mean), (blurred, picture))
    ]
    pictures = np.concatenate(parts)
    scores = [score(pictures[start : start + batch_size]) for start in range(0, len(pictures), batch_size)]
    inner = np.concatenate(scores).reshape(len(maps), 2, steps - 1)

    def whole(first: float, middle: Floats, last: float) -> Floats:
        return np.hstack([np.full((len(maps), 1), first), middle, np.full((len(maps), 1), last)])

    return whole(ends[0], inner[:, 0], ends[1]), whole(ends[2], inner[:, 1], ends[0])


def pointing_hit(values: Map, mask: Mask, *, tolerance: float = TOLERANCE) -> float:
    """Pointing game: whether a map's maximum lies on the lesion or next to it (Zhang et al., IJCV 126, 2018).

    Args:
        values: The map, (S, S).
        mask: The lesion, (S, S), at least one pixel.
        tolerance: How far beside the lesion still counts, as a share of the side.

    Returns:
        1 or 0; the share that hits where several pixels are the maximum.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[values == values.max()] <= tolerance * mask.shape[0]).mean())


def class_score(classifier: Classifier, class_name: str) -> Score:
    """Calibrated probability of one class from one view, for pictures as the networks see them (N, S, S, 3)."""
    config = classifier.config
    column = config.outputs.index(class_name)

    def score(pictures: NDArray[np.uint8]) -> Floats:
        logits = classifier.picture_logits(pictures)
        values = calibrated_probabilities(logits, config.task.head, config.temperature, config.vector)
        return np.asarray(values[:, column])

    return score


def explaining_maps(
    classifier: Classifier, image: Image, *, rng: np.random.Generator
) -> tuple[Image, str, dict[str, Map]]:
    """Every map that is measured, for the class that the network finds most probable.

    Args:
        classifier: The classifier.
        image: Decoded pixels, (H, W, 3).
        rng: Of the random map.

    Returns:
        What the network saw (S, S, 3), the class, and name -> map (S, S). The class activation map, and Grad-CAM here,
        keep their negative values: what speaks against the class is deleted last.
    """
    explanation = explain(classifier, image)
    maps: dict[str, Map] = {"class activation": explanation.cam}
    if explanation.attention:
        stages = list(explanation.attention.values())
        maps[ATTENTION] = np.asarray(np.mean(stages, axis=0), np.float32)
        maps["Pesi attention, last stage"] = stages[-1]
        maps["class activation x attention"] = explanation.blended
    size = explanation.image.shape[0]
    maps["Grad-CAM, stage 3"] = grad_cam(classifier, explanation.image, explanation.class_name, relu=False)
    maps[RANDOM] = random_map(size, rng)
    # A map of fine grain scatters what it deletes, and scattered damage confuses a network more than a whole area does.
    maps[SCATTERED] = pixel_noise(size, rng)
    maps[CENTRE] = centre_gaussian(size)
    return explanation.image, explanation.class_name, maps


def measure_faithfulness(
    classifier: Classifier,
    images: Sequence[Image] | NDArray[np.uint8],
    masks: Sequence[Mask] | NDArray[np.bool_] | None,
    *,
    rng: np.random.Generator,
    folds: Sequence[int | None] | None = None,
    steps: int = 8,
    tolerance: float = TOLERANCE,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Faithfulness:
    """Measure every map of `explaining_maps` on every image: 2 M (steps - 1) + 5 forward passes an image for M maps.

    Args:
        classifier: The classifier.
        images: N decoded pictures, (H, W, 3) each.
        masks: Their lesions, (H, W) each, none empty; in the images' geometry, which must be the network's. None: the
            pointing game and the mass inside are not measured.
        rng: Of the random maps.
        folds: Of each image, see `Classifier.of_fold`.
        steps: Of the curves.
        tolerance: See `pointing_hit`.
        batch_size: Pictures at a time.
        progress: Called with (done, total) images.

    Raises:
        ValueError: There are no images, or not as many masks.
    """
    if not len(images) or (masks is not None and len(masks) != len(images)):
        raise ValueError(f"{len(images)} images and {'no' if masks is None else len(masks)} masks.")
    classes, curves, places = [], [], []
    names: tuple[str, ...] = ()
    for index, image in enumerate(images):
        own = classifier.of_fold(None if folds is None else folds[index])
        picture, class_name, maps = explaining_maps(own, np.asarray(image), rng=rng)
        names = tuple(maps)
        classes.append(class_name)
        curves.append(
            faithfulness_curves(
                picture, list(maps.values()), class_score(own, class_name), steps=steps, batch_size=batch_size
            )
        )
        if masks is not None:
            places.append(_places(maps, masks[index], picture.shape[0], tolerance))
        if progress:
            progress(index + 1, len(images))
    found = np.array(places) if places else None  # (N, 3, M)
    return Faithfulness(
        maps=names,
        classes=tuple(classes),
        fractions=np.linspace(0, 1, steps + 1),
        deletion=np.stack([deletion for deletion, _ in curves]),
        insertion=np.stack([insertion for _, insertion in curves]),
        pointing=None if found is None else found[:, 0],
        inside=None if found is None else found[:, 1],
        area=None if found is None else found[:, 2, 0],
    )


def _places(maps: Mapping[str, Map], mask: Mask, size: int, tolerance: float) -> list[list[float]]:
    """Pointing, mass inside, and the lesion's area (the same for each map), (3, M)."""
    lesion = resize_mask(np.where(mask, np.uint8(255), np.uint8(0)), size)
    return [
        [pointing_hit(values, lesion, tolerance=tolerance) for values in maps.values()],
        [attention_inside(values, lesion) for values in maps.values()],
        [float(lesion.mean())] * len(maps),
    ]
