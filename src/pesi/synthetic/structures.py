"""The dermoscopic criteria, each painted on a canvas with the mask of where it stands.

Descriptions follow pattern analysis (Pehamberger et al., J Am Acad Dermatol 1987;17:571), the 7-point checklist
(Argenziano et al., Arch Dermatol 1998;134:1563), the consensus net meeting (Argenziano et al., J Am Acad Dermatol
2003;48:679) and, for seborrheic keratosis, Braun et al., Arch Dermatol 2002;138:1556.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pesi.synthetic.canvas import Canvas, blob, places
from pesi.synthetic.lesion import CRITERIA, Lesion
from pesi.synthetic.noise import Field, Mask, hexagonal_lines, smooth_noise, soft_step

_SHIFT = 4  # OpenCV draws at 1/16 pixel
_ONE = 1 << _SHIFT


def _disc(layer: cv2.typing.MatLike, x: float, y: float, radius: float, value: int = 255) -> None:
    cv2.circle(layer, (round(x * _ONE), round(y * _ONE)), max(round(radius * _ONE), 8), value, -1, cv2.LINE_AA, _SHIFT)


def _curve(layer: cv2.typing.MatLike, points: cv2.typing.MatLike, thickness: float, value: int = 255) -> None:
    nodes = np.round(points * _ONE).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(layer, [nodes], False, value, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)


def _unit(layer: cv2.typing.MatLike) -> Field:
    return layer.astype(np.float32) * np.float32(1.0 / 255.0)


def _typical_network(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """A regular brown mesh of even lines and holes that thins out towards the edge."""
    lines = hexagonal_lines(rng, canvas.size, pitch=float(rng.uniform(0.032, 0.042)), warp=0.34)
    lines *= np.clip(0.85 + 0.22 * smooth_noise(rng, canvas.size, 14), 0.3, 1.3)
    weight = soft_step(canvas.depth, 0.0, 0.4)
    canvas.melanin += weight * (np.float32(rng.uniform(0.35, 0.6)) * lines - np.float32(0.14))
    return weight > 0.3


def _atypical_network(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """An irregular mesh: thick dark lines, holes of many sizes, here and missing there, ending abruptly."""
    lines = hexagonal_lines(rng, canvas.size, pitch=float(rng.uniform(0.046, 0.062)), warp=0.75, width=1.15)
    thickness = np.clip(0.75 + 0.4 * smooth_noise(rng, canvas.size, 6), 0.2, 1.5)
    patch = blob(canvas, rng, share=float(rng.uniform(0.35, 0.7)), offset=float(rng.uniform(0.3, 0.7)))
    canvas.melanin += patch * (np.float32(rng.uniform(0.8, 1.2)) * lines * thickness - np.float32(0.2))
    return patch > 0.5


def _regular_globules(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Round brown bodies of one size, evenly spread: over all of the lesion (cobblestone) or along its rim."""
    lesion, layer = canvas.lesion, canvas.ink()
    pitch = float(rng.uniform(0.048, 0.06)) * canvas.size
    radius = float(rng.uniform(0.26, 0.34)) * pitch
    count = int(np.ceil(canvas.size / pitch)) + 2
    rim = "typical_network" in lesion.criteria or rng.random() < 0.3
    turn = rng.uniform(0.0, np.pi)
    for row in range(-count, count):
        for column in range(-count, count):
            u = (column + 0.5 * (row % 2)) * pitch + rng.normal(0.0, 0.11) * pitch
            v = row * pitch * 0.866 + rng.normal(0.0, 0.11) * pitch
            x = lesion.centre[0] * canvas.size + u * np.cos(turn) - v * np.sin(turn)
            y = lesion.centre[1] * canvas.size + u * np.sin(turn) + v * np.cos(turn)
            if 0 <= x < canvas.size and 0 <= y < canvas.size:
                depth = canvas.depth[int(y), int(x)]
                if depth > 0.15 and not (rim and depth > 0.42):
                    _disc(layer, x, y, radius * rng.uniform(0.85, 1.15), int(rng.integers(190, 256)))
    discs = _unit(layer)
    soft = cv2.GaussianBlur(discs, (0, 0), 0.0035 * canvas.size).astype(np.float32, copy=False)
    canvas.melanin += np.float32(rng.uniform(0.4, 0.7)) * soft
    return discs > 0.5


def _irregular_globules(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Dots and globules of many sizes, brown to black, crowded in one part of the lesion."""
    layer, size = canvas.ink(), canvas.size
    points = places(canvas, rng, int(rng.integers(60, 130)))
    towards = rng.uniform(0.0, 2.0 * np.pi)
    for x, y in points:
        along = ((x / size - canvas.lesion.centre[0]) * np.cos(towards)) + (
            (y / size - canvas.lesion.centre[1]) * np.sin(towards)
        )
        if rng.random() < 1.0 / (1.0 + np.exp(-6.0 * along / canvas.lesion.radius)):
            radius = float(np.clip(rng.lognormal(np.log(0.0095), 0.45), 0.005, 0.024)) * size
            _disc(layer, float(x), float(y), radius, int(rng.integers(130, 256)))
    discs = _unit(layer)
    canvas.melanin += np.float32(rng.uniform(1.1, 1.7)) * discs
    return discs > 0.4


def _irregular_streaks(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Radial streaming and pseudopods: finger-like dark lines off one part of the border, some with a bulb."""
    lesion, layer, size = canvas.lesion, canvas.ink(), canvas.size
    outline = lesion.outline()
    middle, spread = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.5, 1.2)
    for angle in np.linspace(middle - spread, middle + spread, int(rng.integers(9, 20))):
        angle = float(angle + rng.normal(0.0, 0.07))
        edge = float(outline[int(angle / (2.0 * np.pi) * len(outline)) % len(outline)])
        inner, outer = edge - 0.16 * lesion.radius, edge + float(rng.uniform(0.05, 0.22)) * lesion.radius
        bend = float(rng.normal(0.0, 0.06))
        radii = np.linspace(inner, outer, 5)
        angles = angle + bend * np.linspace(0.0, 1.0, 5) ** 2
        points = np.stack(
            [(lesion.centre[0] + radii * np.cos(angles)) * size, (lesion.centre[1] + radii * np.sin(angles)) * size],
            axis=1,
        )
        _curve(layer, points, float(rng.uniform(0.006, 0.014)) * size)
        if rng.random() < 0.4:
            _disc(layer, points[-1, 0], points[-1, 1], float(rng.uniform(0.007, 0.012)) * size)
    fingers = cv2.GaussianBlur(_unit(layer), (0, 0), 0.003 * size).astype(np.float32, copy=False)
    canvas.mask |= fingers > 0.5
    canvas.melanin = np.maximum(canvas.melanin, np.float32(rng.uniform(1.2, 1.8)) * fingers)
    return fingers > 0.5


def _irregular_blotches(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """A black structureless area off the centre."""
    area = blob(canvas, rng, share=float(rng.uniform(0.12, 0.26)), offset=float(rng.uniform(0.35, 0.65)), softness=0.14)
    canvas.melanin += np.float32(rng.uniform(1.2, 1.9)) * area
    return area > 0.5


def _blue_white_veil(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """A confluent structureless blue area under a whitish ground-glass film."""
    area = blob(canvas, rng, share=float(rng.uniform(0.15, 0.35)), offset=float(rng.uniform(0.1, 0.5)), softness=0.3)
    film = np.clip(0.78 + 0.1 * smooth_noise(rng, canvas.size, 8, octaves=2), 0.4, 0.95)
    tint = float(rng.uniform(0.9, 1.15))
    canvas.overlays.append((area * film * np.float32(0.9), (0.42 * tint, 0.56 * tint, 0.78 * tint), False))
    return area > 0.5


def _regression(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """A white scar-like area, lighter than the skin around, peppered with fine blue-grey dots."""
    area = blob(canvas, rng, share=float(rng.uniform(0.12, 0.28)), offset=float(rng.uniform(0.4, 0.75)), softness=0.2)
    canvas.overlays.append((area * np.float32(rng.uniform(0.7, 0.85)), (1.08, 1.08, 1.12), False))
    layer = canvas.ink()
    for x, y in places(canvas, rng, 160):
        if area[y, x] > 0.4:
            _disc(layer, float(x), float(y), 0.0045 * canvas.size)
    canvas.overlays.append((_unit(layer) * np.float32(0.65), (0.5, 0.55, 0.68), False))
    return area > 0.5


def _vessels(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Dotted and linear irregular vessels in melanoma, hairpins in seborrheic keratosis, commas in nevi."""
    layer, size, kind = canvas.ink(), canvas.size, canvas.lesion.diagnosis
    for x, y in places(canvas, rng, int(rng.integers(14, 30)), depth=0.2):
        angle, length = rng.uniform(0.0, 2.0 * np.pi), float(rng.uniform(0.02, 0.04)) * size
        t = np.linspace(-1.0, 1.0, 9)
        if kind == "SK":
            along, across = length * 0.7 * t**2, length * 0.28 * t
        elif kind == "NV":
            along, across = length * 0.6 * t, length * 0.3 * t**2
        elif rng.random() < 0.5:
            _disc(layer, float(x), float(y), 0.006 * size)
            continue
        else:
            along, across = length * t, 0.18 * length * np.sin(rng.uniform(2.0, 5.0) * t)
        points = np.stack(
            [x + along * np.cos(angle) - across * np.sin(angle), y + along * np.sin(angle) + across * np.cos(angle)],
            axis=1,
        )
        _curve(layer, points, 0.006 * size)
    lines = _unit(layer) * (canvas.depth > 0.05)
    canvas.blood += np.float32(0.75) * lines
    canvas.melanin *= 1.0 - np.float32(0.35) * lines
    return lines > 0.3


def _milia_like_cysts(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Round white to yellowish bright bodies, a few large (cloudy) among many small (starry)."""
    layer = canvas.ink()
    for x, y in places(canvas, rng, int(rng.integers(9, 26)), depth=0.15):
        large = rng.random() < 0.3
        radius = float(rng.uniform(0.013, 0.02) if large else rng.uniform(0.007, 0.011)) * canvas.size
        _disc(layer, float(x), float(y), radius, int(rng.integers(190, 256)))
    discs = _unit(layer)
    soft = cv2.GaussianBlur(discs, (0, 0), 0.004 * canvas.size).astype(np.float32, copy=False)
    canvas.overlays.append((soft * np.float32(0.85), (1.18, 1.2, 1.14), False))
    return discs > 0.5


def _comedo_like_openings(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Keratin plugs in dilated openings: brown-black, roundish, sharply bordered."""
    layer = canvas.ink()
    for x, y in places(canvas, rng, int(rng.integers(8, 22)), depth=0.12):
        long = float(rng.uniform(0.011, 0.022)) * canvas.size
        axes = (round(long * _ONE), round(long * float(rng.uniform(0.6, 1.0)) * _ONE))
        turn = float(rng.uniform(0.0, 180.0))
        cv2.ellipse(layer, (int(x) * _ONE, int(y) * _ONE), axes, turn, 0, 360, 255, -1, cv2.LINE_AA, _SHIFT)
    plugs = _unit(layer)
    canvas.overlays.append((plugs * np.float32(0.88), (0.3, 0.2, 0.14), False))
    return plugs > 0.5


def _cerebriform_ridges(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Gyri and sulci like a brain's: winding raised ridges with dark fissures between them."""
    waves = smooth_noise(rng, canvas.size, float(rng.uniform(16.0, 22.0)))
    fissures = np.exp(-((waves / np.float32(0.28)) ** 2)).astype(np.float32)
    area = soft_step(canvas.depth, 0.03, 0.15)
    canvas.melanin += area * (np.float32(rng.uniform(0.5, 0.8)) * fissures - np.float32(0.15))
    slope = cv2.Sobel(np.abs(waves), cv2.CV_32F, 1, 1, ksize=3).astype(np.float32, copy=False)
    relief = np.clip(slope * np.float32(0.02 * canvas.size / 256.0), -0.15, 0.15)
    canvas.shading = (np.float32(1.0) if canvas.shading is None else canvas.shading) * (1.0 + area * relief)
    return area > 0.5


def _moth_eaten_border(canvas: Canvas, rng: np.random.Generator) -> Mask:
    """Sharply punched-out bites along the border. Changes the outline, so it is painted before all others."""
    lesion, size = canvas.lesion, canvas.size
    outline, bites = lesion.outline(), canvas.ink()
    for angle in rng.uniform(0.0, 2.0 * np.pi) + np.sort(rng.uniform(0.0, 2.0 * np.pi, int(rng.integers(7, 13)))):
        edge = float(outline[int(angle / (2.0 * np.pi) * len(outline)) % len(outline)])
        radius = float(rng.uniform(0.09, 0.19)) * lesion.radius
        x = lesion.centre[0] + (edge + 0.35 * radius) * np.cos(angle)
        y = lesion.centre[1] + (edge + 0.35 * radius) * np.sin(angle)
        _disc(bites, x * size, y * size, radius * size)
    left = 1.0 - cv2.GaussianBlur(_unit(bites), (0, 0), 0.003 * size).astype(np.float32, copy=False)
    canvas.melanin *= left
    canvas.blood *= left
    canvas.depth = np.minimum(canvas.depth, left - np.float32(0.5))
    canvas.mask &= left > 0.5
    near = cv2.dilate((left < 0.5).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(2, size // 64))
    return (near > 0) & canvas.mask


_PAINTERS: dict[str, Callable[[Canvas, np.random.Generator], Mask]] = {
    "typical_network": _typical_network,
    "atypical_network": _atypical_network,
    "regular_globules": _regular_globules,
    "irregular_globules": _irregular_globules,
    "irregular_streaks": _irregular_streaks,
    "irregular_blotches": _irregular_blotches,
    "blue_white_veil": _blue_white_veil,
    "regression": _regression,
    "vessels": _vessels,
    "milia_like_cysts": _milia_like_cysts,
    "comedo_like_openings": _comedo_like_openings,
    "cerebriform_ridges": _cerebriform_ridges,
    "moth_eaten_border": _moth_eaten_border,
}
# The outline first, then pigment, then what lies over the pigment.
_ORDER = ("moth_eaten_border", *(name for name in CRITERIA if name != "moth_eaten_border"))


def _stuck_on(canvas: Canvas, rng: np.random.Generator) -> None:
    """A seborrheic keratosis sits on the skin like wax: dull, crumbly, lit on one side at the rim."""
    rim = soft_step(canvas.depth, -0.1, 0.02) * soft_step(-canvas.depth, -0.16, -0.02)
    slope = cv2.Sobel(cv2.GaussianBlur(canvas.mask.astype(np.float32), (0, 0), 2.0), cv2.CV_32F, 1, 0, ksize=3)
    canvas.shading = (1.0 + np.float32(0.35) * rim * slope).astype(np.float32, copy=False)
    crumbs = np.clip(smooth_noise(rng, canvas.size, 40, octaves=2) - 1.0, 0.0, 1.0)
    canvas.overlays.append((crumbs * soft_step(canvas.depth, 0.05, 0.2) * np.float32(0.35), (1.0, 0.95, 0.85), False))


def paint_criteria(canvas: Canvas) -> None:
    """Paint the lesion's criteria; each has its own generator, so that one doesn't change another's texture."""
    lesion: Lesion = canvas.lesion
    if lesion.diagnosis == "SK":
        _stuck_on(canvas, np.random.default_rng([lesion.texture_seed, len(CRITERIA)]))
    for name in _ORDER:
        if name in lesion.criteria:
            rng = np.random.default_rng([lesion.texture_seed, CRITERIA.index(name)])
            canvas.criteria[name] = _PAINTERS[name](canvas, rng)
    np.maximum(canvas.melanin, 0.0, out=canvas.melanin)
    present = {name: canvas.criteria[name] & canvas.mask for name in CRITERIA if name in canvas.criteria}
    canvas.criteria = {name: mask for name, mask in present.items() if mask.any()}
