"""What image files say beside their pixels, read by their formats' specifications: parts, sizes, EXIF, ICC profiles."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from PIL import ImageFile, JpegImagePlugin

from pesi.errors import ImageError

# What a file may consist of: many times more than cameras write, and what a decoder passes in a fraction of a second.
_MAX_SEGMENTS = 5_000  # of a JPEG, or chunks of a PNG beside its pixels
_MAX_SCANS = 100  # of a JPEG: each passes over all pixels
_MAX_FILL = 1 << 16  # bytes between two segments
_MAX_BYTES = 2 << 30  # 100 million pixels of 16-bit RGB with alpha are 0.8 GB

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WebP")
_REFUSED_FORMATS = (  # (offset, bytes, name), so that the message can tell what the file is
    (0, b"GIF8", "a GIF"),
    (4, b"ftyp", "a HEIC, AVIF or MP4 file"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (128, b"DICM", "a DICOM file"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"PK\x03\x04", "a zip archive"),
)

_ICC_TAG = 34675  # ICC.1:2010, B.5


@contextmanager
def opened_file(source: str | Path | bytes, name: str) -> Iterator[IO[bytes]]:
    """A file or its bytes, opened to be read.

    Raises:
        ImageError: It is no file, empty, too large, or may not be read.
    """
    if isinstance(source, bytes):
        size, file = len(source), cast(IO[bytes], io.BytesIO(source))
    else:
        path = Path(source)
        try:
            if path.is_dir():
                os.scandir(path).close()  # one that may not be read says so
                raise ImageError(f"{name} is a folder.", "Give the image files in it.")
            if not path.exists():
                raise ImageError(f"{name} does not exist.", "Check the path.")
            if not path.is_file():
                raise ImageError(f"{name} is not a regular file.", "Give an image file.")
            size, file = path.stat().st_size, path.open("rb")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{name} cannot be opened: {reason}.", "Check the path and its permissions.") from error
    with file:
        if size == 0:
            raise ImageError(f"{name} is empty (0 bytes).", "Copy or download it again.")
        if size > _MAX_BYTES:
            raise ImageError(f"{name} is larger than {_MAX_BYTES >> 30} GiB.", "Give a photograph.")
        yield file


def read_at(file: IO[bytes], name: str, at: int, count: int) -> bytes:
    """Bytes of a file from a place on; `count` -1: all. Fewer, where it ends before.

    Raises:
        ImageError: The system refused.
    """
    try:
        file.seek(at)
        return file.read(count)
    except OSError as error:
        raise ImageError(
            f"{name} cannot be read: {error.strerror or error}.", "Check the disk; copy it again."
        ) from error


def format_name(file: IO[bytes], name: str) -> str:
    """The format's name by its signature.

    Raises:
        ImageError: It is none of `FORMATS`.
    """
    head = read_at(file, name, 0, 132)
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM"):
        return "BMP"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    known = next((kind for at, magic, kind in _REFUSED_FORMATS if head[at:].startswith(magic)), None)
    if known is None:
        known = "a text file" if all(9 <= byte < 127 for byte in head) else "no image that we know"
    raise ImageError(f"{name} is {known}, whatever its name says.", f"Only these are read: {', '.join(FORMATS)}.")


def webp_size(file: IO[bytes], name: str) -> tuple[int, int]:
    """Canvas size by the WebP container specification (RFC 9649)."""
    head = read_at(file, name, 0, 30)
    if len(head) == 30:
        if head[12:16] == b"VP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        if head[12:16] == b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if head[12:16] == b"VP8 ":
            width, height = struct.unpack("<HH", head[26:30])
            return width & 0x3FFF, height & 0x3FFF
    raise damaged(name, "its WebP header cannot be read")


def png_exif(file: IO[bytes], name: str) -> bytes | None:
    """A PNG's eXIf chunk, which may stand behind the pixels, where Pillow finds it only by decoding them."""
    file.seek(8)
    others, exif = 0, None
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        others += kind != b"IDAT"
        if others > _MAX_SEGMENTS:
            raise _of_too_many(name, "chunks")
        if kind == b"IEND":
            break
        if kind == b"eXIf" and exif is None:
            exif = file.read(length)
            length = 0
        file.seek(length + 4, io.SEEK_CUR)
    return exif


_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # but for those that stand amid the pixels
_END, _SCAN = 0xD9, 0xDA


def check_segments(data: bytes, name: str) -> None:
    """Refuse a JPEG whose parts, each of them lawful, together take minutes.

    Raises:
        ImageError: It is one.
    """
    at, segments, scans = 2, 0, 0
    while (found := _JPEG_MARKER.search(data, at)) and (marker := data[found.end() - 1]) != _END:
        if not scans and found.start() - at > _MAX_FILL:
            raise damaged(name, "its JPEG header is interrupted")
        segments, scans = segments + 1, scans + (marker == _SCAN)
        if segments > _MAX_SEGMENTS or scans > _MAX_SCANS:
            raise _of_too_many(name, "scans" if scans > _MAX_SCANS else "segments")
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2]))


def _of_too_many(name: str, parts: str) -> ImageError:
    return ImageError(
        f"{name} is made of so many {parts} that reading it would take minutes.",
        "No camera writes such a file; it may be an attack. If it is none, save it anew.",
    )


def icc_profile(image: ImageFile.ImageFile, kind: str, file: IO[bytes], name: str) -> bytes | None:
    """The ICC profile of the loaded image as its file has it: None where there is none, b"" where it is damaged.

    Pillow leaves a damaged one out without a word, and does not know BMP's.
    """
    found = image.info.get("icc_profile")
    if isinstance(image, JpegImagePlugin.JpegImageFile):  # ICC.1:2010, B.4: fragments, each with number and count
        parts = sorted(data[12:] for app, data in image.applist if app == "APP2" and data[:12] == b"ICC_PROFILE\0")
        whole = [bytes([number, min(len(parts), 255)]) for number in range(1, min(len(parts), 255) + 1)]
        return None if not parts else b"".join(part[2:] for part in parts) if [p[:2] for p in parts] == whole else b""
    if kind == "BMP":  # BITMAPV5HEADER: the space at 56, where the profile is and how long at 112
        head = read_at(file, name, 14, 124)
        if head[:4] != struct.pack("<I", 124) or head[56:60] not in (b"DEBM", b"KNIL"):
            return None
        at, size = struct.unpack("<II", head[112:120])
        profile = read_at(file, name, 14 + at, size)
        return profile if head[56:60] == b"DEBM" and len(profile) == size else b""  # else another file's name
    present = "icc_profile" in image.info
    if kind == "WebP":  # RFC 9649: the extended header's flag, or the chunk that stands behind that header
        head = read_at(file, name, 12, 22)
        present = head[:4] == b"VP8X" and (bool(head[8] & 0x20) or head[18:] == b"ICCP")
    elif kind == "TIFF":
        present = _ICC_TAG in tiff_directory(file, name)[0]
    return (found if isinstance(found, bytes) else b"") if present else None


def whole_profile(profile: bytes) -> bool:
    """Whether an ICC profile is as long as it says, and every tag lies within (ICC.1:2010, 7.2.2 and 7.3)."""
    size = int.from_bytes(profile[:4])
    if not 132 <= size <= len(profile):
        return False
    table = profile[132 : 132 + 12 * int.from_bytes(profile[128:132])]
    return all(sum(struct.unpack(">II", table[at : at + 8])) <= size for at in range(4, len(table) - 7, 12))


def tiff_directory(file: IO[bytes], name: str) -> tuple[set[int], bool]:
    """The tags of a TIFF's first page, readable or not, and whether a further page follows (TIFF 6.0, and BigTIFF).

    Raises:
        ImageError: It is cut short.
    """
    head = read_at(file, name, 0, 16)
    order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    offset, start, entry = ("Q", 8, 20) if big else ("I", 2, 12)
    try:
        (at,) = struct.unpack_from(order + offset, head, 8 if big else 4)
        (count,) = struct.unpack(order + ("Q" if big else "H"), read_at(file, name, at, start))
        entries = read_at(file, name, at + start, entry * min(count, 1 << 16))
        (following,) = struct.unpack(order + offset, file.read(struct.calcsize(offset)))
        return {struct.unpack_from(order + "H", entries, i)[0] for i in range(0, len(entries), entry)}, following != 0
    except (struct.error, OverflowError, ValueError) as error:
        raise damaged(name, "its TIFF header cannot be read", error) from error


def damaged(name: str, what: str, error: Exception | None = None) -> ImageError:
    """The refusal of a file that is not as its format says."""
    reason = f" ({error})" if error is not None and str(error) else ""
    return ImageError(f"{name} is unreadable: {what}{reason}.", "Copy or download it again; open it in a viewer.")
