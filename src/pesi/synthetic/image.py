"""One synthetic dermoscopy image with its ground truth: parameters are drawn first, then rendered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.errors import DataError
from pesi.synthetic.artefacts import Artefacts, draw_artefacts, render_artefacts
from pesi.synthetic.canvas import new_canvas
from pesi.synthetic.lesion import FREQUENCIES, Lesion, draw_lesion_parameters
from pesi.synthetic.noise import Mask
from pesi.synthetic.skin import ITA_BANDS, Skin, draw_skin, render_skin
from pesi.synthetic.structures import paint_criteria

SMALLEST = 48  # pixels a side; below, the criteria melt into one another


@dataclass(frozen=True)
class Parameters:
    """Everything that was drawn for one image; rendering it again gives the same picture."""

    skin: Skin
    lesion: Lesion
    artefacts: Artefacts


@dataclass(frozen=True)
class SyntheticImage:
    """A drawn dermoscopy image and the truth about it. For tests and teaching, not for any clinical use.

    Args:
        image: (S, S, 3) uint8 RGB.
        lesion_mask: (S, S) bool.
        criteria: Mask (S, S) bool of each dermoscopic criterion that is there, all within the lesion.
        artefacts: Mask (S, S) bool of each artefact that is there.
        diagnosis: "MEL", "NV" or "SK".
        skin_tone: Fitzpatrick tone, 1 to 6.
        parameters: What was drawn.
    """

    image: NDArray[np.uint8]
    lesion_mask: Mask
    criteria: dict[str, Mask]
    artefacts: dict[str, Mask]
    diagnosis: str
    skin_tone: int
    parameters: Parameters


def draw_parameters(rng: np.random.Generator, diagnosis: str, *, skin_tone: int | None = None) -> Parameters:
    """Draw an image's parameters: skin, lesion and artefacts each from a child generator of their own.

    So neither the skin nor the artefacts can depend on the diagnosis.

    Raises:
        DataError: An unknown diagnosis or skin tone.
    """
    if diagnosis not in FREQUENCIES:
        raise DataError(f"No synthetic lesion of diagnosis {diagnosis!r}.", f"Choose one of: {', '.join(FREQUENCIES)}.")
    if skin_tone is not None and skin_tone not in ITA_BANDS:
        raise DataError(f"Unknown skin tone {skin_tone!r}.", "Fitzpatrick's tones are 1 to 6.")
    of_skin, of_lesion, of_artefacts = rng.spawn(3)
    return Parameters(
        draw_skin(of_skin, skin_tone), draw_lesion_parameters(of_lesion, diagnosis), draw_artefacts(of_artefacts)
    )


def render(parameters: Parameters, *, size: int = 256) -> SyntheticImage:
    """Render drawn parameters as a picture of `size` pixels a side.

    The same parameters and size give the same bytes. At another size the outline and the criteria stay, but single
    globules, cysts and the like may fall elsewhere.

    Raises:
        DataError: The size is too small for the criteria to be seen.
    """
    if size < SMALLEST:
        raise DataError(f"A synthetic image of {size} pixels a side is too small.", f"Choose at least {SMALLEST}.")
    skin = render_skin(parameters.skin, size)
    canvas = new_canvas(parameters.lesion, size)
    paint_criteria(canvas)
    image = canvas.over(skin, parameters.skin.rgb)
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.0022 * size, 0.3)), dtype=np.float32)
    artefacts = render_artefacts(parameters.artefacts, image)
    noise = np.random.default_rng([parameters.skin.texture_seed, 1]).standard_normal(image.shape, dtype=np.float32)
    image += np.float32(0.008) * noise
    pixels = np.clip(image * 255.0 + 0.5, 0.0, 255.0).astype(np.uint8)
    lesion = parameters.lesion
    return SyntheticImage(
        pixels, canvas.mask, canvas.criteria, artefacts, lesion.diagnosis, parameters.skin.tone, parameters
    )


def draw_lesion(
    rng: np.random.Generator, diagnosis: str, *, size: int = 256, skin_tone: int | None = None
) -> SyntheticImage:
    """Draw one image of a lesion.

    Args:
        rng: Where all randomness comes from; the same state gives the same bytes.
        diagnosis: "MEL" (melanoma), "NV" (nevus) or "SK" (seborrheic keratosis).
        size: Side S in pixels.
        skin_tone: Fitzpatrick tone 1 to 6; drawn if not given.

    Raises:
        DataError: An unknown diagnosis or skin tone, or a size that is too small.

    Example:
        >>> drawn = draw_lesion(np.random.default_rng(0), "MEL", size=128)
        >>> drawn.image.shape, drawn.lesion_mask.dtype.name
        ((128, 128, 3), 'bool')
    """
    return render(draw_parameters(rng, diagnosis, skin_tone=skin_tone), size=size)
