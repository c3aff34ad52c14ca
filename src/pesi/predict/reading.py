"""What a classifier reads of an image, and what it sees of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.images.transforms import Image
from pesi.predict.runtimes.networks import Maps
from pesi.verdict import Verdict


class Picture(NamedTuple):
    """An image as networks see it, and their maps of it (batch of one), averaged over those that see it alike."""

    image: Image
    maps: Maps


class Reading(NamedTuple):
    """An image, read.

    Attributes:
        squares: The bundle's regions, (R, S, S, 3).
        verdicts: What the image-quality gate said; empty where it was left out.
        thumbnail: A small JPEG of what was given in memory; empty for files.
        fold: Where only the networks of a fold are to answer.
    """

    squares: NDArray[np.uint8]
    verdicts: tuple[Verdict, ...]
    thumbnail: bytes
    fold: int | None = None
