"""Image files to sRGB arrays: the one decoder of training and prediction. What would need a guess is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    Image,
    ImageCms,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pesi.errors import ImageError
from pesi.images.containers import (
    check_segments,
    damaged,
    format_name,
    icc_profile,
    opened_file,
    png_exif,
    read_at,
    tiff_directory,
    webp_size,
    whole_profile,
)

MAX_PIXELS = 100_000_000
FULL_PIXELS = 1 << 24  # 16.8 million; larger pictures are halved until they are below
_MAX_WEBP_PIXELS = MAX_PIXELS // 2  # its decoder keeps several copies

# The classes themselves, not Image.open(): that one obeys a process-wide pixel limit which anybody may have changed.
_FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
}
_ORIENTATION = 274  # TIFF 6.0 and EXIF 2.3 tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

_SAVE_RGB = "Save it as an 8-bit RGB JPEG or PNG (sRGB) from the camera's original."


class Decoded(NamedTuple):
    """What `decode` gives.

    Attributes:
        pixels: uint8 sRGB (h, w, 3), contiguous and writable.
        size: Height and width of the upright file, of which the pixels may be a reduced copy.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def decode_image(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    color_managed: bool = True,
    min_side: int | None = None,
) -> np.ndarray:
    """The pixels of `decode`, uint8 (H, W, 3)."""
    return decode(source, max_pixels=max_pixels, color_managed=color_managed, min_side=min_side).pixels


def decode(
    source: str | Path | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    color_managed: bool = True,
    min_side: int | None = None,
) -> Decoded:
    """Decode a photograph to 8-bit sRGB, upright.

    What is done, and what is refused:

    - Formats: JPEG, PNG, TIFF, BMP, WebP, told by the file's first bytes; the name's ending plays no part.
    - The size is read from the header and held to `max_pixels` before a pixel is decoded.
    - Above `FULL_PIXELS` both sides are halved, and again, until the picture is below: a JPEG while it is decoded,
      others by the mean of 2 x 2 pixels after. So a JPEG of `MAX_PIXELS` takes 0.1 GB of memory beside its file (a
      progressive one up to 0.6 GB), other formats at most 0.9 GB.
    - Truncated and damaged files are refused.
    - The EXIF orientation (values 2 to 8) is applied; an EXIF block that cannot be parsed is refused.
    - An embedded ICC profile is converted to sRGB (relative colorimetric). A damaged profile, one that is not all there
      or in another file (BMP), or of another colour space, is refused. Without a profile the pixels are taken as sRGB,
      as every browser does; PNG's gAMA and cHRM chunks and BMP's end points are not read. A profile within one level
      of sRGB leaves the pixels as they are.
    - Palettes are converted. Alpha is dropped where it is fully opaque and refused otherwise.
    - Gray, CMYK, LAB and other modes are refused: colour carries the diagnosis, and none of them is a dermoscope's.
    - 16 bits a sample are refused: files of 10 and 12 bits in 16 exist, and which they are cannot be told.
    - More than one frame or page is refused. A JPEG with further pictures behind the first (phones' MPO and gain
      maps) gives the first, which the standard (CIPA DC-007) makes the representative one.
    - A JPEG or PNG of thousands of small parts is refused: they take minutes to read, and no camera writes them.

    Args:
        source: A path, or the file's bytes.
        max_pixels: Refuse larger images.
        color_managed: False leaves an ICC profile out of account.
        min_side: Let the JPEG decoder reduce by 2, 4 or 8 while both sides stay at least `2 * min_side`: several
            times faster on large photographs, no effect on other formats. The pixels differ a little from reducing
            the full picture, so a network must be given the same value in training and in prediction.

    Raises:
        ImageError: The image cannot be read, or only by guessing.
    """
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side must be at least 1, got {min_side}")
    name = _name(source)
    with _opened(source, max_pixels) as (image, kind, file):
        _refuse_by_header(image, kind, name)
        width, height = image.size
        rgb: Image.Image | np.ndarray | None = None
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            factor = max(_reduction(width, height), min(width, height) // (2 * min_side) if min_side else 1)
            factor = min(8, 1 << factor.bit_length() - 1)
            rgb = _turbo_pixels(image, file, factor)
            if rgb is None and factor > 1:
                image.draft("RGB", (max(1, width // factor), max(1, height // factor)))
        if rgb is None:
            _load(image, name)
            if kind != "JPEG":
                width, height = image.size  # of a TIFF that Pillow has turned
            rgb = _opaque_rgb(image, name)
            if (factor := _reduction(*rgb.size)) > 1:
                rgb = rgb.reduce(factor)
        profile = icc_profile(image, kind, file, name) if color_managed else None
        if profile is not None:
            rgb = _in_srgb(_pillow(rgb), profile, name)
        orientation = _orientation(image, kind, name)
        if (turn := _TURNS.get(orientation)) is not None:
            rgb = _pillow(rgb).transpose(turn)
        size = (width, height) if orientation in _SIDEWAYS else (height, width)
        return Decoded(rgb if isinstance(rgb, np.ndarray) else np.array(rgb, dtype=np.uint8), size)


def _turbo_pixels(image: JpegImagePlugin.JpegImageFile, file: IO[bytes], factor: int) -> np.ndarray | None:
    """A JPEG's pixels, both sides divided by 1, 2, 4 or 8 and rounded up; None where Pillow is to judge it.

    By the libjpeg-turbo that Pillow has, without its detours: the same values in two thirds of the time.
    """
    if image.mode != "RGB" or ImageFile.LOAD_TRUNCATED_IMAGES:
        return None
    file.seek(0)
    width, height = image.size
    least = {"min_height": max(1, height // factor), "min_width": max(1, width // factor)} if factor > 1 else {}
    try:
        pixels = simplejpeg.decode_jpeg(file.read(), "RGB", strict=True, **least)
    except ValueError:  # whatever is odd, also where it can be recovered from
        return None
    return pixels if pixels.shape == (-(-height // factor), -(-width // factor), 3) else None


def _pillow(rgb: Image.Image | np.ndarray) -> Image.Image:
    return Image.fromarray(rgb) if isinstance(rgb, np.ndarray) else rgb


def _reduction(width: int, height: int) -> int:
    """By what power of two both sides are divided, so that at most `FULL_PIXELS` are left."""
    factor = 1
    while width * height > FULL_PIXELS * factor**2:
        factor *= 2
    return factor


def decode_mask(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a lesion mask: any of the formats above; 1-bit, gray, palette, or RGB with equal channels.

    Values above 127 are lesion; in a file that holds only 0 and 1, the ones. A mask keeps its size, however large.

    Returns:
        bool array (H, W).

    Raises:
        ImageError: The file cannot be read, or is no mask (coloured, 16-bit, partly transparent).
    """
    name = _name(source)
    with _opened(source, max_pixels) as (image, kind, _):
        _load(image, name)
        if image.mode in ("1", "L") and "transparency" not in image.info:
            values = np.asarray(_upright(image.convert("L"), image, kind, name))
        elif image.mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            bands = [np.asarray(band) for band in _upright(_opaque_rgb(image, name), image, kind, name).split()]
            values = bands[0]
            if not all(np.array_equal(values, band) for band in bands[1:]):
                raise ImageError(f"{name} is coloured, so it is no mask.", "Save the mask as black and white PNG.")
        else:
            raise ImageError(f"{name} is no mask (its mode is {image.mode}).", "Save the mask as black and white PNG.")
    return cast(np.ndarray, values > (0 if values.max() == 1 else 127))


def image_size(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels of the upright image, from the header alone.

    Raises:
        ImageError: The header cannot be read or is over `max_pixels`; the pixels behind it may still be damaged.
    """
    with _opened(source, max_pixels) as (image, kind, _):
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow turns some of them itself, by version
            width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
        turned = _orientation(image, kind, _name(source)) in _SIDEWAYS
    return (height, width) if turned else (width, height)


def _name(source: str | Path | bytes) -> str:
    return f"The image ({len(source)} bytes)" if isinstance(source, bytes) else str(source)


@contextmanager
def _opened(source: str | Path | bytes, max_pixels: int) -> Iterator[tuple[ImageFile.ImageFile, str, IO[bytes]]]:
    """The image behind its checked header, its format's name, and its file."""
    name = _name(source)
    with opened_file(source, name) as file:
        kind = format_name(file, name)
        if kind == "WebP":  # Pillow's class makes room for the picture before anybody can ask for its size
            _check_size(*webp_size(file, name), min(max_pixels, _MAX_WEBP_PIXELS), name)
        if kind == "JPEG":
            data = read_at(file, name, 0, -1)
            check_segments(data, name)
            file = io.BytesIO(data)
        exif = png_exif(file, name) if kind == "PNG" else None
        file.seek(0)
        try:
            image = _FORMATS[kind](file)
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # room is made tile by tile, whatever the picture
                tile = [int(image.tag_v2.get(tag, 1)) for tag in (322, 323)]
                _check_size(tile[0], tile[1], max_pixels, name)
        except ImageError:
            raise
        except Exception as error:  # a damaged header raises nearly anything: SyntaxError, struct.error, KeyError ...
            raise damaged(name, f"its {kind} header cannot be read", error) from error
        with image:
            _check_size(*image.size, max_pixels, name)
            if exif is not None:
                image.info["exif"] = exif
            _check_frames(image, file, name)
            yield image, kind, file


def _check_frames(image: ImageFile.ImageFile, file: IO[bytes], name: str) -> None:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow would walk over all pages to count them
        place = file.tell()
        count, many = "", tiff_directory(file, name)[1]
        file.seek(place)
    else:
        try:
            frames = int(getattr(image, "n_frames", 1))
        except Exception as error:
            raise damaged(name, "its pages cannot be counted", error) from error
        count, many = f" ({frames} of them)", frames != 1 or getattr(image, "is_animated", False)
    if many:
        raise ImageError(f"{name} is animated or has several pages{count}.", "Save the one that counts by itself.")


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}).", "Copy or download it again.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} would unpack to {width} x {height} pixels, over the limit of {max_pixels:,}.",
            "A larger image than any dermoscope's may be an attack. If it is none, make it smaller first.",
        )


def _refuse_by_header(image: ImageFile.ImageFile, kind: str, name: str) -> None:
    """Refuse what the header already tells: samples of more than 8 bits, and colour modes that are no photograph's."""
    bits = 8
    if isinstance(image, PngImagePlugin.PngImageFile):
        bits = 16 if any("16" in str(tile[3]) for tile in image.tile) else 8
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max((int(count) for count in image.tag_v2.get(258, (8,))), default=8)
    if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;"):
        raise ImageError(f"{name} is gray: without colour it is no dermoscopy image.", _SAVE_RGB)
    if bits > 8:
        raise ImageError(f"{name} has {bits} bits a sample: how bright they mean it cannot be told.", _SAVE_RGB)
    if image.mode == "CMYK":
        raise ImageError(f"{name} is in CMYK, the colours of a printing press.", _SAVE_RGB)
    if image.mode not in ("RGB", "RGBA", "RGBX", "P", "PA"):
        raise ImageError(f"{name} is a {kind} in the colour mode {image.mode}, which is not read.", _SAVE_RGB)


def _load(image: ImageFile.ImageFile, name: str) -> None:
    """Decode the pixels."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError(
            f"{name} was not read: somebody set PIL.ImageFile.LOAD_TRUNCATED_IMAGES, which hides damage.",
            "Set it back to False.",
        )
    try:
        image.load()
    except Exception as error:  # the decoders raise nearly anything on damaged files
        raise damaged(name, "it is truncated or damaged", error) from error


def _opaque_rgb(image: Image.Image, name: str) -> Image.Image:
    """The loaded image in RGB."""
    try:
        if image.mode in ("RGBA", "PA", "LA") or "transparency" in image.info:
            own = image.mode != "P" and "transparency" not in image.info
            alpha = (image if own else image.convert("RGBA")).getchannel("A").getextrema()
            if alpha != (255, 255):
                raise ImageError(
                    f"{name} is partly transparent: what is behind it cannot be told.",
                    "Save it without transparency.",
                )
        return image.convert("RGB") if image.mode != "RGB" else image
    except (ValueError, KeyError, OSError, SyntaxError) as error:
        raise damaged(name, f"its pixels ({image.mode}) cannot be converted", error) from error


def _in_srgb(rgb: Image.Image, profile: bytes, name: str) -> Image.Image:
    """Convert from an ICC profile to sRGB."""
    try:
        transform = _to_srgb(profile)
        return rgb if transform is None else cast(Image.Image, ImageCms.applyTransform(rgb, transform))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise ImageError(
            f"{name} has an ICC colour profile that cannot be used: {error}.",
            "Save it as sRGB from the original, or strip the profile if its pixels are sRGB.",
        ) from error


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """The transform from an ICC profile to sRGB; None where it would change no channel by more than one level."""
    if not whole_profile(profile):
        raise ValueError("it is damaged, or not all of it is there")
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if space != "RGB":
        raise ValueError(f"it describes {space} colours, the pixels are RGB")
    transform = ImageCms.buildTransform(
        opened,
        ImageCms.createProfile("sRGB"),
        "RGB",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    levels = np.linspace(0, 255, 16).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    seen = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    return transform if np.abs(seen.astype(int) - cube).max() > 1 else None


def _orientation(image: ImageFile.ImageFile, kind: str, name: str) -> int:
    """EXIF orientation, 1 where none is given or its value is none of the standard's."""
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            value = image.tag_v2.get(_ORIENTATION)
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or b"")
            value = exif.get(_ORIENTATION)
    except Exception as error:  # SyntaxError, struct.error, KeyError ...
        raise ImageError(
            f"{name} has a damaged EXIF block ({kind}): which side is up cannot be told.",
            "Strip the block (exiftool -exif= FILE) after looking at the image.",
        ) from error
    return value if isinstance(value, int) and value in _TURNS else 1


def _upright(pixels: Image.Image, image: ImageFile.ImageFile, kind: str, name: str) -> Image.Image:
    """`pixels` of the loaded `image`, turned; a TIFF that Pillow has turned itself no longer has the tag."""
    turn = _TURNS.get(_orientation(image, kind, name))
    return pixels if turn is None else pixels.transpose(turn)
