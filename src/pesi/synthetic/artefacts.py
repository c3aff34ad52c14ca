"""What lies on the skin or the lens beside the lesion: hair, ruler, gel, ink, patches, dark corners.

Names and rates are those of the artefact annotations of 2594 images of ISIC 2018, task 1 (Bissoto et al., CVPR-W 2020).
Whether and where is drawn without looking at the lesion, so that no artefact can tell the diagnosis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.synthetic.noise import Field, Mask, pixel_grid, smooth_noise, soft_step

RATES: dict[str, float] = {
    "dark_corner": 0.37,
    "hair": 0.58,
    "gel_border": 0.26,
    "gel_bubble": 0.49,
    "ruler": 0.49,
    "ink": 0.17,
    "patches": 0.07,
}
"""Share of the images that show each artefact."""

_SHIFT = 4
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Artefacts:
    """What was drawn: which artefacts there are, and the seeds of their textures."""

    present: tuple[str, ...]
    texture_seed: int


def draw_artefacts(rng: np.random.Generator) -> Artefacts:
    """Draw which artefacts there are; nothing about the lesion or the skin goes in."""
    present = tuple(name for name, rate in RATES.items() if rng.random() < rate)
    return Artefacts(present, int(rng.integers(2**63)))


def _blend(image: Field, opacity: Field, colour: NDArray[np.float32]) -> None:
    image += opacity[..., None] * (colour - image)


def _layer(size: int) -> NDArray[np.uint8]:
    return np.zeros((size, size), np.uint8)


def _unit(layer: NDArray[np.uint8]) -> Field:
    return layer.astype(np.float32) * np.float32(1.0 / 255.0)


def _distance(size: int, centre_x: float, centre_y: float) -> Field:
    x, y = pixel_grid(size)
    distance = cv2.magnitude(x - np.float32(centre_x), y - np.float32(centre_y))
    return np.asarray(distance, dtype=np.float32)


def _nodes(points: NDArray[np.floating], size: int) -> NDArray[np.int32]:
    """Points in picture sides as OpenCV's fixed-point polyline."""
    return np.round(points * size * _ONE).astype(np.int32).reshape(-1, 1, 2)


def _draw_curve(layer: NDArray[np.uint8], points: NDArray[np.floating], thickness: int, value: int = 255) -> None:
    cv2.polylines(layer, [_nodes(points, len(layer))], False, value, thickness, cv2.LINE_AA, _SHIFT)


def _hair(image: Field, rng: np.random.Generator) -> Mask:
    """Terminal hairs (few, long, dark) or vellus (many, short, fine), roughly along one direction."""
    size, layer = len(image), _layer(len(image))
    terminal = rng.random() < 0.6
    count = int(rng.integers(3, 22)) if terminal else int(rng.integers(10, 45))
    direction, scatter = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.15, 0.8)
    t = np.linspace(0.0, 1.0, 12)[:, None]
    for _ in range(count):
        start = rng.uniform(-0.1, 1.1, 2)
        angle = direction + rng.normal(0.0, scatter)
        length = rng.uniform(0.25, 0.9) if terminal else rng.uniform(0.05, 0.2)
        middle = start + 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
        bend = angle + rng.normal(0.0, 0.5)
        end = middle + 0.5 * length * np.array([np.cos(bend), np.sin(bend)])
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        thickness = max(1, round((rng.uniform(0.003, 0.0065) if terminal else 0.003) * size))
        _draw_curve(layer, points, thickness, int(rng.integers(170, 256)))
    tone = rng.uniform(0.06, 0.3)
    opacity = _unit(layer) * np.float32(0.92)
    _blend(image, opacity, np.array([tone * 1.15, tone * 0.9, tone * 0.75], np.float32))
    return opacity > 0.35


def _ruler(image: Field, rng: np.random.Generator) -> Mask:
    """A printed scale: a line with a tick each millimetre and a longer one each fifth, near one side."""
    size, layer = len(image), _layer(len(image))
    side = int(rng.integers(4))
    tilt = rng.normal(0.0, 0.12)
    length, away = rng.uniform(0.35, 0.6), rng.uniform(0.40, 0.45)
    angle = side * np.pi / 2.0 + tilt
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([np.sin(angle), -np.cos(angle)])
    middle = np.array([0.5, 0.5]) + away * np.array([np.sin(side * np.pi / 2), -np.cos(side * np.pi / 2)])
    middle = middle + rng.uniform(-0.12, 0.12) * along
    _draw_curve(
        layer, np.stack([middle - length / 2 * along, middle + length / 2 * along]), max(1, round(0.004 * size))
    )
    for tick in range(11):
        foot = middle + (tick / 10.0 - 0.5) * length * along
        height = 0.034 if tick % 5 == 0 else 0.02
        _draw_curve(layer, np.stack([foot, foot - height * across]), max(1, round(0.003 * size)))
    tone = np.float32(rng.uniform(0.08, 0.35))
    opacity = _unit(layer) * np.float32(0.85)
    _blend(image, opacity, np.full(3, tone, np.float32))
    return opacity > 0.3


def _gel_bubble(image: Field, rng: np.random.Generator) -> Mask:
    """Air in the immersion gel: small rings, bright within, dark at one side of the rim, with a highlight."""
    size = len(image)
    bright, dark, whole = _layer(size), _layer(size), _layer(size)
    for _ in range(int(rng.integers(2, 14))):
        x, y = rng.uniform(0.0, 1.0, 2) * size
        radius = rng.lognormal(np.log(0.014), 0.45) * size
        centre, extent = (round(x * _ONE), round(y * _ONE)), max(round(radius * _ONE), _ONE)
        thin = max(1, round(0.004 * size))
        cv2.circle(whole, centre, extent, 255, -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(bright, centre, extent, 60, -1, cv2.LINE_AA, _SHIFT)
        cv2.ellipse(dark, centre, (extent, extent), 0, 20, 160, 150, thin, cv2.LINE_AA, _SHIFT)
        cv2.ellipse(bright, centre, (extent, extent), 0, 190, 350, 190, thin, cv2.LINE_AA, _SHIFT)
        spark = (round((x - 0.3 * radius) * _ONE), round((y - 0.3 * radius) * _ONE))
        cv2.circle(bright, spark, max(extent // 5, 8), 250, -1, cv2.LINE_AA, _SHIFT)
    _blend(image, _unit(dark) * np.float32(0.6), np.array([0.3, 0.22, 0.2], np.float32))
    _blend(image, _unit(bright) * np.float32(0.85), np.array([1.0, 0.98, 0.96], np.float32))
    return whole > 127


def _gel_border(image: Field, rng: np.random.Generator) -> Mask:
    """The rim of the gel: a bright wavy line with a shadow, cutting off one side of the picture."""
    size = len(image)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    radius = rng.uniform(0.7, 1.4)
    reach = rng.uniform(0.40, 0.48)
    away = reach - radius  # of the circle's centre from the picture's
    distance = _distance(size, 0.5 + away * np.cos(angle), 0.5 + away * np.sin(angle)) - np.float32(radius)
    distance = distance + np.float32(0.006) * smooth_noise(rng, size, 8)
    line = np.exp(-((distance / np.float32(0.007)) ** 2)).astype(np.float32)
    shadow = np.exp(-(((distance - 0.018) / np.float32(0.012)) ** 2)).astype(np.float32)
    glint = np.clip(0.4 + 0.3 * smooth_noise(rng, size, 12), 0.05, 0.9)
    _blend(image, shadow * np.float32(0.25), np.array([0.3, 0.24, 0.22], np.float32))
    _blend(image, line * glint, np.array([1.0, 0.97, 0.94], np.float32))
    return np.asarray(np.abs(distance) < 0.014, dtype=np.bool_)


def _ink(image: Field, rng: np.random.Generator) -> Mask:
    """Violet or blue skin marker: a broad, patchy stroke or two near the edge."""
    size, layer = len(image), _layer(len(image))
    t = np.linspace(0.0, 1.0, 14)[:, None]
    for _ in range(int(rng.integers(1, 3))):
        angle = rng.uniform(0.0, 2.0 * np.pi)
        out = np.array([np.cos(angle), np.sin(angle)])
        along = np.array([-out[1], out[0]])
        middle = 0.5 + rng.uniform(0.42, 0.52) * out
        length = rng.uniform(0.15, 0.4)
        points = middle + (t - 0.5) * length * along - (4.0 * (t - 0.5) ** 2) * 0.05 * rng.uniform(-1, 1) * out
        points = points + rng.normal(0.0, 0.006, points.shape)
        _draw_curve(layer, points, max(2, round(rng.uniform(0.025, 0.06) * size)))
    patchy = np.clip(0.55 + 0.35 * smooth_noise(rng, size, 40, octaves=2), 0.0, 0.9)
    stroke = cv2.GaussianBlur(_unit(layer), (0, 0), 0.006 * size).astype(np.float32, copy=False)
    colour = np.array([0.34, 0.16, 0.55], np.float32) if rng.random() < 0.75 else np.array([0.12, 0.2, 0.5], np.float32)
    _blend(image, stroke * patchy, colour)
    return stroke > 0.4


def _patches(image: Field, rng: np.random.Generator) -> Mask:
    """A coloured calibration sticker that reaches in from the edge."""
    size = len(image)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    radius = rng.uniform(0.16, 0.26)
    reach = rng.uniform(0.55, 0.62)
    distance = _distance(size, 0.5 + reach * np.cos(angle), 0.5 + reach * np.sin(angle))
    opacity = soft_step(-distance, -radius - 0.004, -radius + 0.004)
    colours = (
        (0.08, 0.55, 0.85),
        (0.1, 0.3, 0.75),
        (0.95, 0.75, 0.15),
        (0.15, 0.6, 0.4),
        (0.85, 0.4, 0.2),
        (0.9, 0.9, 0.92),
    )
    colour = np.array(colours[int(rng.integers(len(colours)))], np.float32)
    weave = 1.0 + np.float32(0.05) * smooth_noise(rng, size, size)
    image += opacity[..., None] * (colour * weave[..., None] - image)
    return opacity > 0.5


def _dark_corner(image: Field, rng: np.random.Generator) -> Mask:
    """The dermatoscope's tube: black outside of a circle about the picture's centre."""
    size = len(image)
    shift_x, shift_y = rng.normal(0.0, 0.012, 2)
    radius, softness = rng.uniform(0.51, 0.62), rng.uniform(0.01, 0.07)
    distance = _distance(size, 0.5 + shift_x, 0.5 + shift_y)
    opacity = soft_step(distance, float(radius - softness / 2), float(radius + softness))
    _blend(image, opacity, np.full(3, rng.uniform(0.01, 0.06), np.float32))
    return opacity > 0.5


# From the skin up to the lens.
_PAINTERS: dict[str, Callable[[Field, np.random.Generator], Mask]] = {
    "ink": _ink,
    "hair": _hair,
    "patches": _patches,
    "gel_border": _gel_border,
    "gel_bubble": _gel_bubble,
    "ruler": _ruler,
    "dark_corner": _dark_corner,
}


def render_artefacts(artefacts: Artefacts, image: Field) -> dict[str, Mask]:
    """Paint the artefacts onto `image` (S, S, 3), in place.

    Returns:
        The mask (S, S) of each that can be seen; under the dark corners nothing else is counted.
    """
    masks: dict[str, Mask] = {}
    for name, paint in _PAINTERS.items():
        if name in artefacts.present:
            masks[name] = paint(image, np.random.default_rng([artefacts.texture_seed, list(RATES).index(name)]))
    dark = masks.get("dark_corner")
    return {
        name: mask
        for name in RATES
        if name in masks
        and (mask := masks[name] if dark is None or name == "dark_corner" else masks[name] & ~dark).any()
    }
