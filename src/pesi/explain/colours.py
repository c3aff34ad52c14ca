"""C of the ABCD rule: which of the six dermoscopic colours a lesion shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.explain.lesion_patch import Lab, LesionPatch, cielab
from pesi.images.masks import Mask

# The six names are the rule's (Stolz et al. 1994). The sRGB values are ours: the rule names colours without values, and
# we found no published table that we could read.
REFERENCES: dict[str, tuple[int, int, int]] = {
    "white": (235, 225, 220),
    "red": (190, 75, 75),
    "light brown": (180, 130, 95),
    "dark brown": (100, 65, 50),
    "blue-gray": (110, 120, 130),
    "black": (35, 30, 30),
}
# Ours: below it hair, a reflex or a rim pixel would count as a colour. Automated scores elsewhere take 1 %.
PRESENT_ABOVE = 0.05
_BLUR = 0.02  # of the lesion's radius: noise is no colour
_SKIN_FROM, _SKIN_TO = 0.15, 0.5  # of the lesion's radius, outwards from the border: the skin that it is compared with
_LIGHTER = 2.0  # L*, about what an eye just sees


@dataclass(frozen=True)
class Colours:
    """The dermoscopic colours of a lesion.

    Attributes:
        shares: Name -> share of the lesion that is nearest to it, 0..1; with `skin_like` they sum to 1.
        skin_like: Share that is nearer to the skin around the lesion than to any of the six, 0..1; no colour of the
            rule. 0 where the skin is not known.
        skin: Median CIELAB of the skin around the lesion; None where none is in the picture.
    """

    shares: Mapping[str, float]
    skin_like: float
    skin: tuple[float, float, float] | None

    @property
    def present(self) -> tuple[str, ...]:
        """The colours with more than 5 % of the lesion, in the rule's order."""
        return tuple(name for name, share in self.shares.items() if share > PRESENT_ABOVE)

    @property
    def score(self) -> int:
        """C of the ABCD rule, 1..6: how many colours are present."""
        return max(1, len(self.present))


def reference_lab() -> Lab:
    """The references in CIELAB, (6, 3), in the order of `REFERENCES`."""
    return np.asarray(cielab(np.array([list(REFERENCES.values())], np.uint8))[0], np.float32)


def measure_colours(patch: LesionPatch) -> Colours:
    """Share of the lesion nearest to each of the six colours, by CIE76 Delta E.

    A point is white only where it is lighter than the skin around the lesion (as the rule is taught); otherwise it
    takes the next nearest colour. What is nearest to that skin itself is no colour of the rule.

    Blue-gray is what an eye sees beside brown; in pixels it is often a gray brown (H. Sakai et al., J. Dermatol. 44,
    2017), so that it is found less often than a dermatologist would name it.
    """
    skin = skin_lab(patch)
    around = None if skin is None else (float(skin[0]), float(skin[1]), float(skin[2]))
    names = colour_map(patch, around)[patch.mask]
    shares = np.bincount(names, minlength=len(REFERENCES) + 1) / len(names)
    named = {name: float(share) for name, share in zip(REFERENCES, shares, strict=False)}
    return Colours(named, float(shares[len(REFERENCES)]), around)


def colour_map(patch: LesionPatch, skin: tuple[float, float, float] | None) -> NDArray[np.int64]:
    """Index into `REFERENCES` of each pixel of the patch, (h, w); one past the last where it is as the skin.

    Args:
        patch: The lesion.
        skin: CIELAB of the skin around it, None where it is not known.
    """
    lab = np.asarray(cv2.GaussianBlur(patch.lab, (0, 0), max(_BLUR * patch.radius, 0.3)), np.float32)
    known = reference_lab() if skin is None else np.vstack([reference_lab(), np.array(skin, np.float32)])
    distances = np.linalg.norm(lab[:, :, None] - known[None, None], axis=3)
    if skin is not None:
        white = list(REFERENCES).index("white")
        distances[..., white][lab[..., 0] < skin[0] + _LIGHTER] = np.inf
    return np.asarray(distances.argmin(2), np.int64)


def srgb(lab: tuple[float, float, float]) -> tuple[int, int, int]:
    """CIELAB under D65 -> sRGB 0..255, clipped to what sRGB has."""
    red, green, blue = cv2.cvtColor(np.array([[lab]], np.float32), cv2.COLOR_LAB2RGB)[0, 0]
    return round(255 * float(red)), round(255 * float(green)), round(255 * float(blue))


def skin_lab(patch: LesionPatch) -> NDArray[np.float64] | None:
    """Median CIELAB of the skin around the lesion, (3,); None where too little of it is in the picture."""
    away = cv2.distanceTransform((~patch.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ring: Mask = (away > _SKIN_FROM * patch.radius) & (away <= _SKIN_TO * patch.radius)
    # Dark corners are no skin.
    ring &= patch.lab[..., 0] > 20
    if ring.sum() < 0.05 * patch.mask.sum():
        return None
    return np.asarray(np.median(patch.lab[ring], axis=0), np.float64)
