"""What the network attended to in one image: the class activation map and each stage's attention, on the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.errors import DataError
from pesi.images.pixels import ImageSource
from pesi.images.transforms import Image
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """Maps of one image, all in the picture's geometry; of several networks their means.

    Attributes:
        image: What the network saw, (S, S, 3).
        class_name: The class that is explained.
        probability: Its calibrated probability, from this one view.
        cam: Class activation map (S, S): what each place adds to the class's logit; may be negative.
        attention: Stage name ("stage 1" ..) -> attention map (S, S), non-negative, summing to 1; empty for a network
            without attention.
        blended: Evidence for the class (the positive part of `cam`) weighted by the attention, (S, S), summing to 1.
    """

    image: Image
    class_name: str
    probability: float
    cam: Map
    attention: Mapping[str, Map]
    blended: Map


def explain(
    classifier: Classifier, source: ImageSource, *, class_name: str | None = None, region: int = 0
) -> Explanation:
    """Explain one image's prediction by maps that are part of the network's own arithmetic.

    The class activation map is exact, because the network ends in pool + linear (Zhou et al., CVPR 2016). A stage's
    attention is the mean of M over its blocks and channels. Of several networks that look at the region (those alike,
    see `Classifier.looking_at`) each map is the mean of theirs.

    Args:
        classifier: The classifier.
        source: See `images.pixels`.
        class_name: The class to explain; default the most probable one.
        region: Which of the bundle's regions.

    Raises:
        DataError: The classifier has no such class.
        ImageError: The image is refused.
    """
    names = classifier.config.outputs
    if class_name is not None and class_name not in names:
        raise DataError(f"Unknown class {class_name!r}.", f"This bundle's classes: {', '.join(names)}.")
    picture = classifier.look(source, region=region)
    prediction = classifier.prediction("", None, picture.maps.logits, "single", {})
    chosen = class_name or prediction.most_probable
    size = picture.image.shape[0]
    cam = _grow(picture.maps.cam[0, names.index(chosen)], size)
    stages: dict[str, list[Map]] = {}
    for block, values in picture.maps.attention.items():
        stages.setdefault(f"stage {block[len('layer')]}", []).append(values[0])
    attention = {stage: _density(_grow(np.mean(maps, axis=0), size)) for stage, maps in stages.items()}
    evidence = np.clip(cam, 0, None)
    if attention:
        evidence = evidence * np.mean(list(attention.values()), axis=0)
    return Explanation(
        picture.image, chosen, prediction.probabilities[chosen], cam, attention, _density(evidence.astype(np.float32))
    )


def explain_image(
    image: ImageSource,
    classifier: Classifier | str | Path | None = None,
    *,
    class_name: str | None = None,
    region: int = 0,
    device: str | None = None,
) -> Explanation:
    """Explain one image's prediction: `pesi.explain`.

    Args:
        image: A path, bytes, an opened file, a Pillow image, an array (H, W, 3) or a tensor (3, H, W), uint8 sRGB.
        classifier: A classifier, or its bundle's folder or name; default the one that ships.
        class_name, region: As for `explain`.
        device: Where to compute, of a bundle that is opened here; default: a GPU if there is one.

    Raises:
        DataError: The classifier has no such class.
        ImageError: The image is refused.

    Example:
        >>> pesi.explain("mole.jpg").attention["stage 4"]  # doctest: +SKIP
    """
    opened = classifier if isinstance(classifier, Classifier) else load(classifier, device=device)
    return explain(opened, image, class_name=class_name, region=region)


def _grow(values: Map, size: int) -> Map:
    """A map (h, w) at the picture's size, bilinear."""
    return np.asarray(cv2.resize(values, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)


def _density(values: Map) -> Map:
    """Non-negative, summing to 1; uniform where there is nothing."""
    values = np.clip(values, 0, None)
    total = float(values.sum())
    return values / total if total > 0 else np.full_like(values, 1 / values.size)
