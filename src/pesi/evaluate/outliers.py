"""Pictures that are no dermoscopy, to measure whether they are refused: drawn, or photographs that packages bring.

A family is one source picture or one way of drawing: its crops resemble each other, so intervals count families.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pesi.images.transforms import Image, resize

Families = dict[str, list[Image]]

_SIDE = 320  # pixels of a drawn picture
_CROPS = (1.0, 0.6, 0.35)  # sides of the crops, as shares of a photograph's short side

# Photographs and scans that the packages install with themselves (nothing is fetched), by what they show.
PACKAGED: dict[str, tuple[str, tuple[str, ...]]] = {
    "cat": ("skimage", ("data/chelsea.png",)),
    "histology": ("skimage", ("data/ihc.png",)),
    "fundus": ("skimage", ("data/retina.jpg",)),
    "astronaut": ("skimage", ("data/astronaut.png",)),
    "coffee": ("skimage", ("data/coffee.png",)),
    "motorcycle": ("skimage", ("data/motorcycle_left.png",)),
    "galaxies": ("skimage", ("data/hubble_deep_field.jpg",)),
    "moon": ("skimage", ("data/moon.png",)),
    "rocket": ("skimage", ("data/rocket.jpg",)),
    "cameraman": ("skimage", ("data/camera.png",)),
    "brick": ("skimage", ("data/brick.png",)),
    "grass": ("skimage", ("data/grass.png",)),
    "gravel": ("skimage", ("data/gravel.png",)),
    "coins": ("skimage", ("data/coins.png",)),
    "clock": ("skimage", ("data/clock_motion.png",)),
    "cell": ("skimage", ("data/cell.png",)),
    "horse": ("skimage", ("data/horse.png",)),
    "logo": ("skimage", ("data/logo.png",)),
    "scanned page": ("skimage", ("data/page.png", "data/text.png")),
    "phantom": ("skimage", ("data/phantom.png",)),
    "temple": ("sklearn", ("datasets/images/china.jpg",)),
    "flower": ("sklearn", ("datasets/images/flower.jpg",)),
    "portrait": ("matplotlib", ("mpl-data/sample_data/grace_hopper.jpg",)),
}


def square_crops(image: Image, count: int, rng: np.random.Generator) -> list[Image]:
    """A picture (H, W, 3) and square crops of it, `count` in all: whole first, then smaller parts at drawn places."""
    height, width = image.shape[:2]
    crops = [image]
    while len(crops) < count:
        side = max(1, round(_CROPS[len(crops) % len(_CROPS)] * min(height, width)))
        top, left = (int(rng.integers(0, size - side + 1)) for size in (height, width))
        crops.append(image[top : top + side, left : left + side].copy())
    return crops[:count]


def packaged_outliers(count: int, *, rng: np.random.Generator) -> Families:
    """Photographs that installed packages bring (scikit-image, scikit-learn, matplotlib), none where they are absent.

    Args:
        count: Pictures a family: the photograph and crops of it.
        rng: Draws the crops.
    """
    families: Families = {}
    for name, (package, files) in PACKAGED.items():
        spec = find_spec(package)
        folder = Path(spec.origin).parent if spec and spec.origin else None
        pictures = [picture for file in files if folder and (picture := _decoded(folder / file)) is not None]
        if pictures:
            share = -(-count // len(pictures))
            families[name] = [crop for picture in pictures for crop in square_crops(picture, share, rng)][:count]
    faces = find_spec("skimage")
    path = Path(faces.origin).parent / "data" / "lfw_subset.npy" if faces and faces.origin else None
    if path and path.is_file():  # 100 faces, then 100 parts of backgrounds, (200, 25, 25) float in 0..1
        thumbnails = (np.load(path, allow_pickle=False) * 255).round().clip(0, 255).astype(np.uint8)
        for name, part in (("faces", thumbnails[:100]), ("backgrounds", thumbnails[100:])):
            chosen = rng.choice(len(part), count, replace=count > len(part))
            families[name] = [np.repeat(resize(part[i], 256, 256)[..., None], 3, axis=2) for i in chosen]
    return families


def _decoded(path: Path) -> Image | None:
    """The picture in colour, None where this version of the package does not bring it.

    Gray files are spread over three channels: `decode_image` would refuse them before any score, and the same picture
    may come as a colour file.
    """
    if not path.is_file():
        return None
    with PillowImage.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.uint8).copy()


def drawn_outliers(count: int, *, rng: np.random.Generator) -> Families:
    """Blank, noise, gradients, pages of text, charts, screens, checks and shapes, `count` of each."""
    return {name: [draw(index, rng) for index in range(count)] for name, draw in _DRAWN.items()}


def outliers(count: int, *, rng: np.random.Generator) -> Families:
    """Everything at hand that is no dermoscopy, `count` pictures a family."""
    return {**drawn_outliers(count, rng=rng), **packaged_outliers(count, rng=rng)}


def _blank(index: int, rng: np.random.Generator) -> Image:
    colours = ((255, 255, 255), (0, 0, 0), (128, 128, 128))
    colour = colours[index] if index < len(colours) else tuple(int(v) for v in rng.integers(0, 256, 3))
    return np.full((_SIDE, _SIDE, 3), colour, np.uint8)


def _noise(index: int, rng: np.random.Generator) -> Image:
    """White noise at grains of 1 to 16 pixels, in colour and in gray."""
    cells = _SIDE // (1, 2, 4, 16)[index % 4]
    cell: Image = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    if index % 2:
        cell = np.repeat(cell[..., :1], 3, axis=2)
    return resize(cell, _SIDE, _SIDE)


def _gradient(index: int, rng: np.random.Generator) -> Image:
    ends = rng.integers(0, 256, (2, 3)).astype(np.float64)
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] / (_SIDE - 1)
    angle = rng.uniform(0, 2 * np.pi)
    t = np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5) if index % 2 else np.hypot(x - 0.5, y - 0.5)
    t = (t - t.min()) / (t.max() - t.min())
    return np.asarray((ends[0] + t[..., None] * (ends[1] - ends[0])).round(), np.uint8)


def _words(image: Image, rng: np.random.Generator, *, left: int, top: int, right: int, bottom: int, ink: int) -> None:
    """Lines of made-up words within a frame, drawn into the image."""
    scale = float(rng.uniform(0.28, 0.5))
    step = round(34 * scale) + 4
    for y in range(top + step, bottom, step):
        line = ""
        while cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] < right - left - 40:
            line += "".join(chr(int(c)) for c in rng.integers(97, 123, int(rng.integers(2, 9)))) + " "
        cv2.putText(image, line, (left, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (ink, ink, ink), 1, cv2.LINE_AA)


def _page(index: int, rng: np.random.Generator) -> Image:
    page = np.full((_SIDE + 80, _SIDE, 3), int(rng.integers(225, 256)), np.uint8)
    _words(page, rng, left=20, top=20, right=_SIDE - 20, bottom=_SIDE + 60, ink=int(rng.integers(0, 60)))
    return page


def _chart(index: int, rng: np.random.Generator) -> Image:
    figure = Figure(figsize=(4, 3.2), dpi=100)
    axes = figure.add_subplot()
    kind = index % 4
    if kind == 0:
        axes.plot(rng.normal(size=(40, 3)).cumsum(0))
    elif kind == 1:
        axes.bar(range(8), rng.uniform(1, 9, 8), color="C1")
    elif kind == 2:
        axes.scatter(rng.normal(size=80), rng.normal(size=80), c=rng.uniform(size=80))
    else:
        axes.pie(rng.uniform(1, 5, 5))
    axes.set_title("Report")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba(), np.uint8)[..., :3])  # type: ignore[no-untyped-call]


def _screen(index: int, rng: np.random.Generator) -> Image:
    """A window with a title bar, a menu, text and buttons."""
    height, width = _SIDE, _SIDE * 3 // 2
    light = index % 2 == 0
    image = np.full((height, width, 3), 245 if light else 30, np.uint8)
    bar = [float(v) for v in rng.integers(30, 200, 3)]
    cv2.rectangle(image, (0, 0), (width, 28), bar, cv2.FILLED)
    cv2.rectangle(image, (0, 28), (width // 4, height), [float(v) for v in rng.integers(60, 220, 3)], cv2.FILLED)
    _words(image, rng, left=width // 4 + 12, top=40, right=width - 12, bottom=height - 60, ink=20 if light else 230)
    for x in range(width // 4 + 12, width - 70, 90):
        cv2.rectangle(image, (x, height - 45), (x + 70, height - 18), [float(v) for v in rng.integers(60, 230, 3)], -1)
    return image


def _checks(index: int, rng: np.random.Generator) -> Image:
    side = int(rng.integers(8, 60))
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] // side
    colours = rng.integers(0, 256, (2, 3)).astype(np.uint8)
    return np.ascontiguousarray(colours[(x + y) % 2])


def _shapes(index: int, rng: np.random.Generator) -> Image:
    """Discs and boxes of drawn colours: like a lesion in shape, like nothing in texture."""
    image = np.full((_SIDE, _SIDE, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(rng.integers(2, 8))):
        x, y, r = (int(v) for v in rng.integers(20, _SIDE - 20, 3))
        colour = [float(v) for v in rng.integers(0, 256, 3)]
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), r // 3, colour, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + r // 2, y + r // 3), colour, -1)
    return image


_DRAWN: dict[str, Callable[[int, np.random.Generator], NDArray[np.uint8]]] = {
    "blank": _blank,
    "noise": _noise,
    "gradient": _gradient,
    "page of text": _page,
    "chart": _chart,
    "screen": _screen,
    "checks": _checks,
    "shapes": _shapes,
}
