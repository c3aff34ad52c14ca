"""Artefacts taken away from a real image: hair, dark corners, and whatever outside the lesion is not skin."""

from __future__ import annotations

import cv2
import numpy as np

from pesi.images.correction import hair_mask, remove_hair
from pesi.images.masks import Mask
from pesi.images.perturb.perturbation import Perturbation, Perturbed
from pesi.images.perturb.skin import dark_border, filled, grown, skin_surface
from pesi.images.transforms import Image

_LEAST = 0.005  # of the picture: where less is found, there is nothing to remove
_MOST = 0.6  # of the picture: where more is found, what was found is not an artefact
_LESION_MARGIN = 0.05  # of the side, left alone around the lesion: its halo is no artefact


def without_hair(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """Dark hairs inpainted (`correction.remove_hair`); it takes thin dark lines of ruler and ink as well."""
    hairs = hair_mask(image)
    return Perturbed(remove_hair(image), hairs) if _LEAST <= hairs.mean() <= _MOST else None


def without_dark_corners(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """The black rim filled with a smooth continuation of the skin."""
    border = dark_border(image, mask)
    if not _LEAST <= border.mean() <= _MOST:
        return None
    source = ~border if mask is None else ~border & ~grown(mask, _LESION_MARGIN)
    if not source.any():
        return None
    return Perturbed(filled(image, border, source, rng), border)


def without_surroundings_marks(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """Everything outside the lesion and the dark corners that deviates from the skin's colour, replaced by skin.

    Ruler, ink and patches are found by being other than skin, not by being what they are. So other moles, freckles,
    vessels, hair and shine beside the lesion go too, and a mark as pale as the skin stays.
    """
    if mask is None:
        return None
    border = dark_border(image, mask)
    kept = grown(mask, _LESION_MARGIN)
    known = ~border & ~kept
    fit = skin_surface(image, known)
    if fit is None:
        return None
    # Thin lines of ruler and hair are grayer than they are dark; a pixel alone is noise.
    other = fit[1] | (hair_mask(image) & known)
    marks = cv2.morphologyEx(other.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(marks, connectivity=8)
    large = np.flatnonzero(statistics[:, cv2.CC_STAT_AREA] >= max(4, 2e-4 * marks.size))
    marks_found = np.isin(labels, large[large > 0])
    if not marks_found.any():
        return None
    hole = grown(marks_found, 0.012) & known
    if not _LEAST <= hole.mean() <= _MOST or hole.sum() > 0.8 * known.sum():
        return None
    return Perturbed(filled(image, hole, known & ~hole, rng), hole)


REMOVED: tuple[Perturbation, ...] = (
    Perturbation("hair removed", "remove", "Dark hairs inpainted, where there are any.", without_hair),
    Perturbation(
        "dark corners removed", "remove", "The black rim filled with skin, where there is one.", without_dark_corners
    ),
    Perturbation(
        "marks beside the lesion removed",
        "remove",
        "Ruler, ink, patches and all else beside the lesion that has not the skin's colour, replaced by skin.",
        without_surroundings_marks,
        needs_mask=True,
    ),
)
