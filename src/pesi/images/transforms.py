"""Pixels to network input: one square picture an image, augmented by one warp, drawn artefacts and one colour matrix.

Randomness is drawn in one method and applied in another, so that what happened to a picture can be recorded and
replayed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pesi.errors import ImageError
from pesi.images.camera import Camera, draw_camera, taken_by

if TYPE_CHECKING:
    from torch import Tensor

    from pesi.synthetic.artefacts import Artefacts

Geometry = Literal["squeeze", "center_crop", "pad"]
Image = NDArray[np.uint8]


def check_rgb(image: NDArray) -> None:
    """Make sure that an array is an image: uint8, (H, W, 3), not empty; the rest is refused as such a file is.

    Raises:
        ImageError: It is none.
    """
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise ImageError("The array is gray: without colour it is no dermoscopy image.", "Give the RGB original.")
    if image.dtype.kind in "iuf" and image.dtype.itemsize > 1:
        raise ImageError(
            f"The array has {8 * image.dtype.itemsize} bits a sample ({image.dtype}): how bright they mean it cannot "
            "be told.",
            "Give 8-bit RGB: values 0 to 255 as uint8.",
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(
            f"An image array must be uint8 of shape (H, W, 3), not {image.dtype} {image.shape}.",
            "Convert it to 8-bit RGB, colours last.",
        )


def fit_square(image: Image, size: int, geometry: Geometry) -> Image:
    """Bring an image (H, W, 3) to (size, size, 3).

    Args:
        image: Any size.
        size: Side of the result, pixels.
        geometry: `squeeze` scales both sides to `size` (the aspect is not kept), `center_crop` takes the largest
            centred square, `pad` keeps everything and mirrors the border.
    """
    return resize(framed(image, geometry), size, size)


def framed(image: Image, geometry: Geometry) -> Image:
    """What `fit_square` scales of an image (H, W, 3): all of it, its centre, or it within a mirrored border."""
    height, width = image.shape[:2]
    if geometry == "center_crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return image[top : top + side, left : left + side]
    if geometry == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        return cv2.copyMakeBorder(
            image, top, side - height - top, left, side - width - left, cv2.BORDER_REFLECT_101
        ).astype(np.uint8)
    return image


def resize(image: Image, height: int, width: int) -> Image:
    """Resize (H, W, 3) or (H, W): area averaging where it shrinks, bicubic where it grows, as is where it fits.

    While both sides are at least four times the wanted ones they are halved first (`halved`). At twice already that
    would change probabilities by 0.007 in the mean.
    """
    image = halved(image, 4 * height, 4 * width)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8)


def halved(image: Image, height: int, width: int) -> Image:
    """Halve (H, W, 3) or (H, W), by the mean of 2 x 2 pixels, while both sides are at least these.

    Processors have instructions for it: area averaging of the rest takes half the time. A last odd line is left out.
    """
    while image.shape[0] >= height and image.shape[1] >= width and min(image.shape[:2]) > 1:
        halves = image.shape[1] // 2, image.shape[0] // 2
        image = image[: 2 * halves[1], : 2 * halves[0]]
        image = np.asarray(cv2.resize(image, halves, interpolation=cv2.INTER_AREA), np.uint8)
    return image


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images (N, 3, H, W) -> float32 (x / 255 - mean) / std, channels_last."""
    import torch

    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1) * 255
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1) * 255
    return ((images.float() - shift) / scale).contiguous(memory_format=torch.channels_last)


def to_tensor(image: Image) -> Tensor:
    """(H, W, 3) uint8 array -> (3, H, W) uint8 tensor, a view in channels_last order; a copy where it is read-only."""
    import torch

    return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)


@dataclass(frozen=True)
class Draw:
    """One picture's augmentation, drawn: replaying it gives the same pixels."""

    crop: float  # side of the centred crop, as a share of the picture's
    zoom: float
    angle: float  # degrees, counter-clockwise
    stretch: float  # width : height
    shift: tuple[float, float]  # x and y, as a share of the crop
    flip: tuple[bool, bool]  # left-right, up-down
    brightness: float
    contrast: float
    saturation: float
    hue: float  # degrees on the colour circle
    erase: tuple[float, float, float] | None  # centre x, y and side of the erased square, shares of the side
    artefacts: Artefacts | None = None
    camera: Camera | None = None


class Augmentation(BaseModel):
    """How training pictures are varied; every range is symmetric around "unchanged".

    The defaults are the paper's: crops of 1/5 to 4/5 of the picture's centre, rotation within 10 degrees, zoom within
    10 %, flips (METHOD section 2).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    crops: tuple[float, ...] = Field((0.2, 0.4, 0.6, 0.8), min_length=1)
    crops_continuous: bool = False  # draw between the smallest and the largest crop, not one of them
    rotation: float = Field(10.0, ge=0, le=180)
    zoom: float = Field(0.1, ge=0, lt=1)
    stretch: float = Field(0.0, ge=0, lt=1)
    shift: float = Field(0.0, ge=0, le=0.5)
    flip: bool = True
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    saturation: float = Field(0.0, ge=0, le=1)
    hue: float = Field(0.0, ge=0, le=180)
    erase: float = Field(0.0, ge=0, le=1)  # probability
    erase_side: float = Field(0.25, gt=0, le=0.5)
    artefacts: float = Field(0.0, ge=0, le=1)  # probability of one to three kinds, each kind equally often
    camera: float = Field(0.0, ge=0, le=1)  # probability of another camera's light, tones, sharpness and compression

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw one picture's augmentation."""

        def around(centre: float, spread: float) -> float:
            return float(rng.uniform(centre - spread, centre + spread))

        crop = (
            float(rng.uniform(min(self.crops), max(self.crops)))
            if self.crops_continuous
            else float(rng.choice(np.asarray(self.crops)))
        )
        return Draw(
            crop=crop,
            zoom=around(1, self.zoom),
            angle=around(0, self.rotation),
            stretch=math.exp(around(0, math.log1p(self.stretch))),
            shift=(around(0, self.shift), around(0, self.shift)),
            flip=(bool(self.flip and rng.random() < 0.5), bool(self.flip and rng.random() < 0.5)),
            brightness=around(0, self.brightness),
            contrast=around(1, self.contrast),
            saturation=around(1, self.saturation),
            hue=around(0, self.hue),
            erase=(
                (float(rng.random()), float(rng.random()), self.erase_side * float(rng.uniform(0.5, 1)))
                if rng.random() < self.erase
                else None
            ),
            # Drawn without looking at the diagnosis, so that none tells it.
            artefacts=_some_artefacts(rng) if self.artefacts and rng.random() < self.artefacts else None,
            camera=draw_camera(rng) if self.camera and rng.random() < self.camera else None,
        )


_MOST_KINDS = 3


def _some_artefacts(rng: np.random.Generator) -> Artefacts:
    from pesi.synthetic.artefacts import RATES, Artefacts  # slow to import

    kinds = rng.choice(list(RATES), size=int(rng.integers(1, _MOST_KINDS + 1)), replace=False)
    return Artefacts(tuple(str(kind) for kind in kinds), int(rng.integers(2**63)))


def warp_matrix(draw: Draw, height: int, width: int, size: int) -> NDArray[np.float64]:
    """The draw's affine warp, (2, 3): from a pixel (x, y) of the result's (size, size) to one of the (H, W) picture."""
    # Output pixel -> centred unit square -> flips, rotation, stretch, scale -> source pixel.
    angle = math.radians(draw.angle)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    side = draw.crop / draw.zoom
    scale = np.diag([side * math.sqrt(draw.stretch) * width, side / math.sqrt(draw.stretch) * height])
    flips = np.diag([-1.0 if draw.flip[0] else 1.0, -1.0 if draw.flip[1] else 1.0])
    linear = scale @ rotation @ flips / size
    centre = np.array([width * (0.5 + draw.shift[0] * draw.crop), height * (0.5 + draw.shift[1] * draw.crop)])
    offset = centre - linear @ np.array([size / 2, size / 2]) + linear @ np.array([0.5, 0.5]) - 0.5
    return np.column_stack([linear, offset])


def augment(image: Image, draw: Draw, size: int) -> Image:
    """Apply a draw to a picture (H, W, 3), giving (size, size, 3): a warp, artefacts, a colour matrix, a camera."""
    height, width = image.shape[:2]
    warped = cv2.warpAffine(
        image,
        warp_matrix(draw, height, width, size),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if draw.artefacts is not None:
        from pesi.synthetic.artefacts import render_artefacts

        field = np.asarray(warped.astype(np.float32) / 255, np.float32)
        render_artefacts(draw.artefacts, field)
        warped = np.round(np.clip(field, 0, 1) * 255).astype(np.uint8)
    matrix = colour_matrix(draw)
    if matrix is not None:
        warped = np.clip(cv2.transform(warped.astype(np.float32), matrix), 0, 255).astype(np.uint8)
    if draw.camera is not None:
        warped = taken_by(np.asarray(warped, np.uint8), draw.camera)
    if draw.erase is not None:
        top, left, bottom, right = erased_box(draw, size)
        warped[top:bottom, left:right] = np.asarray(warped.mean((0, 1)), np.uint8)
    return np.asarray(warped, np.uint8)


def erased_box(draw: Draw, size: int) -> tuple[int, int, int, int]:
    """First and end row and column of what the draw erases of a picture: (top, left, bottom, right), 0 for nothing."""
    if draw.erase is None:
        return 0, 0, 0, 0
    x, y, erased = (round(value * size) for value in draw.erase)
    return max(0, y - erased // 2), max(0, x - erased // 2), y + erased // 2, x + erased // 2


# Luma and colour-difference axes of NTSC's YIQ: hue is a rotation, saturation a scaling of I and Q.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def colour_matrix(draw: Draw) -> NDArray[np.float32] | None:
    """The draw's colour change as a (3, 4) matrix on RGB in 0..255, None for "unchanged"."""
    if (draw.brightness, draw.contrast, draw.saturation, draw.hue) == (0, 1, 1, 0):
        return None
    hue = math.radians(draw.hue)
    cos, sin = draw.saturation * math.cos(hue), draw.saturation * math.sin(hue)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    linear = draw.contrast * np.linalg.inv(_YIQ) @ turn @ _YIQ
    offset = 128 * (1 - draw.contrast) + 255 * draw.brightness
    return np.column_stack([linear, np.full(3, offset)]).astype(np.float32)
