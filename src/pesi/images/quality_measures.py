"""What is measured of an image's quality: sharpness, light, compression, and how much of the lesion is in view.

Everything is measured on a copy of a stated side, so that a 256 px thumbnail and a 6000 px photograph of the same thing
get the same answer.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.images.masks import Mask
from pesi.images.transforms import Image, check_rgb, halved, resize

SIDE = 256  # pixels of the shorter side of the copy that is measured
_LONGEST = 16 * SIDE  # of its longer side: a line of a thousand pixels would become one of a quarter of a million

_MEAN_TO_SD = (
    float(np.sqrt(np.pi / 2)) / 6
)  # from the mean absolute response of Immerkaer's mask to a noise's deviation
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_FINE_GAIN = (1 + 1 / 4 - 8 / 10) / (4 * np.pi)  # variance of white noise of 1 in G(1) - G(2); a quarter in G(2) - G(4)
_DARK = 25.0  # of 255: what is darker in a smoothed picture lies outside of the dermoscope's field
_BLOCKS_UP_TO = 4 * SIDE  # pixels of the shorter side: beyond, a block of 8 is below 2 in the copy
_FIELD = 0.8  # share of the sides of the ellipse in which exposure is measured: dark corners lie outside


class QualityMeasures(NamedTuple):
    """What is measured in one image.

    Attributes:
        short_side: Pixels of the shorter side, as the image came.
        sharpness: See `sharpness`.
        brightness: Mean luminance in the middle ellipse, 0..1.
        burnt: Share of pixels in the middle ellipse with every channel at 250 or more of 255.
        blocks: See `blockiness`.
        lesion_area: Share of the picture that the lesion covers; None where no mask was given.
        cut_share: See `cut_share`; None where no mask was given or it is empty.
    """

    short_side: int
    sharpness: float
    brightness: float
    burnt: float
    blocks: float
    lesion_area: float | None
    cut_share: float | None


def measured_copy(image: Image) -> Image:
    """The image (H, W, 3) with its shorter side brought to `SIDE` pixels, its shape kept up to 16 : 1."""
    height, width = measured_shape(*image.shape[:2])
    return resize(halved(image, 2 * height, 2 * width), height, width)


def measured_shape(height: int, width: int) -> tuple[int, int]:
    """Height and width of the copy of an image of these sides."""
    scale = SIDE / min(height, width)
    return min(round(height * scale), _LONGEST), min(round(width * scale), _LONGEST)


def sharpness(copy: Image) -> float:
    """How much fine detail a picture has for its coarser detail; about 0.8 for a sharp one, 0.5 for a blurred one.

    The ratio of the deviations of two bands of the luminance, G(1) - G(2) over G(2) - G(4) (G(s): Gaussian of s pixels
    at a short side of 256). A ratio does not change with contrast. White noise is estimated (Immerkaer, Computer Vision
    and Image Understanding 64(2), 1996, in the quietest fifth of the picture's parts) and taken off both, so that a
    noisy picture does not pass for a sharp one. Pixels outside of the dermoscope's field are left out.

    Args:
        copy: Of `measured_copy`.

    Returns:
        0 where there is no detail at all.
    """
    gray = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = {sigma: cv2.GaussianBlur(gray, (0, 0), sigma) for sigma in (1, 2, 4)}
    lit = cv2.erode((smooth[2] > _DARK).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    if lit.mean() < 0.05:
        lit[:] = True
    response = cv2.blur(np.abs(cv2.filter2D(gray, -1, _IMMERKAER)), (32, 32))[16::32, 16::32]
    noise = _MEAN_TO_SD * float(np.quantile(response, 0.2))
    fine, coarse = (
        float(np.mean((smooth[a] - smooth[b])[lit] ** 2)) - gain * noise**2
        for a, b, gain in ((1, 2, _FINE_GAIN), (2, 4, _FINE_GAIN / 4))
    )
    return float(np.sqrt(max(fine, 0) / coarse)) if coarse > 1e-6 else 0.0


def blockiness(image: Image) -> float:
    """How much stronger the steps at JPEG's 8-pixel grid are than elsewhere: 1 without blocks, 3 at quality 10.

    Seen only in files as they were compressed: once a picture has been scaled, its blocks lie elsewhere. In large files
    blocks vanish when they are scaled to what a network sees, and the answer is 1.
    """
    if min(image.shape[:2]) > _BLOCKS_UP_TO or min(image.shape[:2]) < 16:
        return 1.0
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    ratios = []
    for axis, steps in enumerate((cv2.absdiff(gray[:, 1:], gray[:, :-1]), cv2.absdiff(gray[1:], gray[:-1]))):
        steps = cv2.reduce(steps, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() / steps.shape[axis]
        grid = np.arange(len(steps)) % 8 == 7
        ratios.append((steps[grid].mean() + 0.5) / (steps[~grid].mean() + 0.5))
    return float(np.mean(ratios))


def cut_share(mask: Mask) -> float | None:
    """Share of a lesion's outline (H, W) that lies on the picture's edge, 0..1; None where there is no lesion."""
    if not mask.any():
        return None
    framed = np.pad(mask, 1)
    # Sides of pixels between lesion and not; those to the added frame are cut by the picture's edge.
    inner = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    every = int((framed[1:] != framed[:-1]).sum() + (framed[:, 1:] != framed[:, :-1]).sum())
    return (every - inner) / every


def measure_quality(image: Image, *, mask: Mask | None = None, short_side: int | None = None) -> QualityMeasures:
    """Measure one image.

    Args:
        image: uint8 sRGB, (H, W, 3), any size.
        mask: The lesion's, (H, W) or any other size of the same shape, such as `measured_shape`; empty where none was
            found, None where nobody looked.
        short_side: Of the file, where the image is a reduced copy of it; default the image's.

    Raises:
        ImageError: The array is none of that kind.
    """
    check_rgb(image)
    copy = measured_copy(image)
    field = _ellipse(copy.shape[0], copy.shape[1])
    gray = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY)
    return QualityMeasures(
        short_side or min(image.shape[:2]),
        sharpness(copy),
        float(gray[field].mean()) / 255,
        float(cv2.inRange(copy, np.full(3, 250), np.full(3, 255))[field].mean()) / 255,
        blockiness(image),
        None if mask is None else float(mask.mean()),
        None if mask is None else cut_share(mask),
    )


@lru_cache(maxsize=16)
def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(
        ((y - (height - 1) / 2) / (_FIELD * height / 2)) ** 2 + ((x - (width - 1) / 2) / (_FIELD * width / 2)) ** 2 <= 1
    )
