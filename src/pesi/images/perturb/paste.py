"""Artefacts drawn onto a real image: ruler, ink, patch, dark corner, hair, gel; the lesion stays to be seen."""

from __future__ import annotations

import cv2
import numpy as np

from pesi.images.masks import Mask
from pesi.images.perturb.perturbation import Change, Perturbation, Perturbed
from pesi.images.perturb.skin import grown
from pesi.images.transforms import Image
from pesi.synthetic.artefacts import Artefacts, render_artefacts

_TRIES = 16  # places that are tried; the one that loses least to the lesion is taken
_MARGIN = 0.015  # of the side, kept free around the lesion
_SHOWN = 0.4  # of a drawn artefact at least, else there is no room for it
_COVERED = 0.02  # of the lesion at most, by a dark corner
_STICKERS = ((245, 165, 35), (230, 200, 40), (40, 130, 200), (40, 150, 110), (215, 90, 60))
_VISIBLE = 6  # of 255: the least change that counts as the artefact


def pasted(artefact: str, *, over_lesion: bool = False, layers: int = 1) -> Change:
    """A change that draws an artefact with the pens of `synthetic.artefacts`.

    Args:
        artefact: A key of its `RATES`.
        over_lesion: Whether it may cross the lesion (hair, bubbles). Otherwise several places are tried, and what
            still falls on the lesion is left out.
        layers: How often it is drawn.
    """

    def change(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
        kept = None if over_lesion or mask is None else grown(mask, _MARGIN)
        best: tuple[float, Image, Mask] | None = None
        for _ in range(_TRIES):
            painted, drawn = _drawn(image, artefact, layers, rng)
            if not drawn.any():
                continue
            shown = 1.0 if kept is None else float((drawn & ~kept).sum() / drawn.sum())
            if best is None or shown > best[0]:
                best = (shown, painted, drawn)
            if shown > 0.99:
                break
        if best is None or best[0] < _SHOWN:
            return None
        _, painted, drawn = best
        if kept is not None:
            # A soft edge, so that a mark cut off at the lesion looks as if it lay below it.
            keep = cv2.GaussianBlur(kept.astype(np.float32), (0, 0), max(0.5, len(image) / 256))[..., None]
            keep = np.where(mask[..., None], 1, keep) if mask is not None else keep
            painted = np.round(keep * image + (1 - keep) * painted).astype(np.uint8)
            drawn = drawn & ~kept
        return Perturbed(painted, drawn)

    return change


def dark_corners(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """Black corners as of the dermatoscope's tube, none where they would cover the lesion."""
    for _ in range(_TRIES):
        painted, drawn = _drawn(image, "dark_corner", 1, rng)
        if drawn.any() and (mask is None or (drawn & mask).sum() <= _COVERED * mask.sum()):
            return Perturbed(painted, drawn)
    return None


def large_patch(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
    """A coloured sticker as large as in ISIC's paediatric series, an oval that reaches in from one side."""
    size = len(image)
    kept = None if mask is None else grown(mask, _MARGIN)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    for _ in range(_TRIES):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.40, 0.5)
        radii = rng.uniform(0.16, 0.24), rng.uniform(0.24, 0.36)
        colour = np.array(_STICKERS[int(rng.integers(len(_STICKERS)))])
        along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) - reach
        across = (y - 0.5) * np.cos(angle) - (x - 0.5) * np.sin(angle)
        inside = np.hypot(along / radii[0], across / radii[1])
        opacity = np.clip((1 - inside) * radii[0] * size, 0, 1)
        drawn = opacity > 0.5
        if kept is not None and (drawn & kept).any():
            continue
        weave = 1 + 0.03 * rng.standard_normal((size, size))
        painted = image + opacity[..., None] * (colour * weave[..., None] - image)
        return Perturbed(np.clip(np.round(painted), 0, 255).astype(np.uint8), drawn)
    return None


def _drawn(image: Image, artefact: str, layers: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """The image with an artefact, and where it is."""
    field = (image / 255).astype(np.float32)
    drawn = np.zeros(image.shape[:2], np.bool_)
    for _ in range(layers):
        masks = render_artefacts(Artefacts((artefact,), int(rng.integers(2**63))), field)
        if artefact in masks:
            drawn |= masks[artefact]
    painted = np.round(np.clip(field, 0, 1) * 255).astype(np.uint8)
    differs = np.abs(painted.astype(np.int16) - image).max(axis=2) >= _VISIBLE
    return painted, drawn & differs


PASTED: tuple[Perturbation, ...] = (
    Perturbation("ruler pasted", "paste", "A printed millimetre scale beside the lesion.", pasted("ruler")),
    Perturbation("ink pasted", "paste", "Violet or blue skin marker beside the lesion.", pasted("ink")),
    Perturbation("colour patch pasted", "paste", "A coloured calibration sticker at the edge.", pasted("patches")),
    Perturbation("large colour patch pasted", "paste", "An oval sticker of a fifth of the picture.", large_patch),
    Perturbation("dark corners pasted", "paste", "The black rim of the dermatoscope's tube.", dark_corners),
    Perturbation("hair pasted", "paste", "Dark hairs over skin and lesion.", pasted("hair", over_lesion=True)),
    Perturbation(
        "dense hair pasted", "paste", "Three times as many dark hairs.", pasted("hair", over_lesion=True, layers=3)
    ),
    Perturbation(
        "gel bubbles pasted",
        "paste",
        "Air bubbles in the gel over skin and lesion.",
        pasted("gel_bubble", over_lesion=True),
    ),
    Perturbation("gel border pasted", "paste", "The bright rim of the gel beside the lesion.", pasted("gel_border")),
)
