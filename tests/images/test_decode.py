"""Each kind of image file is read as an independent calculation says, or refused by name."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

import pesi.images.decode
from pesi.errors import ImageError
from pesi.images.decode import decode, decode_image, decode_mask, image_size

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")


def lesion(width: int = 48, height: int = 32) -> np.ndarray:
    """Smooth colours, none alike under a turn or flip."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [60 + 190 * x / width, 30 + 200 * y / height, 20 + 100 * (x + 2 * y) / (width + 2 * height)], -1
    ).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if kind == "WEBP":
        options.setdefault("lossless", True)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(data: bytes | Path, *words: str, **options: object) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    assert caught.value.cure
    for word in words:
        assert word in caught.value.problem


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_header(width: int, height: int, *, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------------- read as is


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_formats_give_back_the_very_pixels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "name.without.meaning"
    path.write_bytes(encoded(lesion(), kind))
    for source in (path, str(path), path.read_bytes()):
        pixels = decode_image(source)
        np.testing.assert_array_equal(pixels, lesion())
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert image_size(source) == (48, 32)


def test_jpeg_is_read_as_opencv_reads_it() -> None:
    cv2 = pytest.importorskip("cv2")
    data = encoded(lesion(), "JPEG", quality=95)
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decode_image(data).astype(int) - other).max() <= 3
    assert np.abs(decode_image(data).astype(int) - lesion()).max() < 12


def test_every_compression_of_tiff_is_read() -> None:
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        np.testing.assert_array_equal(decode_image(encoded(lesion(), "TIFF", compression=compression)), lesion())


def test_palette_is_converted() -> None:
    colours = np.array([[10, 20, 30], [200, 100, 50], [90, 0, 255]], np.uint8)
    index = (np.arange(48 * 32) % 3).reshape(32, 48).astype(np.uint8)
    image = Image.frombytes("P", (48, 32), index.tobytes())
    image.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode_image(encoded(image)), colours[index])


# ------------------------------------------------------------------------------------------------------------- alpha


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_opaque_alpha_is_dropped_and_any_other_refused(kind: str) -> None:
    rgba = np.dstack([lesion(), np.full((32, 48), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(rgba, kind)), lesion())
    rgba[5, 7, 3] = 254
    refused(encoded(rgba, kind), "transparent")


def test_transparent_palette_colour_is_refused_only_where_used() -> None:
    image = Image.frombytes("P", (4, 4), bytes([0, 1] * 8))
    image.putpalette([10, 20, 30, 200, 100, 50, 9, 9, 9])
    assert decode_image(encoded(image, transparency=bytes([255, 255, 0])))[0, 1].tolist() == [200, 100, 50]
    refused(encoded(image, transparency=bytes([255, 0])), "transparent")


def test_transparent_key_colour_of_rgb_is_refused_only_where_used() -> None:
    np.testing.assert_array_equal(decode_image(encoded(lesion(), transparency=(1, 2, 3))), lesion())
    refused(encoded(lesion(), transparency=tuple(int(v) for v in lesion()[3, 3])), "transparent")


# ------------------------------------------------------------------------------------------------------ orientation

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
    0: lambda a: a,
    9: lambda a: a,
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    plain = decode_image(encoded(lesion(), kind))
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(lesion(), kind, exif=exif)
    turned = TURNED[orientation](plain)
    np.testing.assert_array_equal(decode_image(data), turned)
    assert image_size(data) == (turned.shape[1], turned.shape[0])


def test_compressed_tiff_is_turned_once() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(lesion(), "TIFF", compression="tiff_lzw", exif=exif)
    np.testing.assert_array_equal(decode_image(data), np.rot90(lesion(), -1))
    assert image_size(data) == (32, 48)


def test_png_exif_behind_the_pixels_is_found() -> None:
    block = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, 6, 0, 0)
    data = encoded(lesion())
    data = data[:-12] + png_chunk(b"eXIf", block) + data[-12:]
    np.testing.assert_array_equal(decode_image(data), np.rot90(lesion(), -1))
    assert image_size(data) == (32, 48)


def test_damaged_exif_is_refused() -> None:
    data = encoded(lesion())
    refused(data[:-12] + png_chunk(b"eXIf", b"nonsense nonsense") + data[-12:], "EXIF")


# ----------------------------------------------------------------------------------------------------------- colours

# RGB to XYZ (D50), columns red, green, blue: http://www.brucelindbloom.com/index.html?Eqn_RGB_XYZ_Matrix.html
ADOBE_RGB = np.array(
    [[0.6097559, 0.2052401, 0.1492240], [0.3111242, 0.6256560, 0.0632197], [0.0194811, 0.0608902, 0.7448387]]
)
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
GAMMA = 563 / 256  # Adobe RGB (1998), section 4.3.1.2


def icc_profile(
    matrix: np.ndarray,
    gamma: float,
    space: bytes = b"RGB ",
    kind: bytes = b"mntr",
    white: tuple[float, float, float] = (0.9642, 1.0, 0.8249),
) -> bytes:
    """A version 2 matrix profile written by the specification (ICC.1:2001-04)."""

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(v) * 65536) for v in values))

    text = b"test\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78) + b"\0",
        b"cprt": b"text\0\0\0\0" + text + b"\0\0\0",
        b"wtpt": xyz(np.array(white)),
        **{name: xyz(matrix[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"test", 0x02400000, kind, space, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + body


def srgb_of_adobe_rgb(pixels: np.ndarray) -> np.ndarray:
    """Closed form (IEC 61966-2-1 for the sRGB curve)."""
    linear = (pixels / 255.0) ** GAMMA @ (np.linalg.inv(SRGB) @ ADOBE_RGB).T
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(curved * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_icc_profile_is_converted_to_srgb(kind: str) -> None:
    data = encoded(lesion(), kind, icc_profile=icc_profile(ADOBE_RGB, GAMMA))
    expected = srgb_of_adobe_rgb(lesion())
    assert np.abs(expected - lesion()).max() > 10  # else this test would show nothing
    assert np.abs(decode_image(data) - expected).max() <= 2
    np.testing.assert_array_equal(decode_image(data, color_managed=False), lesion())


def test_intent_is_relative_colorimetric_so_that_white_stays_white() -> None:
    """A scanner's profile with a yellowish medium: the absolute intent would show the yellow."""
    profile = icc_profile(ADOBE_RGB, GAMMA, kind=b"scnr", white=(0.93, 0.96, 0.70))
    data = encoded(lesion(), icc_profile=profile)
    assert np.abs(decode_image(data) - srgb_of_adobe_rgb(lesion())).max() <= 2


def test_profile_and_turn_together() -> None:
    exif = Image.Exif()
    exif[274] = 8
    data = encoded(lesion(), "PNG", icc_profile=icc_profile(ADOBE_RGB, GAMMA), exif=exif)
    assert np.abs(decode_image(data) - np.rot90(srgb_of_adobe_rgb(lesion()))).max() <= 2


def test_srgb_profile_leaves_the_pixels_alone() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(decode_image(encoded(lesion(), icc_profile=profile)), lesion())


@pytest.mark.parametrize(
    "profile",
    [
        b"this is no profile",
        icc_profile(ADOBE_RGB, GAMMA)[:200],
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        icc_profile(ADOBE_RGB, GAMMA, b"CMYK"),
    ],
    ids=["text", "truncated", "LAB", "CMYK"],
)
def test_unusable_profile_is_refused_unless_left_out(profile: bytes) -> None:
    data = encoded(lesion(), icc_profile=profile)
    refused(data, "profile")
    np.testing.assert_array_equal(decode_image(data, color_managed=False), lesion())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_gray_is_refused(mode: str) -> None:
    refused(encoded(Image.new(mode, (20, 10))), "gray")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("profile", [None, icc_profile(ADOBE_RGB, GAMMA)], ids=["bare", "profile"])
def test_cmyk_is_refused(kind: str, profile: bytes | None) -> None:
    options = {"icc_profile": profile} if profile else {}
    refused(encoded(Image.new("CMYK", (20, 10)), kind, **options), "CMYK")


def test_other_colour_spaces_are_refused() -> None:
    refused(encoded(Image.new("LAB", (20, 10)), "TIFF"), "LAB")
    refused(encoded(Image.new("F", (20, 10)), "TIFF"), "gray")


def test_sixteen_bit_is_refused() -> None:
    rows = b"".join(b"\0" + np.full((4, 3), 40000, ">u2").tobytes() for _ in range(3))
    refused(png_of_header(4, 3, depth=16, rows=rows), "16 bits")
    rows = b"".join(b"\0" + np.full((4, 4), 65535, ">u2").tobytes() for _ in range(3))
    refused(png_of_header(4, 3, depth=16, colour=6, rows=rows), "16 bits")
    refused(sixteen_bit_tiff(), "16 bits")


def sixteen_bit_tiff() -> bytes:
    """4 x 3 RGB, uncompressed, by TIFF 6.0."""
    pixels = np.full((3, 4, 3), 4000, "<u2").tobytes()
    entries = [
        (256, 3, 1, 4),
        (257, 3, 1, 3),
        (258, 3, 3, 8 + len(pixels)),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (277, 3, 1, 3),
        (278, 3, 1, 3),
        (279, 4, 1, len(pixels)),
    ]
    at = 8 + len(pixels) + 6
    data = b"II*\0" + struct.pack("<I", at) + pixels + struct.pack("<3H", 16, 16, 16)
    return data + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)


# ----------------------------------------------------------------------------------------------- bombs, frames, damage


def test_bomb_is_refused_by_its_header() -> None:
    bomb = png_of_header(60_000, 60_000)
    refused(bomb, "60000 x 60000", "limit")
    with pytest.raises(ImageError, match="limit"):
        image_size(bomb)
    refused(encoded(lesion()), "limit", max_pixels=48 * 32 - 1)
    assert decode_image(encoded(lesion()), max_pixels=48 * 32).shape == (32, 48, 3)


def test_webp_bomb_is_refused_before_room_is_made() -> None:
    data = bytearray(encoded(lesion(), "WEBP"))
    assert data[12:16] == b"VP8L"
    data[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    refused(bytes(data), "16383 x 16383", "limit")


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_webp_sizes_are_told_from_each_kind_of_header(options: dict) -> None:
    data = encoded(lesion(), "WEBP", **options)
    assert image_size(data) == (48, 32)
    refused(data, "48 x 32", max_pixels=1000)


def test_pillow_s_own_pixel_limit_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("JPEG", "PNG", "BMP"):  # TIFF and WebP ask for it somewhere inside; they refuse at twice the limit
        assert decode_image(encoded(lesion(), kind)).shape == (32, 48, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    refused(png_of_header(60_000, 60_000), "limit")


def test_huge_header_takes_no_memory() -> None:
    """In a process that may not take 1 GB: 20000 x 20000 RGB would be 1.2 GB."""
    code = (
        "import resource, sys; from pesi.images.decode import decode_image; from pesi.errors import ImageError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except ImageError as error: print(error.problem)\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    data = png_of_header(20_000, 20_000)
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert b"20000 x 20000" in done.stdout


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_several_frames_are_refused(kind: str) -> None:
    frames = [Image.fromarray(lesion()), Image.fromarray(lesion()[::-1].copy())]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    refused(data, "several pages", *(() if kind == "TIFF" else ("2 of them",)))


def test_first_picture_of_a_phone_s_multi_picture_jpeg_is_read() -> None:
    frames = [Image.fromarray(lesion()), Image.fromarray(lesion()[::-1].copy())]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data), decode_image(encoded(frames[0], "JPEG")))


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_files_are_refused_wherever_they_are_cut(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    for part in (0.02, 0.2, 0.5, 0.8, 0.98):
        refused(data[: int(len(data) * part)])


def test_truncation_is_not_hidden_by_a_pillow_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(lesion(), "JPEG")
    refused(data[:-40], "LOAD_TRUNCATED_IMAGES")


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "empty"),
        (b"image,melanoma\nISIC_0000000,0\n", "text"),
        (b"<html><body>404 Not Found</body></html>", "text"),
        (encoded(Image.new("P", (4, 4)), "GIF"), "GIF"),
        (b"%PDF-1.7 ...", "PDF"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        (bytes(range(256)), "no image"),
        (b"\xff\xd8\xff", "unreadable"),
        (b"\x89PNG\r\n\x1a\n", "unreadable"),
        (b"RIFF\0\0\0\0WEBP", "unreadable"),
        (b"BM", "unreadable"),
        (b"II*\0", "unreadable"),
    ],
)
def test_other_files_are_named(data: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "lesion.jpg"
    path.write_bytes(data)
    refused(path, word, "lesion.jpg")
    refused(data, word)


def test_missing_folder_pipe_and_forbidden(tmp_path: Path) -> None:
    refused(tmp_path / "none.jpg", "none.jpg", "does not exist")
    refused(tmp_path, "folder")
    refused(tmp_path / ("x" * 300), "xxx")
    refused(Path("a\0b"), "does not exist" if sys.version_info < (3, 13) else "")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "regular")
    (tmp_path / "locked.jpg").write_bytes(encoded(lesion(), "JPEG"))
    (tmp_path / "locked.jpg").chmod(0)
    if os.geteuid() != 0:
        refused(tmp_path / "locked.jpg", "cannot be opened")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_bytes_give_an_array_or_an_image_error(kind: str, flips: list, cut: float | None) -> None:
    data = bytearray(SOUND[kind])
    for place, value in flips:
        data[int(place * len(data))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    for read in (decode_image, image_size, decode_mask):
        try:
            got = read(bytes(data), max_pixels=200_000)
        except ImageError:
            continue
        if read is decode_image:
            assert got.dtype == np.uint8
            assert got.ndim == 3
            assert got.shape[2] == 3


_EXIF = Image.Exif()
_EXIF[274] = 6
SOUND = {
    kind: encoded(
        lesion(24, 16),
        kind,
        **({} if kind == "BMP" else {"exif": _EXIF, "icc_profile": icc_profile(ADOBE_RGB, GAMMA)}),
    )
    for kind in FORMATS
}


# -------------------------------------------------------------------------------------------------------------- draft


@pytest.mark.parametrize(
    "size, min_side, expected",
    [
        ((800, 640), 100, (400, 320)),  # 640 / 4 = 160 < 200, so only by 2
        ((800, 640), 80, (200, 160)),
        ((800, 640), 40, (100, 80)),
        ((800, 640), 10, (100, 80)),  # libjpeg stops at 8
        ((800, 640), 161, (800, 640)),
        ((801, 641), 160, (401, 321)),
    ],
)
def test_draft_keeps_both_sides_twice_the_least(size: tuple, min_side: int, expected: tuple) -> None:
    data = encoded(lesion(*size), "JPEG", quality=95)
    small = decode_image(data, min_side=min_side)
    assert small.shape == (expected[1], expected[0], 3)
    if expected == size:
        np.testing.assert_array_equal(small, decode_image(data))
    box = np.asarray(Image.fromarray(lesion(*size)).resize(expected, Image.Resampling.BOX)).astype(int)
    assert np.abs(small - box).mean() < 2


def test_draft_is_turned_and_leaves_other_formats_alone() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(lesion(800, 640), "JPEG", exif=exif)
    plain = encoded(lesion(800, 640), "JPEG")
    np.testing.assert_array_equal(decode_image(data, min_side=80), np.rot90(decode_image(plain, min_side=80), -1))
    np.testing.assert_array_equal(decode_image(encoded(lesion(800, 640)), min_side=80), lesion(800, 640))
    with pytest.raises(ValueError, match="min_side"):
        decode_image(plain, min_side=0)


# ---------------------------------------------------------------------------------------------- by libjpeg-turbo itself

JPEGS = [
    {"subsampling": subsampling, "progressive": progressive, "quality": quality}
    for subsampling, progressive, quality in (
        (0, False, 95),
        (1, False, 80),
        (2, False, 90),
        (2, True, 75),
        (0, True, 50),
    )
]


@pytest.mark.parametrize("options", [*JPEGS, {"restart_marker_rows": 1}, {"keep_rgb": True}])
@pytest.mark.parametrize("size", [(800, 640), (801, 641), (37, 23), (8, 8), (1, 1)])
def test_pixels_are_those_of_pillow_whole_and_reduced(options: dict, size: tuple) -> None:
    noise = np.random.default_rng(0).integers(-20, 20, (size[1], size[0], 3))
    data = encoded((lesion(*size) + noise).clip(0, 255).astype(np.uint8), "JPEG", **options)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    for factor in (2, 4, 8):
        if min(size) // factor:
            drafted = Image.open(io.BytesIO(data))
            drafted.draft("RGB", (size[0] // factor, size[1] // factor))
            found, _ = decode(data, min_side=min(size) // (2 * factor) or 1)
            if found.shape[:2] == drafted.size[::-1]:
                np.testing.assert_array_equal(found, np.asarray(drafted.convert("RGB")))
            else:
                assert min(size) // (2 * factor) * 2 * factor != min(size)


def test_a_damaged_jpeg_is_judged_as_pillow_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libjpeg warns of something, that Pillow's own reading passes over or refuses, nothing has changed."""
    rng = np.random.default_rng(0)
    whole = encoded(rng.integers(0, 256, (64, 80, 3), np.uint8), "JPEG", quality=90)

    def outcome(data: bytes) -> tuple[str, bytes]:
        try:
            return "read", decode_image(data).tobytes()
        except ImageError as error:
            return error.problem, b""

    cases = [whole[: rng.integers(300, len(whole))] for _ in range(10)]
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(150, len(data), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(8)
        cases.append(bytes(data))
    ours = [outcome(data) for data in cases]
    monkeypatch.setattr(pesi.images.decode, "_turbo_pixels", lambda *_: None)
    assert ours == [outcome(data) for data in cases]
    told = [problem for problem, _ in ours]
    assert 10 <= told.count("read") < 70


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_told_is_that_of_the_upright_file(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for kind in ("JPEG", "PNG", "TIFF"):
        data = encoded(lesion(800, 640), kind, exif=exif)
        found, size = decode(data, min_side=80)
        assert size == image_size(data)[::-1] == ((800, 640) if orientation >= 5 else (640, 800))
        assert found.shape[0] / found.shape[1] == size[0] / size[1]
        assert found.shape[0] == size[0] // (4 if kind == "JPEG" else 1)


# -------------------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_mask_is_read_from_each_kind_of_file(mode: str) -> None:
    truth = np.zeros((20, 30), bool)
    truth[4:9, 10:25] = True
    image = Image.fromarray(truth.astype(np.uint8) * 255).convert(mode)
    np.testing.assert_array_equal(decode_mask(encoded(image)), truth)


def test_mask_of_zeros_and_ones_and_of_gray_levels() -> None:
    truth = np.zeros((20, 30), np.uint8)
    truth[4:9, 10:25] = 1
    np.testing.assert_array_equal(decode_mask(encoded(truth)), truth.astype(bool))
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_mask(encoded(levels)), levels >= 128)
    assert not decode_mask(encoded(np.zeros((20, 30), np.uint8))).any()


def test_photograph_is_no_mask() -> None:
    with pytest.raises(ImageError, match="no mask"):
        decode_mask(encoded(lesion()))
    with pytest.raises(ImageError, match="no mask"):
        decode_mask(encoded(Image.new("I;16", (5, 5))))


# ------------------------------------------------------------------------------------------------------- huge pictures


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("size", "factor"), [((400, 320), 1), ((401, 320), 2), ((801, 641), 4)])
def test_huge_pictures_are_halved_until_they_are_small_enough(
    kind: str, size: tuple[int, int], factor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 400 * 320)
    pixels = lesion(*size)
    data = encoded(pixels, kind, **({"quality": 95} if kind == "JPEG" else {}))
    read = decode_image(data)
    assert read.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)
    assert image_size(data) == size
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(float)
    rows, columns = (side // factor for side in pixels.shape[:2])
    means = whole[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3).mean((1, 3))
    assert np.abs(read[:rows, :columns] - means).max() <= (3 if kind == "JPEG" else 0.5)  # scaled in JPEG's own way


def test_a_huge_picture_keeps_its_turn_its_profile_and_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 400 * 320)
    exif = Image.Exif()
    exif[274] = 8
    profile = icc_profile(ADOBE_RGB, GAMMA)
    data = encoded(lesion(640, 400), exif=exif, icc_profile=profile)
    small = np.asarray(Image.fromarray(lesion(640, 400)).reduce(2))
    assert np.abs(decode_image(data) - np.rot90(srgb_of_adobe_rgb(small))).max() <= 2
    assert image_size(data) == (400, 640)
    transparent = np.dstack([lesion(640, 400), np.full((400, 640), 255, np.uint8)])
    transparent[399, 639, 3] = 254
    refused(encoded(transparent), "transparent")
    mask = np.zeros((400, 640), bool)
    mask[100:300:2] = True
    np.testing.assert_array_equal(decode_mask(encoded(mask)), mask)


def test_ordinary_photographs_keep_every_pixel() -> None:
    """16 megapixels: as large as the files that most cameras write."""
    image = Image.new("RGB", (4608, 3456), (200, 100, 50))
    data = encoded(image, "JPEG", quality=95)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "pixels", "options", "most"),
    [
        ("JPEG", 98, {}, 0.1),
        ("JPEG", 98, {"progressive": True, "subsampling": 0}, 0.7),
        ("PNG", 98, {"compress_level": 1}, 0.95),
        ("TIFF", 98, {"compression": "tiff_lzw"}, 0.95),
        ("BMP", 98, {}, 0.95),
        ("WEBP", 48, {"method": 0}, 0.95),
    ],
)
def test_the_memory_is_bounded(kind: str, pixels: int, options: dict, most: float, tmp_path: Path) -> None:
    """In GB, as the kernel counts it, of a process that reads one picture of so many megapixels."""
    side = int((pixels * 1e6) ** 0.5)
    Image.radial_gradient("L").resize((side, side)).convert("RGB" if kind != "PNG" else "RGBA").save(
        tmp_path / "huge", kind, **options
    )
    code = (
        "import resource, sys; from pesi.images.decode import decode_image, MAX_PIXELS\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); assert decode_image(sys.argv[1]).size; print((peak() - before) * 1024)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "huge")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert int(done.stdout) <= most * 1e9
