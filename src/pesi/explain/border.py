"""B of the ABCD rule and the border's shape: how the pigment ends in each eighth, how irregular the outline is."""

from __future__ import annotations

from dataclasses import dataclass

import contourpy
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from pesi.explain.asymmetry import centre_of, principal_angle
from pesi.explain.lesion_patch import LesionPatch
from pesi.images.masks import Mask

Points = NDArray[np.float64]

EIGHTHS = 8
BAND = 0.10  # of the lesion's radius: width of the strips inside and outside of the border that are compared; ours
# Ours. The one published threshold (Seidenari, Pellacani, Grana, aimagelab.ing.unimore.it, publication 314: a slope of
# lightness above 3.609 over 30 pixels) holds for their camera and magnification.
ABRUPT_ABOVE = 15.0
_SMOOTH = 1.0  # pixels of the patch: takes the stairs of the pixel grid out of the outline


@dataclass(frozen=True)
class Border:
    """A lesion's border.

    Attributes:
        compactness: P^2 / (4 pi A): 1 for a circle, 4 / pi for a square, more the more the outline winds.
        solidity: Area over the area of the convex hull, 0..1; 1 without a bay.
        convexity: Perimeter of the convex hull over the perimeter, 0..1; 1 without a bay.
        steps: Delta E (CIE76) across the border in each eighth of the lesion, from its long axis on; None where the
            picture's edge hides more than half of it.
        cut: Share of the outline that lies on the picture's edge, 0..1: there the lesion goes on, unseen.
    """

    compactness: float
    solidity: float
    convexity: float
    steps: tuple[float | None, ...]
    cut: float

    @property
    def score(self) -> int:
        """B of the ABCD rule, 0..8: the eighths whose colour ends abruptly."""
        return sum(step is not None and step > ABRUPT_ABOVE for step in self.steps)

    @property
    def eighths_seen(self) -> int:
        """Eighths whose border is in the picture."""
        return sum(step is not None for step in self.steps)

    @property
    def step(self) -> float | None:
        """Mean Delta E across the border over the eighths seen."""
        seen = [step for step in self.steps if step is not None]
        return float(np.mean(seen)) if seen else None


def measure_border(patch: LesionPatch) -> Border:
    """Shape of the outline, and how abruptly the colour ends in each eighth.

    The ABCD rule (Nachbar et al., JAAD 30, 1994) divides the lesion into eighths and counts those in which the pigment
    pattern ends abruptly. Here an eighth ends abruptly where the mean colours of the strips just inside and just
    outside of the border (each a tenth of the lesion's radius wide) differ by more than Delta E 15.
    """
    line = outline(patch.mask)
    perimeter, area = _length(line), _area(line)
    hull = _hull(line)
    return Border(
        compactness=perimeter**2 / (4 * np.pi * area) if area else 1.0,
        solidity=min(1.0, area / _area(hull)) if len(hull) > 2 else 1.0,
        convexity=min(1.0, _length(hull) / perimeter) if perimeter else 1.0,
        steps=border_steps(patch),
        cut=_cut_share(patch),
    )


def outline(mask: Mask) -> Points:
    """The longest outline of a mask (H, W), closed, (N, 2) as (x, y), at less than pixel steps."""
    padded = cv2.GaussianBlur(np.pad(mask.astype(np.float32), 4), (0, 0), _SMOOTH)
    lines = contourpy.contour_generator(z=padded).lines(0.5 * min(1.0, float(padded.max())))
    return np.asarray(max((np.asarray(line) for line in lines), key=len), np.float64) - 4


def feret_diameter(mask: Mask) -> tuple[float, Points]:
    """Largest distance between two points of a mask's outline (the largest Feret diameter), pixels.

    Returns:
        The diameter, and its two ends (2, 2) as (x, y). A single pixel has diameter 1.
    """
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pixels = np.concatenate([edge[:, 0] for edge in edges]).astype(np.float64)
    # A pixel reaches half a pixel beyond its centre.
    sides = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    points = _hull((pixels[:, None] + sides[None]).reshape(-1, 2))
    distances = pdist(points)
    first, second = np.triu_indices(len(points), 1)
    best = int(distances.argmax())
    return float(distances[best]), points[[first[best], second[best]]]


def border_steps(patch: LesionPatch) -> tuple[float | None, ...]:
    """Delta E between the strips inside and outside of the border, for each eighth; None where one is not seen."""
    mask, width = patch.mask, max(BAND * patch.radius, 1.5)
    inner = mask & (_distance(mask) <= width)
    outer = ~mask & (_distance(~mask) <= width)
    x, y = centre_of(mask)
    rows, columns = np.indices(mask.shape)
    turned = np.degrees(np.arctan2(rows - y, columns - x)) - principal_angle(mask)
    eighth = ((turned % 360) // (360 / EIGHTHS)).astype(int)
    rim = _rim(mask)
    hidden = rim & _image_edge(patch)
    steps: list[float | None] = []
    for index in range(EIGHTHS):
        here = eighth == index
        inside, outside = inner & here, outer & here
        if not inside.any() or not outside.any() or 2 * (hidden & here).sum() > (rim & here).sum():
            steps.append(None)
        else:
            steps.append(float(np.linalg.norm(patch.lab[inside].mean(0) - patch.lab[outside].mean(0))))
    return tuple(steps)


def _rim(mask: Mask) -> Mask:
    """Pixels of a mask with one beside them that is not of it, the picture's edge included."""
    inner = cv2.erode(np.pad(mask, 1).astype(np.uint8), np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0
    return mask & ~inner


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Distance of each pixel of a mask to the nearest one outside of it."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)


def _image_edge(patch: LesionPatch) -> Mask:
    """Pixels of the patch along the sides that it shares with the image."""
    edge = np.zeros_like(patch.mask)
    top, bottom, left, right = patch.open_sides
    edge[0] |= top
    edge[-1] |= bottom
    edge[:, 0] |= left
    edge[:, -1] |= right
    return edge


def _cut_share(patch: LesionPatch) -> float:
    rim = _rim(patch.mask)
    return float((rim & _image_edge(patch)).sum() / max(int(rim.sum()), 1))


def _length(line: Points) -> float:
    closed = np.vstack([line, line[:1]])
    return float(np.linalg.norm(np.diff(closed, axis=0), axis=1).sum())


def _area(line: Points) -> float:
    """Area within a closed line (shoelace formula)."""
    x, y = line[:, 0], line[:, 1]
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _hull(points: Points) -> Points:
    """Corners of the convex hull, in order; the points themselves where they span no area."""
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:
        return points
