"""The ABCD description of a lesion: asymmetry, border, colours and size, each number with how it is defined.

After the ABCD rule of dermatoscopy (W. Stolz et al., Eur. J. Dermatol. 4, 1994; F. Nachbar et al., J. Am. Acad.
Dermatol. 30, 1994). It is a measurement beside the network's probability and never goes into it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pesi.errors import DataError, ImageError
from pesi.explain.asymmetry import COLOUR_ABOVE, SHAPE_ABOVE, Asymmetry, AxisAsymmetry, measure_asymmetry
from pesi.explain.border import ABRUPT_ABOVE, BAND, Border, feret_diameter, measure_border
from pesi.explain.colours import PRESENT_ABOVE, Colours, measure_colours
from pesi.explain.lesion_patch import lesion_patch
from pesi.explain.localisation import attention_inside, check_whole_image
from pesi.explain.maps import Explanation
from pesi.images.masks import Mask
from pesi.images.transforms import Image, fit_square
from pesi.predict.classifier import Classifier
from pesi.predict.segmenter import LesionMask, largest_region

BESIDE = "A measurement of the picture; it is not part of the network's probability."
NO_TOTAL = (
    "D of the rule (differential structures: network, streaks, dots, globules, structureless areas) is not measured, "
    "so there is no total dermoscopy score."
)

DEFINITIONS: dict[str, str] = {
    "asymmetry.score": "A, 0..2: of two perpendicular axes through the centroid, placed for the lowest score (tried "
    f"every 5 degrees), those with shape above {SHAPE_ABOVE:g} or colour above {COLOUR_ABOVE:g}.",
    "asymmetry.shape": "Share of the lesion's area that its mirror image about the axis does not cover, 0..1. "
    f"Threshold {SHAPE_ABOVE:g} after Seidenari, Pellacani and Grana (overlap below 90 %).",
    "asymmetry.colour": "Mean CIE76 Delta E between points and their mirror images, colours smoothed over a tenth of "
    f"the lesion's radius. Threshold {COLOUR_ABOVE:g}: ours, about four just noticeable differences.",
    "border.score": f"B, 0..8: eighths of the lesion with a colour step above {ABRUPT_ABOVE:g}; eighths that the "
    "picture's edge hides do not count.",
    "border.steps": "CIE76 Delta E between the mean colours of the strips just inside and just outside of the border, "
    f"each {BAND:g} of the lesion's radius wide. Threshold {ABRUPT_ABOVE:g}: ours.",
    "border.compactness": "Perimeter squared / (4 pi area): 1 for a circle, more for a winding border.",
    "border.solidity": "Area / area of the convex hull, 0..1.",
    "border.convexity": "Perimeter of the convex hull / perimeter, 0..1.",
    "border.cut": "Share of the outline that lies on the picture's edge, 0..1.",
    "colours.score": f"C, 1..6: how many of the six colours cover more than {PRESENT_ABOVE:.0%} of the lesion; the "
    "share is ours.",
    "colours.shares": "Share of the lesion nearest to each colour's reference by CIE76 Delta E; the references are "
    "ours. White only where lighter than the skin around; nearest to that skin: no colour of the rule (skin_like).",
    "size.diameter": "Largest Feret diameter: the largest distance between two points of the outline.",
    "size.area": "Area of the lesion's mask.",
    "attention": "Share of the map's positive mass inside the lesion, 0..1; the lesion's share of the picture for a "
    "map that looks everywhere alike.",
}


@dataclass(frozen=True)
class LesionDescription:
    """What was measured of one lesion.

    Attributes:
        found: Whether there is a lesion to describe; where not, everything measured is None.
        reason: Why there is none; "" where there is.
        asymmetry, border, colours: A, B, C of the rule; D is not measured.
        diameter_px: Largest Feret diameter, pixels of the image.
        area_px: Pixels of the image.
        area_share: The lesion's share of the picture, 0..1.
        mm_per_pixel: The picture's scale, None where it is not known.
        attention: Name of a map ("class activation", "stage 1", .., "blended") -> its share inside the lesion.
    """

    found: bool
    reason: str = ""
    asymmetry: Asymmetry | None = None
    border: Border | None = None
    colours: Colours | None = None
    diameter_px: float | None = None
    area_px: float | None = None
    area_share: float | None = None
    mm_per_pixel: float | None = None
    attention: Mapping[str, float] = field(default_factory=dict)

    @property
    def diameter_mm(self) -> float | None:
        """Largest Feret diameter in millimetres, None where the scale is not known."""
        if self.diameter_px is None or self.mm_per_pixel is None:
            return None
        return self.diameter_px * self.mm_per_pixel

    @property
    def area_mm2(self) -> float | None:
        """Area in square millimetres, None where the scale is not known."""
        if self.area_px is None or self.mm_per_pixel is None:
            return None
        return self.area_px * self.mm_per_pixel**2

    def measures(self) -> dict[str, float]:
        """Every measure that is one number, by name; empty where no lesion was found."""
        if self.asymmetry is None or self.border is None or self.colours is None or self.area_share is None:
            return {}
        values = {
            "A, asymmetry score": float(self.asymmetry.score),
            "asymmetry of shape": self.asymmetry.shape,
            "asymmetry of colour": self.asymmetry.colour,
            "B, abrupt eighths": float(self.border.score),
            "colour step at the border": self.border.step if self.border.step is not None else math.nan,
            "compactness": self.border.compactness,
            "solidity": self.border.solidity,
            "convexity": self.border.convexity,
            "C, colours": float(self.colours.score),
            **{f"share of {name}": share for name, share in self.colours.shares.items()},
            "share as the skin": self.colours.skin_like,
            "area share": self.area_share,
        }
        if self.diameter_mm is not None:
            values["diameter, mm"] = self.diameter_mm
        return values

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON, with how each is defined."""
        result: dict[str, Any] = {"found": self.found, "reason": self.reason, "note": f"{BESIDE} {NO_TOTAL}"}
        if self.asymmetry is None or self.border is None or self.colours is None:
            return result
        a, b, c = self.asymmetry, self.border, self.colours
        return {
            **result,
            "asymmetry": {
                "score": a.score,
                "least": [_axis(axis) for axis in a.least],
                "principal": [_axis(axis) for axis in a.principal],
            },
            "border": {
                "score": b.score,
                "eighths_seen": b.eighths_seen,
                "steps": list(b.steps),
                "compactness": b.compactness,
                "solidity": b.solidity,
                "convexity": b.convexity,
                "cut": b.cut,
            },
            "colours": {
                "score": c.score,
                "present": list(c.present),
                "shares": dict(c.shares),
                "skin_like": c.skin_like,
                "skin_lab": None if c.skin is None else list(c.skin),
            },
            "size": {
                "diameter_px": self.diameter_px,
                "area_px": self.area_px,
                "area_share": self.area_share,
                "mm_per_pixel": self.mm_per_pixel,
                "diameter_mm": self.diameter_mm,
                "area_mm2": self.area_mm2,
            },
            "attention": dict(self.attention),
            "definitions": dict(DEFINITIONS),
        }

    def to_text(self) -> str:
        """In plain words, a line a measure."""
        if self.asymmetry is None or self.border is None or self.colours is None:
            return f"No lesion to describe: {self.reason}."
        a, b, c = self.asymmetry, self.border, self.colours
        worst = max(a.least, key=lambda axis: (axis.asymmetric, axis.shape / SHAPE_ABOVE + axis.colour / COLOUR_ABOVE))
        lines = [
            f"Asymmetry (A): {a.score} of 2 axes. About the worse axis {worst.shape:.0%} of the area and Delta E "
            f"{worst.colour:.1f} of colour do not match (asymmetric above {SHAPE_ABOVE:.0%} or {COLOUR_ABOVE:g}).",
            f"Border (B): the colour ends abruptly in {b.score} of {b.eighths_seen} eighths seen (Delta E above "
            f"{ABRUPT_ABOVE:g}). Outline: compactness {b.compactness:.2f} (a circle: 1), solidity {b.solidity:.2f}, "
            f"convexity {b.convexity:.2f}.",
            self._colour_text(c),
            self._size_text(),
        ]
        if self.attention:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in self.attention.items())
            lines.append(f"Attention inside the lesion, which is {self.area_share:.0%} of the picture: {shares}.")
        if b.cut > 0:
            lines.append(
                f"The picture's edge cuts the lesion ({b.cut:.0%} of its outline): shape and size are of the part seen."
            )
        return "\n".join([*lines, NO_TOTAL, BESIDE])

    @staticmethod
    def _colour_text(c: Colours) -> str:
        named = ", ".join(f"{name} {c.shares[name]:.0%}" for name in c.present)
        many = f"{c.score} of 6, each on more than {PRESENT_ABOVE:.0%} of the lesion: {named}"
        none = f"1 of 6, the rule's least; none covers more than {PRESENT_ABOVE:.0%} of the lesion"
        like = f"; {c.skin_like:.0%} of it is coloured as the skin around" if c.skin is not None else ""
        return f"Colours (C): {many if c.present else none}{like}."

    def _size_text(self) -> str:
        pixels = f"{self.diameter_px:.0f} pixels, area {self.area_px:.0f} pixels ({self.area_share:.1%} of the picture)"
        if self.diameter_mm is None or self.area_mm2 is None:
            return f"Size: largest diameter {pixels}; in millimetres not known, for want of a scale."
        return f"Size: largest diameter {self.diameter_mm:.1f} mm, area {self.area_mm2:.1f} square mm; {pixels}."


def describe_lesion(
    image: Image,
    lesion: LesionMask | Mask,
    *,
    mm_per_pixel: float | None = None,
    pixel: float = 1.0,
    attention: Mapping[str, float] | None = None,
) -> LesionDescription:
    """Describe the lesion of one image.

    Args:
        image: uint8 sRGB, (H, W, 3), its aspect as photographed: a squeezed picture has other shapes.
        lesion: The segmenter's answer, or a mask (H, W) of which the largest region counts.
        mm_per_pixel: Side of a pixel of the file in millimetres, where the scale is known.
        pixel: Side of a pixel of `image` in pixels of the file: above 1 where it was reduced when it was read.
        attention: Shares of the network's maps inside the lesion (`attention_shares`), shown beside.

    Raises:
        DataError: The scale is not a positive number.
        ImageError: The mask is of another shape than the image.
    """
    if mm_per_pixel is not None and not (math.isfinite(mm_per_pixel) and mm_per_pixel > 0):
        raise DataError(f"The scale {mm_per_pixel:g} mm per pixel is not a positive number.", "Give such as 0.02.")
    reason = "the mask is empty"
    if isinstance(lesion, LesionMask):
        mask = lesion.mask if lesion.found else np.zeros_like(lesion.mask)
        reason = lesion.reason or reason
    else:
        mask = largest_region(lesion)
    if mask.shape != image.shape[:2]:
        raise ImageError(
            f"The mask is {mask.shape[1]} x {mask.shape[0]}, its image {image.shape[1]} x {image.shape[0]}.",
            "Give the mask that belongs to the image, in its size.",
        )
    if not mask.any():
        return LesionDescription(False, reason, mm_per_pixel=mm_per_pixel)
    patch = lesion_patch(image, mask)
    return LesionDescription(
        True,
        "",
        measure_asymmetry(patch),
        measure_border(patch),
        measure_colours(patch),
        pixel * feret_diameter(mask)[0],
        pixel**2 * float(mask.sum()),
        float(mask.mean()),
        mm_per_pixel,
        dict(attention or {}),
    )


def attention_shares(classifier: Classifier, explanation: Explanation, mask: Mask) -> dict[str, float]:
    """Share of each of the network's maps inside a lesion.

    Args:
        classifier: What `explanation` came from.
        explanation: Its maps of the image.
        mask: The lesion in the image's own geometry, (H, W).

    Raises:
        DataError: The classifier looks at the lesion only.
    """
    check_whole_image(classifier)
    gray = np.where(mask, np.uint8(255), np.uint8(0))
    inside = fit_square(gray, explanation.image.shape[0], classifier.config.preprocess.geometry) > 127
    maps = {"class activation": explanation.cam, **explanation.attention, "blended": explanation.blended}
    return {name: attention_inside(values, inside) for name, values in maps.items()}


def _axis(axis: AxisAsymmetry) -> dict[str, Any]:
    return {"angle": axis.angle, "shape": axis.shape, "colour": axis.colour, "asymmetric": axis.asymmetric}
