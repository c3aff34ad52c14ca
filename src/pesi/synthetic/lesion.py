"""What is drawn for a lesion: its outline, its pigment and which dermoscopic criteria it shows.

The criteria and how often each diagnosis shows them follow the ABCD rule (Stolz et al., Eur J Dermatol 1994;4:521;
Nachbar et al., J Am Acad Dermatol 1994;30:551), the 7-point checklist (Argenziano et al., Arch Dermatol
1998;134:1563), pattern analysis (Pehamberger et al., J Am Acad Dermatol 1987;17:571) and, for seborrheic keratosis,
Braun et al., Arch Dermatol 2002;138:1556. The probabilities are round numbers of the order reported there, chosen so
that no single criterion decides; they are not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CRITERIA: tuple[str, ...] = (
    "typical_network",
    "atypical_network",
    "regular_globules",
    "irregular_globules",
    "irregular_streaks",
    "irregular_blotches",
    "blue_white_veil",
    "regression",
    "vessels",
    "milia_like_cysts",
    "comedo_like_openings",
    "cerebriform_ridges",
    "moth_eaten_border",
)
"""Every criterion that can be drawn; the order is fixed, because each one's texture is seeded by its place."""

FREQUENCIES: dict[str, dict[str, float]] = {
    "MEL": {
        "atypical_network": 0.65,
        "irregular_globules": 0.6,
        "irregular_streaks": 0.5,
        "irregular_blotches": 0.55,
        "blue_white_veil": 0.5,
        "regression": 0.4,
        "vessels": 0.3,
        "typical_network": 0.08,
    },
    "NV": {
        "typical_network": 0.65,
        "regular_globules": 0.45,
        "vessels": 0.08,
        "irregular_globules": 0.05,
        "atypical_network": 0.05,
        "milia_like_cysts": 0.03,
    },
    "SK": {
        "milia_like_cysts": 0.75,
        "comedo_like_openings": 0.7,
        "cerebriform_ridges": 0.6,
        "moth_eaten_border": 0.6,
        "vessels": 0.25,
        "irregular_blotches": 0.05,
    },
}
"""How likely each criterion is, by diagnosis; a criterion that is not named is never drawn."""

_AT_LEAST = {"MEL": 2, "NV": 0, "SK": 2}  # a nevus with none is of the homogeneous pattern
# Radius harmonics (first, last, amplitude): the outline is r(angle) = r0 (1 + sum a_k cos(k angle + phase_k)).
_HARMONICS: dict[str, tuple[tuple[int, int, float], ...]] = {
    "MEL": ((2, 4, 0.14), (5, 9, 0.026), (10, 18, 0.013)),
    "NV": ((2, 4, 0.016), (5, 9, 0.006)),
    "SK": ((2, 5, 0.025), (6, 12, 0.012)),
}
_ELONGATION = {"MEL": 1.5, "NV": 1.45, "SK": 1.4}
_EDGE = {"MEL": (0.08, 0.3), "NV": (0.35, 0.7), "SK": (0.04, 0.08)}
_PIGMENT = {"MEL": (0.5, 1.05), "NV": (0.4, 0.95), "SK": (0.35, 0.95)}
_UNEVENNESS = {"MEL": (0.35, 0.65), "NV": (0.04, 0.14), "SK": (0.08, 0.2)}


@dataclass(frozen=True)
class Lesion:
    """What was drawn for a lesion. Lengths are in picture sides, areas in picture areas.

    Args:
        diagnosis: "MEL", "NV" or "SK".
        centre: x and y.
        area: The outline's area.
        rotation: Of the outline, in radians.
        elongation: Long over short axis of the ellipse that the outline starts from.
        harmonics: (k, amplitude, phase) of the outline's radius.
        edge: Width over which the pigment fades, in mean radii.
        pigment: Optical density of the melanin in green, inside.
        unevenness: Standard deviation of the pigment, relative.
        grey: How grey the melanin is, -0.3 golden brown to 0.6 grey-brown.
        redness: Optical density of the blood in green, inside.
        criteria: The dermoscopic criteria that are to be drawn.
        texture_seed: Seeds the textures, so that the same `Lesion` gives the same picture.
    """

    diagnosis: str
    centre: tuple[float, float]
    area: float
    rotation: float
    elongation: float
    harmonics: tuple[tuple[int, float, float], ...]
    edge: float
    pigment: float
    unevenness: float
    grey: float
    redness: float
    criteria: tuple[str, ...]
    texture_seed: int

    @property
    def radius(self) -> float:
        """Radius of the circle of the same area, in picture sides."""
        return float(np.sqrt(self.area / np.pi))

    def outline(self, samples: int = 720) -> NDArray[np.float32]:
        """The outline's radius at angles 0 to 2 pi from the centre, in picture sides, (samples,)."""
        angle = np.arange(samples) * 2.0 * np.pi / samples - self.rotation
        long = np.sqrt(self.elongation)
        radius = 1.0 / np.sqrt((np.cos(angle) / long) ** 2 + (np.sin(angle) * long) ** 2)
        radius *= 1.0 + sum(a * np.cos(k * angle + phase) for k, a, phase in self.harmonics)
        radius = np.maximum(radius, 0.25)
        return np.asarray(radius * np.sqrt(self.area / (np.pi * np.mean(radius**2))), dtype=np.float32)


def draw_criteria(rng: np.random.Generator, diagnosis: str) -> tuple[str, ...]:
    """Draw which criteria a lesion shows: each by its probability, but never fewer than make the diagnosis."""
    chances = FREQUENCIES[diagnosis]
    margin = {name: chances.get(name, 0.0) - rng.random() for name in CRITERIA}
    likely = sorted((name for name in chances if chances[name] >= 0.2), key=lambda name: -margin[name])
    chosen = {name for name in chances if margin[name] > 0.0} | set(likely[: _AT_LEAST[diagnosis]])
    return tuple(name for name in CRITERIA if name in chosen)


def draw_lesion_parameters(rng: np.random.Generator, diagnosis: str) -> Lesion:
    """Draw a lesion's parameters.

    Place, size and rotation are drawn first and alike for every diagnosis, so that they tell nothing about it.
    """
    area = float(0.09 + 0.32 * rng.random() ** 1.4)
    reach = max(0.02, 0.40 - float(np.sqrt(area / np.pi))) * 0.6
    centre = (float(0.5 + rng.uniform(-reach, reach)), float(0.5 + rng.uniform(-reach, reach)))
    rotation = float(rng.uniform(0.0, 2.0 * np.pi))
    texture_seed = int(rng.integers(2**63))
    harmonics = tuple(
        (
            k,
            float(amplitude * rng.uniform(0.4, 1.2) * (2.0 / k if first == 2 else 1.0)),
            float(rng.uniform(0, 2 * np.pi)),
        )
        for first, last, amplitude in _HARMONICS[diagnosis]
        for k in range(first, last + 1)
    )
    red = rng.random() < 0.25
    return Lesion(
        diagnosis=diagnosis,
        centre=centre,
        area=area,
        rotation=rotation,
        elongation=float(rng.uniform(1.0, _ELONGATION[diagnosis])),
        harmonics=harmonics,
        edge=float(rng.uniform(*_EDGE[diagnosis])),
        pigment=float(rng.uniform(*_PIGMENT[diagnosis])),
        unevenness=float(rng.uniform(*_UNEVENNESS[diagnosis])),
        grey=float(rng.uniform(0.1, 0.6) if diagnosis == "SK" else rng.uniform(-0.3, 0.35)),
        redness=float(rng.uniform(0.12, 0.28) if red else rng.uniform(0.0, 0.1)),
        criteria=draw_criteria(rng, diagnosis),
        texture_seed=texture_seed,
    )
