"""Whatever is given for one image to its pixels: a file, bytes, a file object, a Pillow image, an array, a tensor."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.JpegImagePlugin import JpegImageFile

from pesi.errors import ImageError, SourceError
from pesi.images.decode import MAX_PIXELS, Decoded, decode
from pesi.images.transforms import Image, check_rgb

if TYPE_CHECKING:
    from torch import Tensor


class Readable(Protocol):
    """An opened file, or what else gives a file's bytes."""

    def read(self) -> bytes:
        """All of them."""
        ...


ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Readable | Pillow.Image | NDArray[np.uint8] | Tensor"
)

TAKEN = (
    "Give a path, the bytes of a file, a file opened with 'rb', a Pillow image, a uint8 array (H, W, 3) or a uint8 "
    "tensor (3, H, W)."
)
_ORIENTATION = 274  # EXIF tag


def is_source(value: Any) -> bool:
    """Whether a value is of a type that one image can be read from."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Pillow.Image, np.ndarray)
    return isinstance(value, kinds) or _is_tensor(value) or callable(getattr(value, "read", None))


def source_path(source: ImageSource) -> str | None:
    """Where a source lies, as far as it tells: a path, or the name of an opened file; None for what is in memory."""
    if isinstance(source, str | os.PathLike):
        return str(Path(source))
    name = getattr(source, "filename" if isinstance(source, Pillow.Image) else "name", None)
    return name if isinstance(name, str) and name and not name.startswith("<") else None  # "<stdin>"


def pixels(source: ImageSource) -> Image:
    """An image's pixels, uint8 sRGB (H, W, 3); see `decoded`."""
    return decoded(source).pixels


def decoded(source: ImageSource, *, min_side: int | None = None) -> Decoded:
    """An image's pixels, uint8 sRGB (H, W, 3), and the file's own height and width.

    Files and their bytes are decoded by `images.decode`, with its rules and `min_side`. A Pillow image keeps to the
    same rules for orientation, colour profile, transparency and mode, but its format may be any. Arrays and tensors
    are taken as upright sRGB.

    Raises:
        ImageError: The image is refused.
        SourceError: The value is of no such type (a TypeError).
    """
    if isinstance(source, str | os.PathLike):
        return decode(Path(source), min_side=min_side)
    if _is_tensor(source):
        return _unreduced(_tensor_pixels(source))
    if isinstance(source, np.ndarray):
        check_rgb(source)
        return _unreduced(source)
    if isinstance(source, Pillow.Image):
        return _pillow_pixels(source)
    if not is_source(source):
        raise SourceError(f"A {type(source).__name__} is no image.", TAKEN)
    given: Any = source
    data: Any = given if isinstance(given, bytes | bytearray | memoryview) else given.read()
    if isinstance(data, str):
        raise SourceError("The file was opened as text.", "Open it with 'rb'.")
    return decode(bytes(data), min_side=min_side)


def _unreduced(image: Image) -> Decoded:
    return Decoded(image, (image.shape[0], image.shape[1]))


def _is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a tensor; where nobody has imported PyTorch there is none, and to import it takes long."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _tensor_pixels(tensor: Tensor) -> Image:
    array = (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] not in (1, 3):
        raise ImageError(
            f"An image tensor must be uint8 of shape (3, H, W), not {array.dtype} {array.shape}.",
            "Put the colours first: tensor.permute(2, 0, 1).",
        )
    array = np.ascontiguousarray(array.transpose(1, 2, 0) if array.ndim == 3 else array)
    check_rgb(array)
    return array


def _pillow_pixels(image: Pillow.Image) -> Decoded:
    """By way of an uncompressed PNG, so that the one decoder judges it."""
    name = source_path(image) or "The Pillow image"
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS:,}.", "Make it smaller."
        )
    if getattr(image, "n_frames", 1) != 1 and not isinstance(image, JpegImageFile):  # a JPEG's others are by-products
        raise ImageError(f"{name} is animated or has several pages.", "Give the one that counts by itself.")
    file, exif = io.BytesIO(), Pillow.Exif()
    try:
        image.load()
        if turned := image.getexif().get(_ORIENTATION):
            exif[_ORIENTATION] = turned
        image.save(file, "PNG", compress_level=0, exif=exif, icc_profile=image.info.get("icc_profile"))
    except Exception as error:  # the decoders raise nearly anything on damaged files
        raise ImageError(f"{name} cannot be read: {error}.", "Give an RGB image that is not damaged.") from error
    data = file.getvalue()
    try:
        return decode(data)
    except ImageError as error:
        raise ImageError(error.problem.replace(f"The image ({len(data)} bytes)", name), error.cure) from error
