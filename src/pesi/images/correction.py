"""Corrections of an image before the network sees it: hair removal and colour constancy; pure and deterministic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.errors import DataError
from pesi.images.transforms import Image, check_rgb, resize

Mask = NDArray[np.bool_]
CorrectionName = Literal["hair_removal", "shades_of_gray"]

CORRECTIONS: tuple[CorrectionName, ...] = get_args(CorrectionName)

_HAIR_SIDE = 512  # hair is looked for in a picture of at most this longer side; larger ones cost more and show no more
# As shares of the longer side. Lee et al. close with lines of 11 pixels in pictures of 512.
_CLOSING_LENGTH = 11 / 512
_HAIR_LENGTH = 1 / 15
_HAIR_CONTRAST = 12  # of 255, that a hair is darker than what lies on both sides of it
_ISOTROPY = 0.4  # of the depth across a hair, at most as much along it
_MINKOWSKI = 6.0  # Finlayson and Trezzi's best
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of linear sRGB, ITU-R BT.709


def correct(image: Image, names: Iterable[CorrectionName]) -> Image:
    """Apply corrections in the order given.

    Args:
        image: uint8 sRGB, (H, W, 3), any size.
        names: Of `CORRECTIONS`; none gives the image as it is.

    Raises:
        DataError: There is no correction of that name.
        ImageError: The array is no 8-bit RGB image.
    """
    check_rgb(image)
    for name in names:
        if name == "hair_removal":
            image = remove_hair(image)
        elif name == "shades_of_gray":
            image = shades_of_gray(image)
        else:
            raise DataError(f"Unknown correction {name!r}.", f"Choose among: {', '.join(CORRECTIONS)}.")
    return image


def remove_hair(image: Image) -> Image:
    """Replace dark hairs by what lies beside them; pixels without hair stay as they are.

    DullRazor (Lee et al., Computers in Biology and Medicine 27(6), 1997) with Telea's inpainting (J. Graphics Tools
    9(1), 2004) in place of its interpolation. Light hair is not found, nor hair about as dark as the lesion below it.

    Args:
        image: uint8 sRGB, (H, W, 3).
    """
    height, width = image.shape[:2]
    small = _at_most(image, _HAIR_SIDE)
    mask = _dark_lines(small)
    if not mask.any():
        return image.copy()
    filled = cv2.inpaint(small, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    if small.shape == image.shape:
        return np.asarray(filled, np.uint8)
    # The filled pixels are smooth: enlarging them loses nothing, and filling the large picture would take seconds.
    large = _enlarged(mask, height, width)
    result = image.copy()
    result[large] = resize(np.asarray(filled, np.uint8), height, width)[large]
    return result


def hair_mask(image: Image) -> Mask:
    """Where dark hairs lie in an image (H, W, 3), as (H, W)."""
    mask = _dark_lines(_at_most(image, _HAIR_SIDE))
    return mask if mask.shape == image.shape[:2] else _enlarged(mask, *image.shape[:2])


def shades_of_gray(image: Image) -> Image:
    """Divide the light's colour out, estimated by the Minkowski mean of order 6 of each channel.

    Finlayson and Trezzi (Color Imaging Conference, 2004); for dermoscopy Barata et al. (IEEE J. Biomedical and Health
    Informatics 19(3), 2015). Computed in linear light. The mean luminance stays, so that the exposure does.

    Args:
        image: uint8 sRGB, (H, W, 3).
    """
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    counts = np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
    shares = counts / counts.sum(1, keepdims=True)
    light = (shares @ linear**_MINKOWSKI) ** (1 / _MINKOWSKI)
    if light.min() <= 0:  # a channel that is black everywhere tells nothing of the light
        return image.copy()
    means = shares @ linear
    gains = (_LUMINANCE @ means) / (_LUMINANCE @ (means / light)) / light
    corrected = np.clip(gains[:, None] * linear, 0, 1)
    encoded = np.where(corrected <= 0.0031308, 12.92 * corrected, 1.055 * corrected ** (1 / 2.4) - 0.055)
    table = np.round(255 * encoded).astype(np.uint8)
    return np.stack([table[channel][image[..., channel]] for channel in range(3)], axis=-1)


def _at_most(image: Image, side: int) -> Image:
    """The image, made smaller where its longer side is above `side`."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(image)
    return resize(image, max(1, round(scale * image.shape[0])), max(1, round(scale * image.shape[1])))


def _enlarged(mask: Mask, height: int, width: int) -> Mask:
    grown = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown > 0.25)


def _dark_lines(image: Image) -> Mask:
    """Long thin structures darker than both of their sides, (H, W).

    The black-hat by a line across a hair fills the hair, by one along it leaves it: a hair is where the largest over
    all directions is deep and the least is not. Dots, globules and the knots of a pigment network are filled from every
    side. What then outlives an opening by long lines is long.
    """
    side = max(image.shape[:2])
    short, long = max(5, round(side * _CLOSING_LENGTH) | 1), max(7, round(side * _HAIR_LENGTH) | 1)
    across, along = np.zeros(image.shape[:2], np.uint8), np.full(image.shape[:2], 255, np.uint8)
    for kernel in _lines(short, 8):
        # Dark in every channel: a vessel is dark in green and blue only.
        red, green, blue = cv2.split(cv2.morphologyEx(image, cv2.MORPH_BLACKHAT, kernel))
        depth = np.minimum(np.minimum(red, green), blue).astype(np.uint8)
        across, along = np.maximum(across, depth), np.minimum(along, depth)
    dark = np.asarray((across > _HAIR_CONTRAST) & (along <= _ISOTROPY * across.astype(np.float32)), np.uint8)
    # Widened by a pixel, so that a slanted hair of one pixel's width holds a drawn line.
    wide = cv2.dilate(dark, np.ones((3, 3), np.uint8))
    hairs = np.zeros(dark.shape, np.bool_)
    for kernel in _lines(long, 12):
        hairs |= cv2.morphologyEx(wide, cv2.MORPH_OPEN, kernel) > 0
    return hairs


def _lines(length: int, directions: int) -> list[NDArray[np.uint8]]:
    """Line-shaped structuring elements of an odd length."""
    half = length // 2
    kernels = []
    for angle in np.arange(directions) * np.pi / directions:
        x, y = round(half * np.cos(angle)), round(half * np.sin(angle))
        kernel = np.zeros((length, length), np.uint8)
        cv2.line(kernel, (half - x, half - y), (half + x, half + y), [1.0])
        kernels.append(kernel)
    return kernels
