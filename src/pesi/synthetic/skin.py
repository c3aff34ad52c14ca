"""Healthy skin under the dermatoscope: its tone, furrows, mottling, fine vessels and the light on it.

The tones are Fitzpatrick's I to VI (Fitzpatrick, Arch Dermatol 1988;124:869) by the bands of the individual typology
angle, ITA = atan((L* - 50) / b*) (Chardon et al., Int J Cosmet Sci 1991;13:191): I above 55 degrees, II 41 to 55,
III 28 to 41, IV 10 to 28, V -30 to 10, VI below -30.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pesi.synthetic.noise import Field, pixel_grid, smooth_noise, soft_step

ITA_BANDS: dict[int, tuple[float, float]] = {
    1: (55.0, 90.0),
    2: (41.0, 55.0),
    3: (28.0, 41.0),
    4: (10.0, 28.0),
    5: (-30.0, 10.0),
    6: (-90.0, -30.0),
}
"""ITA in degrees for each tone (Chardon 1991)."""

# What is drawn: ITA well inside the band, b* and a* as dermoscopy images of ISIC show them.
_TARGETS: dict[int, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    1: ((60.0, 69.0), (9.0, 13.0), (7.0, 14.0)),
    2: ((45.0, 51.0), (15.0, 20.0), (9.0, 16.0)),
    3: ((32.0, 37.0), (19.0, 24.0), (10.0, 16.0)),
    4: ((15.0, 24.0), (21.0, 26.0), (11.0, 16.0)),
    5: ((-20.0, 3.0), (17.0, 23.0), (11.0, 15.0)),
    6: ((-48.0, -37.0), (12.0, 17.0), (7.5, 10.0)),
}


@dataclass(frozen=True)
class Skin:
    """What was drawn for the skin.

    Args:
        tone: Fitzpatrick tone, 1 to 6.
        ita: Individual typology angle in degrees.
        lab_a: a* of the mean colour.
        lab_b: b* of the mean colour.
        furrows: Depth of the furrows, relative.
        mottling: Strength of the uneven redness and brownness, relative.
        light: Direction (radians) and strength (relative) of the light's gradient.
        texture_seed: Seeds the textures, so that the same `Skin` gives the same picture.
    """

    tone: int
    ita: float
    lab_a: float
    lab_b: float
    furrows: float
    mottling: float
    light: tuple[float, float]
    texture_seed: int

    @property
    def rgb(self) -> tuple[float, float, float]:
        """The mean colour as sRGB, 0 to 1."""
        lightness = 50.0 + self.lab_b * np.tan(np.radians(self.ita))
        lab = np.array([[[lightness, self.lab_a, self.lab_b]]], np.float32)
        red, green, blue = np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB)[0, 0], 0.0, 1.0)
        return float(red), float(green), float(blue)


def draw_skin(rng: np.random.Generator, tone: int | None = None) -> Skin:
    """Draw the skin's parameters; without a tone all six are equally likely."""
    drawn = int(rng.integers(1, 7))  # drawn in any case, so that the rest does not depend on `tone` being given
    tone = drawn if tone is None else tone
    ita, b, a = (rng.uniform(*bounds) for bounds in _TARGETS[tone])
    return Skin(
        tone=tone,
        ita=float(ita),
        lab_a=float(a),
        lab_b=float(b),
        furrows=float(rng.uniform(0.01, 0.06)),
        mottling=float(rng.uniform(0.02, 0.06)),
        light=(float(rng.uniform(0.0, 2.0 * np.pi)), float(rng.uniform(0.0, 0.06))),
        texture_seed=int(rng.integers(2**63)),
    )


def render_skin(skin: Skin, size: int) -> Field:
    """Paint the skin.

    Returns:
        (S, S, 3) float32 RGB, 0 to 1.
    """
    rng = np.random.default_rng(skin.texture_seed)
    x, y = pixel_grid(size)
    direction, strength = skin.light
    light = 1.0 + 2.0 * strength * ((x - 0.5) * np.cos(direction) + (y - 0.5) * np.sin(direction))
    furrows = np.exp(-((smooth_noise(rng, size, float(rng.uniform(26.0, 44.0))) / np.float32(0.3)) ** 2))
    furrows *= np.clip(0.5 + 0.5 * smooth_noise(rng, size, 5), 0.0, 1.5)
    redness = skin.mottling * smooth_noise(rng, size, 6, octaves=3)
    brownness = 0.7 * skin.mottling * smooth_noise(rng, size, 4, octaves=3)
    vessels = np.exp(-((smooth_noise(rng, size, 9, octaves=2) / np.float32(0.07)) ** 2))
    freckles = soft_step(smooth_noise(rng, size, 14, octaves=2), 2.0, 2.9)
    vessels *= np.clip(smooth_noise(rng, size, 4) - 0.6, 0.0, 1.0) * np.float32(2.5 * skin.mottling)
    shade = light * (1.0 - skin.furrows * (furrows - furrows.mean()))
    brownness += 2.5 * skin.mottling * freckles
    blood = redness + vessels
    # Blood absorbs green and blue, melanin more the shorter the wavelength (Jacques, Phys Med Biol 2013;58:R37).
    image = np.empty((size, size, 3), np.float32)
    for channel, (of_blood, of_melanin) in enumerate(((0.25, 0.6), (1.0, 1.0), (0.85, 1.3))):
        image[..., channel] = skin.rgb[channel] * shade * (1.0 - of_blood * blood - of_melanin * brownness)
    return image
