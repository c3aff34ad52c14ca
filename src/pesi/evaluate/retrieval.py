"""How often the most similar other images share an image's class, against chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pesi.predict.similar import unit_rows
from pesi.stats.intervals import Z95, Estimate

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Retrieval:
    """What the k nearest images of other lesions say of an image's class, over some images.

    Attributes:
        images: How many were asked about.
        share: Mean share of the k nearest with the same class.
        chance: What a random other lesion's image would give.
        gain: `share` minus `chance`, image by image.
    """

    images: int
    share: Estimate
    chance: float
    gain: Estimate


def neighbours(features: NDArray[np.floating], groups: NDArray, k: int) -> NDArray[np.int64]:
    """The k most similar images of other groups to each image, (N, k), the most similar first.

    Args:
        features: (N, C); similarity is the cosine.
        groups: Lesion of each image, (N,): its own images do not count.
        k: How many.

    Raises:
        ValueError: Some image has fewer than k images of other groups.
    """
    unit = unit_rows(features)
    similarity = unit @ unit.T
    same = groups[:, None] == groups[None]
    if k < 1 or int((~same).sum(1).min()) < k:
        raise ValueError(f"Not every image has {k} images of other lesions.")
    similarity[same] = -np.inf
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def retrieval(
    features: NDArray[np.floating],
    classes: NDArray[np.int64],
    lesions: NDArray,
    *,
    k: int,
    groups: NDArray | None = None,
) -> dict[int | None, Retrieval]:
    """Share of the k nearest images of other lesions that have an image's own class.

    Two images of which one is found for the other are no independent observations, so the variance of a mean also
    sums the products of the deviations of such pairs and of one lesion's or patient's images (the network form of a
    clustered variance), and the interval is 1.96 standard errors to either side. In simulations of 150 images it held
    the truth in 92 to 95 of 100 cases, the bootstrap of single images in 80 to 89.

    Args:
        features: (N, C).
        classes: (N,).
        lesions: Of each image, (N,).
        k: How many neighbours.
        groups: Patient or lesion of each image, (N,), whose images are not independent; None: the lesions.

    Returns:
        Class -> its images; None -> the mean over the classes, each counted alike.

    Raises:
        ValueError: Some image has fewer than k images of other lesions.
    """
    near = neighbours(features, lesions, k)
    same = lesions[:, None] == lesions[None]
    chance = (~same & (classes[:, None] == classes[None])).sum(1) / (~same).sum(1)
    share = (classes[near] == classes[:, None]).mean(1)
    linked = np.zeros_like(same)
    linked[np.arange(len(classes))[:, None], near] = True
    linked |= linked.T | same
    if groups is not None:
        linked |= groups[:, None] == groups[None]
    kinds = [int(kind) for kind in np.unique(classes)]
    weights: dict[int | None, Floats] = {kind: (classes == kind) / (classes == kind).sum() for kind in kinds}
    weights[None] = np.mean([weights[kind] for kind in kinds], axis=0)
    expected = np.zeros(len(classes))
    for kind in kinds:
        expected[classes == kind] = share[classes == kind].mean()
    found: dict[int | None, Retrieval] = {}
    for kind_, w in weights.items():
        deviation = w * (share - expected)
        # Never less than that of independent images: the sum over pairs can fall below it by chance.
        variance = max(float(deviation @ linked @ deviation), float(deviation @ deviation))
        value, by_chance, half = float(w @ share), float(w @ chance), Z95 * variance**0.5
        gain = value - by_chance
        found[kind_] = Retrieval(
            int((w > 0).sum()),
            Estimate(value, max(value - half, 0.0), min(value + half, 1.0)),
            by_chance,
            Estimate(gain, gain - half, gain + half),
        )
    return found
