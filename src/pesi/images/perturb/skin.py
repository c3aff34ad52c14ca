"""The skin around a lesion: its colour as a smooth surface, its grain, the dark border, and holes filled with skin."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.images.masks import Mask
from pesi.images.transforms import Image

Field = NDArray[np.float32]

_DARK = 55  # of 255, the brightest channel: darker than any skin that is lit
_PLAIN = 10.0  # CIE76 units between a mark and the skin, at least
_GRID = 64  # side of the picture that the surface is fitted on


def grown(mask: Mask, share: float) -> Mask:
    """A mask (S, S) dilated by a disc whose radius is a share of the picture's side."""
    radius = max(1, round(share * len(mask)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def dark_border(image: Image, mask: Mask | None = None) -> Mask:
    """Black parts that begin at the picture's corners: the dermatoscope's tube or a black frame, (S, S).

    Args:
        image: (S, S, 3).
        mask: The lesion, which is never counted as border.
    """
    size = len(image)
    brightest = cv2.GaussianBlur(image.max(axis=2), (0, 0), max(0.5, size / 256))
    dark = (brightest < _DARK).astype(np.uint8)
    if mask is not None:
        dark[mask] = 0
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    reach = max(1, size // 24)
    corners = [labels[rows, columns] for rows in (slice(0, reach), slice(-reach, None))
               for columns in (slice(0, reach), slice(-reach, None))]  # fmt: skip
    found = np.unique(np.concatenate([corner.ravel() for corner in corners]))
    border = np.isin(labels, found[found > 0])
    # The tube's edge is soft: its half-shadow belongs to it.
    border = grown(border, 0.03) if border.any() else border
    return border if mask is None else border & ~mask


def skin_surface(image: Image, known: Mask) -> tuple[Field, Mask] | None:
    """The skin's colour at every place, fitted with outliers trimmed: L* a quadratic surface, a* and b* constant.

    Light falls off towards the edges; the skin's hue does not. A surface in hue would follow a large patch.

    Args:
        image: (S, S, 3).
        known: Where skin may be: outside of the lesion and the dark border.

    Returns:
        The surface (S, S, 3) in CIE Lab (float, L 0..100), and the pixels of `known` that deviate from it, (S, S);
        None where there is too little skin.
    """
    size = len(image)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)
    side = min(size, _GRID)
    small = cv2.resize(lab, (side, side), interpolation=cv2.INTER_AREA).reshape(-1, 3)
    use = cv2.resize(known.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA).ravel() > 0.9
    if use.sum() < 0.03 * side * side:
        return None
    basis = _quadratic(side)
    # Begun at the median, which a minority of marks cannot move; then trimmed fits (least trimmed squares' C-steps).
    distance = np.linalg.norm(small - np.median(small[use], axis=0), axis=1)
    coefficients = np.zeros((basis.shape[1], 3))
    for _ in range(6):
        kept = use & (distance <= np.quantile(distance[use], 0.6))
        coefficients[:, 0] = np.linalg.lstsq(basis[kept], small[kept, 0], rcond=None)[0]
        coefficients[0, 1:] = small[kept, 1:].mean(axis=0)
        distance = np.linalg.norm(small - basis @ coefficients, axis=1)
    spread = 1.4826 * float(np.median(distance[use]))
    surface = (_quadratic(size) @ coefficients).reshape(size, size, 3).astype(np.float32)
    # 10 units of CIE76 are plain to the eye; a mottled skin needs more.
    deviates = known & (np.linalg.norm(lab - surface, axis=2) > max(_PLAIN, 3.5 * spread))
    return surface, deviates


def filled(image: Image, hole: Mask, source: Mask, rng: np.random.Generator) -> Image:
    """Fill a hole with a smooth continuation of its surroundings and the skin's grain.

    The colour comes from coarser and coarser means of the known pixels (push-pull, Gortler et al., SIGGRAPH 1996),
    smoothed within the hole; the grain is noise of the source's own strength.

    Args:
        image: (S, S, 3).
        hole: What is filled, (S, S).
        source: What it is filled from, (S, S); pixels in the hole do not count.
        rng: Of the grain.

    Returns:
        The image; pixels outside of the hole are as they were.
    """
    source = source & ~hole
    if not hole.any() or not source.any():
        return image.copy()
    values = image.astype(np.float32)
    smooth = _push_pull(values, source.astype(np.float32))
    sigma = len(image) / 40
    inside = np.where(hole[..., None], smooth, values)
    # Smoothed within the hole, weights of known neighbours outside: no seam, and no lesion bleeding in.
    weight = (hole | source).astype(np.float32)
    blurred = cv2.GaussianBlur(inside * weight[..., None], (0, 0), sigma)
    blurred = blurred / np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-6)[..., None]
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
    share = np.clip(depth / sigma, 0, 1)[..., None]
    smooth = share * blurred + (1 - share) * smooth
    fine = values - cv2.GaussianBlur(values, (0, 0), 2)
    strength = 1.4826 * float(np.median(np.abs(fine[source].mean(axis=1))))
    grain = cv2.GaussianBlur(rng.standard_normal(hole.shape).astype(np.float32), (0, 0), 0.9)
    grain = grain * (strength / max(float(grain.std()), 1e-6))
    result = image.copy()
    result[hole] = np.clip(smooth + grain[..., None], 0, 255)[hole].round().astype(np.uint8)
    return result


def _quadratic(side: int) -> NDArray[np.float64]:
    axis = np.linspace(-1, 1, side)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _push_pull(values: Field, weight: Field) -> Field:
    """Values (H, W, 3) continued to where their weight (H, W) is 0."""
    height, width = weight.shape
    known = np.minimum(weight, 1)[..., None]
    if min(height, width) <= 2:
        mean = (values * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.asarray(known * values + (1 - known) * mean, np.float32)
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(values * weight[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = coarse / np.maximum(coarse_weight, 1e-6)[..., None]
    pulled = _push_pull(coarse.astype(np.float32), np.minimum(4 * coarse_weight, 1).astype(np.float32))
    large = cv2.resize(pulled, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(known * values + (1 - known) * large, np.float32)
