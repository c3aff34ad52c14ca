"""Training pictures mixed in pairs: mixup blends them, CutMix pastes a rectangle of one into the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mixture(NamedTuple):
    """A batch of mixed pictures.

    Attributes:
        pictures: (N, 3, H, W).
        partner: Index of the picture that each was mixed with, (N,).
        share: Weight of each picture's own class in the loss, 0..1; its partner's has the rest.
    """

    pictures: Tensor
    partner: Tensor
    share: float


def mixup(x: Tensor, alpha: float, rng: np.random.Generator) -> Mixture:
    """Weighted means of pairs (Zhang et al., ICLR 2018, arXiv 1710.09412).

    Args:
        x: (N, 3, H, W).
        alpha: The weight is drawn from Beta(alpha, alpha), once for the batch.
        rng: The generator.
    """
    share = float(rng.beta(alpha, alpha))
    partner = _partners(x, rng)
    return Mixture(share * x + (1 - share) * x[partner], partner, share)


def cutmix(x: Tensor, alpha: float, rng: np.random.Generator) -> Mixture:
    """A rectangle of each picture replaced by its partner's (Yun et al., ICCV 2019, arXiv 1905.04899).

    Args:
        x: (N, 3, H, W).
        alpha: The share that stays is drawn from Beta(alpha, alpha), the rectangle's centre evenly; what lies beyond
            the border is lost, so the share that is returned is that of the pixels which did stay.
        rng: The generator.
    """
    drawn = float(rng.beta(alpha, alpha))
    partner = _partners(x, rng)
    height, width = x.shape[-2:]
    top, bottom = _span(height, drawn, rng)
    left, right = _span(width, drawn, rng)
    pictures = x.clone()
    pictures[..., top:bottom, left:right] = x[partner, :, top:bottom, left:right]
    return Mixture(pictures, partner, 1 - (bottom - top) * (right - left) / (height * width))


def _partners(x: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(len(x))).to(x.device, non_blocking=True)  # a GPU is not waited for


def _span(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """First and end pixel of a rectangle's side along an axis."""
    side, centre = round(length * (1 - share) ** 0.5), int(rng.integers(length))
    return max(centre - side // 2, 0), min(centre - side // 2 + side, length)
