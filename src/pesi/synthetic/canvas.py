"""The layers that a lesion is painted on: absorbing pigments first, opaque colours over them."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from pesi.synthetic.lesion import Lesion
from pesi.synthetic.noise import Field, Mask, pixel_grid, smooth_noise, soft_step

# Absorption of melanin and of blood in red, green and blue, relative to green (after Jacques, Phys Med Biol
# 2013;58:R37): melanin makes brown, much of it black; blood makes red.
MELANIN = (0.62, 1.0, 1.32)
GREY = (0.92, 1.0, 1.1)  # melanin under keratin or deep in the skin looks greyer
BLOOD = (0.12, 1.0, 0.85)


@dataclass
class Canvas:
    """The lesion while it is painted. All fields are (S, S).

    Args:
        lesion: What is painted.
        size: Side S in pixels.
        depth: Distance from the outline in mean radii, positive inside.
        mask: The lesion.
        melanin: Optical density of melanin in green.
        blood: Optical density of blood in green.
        shading: Factor on the light (relief).
        overlays: (opacity (S, S), RGB relative to the skin's mean colour or absolute, is absolute), painted in order.
        criteria: Where each criterion was drawn.
    """

    lesion: Lesion
    size: int
    depth: Field
    mask: Mask
    melanin: Field
    blood: Field
    shading: Field | None = None
    overlays: list[tuple[Field, tuple[float, float, float], bool]] = field(default_factory=list)
    criteria: dict[str, Mask] = field(default_factory=dict)

    def ink(self) -> cv2.typing.MatLike:
        """An empty layer to draw on with OpenCV, (S, S) uint8."""
        return np.zeros((self.size, self.size), np.uint8)

    def over(self, skin: Field, mean: tuple[float, float, float]) -> Field:
        """Paint the lesion over the skin.

        Args:
            skin: (S, S, 3) RGB, 0 to 1.
            mean: The skin's mean colour.
        """
        image = np.empty_like(skin)
        shading = np.float32(1.0) if self.shading is None else self.shading
        for channel in range(3):
            melanin = MELANIN[channel] * (1.0 - self.lesion.grey) + GREY[channel] * self.lesion.grey
            density = np.float32(melanin) * self.melanin + np.float32(BLOOD[channel]) * self.blood
            layer = skin[..., channel] * np.exp(-density) * shading
            for opacity, colour, absolute in self.overlays:
                target = np.float32(colour[channel] * (1.0 if absolute else mean[channel]))
                layer += opacity * (target - layer)
            image[..., channel] = layer
        return image


def new_canvas(lesion: Lesion, size: int) -> Canvas:
    """Lay out the lesion's outline and its plain pigment, without any criterion yet."""
    rng = np.random.default_rng(lesion.texture_seed)
    x, y = pixel_grid(size)
    dx, dy = x - np.float32(lesion.centre[0]), y - np.float32(lesion.centre[1])
    distance, angle = cv2.cartToPolar(dx, dy)
    outline = lesion.outline()
    place = (angle * np.float32(len(outline) / (2.0 * np.pi))).astype(np.int32) % len(outline)
    depth = (outline[place] - distance) / np.float32(lesion.radius)
    depth = depth.astype(np.float32, copy=False)
    depth += np.float32(0.012) * smooth_noise(rng, size, 26, octaves=2) * np.float32(lesion.diagnosis != "NV")
    if lesion.diagnosis == "MEL":  # the border is sharp in some sectors and fades in others
        fade = np.clip(0.5 + 0.5 * smooth_noise(rng, size, 3), 0.0, 1.0)
        edge = np.float32(0.05) + np.float32(lesion.edge) * fade
        body = soft_step(depth, -0.3 * edge, 0.7 * edge)
    else:
        body = soft_step(depth, -0.3 * lesion.edge, 0.7 * lesion.edge)
    uneven = smooth_noise(rng, size, 3 if lesion.diagnosis == "MEL" else 6, octaves=3)
    grain = np.float32(0.07) * smooth_noise(rng, size, 44, octaves=2)
    pigment = np.clip(1.0 + lesion.unevenness * uneven + grain, 0.2, 2.2)
    melanin = np.float32(lesion.pigment) * body * pigment
    blood = np.float32(lesion.redness) * body * np.clip(1.0 + 0.4 * smooth_noise(rng, size, 3), 0.0, 2.0)
    return Canvas(lesion, size, depth, depth > 0.0, melanin.astype(np.float32), blood.astype(np.float32))


def blob(canvas: Canvas, rng: np.random.Generator, *, share: float, offset: float, softness: float = 0.2) -> Field:
    """An irregular area inside the lesion.

    Args:
        canvas: Where.
        rng: Where the randomness comes from.
        share: Area, as a share of the lesion.
        offset: How far its centre lies from the lesion's, in mean radii.
        softness: Width of its edge, in mean radii.

    Returns:
        Opacity 0 to 1, (S, S); 0 outside of the lesion.
    """
    lesion = canvas.lesion
    x, y = pixel_grid(canvas.size)
    direction = rng.uniform(0.0, 2.0 * np.pi)
    centre_x = lesion.centre[0] + offset * lesion.radius * np.cos(direction)
    centre_y = lesion.centre[1] + offset * lesion.radius * np.sin(direction)
    distance = cv2.magnitude(x - np.float32(centre_x), y - np.float32(centre_y)) / np.float32(lesion.radius)
    distance = distance + np.float32(0.22) * smooth_noise(rng, canvas.size, 7, octaves=2)
    limit = float(np.quantile(distance[canvas.mask], share))
    inside = soft_step(canvas.depth, 0.0, 0.1)
    return inside * soft_step(-distance, -limit - softness / 2, -limit + softness / 2)


def places(canvas: Canvas, rng: np.random.Generator, count: int, *, depth: float = 0.08) -> cv2.typing.MatLike:
    """Random pixels (x, y) that lie at least `depth` mean radii inside the lesion, (count or fewer, 2) int."""
    rows, columns = np.nonzero(canvas.depth > depth)
    if not len(rows):
        return np.zeros((0, 2), np.int64)
    chosen = rng.integers(0, len(rows), count)
    return np.stack([columns[chosen], rows[chosen]], axis=1)
