"""Views: the crops and flips of one picture whose predictions are averaged."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pesi.images.transforms import Image, resize


class View(NamedTuple):
    """A square crop of the picture: its top left corner and side as shares of the picture's side, and flips."""

    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    flip_x: bool = False
    flip_y: bool = False


def _centred(side: float) -> View:
    return View((1 - side) / 2, (1 - side) / 2, side)


VIEWS: dict[str, tuple[View, ...]] = {
    "single": (View(),),
    "flips2": (View(), View(flip_x=True, flip_y=True)),
    "flips4": tuple(View(flip_x=x, flip_y=y) for x in (False, True) for y in (False, True)),
    # The paper averages nine crops without saying which: here a 3 x 3 grid of crops of 4/5 of the side.
    "grid9": tuple(View(top, left, 0.8) for top in (0.0, 0.1, 0.2) for left in (0.0, 0.1, 0.2)),
    "scales12": tuple(
        _centred(side)._replace(flip_x=x, flip_y=y)
        for side in (1.0, 0.85, 0.7)
        for x in (False, True)
        for y in (False, True)
    ),
}


def cut_views(square: Image, views: tuple[View, ...], size: int) -> list[Image]:
    """The views of a square picture (S, S, 3), each (size, size, 3)."""
    whole = square.shape[0]
    pictures = []
    for view in views:
        side = max(1, round(view.side * whole))
        top, left = round(view.top * whole), round(view.left * whole)
        picture = resize(square[top : top + side, left : left + side], size, size)
        if view.flip_x:
            picture = picture[:, ::-1]
        if view.flip_y:
            picture = picture[::-1]
        pictures.append(np.ascontiguousarray(picture))
    return pictures
