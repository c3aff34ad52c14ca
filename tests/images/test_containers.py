"""What stands around the pixels: damaged profiles are told in every container, and files of countless parts refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from images.test_decode import ADOBE_RGB, GAMMA, encoded, icc_profile, lesion, png_chunk, refused, srgb_of_adobe_rgb
from pesi.errors import ImageError
from pesi.images.decode import decode_image, image_size

PROFILE = icc_profile(ADOBE_RGB, GAMMA)


def png(chunk: bytes) -> bytes:
    data = encoded(lesion())
    return data[:33] + png_chunk(b"iCCP", b"name\0\0" + chunk) + data[33:]


def jpeg(*fragments: tuple[int, int, bytes], **options: object) -> bytes:
    """With APP2 segments of a number, a count and a part of a profile (ICC.1:2010, B.4)."""
    data = encoded(lesion(), "JPEG", quality=100, subsampling=0, **options)
    parts = (b"ICC_PROFILE\0" + bytes([number, count]) + part for number, count, part in fragments)
    return data[:2] + b"".join(b"\xff\xe2" + struct.pack(">H", len(part) + 2) + part for part in parts) + data[2:]


def tiff(**changes: int) -> bytes:
    """With a profile whose directory entry is changed: its type, count or where the data are."""
    data = bytearray(encoded(lesion(), "TIFF", icc_profile=PROFILE))
    (at,) = struct.unpack("<I", data[4:8])
    for entry in range(at + 2, at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0], 12):
        tag, kind, count, place = struct.unpack("<HHII", data[entry : entry + 12])
        if tag == 34675:
            new = {"kind": kind, "count": count, "place": place} | changes
            data[entry : entry + 12] = struct.pack("<HHII", tag, *new.values())
            return bytes(data)
    raise AssertionError("no profile")


def webp(flag: bool, chunk: bytes | None) -> bytes:
    """Of the extended kind (RFC 9649), with the flag for a profile and the chunk, or without."""
    plain = encoded(lesion(), "WEBP")
    header = struct.pack("<I", 0x20 * flag) + (47).to_bytes(3, "little") + (31).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + header
    if chunk is not None:
        body += b"ICCP" + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
    body += plain[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(space: bytes, profile: bytes = b"", size: int | None = None) -> bytes:
    """With a BITMAPV5HEADER."""
    pixels = np.flip(lesion(), (0, 2)).tobytes()  # bottom up, blue first; 48 pixels need no filling
    header = struct.pack("<IiiHHIIiiII", 124, 48, 32, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<IIII", 0, 0, 0, 0) + space + bytes(36 + 12)
    header += struct.pack("<IIII", 4, 124 + len(pixels), len(profile) if size is None else size, 0)
    assert len(header) == 124
    return b"BM" + struct.pack("<IHHI", 138 + len(pixels) + len(profile), 0, 0, 138) + header + pixels + profile


HALF = len(PROFILE) // 2
WITH_A_PROFILE = {
    "PNG": png(zlib.compress(PROFILE)),
    "JPEG": jpeg((1, 1, PROFILE)),
    "JPEG in three": jpeg((1, 3, PROFILE[:HALF]), (2, 3, b""), (3, 3, PROFILE[HALF:])),
    "JPEG in two, the second first": jpeg((2, 2, PROFILE[HALF:]), (1, 2, PROFILE[:HALF])),
    "TIFF": tiff(),
    "TIFF, big": encoded(lesion(), "TIFF", icc_profile=PROFILE, big_tiff=True),
    "WebP": webp(True, PROFILE),
    "BMP": bmp(b"DEBM", PROFILE),
}
DAMAGED = {
    "PNG, no zlib": png(b"this is no zlib stream"),
    "PNG, zlib cut": png(zlib.compress(PROFILE)[:-40]),
    "PNG, empty": png(zlib.compress(b"")),
    "JPEG, 1 of 2": jpeg((1, 2, PROFILE)),
    "JPEG, 2 of 2": jpeg((2, 2, PROFILE)),
    "JPEG, 1 and 3 of 3": jpeg((1, 3, PROFILE[:HALF]), (3, 3, PROFILE[HALF:])),
    "JPEG, 1 twice": jpeg((1, 2, PROFILE[:HALF]), (1, 2, PROFILE[HALF:])),
    "JPEG, from 0": jpeg((0, 2, PROFILE[:HALF]), (1, 2, PROFILE[HALF:])),
    "JPEG, two counts": jpeg((1, 2, PROFILE[:HALF]), (2, 3, PROFILE[HALF:])),
    "JPEG, no number": jpeg((1, 1, b""))[:20] + jpeg()[2:],
    "TIFF, behind the end": tiff(place=1 << 30),
    "TIFF, longer than the file": tiff(count=1 << 20),
    "TIFF, unknown type": tiff(kind=99),
    "TIFF, of numbers": tiff(kind=3, count=len(PROFILE) // 2),
    "TIFF, none of it": tiff(count=0),
    "WebP, only the flag": webp(True, None),
    "WebP, only the chunk": webp(False, PROFILE),
    "WebP, empty": webp(True, b""),
    "BMP, behind the end": bmp(b"DEBM", PROFILE, 1 << 20),
    "BMP, in another file": bmp(b"KNIL", b"c:\\profile.icc\0"),
    "BMP, empty": bmp(b"DEBM"),
}
CUT = {
    "short": PROFILE[:-4],
    "of its header only": PROFILE[:128],
    "of three bytes": PROFILE[:3],
    "too long a tag": PROFILE[:140] + struct.pack(">I", 1 << 20) + PROFILE[144:],
}
DAMAGED |= {
    f"{kind}, {what}": wrapped
    for what, part in CUT.items()
    for kind, wrapped in {
        "PNG": png(zlib.compress(part)),
        "JPEG": jpeg((1, 1, part)),
        "TIFF": encoded(lesion(), "TIFF", icc_profile=part),
        "WebP": webp(True, part),
        "BMP": bmp(b"DEBM", part),
    }.items()
}


@pytest.mark.parametrize("kind", WITH_A_PROFILE)
def test_a_profile_is_applied(kind: str) -> None:
    data = WITH_A_PROFILE[kind]
    near = 12 if "JPEG" in kind else 2  # it is lossy
    plain = decode_image(data, color_managed=False)
    assert np.abs(plain.astype(int) - lesion()).max() <= near
    assert np.abs(decode_image(data) - srgb_of_adobe_rgb(plain)).max() <= 2


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, of TIFF
def test_a_damaged_profile_is_told(kind: str) -> None:
    data = DAMAGED[kind]
    refused(data, "ICC colour profile")
    assert image_size(data) == (48, 32)
    near = 12 if "JPEG" in kind else 0
    assert np.abs(decode_image(data, color_managed=False).astype(int) - lesion()).max() <= near


@pytest.mark.parametrize("space", [b"BGRs", b" niW", bytes(4)], ids=["sRGB", "Windows", "calibrated"])
def test_a_bmp_without_a_profile_is_taken_as_srgb(space: bytes) -> None:
    np.testing.assert_array_equal(decode_image(bmp(space)), lesion())


# ----------------------------------------------------------------------------------------------------- countless parts


def many_pages(count: int) -> bytes:
    """A TIFF and `count` further directories like its first, each of which names the next."""
    data = encoded(lesion(), "TIFF")
    (at,) = struct.unpack("<I", data[4:8])
    page = data[at : at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0]]
    places = [len(data) + (len(page) + 4) * number for number in range(count)]
    more = b"".join(page + struct.pack("<I", following) for following in [*places[1:], 0])
    return data[: at + len(page)] + struct.pack("<I", places[0]) + data[at + len(page) + 4 :] + more


def test_a_tiff_s_pages_are_not_walked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    data = many_pages(64_000)
    read: list[int] = []
    directory = TiffImagePlugin.ImageFileDirectory_v2
    load = directory.load
    monkeypatch.setattr(directory, "load", lambda self, file: (read.append(file.tell()), load(self, file))[1])
    refused(data, "several pages")
    with pytest.raises(ImageError, match="several pages"):
        image_size(data)
    assert set(read) == {8}  # the first page
    with Image.open(io.BytesIO(many_pages(3))) as image:
        assert image.n_frames == 4  # Pillow counts them so


@pytest.mark.parametrize("marker", [b"\xff\xfe", b"\xff\xe2", b"\xff\xe1"], ids=["comment", "APP2", "APP1"])
def test_a_jpeg_of_countless_segments_is_refused(marker: bytes) -> None:
    data = encoded(lesion(), "JPEG")
    sound = data[:2] + (marker + b"\0\2") * 900 + data[2:]
    np.testing.assert_array_equal(decode_image(sound), decode_image(data))
    refused(data[:2] + (marker + b"\0\2") * 2_000_000 + data[2:], "segments", "minutes")
    for fill in (b"\0", b"\xff", b"\xff\0"):
        refused(data[:20] + fill * 4_000_000 + data[20:], "header")


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    """A progressive JPEG whose last scan stands in it again and again: a lawful file by its marks."""
    data = encoded(lesion(), "JPEG", progressive=True)
    assert data.count(b"\xff\xda") == 10
    last = data[data.rindex(b"\xff\xda") : -2]
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))
    refused(data[:-2] + last * 200_000 + data[-2:], "scans", "minutes")


@pytest.mark.parametrize("kind", [b"teST", b"tEXt", b"fcTL"])
def test_a_png_of_countless_chunks_is_refused(kind: bytes) -> None:
    data = encoded(lesion())
    chunk = png_chunk(b"tEXt", b"a\0b")
    np.testing.assert_array_equal(decode_image(data[:33] + chunk * 1000 + data[33:]), lesion())
    chunk = png_chunk(kind, b"a\0")
    refused(data[:33] + chunk * 500_000 + data[33:], "chunks", "minutes")
    refused(data[:-12] + chunk * 500_000 + data[-12:], "chunks", "minutes")


def test_a_png_may_have_as_many_pieces_of_pixels_as_it_likes() -> None:
    data = encoded(lesion())
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    pixels = data[start + 4 : start + 4 + length]
    pieces = b"".join(png_chunk(b"IDAT", pixels[i : i + 1]) + png_chunk(b"IDAT", b"") * 20 for i in range(length))
    np.testing.assert_array_equal(decode_image(data[: start - 4] + pieces + data[start + 8 + length :]), lesion())
