"""How a picture was taken and held: sharpness, noise, compression, light, rotation, distance."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from pesi.images.masks import Mask
from pesi.images.perturb.perturbation import Change, Perturbation, Perturbed
from pesi.images.transforms import Image

_MIRRORED = ", the mirrored border around it"

ImageChange = Callable[[Image, np.random.Generator], np.ndarray]  # gives (S, S, 3) uint8


def blurred(share: float) -> Change:
    """Gaussian blur; `share` of the side is the standard deviation."""
    return _everywhere(lambda image, rng: cv2.GaussianBlur(image, (0, 0), share * len(image)))


def noisy(deviation: float) -> Change:
    """Gaussian noise of a standard deviation in levels of 255, independent in each pixel and channel."""

    def change(image: Image, rng: np.random.Generator) -> Image:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(deviation)
        return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)

    return _everywhere(change)


def compressed(quality: int) -> Change:
    """Through a JPEG file of a quality 1..100."""

    def change(image: Image, rng: np.random.Generator) -> Image:
        _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])

    return _everywhere(change)


def lit(red: float, green: float, blue: float) -> Change:
    """Channels multiplied, as a light of another colour or strength does; 255 is the limit."""
    table = np.clip(np.round(np.arange(256)[:, None] * np.array([red, green, blue])), 0, 255).astype(np.uint8)
    return _everywhere(lambda image, rng: cv2.LUT(image, table[None]))


def rotated(degrees: float) -> Change:
    """Turned counter-clockwise about the centre; what comes in at the corners is the mirrored border."""

    def change(image: Image, rng: np.random.Generator) -> Image:
        if degrees % 90 == 0:
            return np.ascontiguousarray(np.rot90(image, round(degrees / 90)))
        return _warped(image, cv2.getRotationMatrix2D(_centre(image), degrees, 1.0))

    return _everywhere(change)


def scaled(factor: float) -> Change:
    """Enlarged about the centre; below 1 the mirrored border comes in."""

    def change(image: Image, rng: np.random.Generator) -> Image:
        # Averaged before it is made smaller: no aliasing that a camera would not show.
        soft = cv2.GaussianBlur(image, (0, 0), 0.5 * math.sqrt(1 / factor**2 - 1)) if factor < 0.9 else image
        return _warped(np.asarray(soft, np.uint8), cv2.getRotationMatrix2D(_centre(image), 0.0, factor))

    return _everywhere(change)


def _centre(image: Image) -> tuple[float, float]:
    return (image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2


def _warped(image: Image, matrix: np.ndarray) -> Image:
    size = (image.shape[1], image.shape[0])
    return np.asarray(
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )


def _everywhere(change: ImageChange) -> Change:
    """As a perturbation's change: no mask is needed and the whole picture changes."""

    def apply(image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed:
        return Perturbed(np.asarray(change(image, rng), np.uint8), np.ones(image.shape[:2], np.bool_))

    return apply


CAPTURE: tuple[Perturbation, ...] = (
    *(
        Perturbation(f"{word} blur", "capture", f"Out of focus: a Gaussian of {share:.1%} of the side.", blurred(share))
        for word, share in (("slight", 0.004), ("moderate", 0.010), ("strong", 0.020))
    ),
    *(
        Perturbation(f"{word} noise", "capture", f"Gaussian noise of {deviation:g} of 255 levels.", noisy(deviation))
        for word, deviation in (("slight", 5.0), ("moderate", 12.0), ("strong", 25.0))
    ),
    *(
        Perturbation(f"JPEG quality {quality}", "capture", f"Compressed at quality {quality}.", compressed(quality))
        for quality in (60, 30, 10)
    ),
    *(
        Perturbation(f"{word} light", "capture", f"Red and blue {text}.", lit(red, 1.0, blue))
        for word, text, red, blue in (
            ("slightly warm", "+6 % and -6 %", 1.06, 0.94),
            ("warm", "+15 % and -15 %", 1.15, 0.85),
            ("slightly cool", "-6 % and +6 %", 0.94, 1.06),
            ("cool", "-15 % and +15 %", 0.85, 1.15),
        )
    ),
    *(
        Perturbation(f"brightness {factor:.0%}", "capture", f"Every channel times {factor:g}.", lit(*(factor,) * 3))
        for factor in (0.6, 0.8, 1.2)
    ),
)

GEOMETRY: tuple[Perturbation, ...] = (
    *(
        Perturbation(f"rotated {degrees} degrees", "geometry", f"Turned by {degrees} degrees.", rotated(degrees))
        for degrees in (45, 90)
    ),
    *(
        Perturbation(
            f"scaled {factor:.0%}",
            "geometry",
            f"{factor:g} times as large{_MIRRORED if factor < 1 else ''}.",
            scaled(factor),
        )
        for factor in (0.67, 0.85, 1.2, 1.5)
    ),
)
