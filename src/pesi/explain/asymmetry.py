"""A of the ABCD rule: how far a lesion's shape and colours differ from their mirror images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.explain.lesion_patch import Lab, LesionPatch
from pesi.images.masks import Mask

# Seidenari, Pellacani, Grana (aimagelab.ing.unimore.it, publication 314) call a shape asymmetric about an axis where
# less than 90 % of it overlaps its mirror image.
SHAPE_ABOVE = 0.10
# Ours, no published value is for this measure: about four times the just noticeable difference, Delta E 2.3
# (M. Mahy et al., Color Res. Appl. 19, 1994).
COLOUR_ABOVE = 10.0
_STEP = 5.0  # degrees between the axes that are tried
_HALF = 80  # pixels from the centre to the farthest point, at most: 18 pairs are turned in some 30 milliseconds
_BLUR = 0.1  # of the lesion's radius: hair and single dots are no asymmetry


@dataclass(frozen=True)
class AxisAsymmetry:
    """How a lesion differs from its mirror image about one line through its centre.

    Attributes:
        angle: Of the line, degrees in [0, 180) from the x axis towards the (downward) y axis.
        shape: Share of the area that the mirror image does not cover, 0..1.
        colour: Mean CIE76 Delta E between the points that do overlap and their mirror images.
    """

    angle: float
    shape: float
    colour: float

    @property
    def asymmetric(self) -> bool:
        """Whether shape or colour is above its threshold."""
        return self.shape > SHAPE_ABOVE or self.colour > COLOUR_ABOVE


@dataclass(frozen=True)
class Asymmetry:
    """A lesion's asymmetry.

    Attributes:
        principal: About its principal axes: the long one, then the short one.
        least: About the two perpendicular axes that give the lowest score, as the ABCD rule places them.
    """

    principal: tuple[AxisAsymmetry, AxisAsymmetry]
    least: tuple[AxisAsymmetry, AxisAsymmetry]

    @property
    def score(self) -> int:
        """A of the ABCD rule, 0..2: the axes of `least` about which the lesion is asymmetric."""
        return sum(axis.asymmetric for axis in self.least)

    @property
    def shape(self) -> float:
        """Mean over the two axes of `least`, 0..1."""
        return (self.least[0].shape + self.least[1].shape) / 2

    @property
    def colour(self) -> float:
        """Mean over the two axes of `least`, Delta E."""
        return (self.least[0].colour + self.least[1].colour) / 2


def centre_of(mask: Mask) -> tuple[float, float]:
    """Centroid of a mask (H, W), (x, y)."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def principal_angle(mask: Mask) -> float:
    """Direction of a mask's longest extent, from its second moments: degrees in [0, 180) from x towards y."""
    rows, columns = np.nonzero(mask)
    y, x = rows - rows.mean(), columns - columns.mean()
    angle = 0.5 * math.atan2(2 * float((x * y).mean()), float((x * x).mean() - (y * y).mean()))
    return math.degrees(angle) % 180


def measure_asymmetry(patch: LesionPatch) -> Asymmetry:
    """Asymmetry about the principal axes, and about the perpendicular pair with the lowest score.

    The ABCD rule (Stolz et al., Eur. J. Dermatol. 4, 1994; Nachbar et al., JAAD 30, 1994) bisects the lesion by two
    perpendicular axes, placed so that the score is lowest. Pairs are tried every 5 degrees from the principal axes on;
    of equal scores the smallest asymmetry counts, shape and colour each in units of its threshold. The asymmetry of
    dermoscopic structures, which the rule also regards, is not measured.
    """
    mask, lab = _centred(patch)
    start = principal_angle(patch.mask)
    pairs = [_about(mask, lab, start + step) for step in np.arange(0.0, 90.0, _STEP)]
    return Asymmetry(pairs[0], min(pairs, key=_rank))


def _rank(pair: tuple[AxisAsymmetry, AxisAsymmetry]) -> tuple[int, float]:
    return (
        sum(axis.asymmetric for axis in pair),
        sum(axis.shape / SHAPE_ABOVE + axis.colour / COLOUR_ABOVE for axis in pair),
    )


def _centred(patch: LesionPatch) -> tuple[NDArray[np.float32], Lab]:
    """The lesion's mask and smoothed colours with its centroid in the middle pixel of an odd square."""
    mask = patch.mask.astype(np.float32)
    blur = max(_BLUR * patch.radius, 0.5)
    # Blurred within the lesion only: the skin beside it must not bleed in.
    weight = cv2.GaussianBlur(mask, (0, 0), blur)
    lab = cv2.GaussianBlur(patch.lab * mask[..., None], (0, 0), blur) / np.maximum(weight, 1e-6)[..., None]
    x, y = centre_of(patch.mask)
    rows, columns = np.nonzero(patch.mask)
    reach = float(np.hypot(columns - x, rows - y).max()) + 2
    half = min(math.ceil(reach), _HALF)
    zoom = half / reach
    shift = np.array([[zoom, 0, half - zoom * x], [0, zoom, half - zoom * y]], np.float64)
    size = (2 * half + 1, 2 * half + 1)
    moved = cv2.warpAffine(np.where(patch.mask[..., None], lab, 0).astype(np.float32), shift, size)
    return np.asarray(cv2.warpAffine(mask, shift, size), np.float32), np.asarray(moved, np.float32)


def _about(mask: NDArray[np.float32], lab: Lab, angle: float) -> tuple[AxisAsymmetry, AxisAsymmetry]:
    """Asymmetry about the line at an angle and about the one perpendicular to it."""
    half = mask.shape[0] // 2
    turn = cv2.getRotationMatrix2D((half, half), angle, 1.0)
    turned = cv2.warpAffine(mask, turn, mask.shape)
    # The colours are premultiplied by the mask (0 outside), so that its border takes nothing from outside.
    colours = cv2.warpAffine(lab, turn, mask.shape) / np.maximum(turned, 1e-3)[..., None]
    inside = turned > 0.5
    found = []
    for direction, flip in ((angle, slice(None, None, -1)), (angle + 90, (slice(None), slice(None, None, -1)))):
        both = inside & inside[flip]
        difference = colours - colours[flip]
        apart = np.sqrt(np.einsum("ijk,ijk->ij", difference, difference))
        overlap = int(both.sum())
        found.append(
            AxisAsymmetry(
                float(direction % 180),
                1 - overlap / max(int(inside.sum()), 1),
                float(apart[both].mean()) if overlap else 0.0,
            )
        )
    return found[0], found[1]
