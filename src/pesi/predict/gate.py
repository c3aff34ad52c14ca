"""The dermoscopy gate: the one way from a segmenter's features to the verdict "no dermoscopy"."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.gate import GateConfig, load_gate
from pesi.bundle.installed import GATE, shipped_bundle
from pesi.decide.dermoscopy import DermoscopyModel, dermoscopy_verdict, no_dermoscopy
from pesi.errors import BundleError
from pesi.images.quality import QualityConfig, quality_verdicts
from pesi.images.quality_measures import measured_shape
from pesi.images.regions import Seen, seen
from pesi.images.transforms import Image
from pesi.predict.segmenter import LesionSegmenter
from pesi.verdict import Verdict


class DermoscopyGate(NamedTuple):
    """A gate's bundle, ready to judge pictures. It belongs to no classifier."""

    config: GateConfig
    model: DermoscopyModel

    def refused(self, features: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which pictures are no dermoscopy, by their `LesionMask.features` (N, F)."""
        return no_dermoscopy(self.model.scores(features), self.config.limits)

    def verdict(self, features: NDArray[np.float32]) -> Verdict:
        """What to do with one picture, by its `LesionMask.features` (F,)."""
        return dermoscopy_verdict(self.model.scores(features[None])[0], self.config.limits)


def shipped_gate(segmenter: LesionSegmenter) -> DermoscopyGate:
    """The gate that comes with the package.

    Args:
        segmenter: Whose features it is to judge.

    Raises:
        BundleError: It is not there, damaged, or was made for another segmenter.
    """
    gate = _loaded(shipped_bundle(GATE) or Path(GATE))
    if gate.config.segmenter != segmenter.bundle_id:
        raise BundleError(
            f"The gate {gate.config.bundle_id} was made for the segmenter {gate.config.segmenter}; "
            f"{segmenter.bundle_id} is here.",
            "Install the version of pesi-cnn that it was made with, or make it again: benchmarks/novelty/gate.py.",
        )
    return gate


def picture_verdicts(
    image: Image | Seen, segmenter: LesionSegmenter | None, quality: QualityConfig, *, short_side: int | None = None
) -> tuple[Verdict, ...]:
    """Whether one picture is dermoscopy, and of what quality; without a segmenter only the latter, without a lesion.

    Args:
        image: The picture.
        segmenter: Finds the lesion.
        quality: The limits.
        short_side: Of the file, where the picture is a reduced copy of it.
    """
    image = seen(image)
    if segmenter is None:
        return quality_verdicts(image.image, config=quality, short_side=short_side)
    # Its share, and that of its outline at the edge, are the same in the small copy in which quality is measured.
    lesion = segmenter.segment_seen(image, *measured_shape(*image.image.shape[:2]))
    mask = lesion.mask & lesion.found
    verdicts = quality_verdicts(image.image, mask=mask, not_found=lesion.reason, config=quality, short_side=short_side)
    return (shipped_gate(segmenter).verdict(lesion.features), *verdicts)


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> DermoscopyGate:
    return DermoscopyGate(*load_gate(folder))
