"""Pictures varied as sources differ: light, tone curve, sharpness, compression, fall-off towards the corners.

What a network learns from one archive's cameras should hold for another's. Lens and light change a picture in this
order; the ranges are wider than one clinic's and narrower than what the quality gate refuses.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (H, W, 3), sRGB

GAIN = 0.08  # standard deviation of the logarithm of each channel's gain, brightness kept
GAMMA = 0.25  # largest logarithm of the exponent, up or down
BLUR, SHARPEN = 0.012, 0.8  # largest: of a Gaussian's deviation as a share of the side; of an unsharp mask's amount
QUALITY = (40, 95)  # of JPEG
FALL_OFF = 0.5  # largest share of the light that the corners lose


class Camera(NamedTuple):
    """One camera, drawn.

    Attributes:
        gains: Of red, green and blue; their mean is 1.
        gamma: Exponent of the tone curve.
        softness: Above 0 a blur, as a share of the side; below 0 an unsharp mask of that amount.
        quality: Of JPEG; 0: not compressed.
        fall_off: Share of the light that the corners lose.
    """

    gains: tuple[float, float, float]
    gamma: float
    softness: float
    quality: int
    fall_off: float


def draw_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera: always a light and a tone curve; softness, compression and fall-off less often than not."""
    gains = np.exp(rng.normal(0, GAIN, 3))
    gamma = float(np.exp(rng.uniform(-GAMMA, GAMMA)))
    kind, amount = rng.random(), float(rng.random())
    softness = BLUR * amount if kind < 0.3 else -SHARPEN * amount if kind < 0.5 else 0.0
    quality = int(rng.integers(*QUALITY, endpoint=True)) if rng.random() < 0.4 else 0
    fall_off = FALL_OFF * float(rng.random()) if rng.random() < 0.3 else 0.0
    red, green, blue = (float(gain) for gain in gains / gains.mean())
    return Camera((red, green, blue), gamma, softness, quality, fall_off)


def taken_by(picture: Picture, camera: Camera) -> Picture:
    """The picture as that camera gives it, of the same size."""
    side = picture.shape[0]
    if camera.fall_off:
        y, x = (np.linspace(-1, 1, count, dtype=np.float32) for count in picture.shape[:2])
        light = 1 - np.float32(camera.fall_off / 2) * (y[:, None] ** 2 + x[None] ** 2)
        picture = (picture * light[..., None]).astype(np.uint8)
    levels = np.linspace(0, 1, 256)[:, None] * np.array(camera.gains)
    table = np.round(255 * np.clip(levels, 0, 1) ** camera.gamma).astype(np.uint8)
    picture = np.asarray(cv2.LUT(picture, table[None]), np.uint8)
    if camera.softness > 0:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), max(camera.softness * side, 0.1)), np.uint8)
    elif camera.softness < 0:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
        picture = np.asarray(cv2.addWeighted(picture, 1 - camera.softness, soft, camera.softness, 0), np.uint8)
    if camera.quality:
        _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.quality])
        picture = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])
    return picture
