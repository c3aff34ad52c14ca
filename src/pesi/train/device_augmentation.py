"""Training pictures varied on the training device, a batch at a time: what a loader hands over, what becomes of it.

The draws are the loader's own. Pixels differ from those of `images.transforms.augment` by rounding only; those of a
draw with artefacts or another camera, which only the CPU can do, not at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pesi.images.masks import LESION_ABOVE, augment_pair
from pesi.images.transforms import Draw, Image, augment, colour_matrix, erased_box, warp_matrix


class Unvaried(NamedTuple):
    """A square picture and what is to be done to it; with a first axis N, a batch of them.

    Attributes:
        pixels: (C, C, 3) uint8, or (C, C, 4) with the lesion's mask, 0 to 255.
        label: The class, ().
        side: The picture is the first `side` rows and columns of `pixels`, mirrored beyond them, ().
        warp: From a pixel (x, y) of the result to one of the picture, (2, 3) float32.
        colour: The colour matrix, (3, 4) float32.
        erased: Top, left, bottom and right of what is erased of the result, (4,) int64.
    """

    pixels: Tensor
    label: Tensor
    side: Tensor
    warp: Tensor
    colour: Tensor
    erased: Tensor


def unvaried(picture: Image, label: int, draw: Draw, size: int, mask: Image | None = None) -> Unvaried:
    """What `varied` needs to apply a draw to a picture; artefacts and cameras, and then all of the draw, are done here.

    Args:
        picture: (S, S, 3).
        label: Its class.
        draw: What happens to it.
        size: Side of the result.
        mask: Of the lesion, (S, S), 0 to 255.
    """
    side = len(picture)
    whole = max(side, size)  # of all items alike
    canvas = np.zeros((whole, whole, 3 if mask is None else 4), np.uint8)
    warp, colour, erased = warp_matrix(draw, side, side, size), colour_matrix(draw), erased_box(draw, size)
    if draw.artefacts is not None or draw.camera is not None:
        if mask is None:
            picture = augment(picture, draw, size)
        else:
            picture, lesion = augment_pair(picture, mask, draw, size)
            mask = np.where(lesion, np.uint8(255), np.uint8(0))
        side, warp, colour, erased = size, np.eye(2, 3), None, (0, 0, 0, 0)
    canvas[:side, :side, :3] = picture
    if mask is not None:
        canvas[:side, :side, 3] = mask
    return Unvaried(
        torch.from_numpy(canvas),
        torch.tensor(label),
        torch.tensor(side),
        torch.tensor(warp, dtype=torch.float32),
        torch.eye(3, 4) if colour is None else torch.from_numpy(colour),
        torch.tensor(erased),
    )


def varied(batch: Unvaried, size: int) -> tuple[Tensor, ...]:
    """Vary a batch where its tensors are.

    Args:
        batch: N pictures.
        size: Side of the results, as `unvaried` was given it.

    Returns:
        As a batch that the loader has varied: pictures (N, 3, size, size) uint8, classes (N,), and, where there are
        any, masks (N, size, size) bool.
    """
    pixels = batch.pixels.permute(0, 3, 1, 2).float()
    steps = torch.arange(size, device=pixels.device)
    by_x, by_y, offset = batch.warp[..., None, None].unbind(2)  # (N, 2, 1, 1)
    points = by_x * steps + by_y * steps[:, None] + offset  # (N, 2, size, size), x and y
    last = (batch.side - 1)[:, None, None, None]
    points = last - (points.remainder(2 * last) - last).abs()  # mirrored without the border: BORDER_REFLECT_101
    grid = (points * (2 / (pixels.shape[-1] - 1)) - 1).permute(0, 2, 3, 1)
    warped = torch.nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=True).round()
    # Products one by one: a matrix product may be of a lower precision on a GPU.
    red, green, blue, constant = batch.colour[..., None, None].unbind(2)  # (N, 3, 1, 1)
    pictures = red * warped[:, 0:1] + green * warped[:, 1:2] + blue * warped[:, 2:3] + constant
    pictures = pictures.clamp(0, 255).to(torch.uint8)
    top, left, bottom, right = batch.erased[..., None, None].unbind(1)  # (N, 1, 1)
    rows, columns = steps[:, None], steps
    erased = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    mean = (pictures.sum((2, 3), keepdim=True) // size**2).to(torch.uint8)
    pictures = torch.where(erased[:, None], mean, pictures)
    if warped.shape[1] == 3:
        return pictures, batch.label
    return pictures, batch.label, warped[:, 3] > LESION_ABOVE
