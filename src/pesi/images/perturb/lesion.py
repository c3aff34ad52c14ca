"""The lesion or its surroundings hidden: what a network can still tell from the rest, it should not know."""

from __future__ import annotations

import numpy as np

from pesi.images.masks import Mask
from pesi.images.perturb.perturbation import Perturbation, Perturbed
from pesi.images.perturb.skin import dark_border, filled, grown
from pesi.images.transforms import Image

_MARGIN = 0.04  # of the side, hidden around the mask too: a lesion's border is no line
_LEAST_SKIN = 0.03  # of the picture: with less there is nothing to fill from


def replaced_by_skin(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """The lesion with a margin filled from the skin around it; None where hardly any skin is seen."""
    hole, skin = _parts(image, mask)
    return None if skin.mean() < _LEAST_SKIN else Perturbed(filled(image, hole, skin, rng), hole)


def blackened(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed:
    """The lesion with a margin in black: its outline stays to be seen, its inside does not."""
    hole, _ = _parts(image, mask)
    result = image.copy()
    result[hole] = 0
    return Perturbed(result, hole)


def box_blackened(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed:
    """The box around the lesion in black, which hides its outline too (Bissoto et al., CVPR Workshops 2019)."""
    hole, _ = _parts(image, mask)
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    box = np.zeros_like(hole)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    result = image.copy()
    result[box] = 0
    return Perturbed(result, box)


def background_replaced(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """The lesion with a margin on even skin: the median colour of its surroundings."""
    hole, skin = _parts(image, mask)
    if skin.mean() < _LEAST_SKIN:
        return None
    result = image.copy()
    result[~hole] = np.median(image[skin], axis=0).astype(np.uint8)
    return Perturbed(result, ~hole)


def _parts(image: Image, mask: Mask | None) -> tuple[Mask, Mask]:
    """The lesion with its margin, and the lit skin outside of it."""
    if mask is None:
        raise ValueError("Hiding the lesion needs its mask.")
    hole = grown(mask, _MARGIN)
    return hole, ~hole & ~dark_border(image, mask)


LESION: tuple[Perturbation, ...] = (
    Perturbation(
        "lesion replaced by skin", "lesion", "The lesion filled from the skin around it.", replaced_by_skin,
        needs_mask=True,
    ),
    Perturbation("lesion blackened", "lesion", "The lesion black: only its outline stays.", blackened, needs_mask=True),
    Perturbation(
        "lesion's box blackened", "lesion", "A black box over the lesion: the outline goes too.", box_blackened,
        needs_mask=True,
    ),
    Perturbation(
        "background replaced by even skin", "lesion", "Only the lesion, on the mean colour of its skin.",
        background_replaced, needs_mask=True,
    ),
)  # fmt: skip
