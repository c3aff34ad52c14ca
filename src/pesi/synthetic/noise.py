"""Smooth random fields and soft steps that the generator's textures are made of."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]  # (S, S)
Mask = NDArray[np.bool_]  # (S, S)


def smooth_noise(rng: np.random.Generator, size: int, cells: float, octaves: int = 1) -> Field:
    """A random field of mean 0 and standard deviation 1, made small and enlarged (which is what makes it fast).

    Args:
        rng: Where the randomness comes from.
        size: Side S in pixels.
        cells: Roughly how many bumps stand side by side across the picture.
        octaves: How many fields of doubling fineness and halving weight are added.

    Returns:
        (S, S) float32.
    """
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        count = int(np.clip(round(cells * 2**octave), 2, size))
        grid = rng.standard_normal((count, count), dtype=np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    mean, deviation = cv2.meanStdDev(total)
    return (total - np.float32(mean.item())) / np.float32(max(deviation.item(), 1e-6))


def soft_step(field: Field, low: float | Field, high: float | Field) -> Field:
    """Smoothstep: 0 below `low`, 1 above `high`, 3t² - 2t³ between."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0).astype(np.float32, copy=False)
    return t * t * (np.float32(3.0) - np.float32(2.0) * t)


def pixel_grid(size: int) -> tuple[Field, Field]:
    """Coordinates of the pixels' centres in units of the picture's side: x to the right, y down, each (S, S)."""
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y = np.meshgrid(axis, axis)
    return x, y


def hexagonal_lines(rng: np.random.Generator, size: int, *, pitch: float, warp: float, width: float = 1.0) -> Field:
    """A honeycomb of lines: three plane waves at 120 degrees on coordinates that noise has bent.

    Args:
        rng: Where the randomness comes from (rotation, bending).
        size: Side S in pixels.
        pitch: Distance of neighbouring holes, in picture sides.
        warp: How far noise bends the mesh, in pitches (0.2 regular, 0.8 irregular).
        width: Line width; 1 is about a third of the pitch.

    Returns:
        (S, S) float32, 1 on the lines and 0 in the holes.
    """
    x, y = pixel_grid(size)
    cells = min(1.0 / (3.0 * pitch), 24.0)
    x = x + np.float32(warp * pitch) * smooth_noise(rng, size, cells)
    y = y + np.float32(warp * pitch) * smooth_noise(rng, size, cells)
    wave_number = 4.0 * np.pi / (np.sqrt(3.0) * pitch)
    angle = rng.uniform(0.0, np.pi)
    total = np.zeros((size, size), np.float32)
    for turn in range(3):
        direction = angle + turn * 2.0 * np.pi / 3.0
        total += np.cos(
            np.float32(wave_number * np.cos(direction)) * x + np.float32(wave_number * np.sin(direction)) * y
        )
    return soft_step(-total, 0.55 - 0.75 * width, 1.15 - 0.5 * width)
