"""Skin tone around a lesion: the individual typology angle (ITA), and the group that it falls in.

ITA = arctan((L* - 50) / b*) * 180 / pi on CIELAB (A. Chardon, I. Cretois, C. Hourseau, Int. J. Cosmet. Sci. 13, 1991).
It was made for a colorimeter. A dermatoscope lights the skin with its own lamp, the camera balances the white by
itself, and the corners of a picture are darker than its middle: from a picture, ITA is a proxy of skin colour, good for
sorting pictures into groups and not for telling a person's skin type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.images.masks import Mask
from pesi.images.transforms import Image

# Group and the least ITA in degrees that belongs to it (S. Del Bino, F. Bernerd, Br. J. Dermatol. 169 Suppl. 3, 2013).
SKIN_TONES: tuple[tuple[str, float], ...] = (
    ("very light", 55.0),
    ("light", 41.0),
    ("intermediate", 28.0),
    ("tan", 10.0),
    ("brown", -30.0),
    ("dark", -math.inf),
)

# Shares of the picture's side.
_GAP = 0.04  # between the lesion's border and the ring: a border is drawn by hand, and skin beside a lesion is reddened
_RING = 0.30  # how far from the lesion skin is looked for: nearer than the corners, which are darker
_CORNER_RIM = 0.03  # around a black corner, where its shadow still falls
_LINE = 0.03  # a hair or a ruler's tick is narrower than this

# CIELAB units. Skin of ITA -60 degrees and b* 11 has L* 31; a black corner is below 15.
_BLACK = 18.0
_GLARE = 97.0  # L* of a specular highlight
_LINE_DEPTH = 5.0  # how much L* of a hair differs from the skin on both of its sides
_CHROMA = 50.0  # in 99 of 100 pictures of ISIC 2017 the skin's median is below 44; stickers reach 60 and more
_SPREAD = 4.0  # pixels further from the median than this many robust standard deviations are something else
_SMALLEST = 0.02  # of the picture: fewer pixels of skin give no answer


@dataclass(frozen=True)
class SkinTone:
    """The skin around one lesion.

    Attributes:
        ita: Individual typology angle, degrees; None where too little skin is visible.
        group: A name of `SKIN_TONES`, or None.
        area: Share of the picture whose pixels were taken for skin and measured, 0..1.
        reason: Why there is no angle; "" where there is one.
    """

    ita: float | None
    group: str | None
    area: float
    reason: str = ""


def ita_degrees(lightness: float, yellow: float) -> float:
    """Individual typology angle, degrees, from L* and b*.

    Raises:
        ValueError: b* is not positive: the colour is no skin's, and the angle would jump.
    """
    if yellow <= 0:
        raise ValueError(f"b* must be positive, not {yellow:g}.")
    return math.degrees(math.atan((lightness - 50) / yellow))


def skin_tone_group(ita: float) -> str:
    """The group of an angle in degrees; an angle on a border belongs to the darker group."""
    return next(name for name, above in SKIN_TONES if ita > above)


def skin_tone(image: Image, lesion: Mask) -> SkinTone:
    """Measure the skin around a lesion: the median L* and b* of a ring of skin.

    Left out are the lesion with a rim, black corners, thin dark or bright lines (hair, ruler), highlights, colours that
    skin does not have (ink, gel, stickers), and what is then still far from the median.

    Args:
        image: uint8 sRGB, (H, W, 3).
        lesion: Its mask, (H, W); at least one pixel.

    Raises:
        ValueError: The mask is empty or of another shape.
    """
    if lesion.shape != image.shape[:2]:
        raise ValueError(f"The mask is {lesion.shape}, the image {image.shape[:2]}.")
    if not lesion.any():
        raise ValueError("The mask is empty: where the lesion is not known, its skin is not either.")
    lab = np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)
    ring = _ring(lesion)
    surface = ring & _plain(lab[..., 0])
    skin = surface & _skin_coloured(lab)
    least = _SMALLEST * lesion.size
    # Where most of the surface has no skin's colour, the light is tinted, and the rest of it would be the wrong rest.
    if skin.sum() < max(least, surface.sum() / 2):
        full = ring.sum() < least
        shown = "the lesion fills the picture" if full else "most of what is around the lesion has no skin's colour"
        return SkinTone(None, None, float(skin.mean()), f"too little skin is visible: {shown}")
    values = _near_median(lab[skin])
    lightness, _, yellow = np.median(values, axis=0)
    angle = ita_degrees(float(lightness), float(yellow))
    return SkinTone(angle, skin_tone_group(angle), len(values) / lesion.size)


def _ring(lesion: Mask) -> Mask:
    """Pixels between the gap and the ring's outer border."""
    side = max(lesion.shape)
    distance = cv2.distanceTransform((~lesion).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray((distance > _GAP * side) & (distance <= _RING * side))


def _plain(lightness: NDArray[np.float32]) -> Mask:
    """Pixels (H, W) that are in no black corner, no thin dark or bright line and no highlight, by their L*."""
    side = max(lightness.shape)
    dark = (lightness < _BLACK).astype(np.uint8)
    _, regions = cv2.connectedComponents(dark, connectivity=8)
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    corners = (dark > 0) & np.isin(regions, edge)
    shaded = cv2.dilate(corners.astype(np.uint8), _disc(_CORNER_RIM * side)) > 0
    disc = _disc(_LINE * side / 2)
    lines = np.maximum(
        cv2.morphologyEx(lightness, cv2.MORPH_BLACKHAT, disc), cv2.morphologyEx(lightness, cv2.MORPH_TOPHAT, disc)
    )
    return np.asarray(~shaded & (lightness >= _BLACK) & (lightness <= _GLARE) & (lines < _LINE_DEPTH))


def _skin_coloured(lab: NDArray[np.float32]) -> Mask:
    """Pixels (H, W) that are yellow rather than blue, red rather than green, and not glaring."""
    red, yellow = lab[..., 1], lab[..., 2]
    return np.asarray((red > -2) & (yellow > 0) & (np.hypot(red, yellow) < _CHROMA))


def _disc(radius: float) -> NDArray[np.uint8]:
    width = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)), np.uint8)


def _near_median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of (P, 3) that lie near the median in every channel; at least half a unit of spread is assumed."""
    centre = np.median(values, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(values - centre), axis=0), 0.5)
    return np.asarray(values[(np.abs(values - centre) <= _SPREAD * spread).all(1)])
