"""Whatever one image is given as: the same pixels, and the same refusals as of a file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pesi.errors import ImageError, SourceError
from pesi.images.decode import decode_image
from pesi.images.pixels import pixels, source_path

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def exchanged() -> bytes:
    """An ICC profile in which red means green and green red."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture that lies on its side, in exchanged colours."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(PICTURE).save(tmp_path / "photo.png", exif=exif, icc_profile=exchanged())
    return tmp_path / "photo.png"


def test_files_bytes_and_pillow_give_the_same_pixels(photo):
    data = photo.read_bytes()
    upright = np.rot90(PICTURE, -1)[..., [1, 0, 2]]
    with photo.open("rb") as file, Image.open(photo) as opened, Image.open(io.BytesIO(data)) as loaded:
        loaded.load()
        sources = [photo, str(photo), data, bytearray(data), memoryview(data), io.BytesIO(data), file, opened, loaded]
        sources.append(loaded.copy())
        for source in sources:
            found = pixels(source)
            assert found.dtype == np.uint8
            assert np.abs(found.astype(int) - upright).max() <= 1, type(source)
            np.testing.assert_array_equal(found, decode_image(data))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_pillow_images_of_other_formats(kind, tmp_path):
    path = tmp_path / "a"
    Image.fromarray(PICTURE).save(path, kind, quality=90)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(image), expected)


def test_arrays_and_tensors_are_taken_as_they_are():
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)
    for source in (PICTURE, PICTURE[::-1, ::-1], tensor, tensor.contiguous()):
        expected = source if isinstance(source, np.ndarray) else PICTURE
        np.testing.assert_array_equal(pixels(source), expected)
    with Image.fromarray(PICTURE) as image:
        np.testing.assert_array_equal(pixels(image), PICTURE)


def refusal(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        pixels(source)
    assert caught.value.cure
    return caught.value.problem


def test_gray_is_refused_for_the_same_reason_whatever_it_comes_as(tmp_path):
    gray = PICTURE[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    sources = [
        tmp_path / "gray.png",
        (tmp_path / "gray.png").read_bytes(),
        Image.open(tmp_path / "gray.png"),
        Image.fromarray(gray),
        gray,
        gray[..., None],
        torch.from_numpy(gray),
        torch.from_numpy(gray)[None],
        gray.astype(np.float32),
    ]
    for source in sources:
        assert "is gray: without colour it is no dermoscopy image" in refusal(source)


def test_other_depths_are_refused_for_the_same_reason(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "deep.png"), PICTURE.astype(np.uint16) * 257)
    tensor = torch.from_numpy(PICTURE).permute(2, 0, 1)
    wide = [PICTURE.astype(kind) for kind in (np.uint16, np.int64, np.float16, np.float32, np.float64)]
    wide += [tensor.float() / 255, tensor.to(torch.bfloat16)]
    for source in [tmp_path / "deep.png", *wide]:
        assert "how bright they mean it cannot be told" in refusal(source)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((40, 60, 4), np.uint8), r"must be uint8 of shape \(H, W, 3\)"),
        (np.zeros((3, 40, 60), np.uint8), r"must be uint8 of shape \(H, W, 3\)"),
        (np.zeros((2, 40, 60, 3), np.uint8), r"must be uint8 of shape \(H, W, 3\)"),
        (np.zeros((0, 60, 3), np.uint8), r"must be uint8 of shape \(H, W, 3\)"),
        (np.zeros((40, 60, 3), bool), r"must be uint8 of shape \(H, W, 3\)"),
        (torch.zeros((40, 60, 3), dtype=torch.uint8), r"must be uint8 of shape \(3, H, W\)"),
        (Image.new("CMYK", (8, 8)), "cannot be read"),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "partly transparent"),
        (io.BytesIO(b""), "empty"),
        (b"no image at all", "is a text file"),
        ("nowhere.png", "nowhere.png does not exist"),
    ],
)
def test_refused(source, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        pixels(source)
    assert caught.value.cure


def test_damage_and_pages_are_seen_through_pillow_too(photo, tmp_path):
    data = photo.read_bytes()
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image:
        assert "The Pillow image cannot be read" in refusal(image)
    frames = [Image.fromarray(np.roll(PICTURE, n, 0)) for n in range(2)]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "two.tiff") as image:
        assert f"{tmp_path / 'two.tiff'} is animated or has several pages" in refusal(image)


@pytest.mark.parametrize("thing", [None, 7, 3.5, ["a.png"], {"a": 1}, object()])
def test_what_is_no_image_says_what_is(thing, photo):
    with pytest.raises(TypeError) as caught:
        pixels(thing)
    assert isinstance(caught.value, SourceError)
    assert type(thing).__name__ in caught.value.problem
    for taken in ("path", "bytes", "'rb'", "Pillow", "(H, W, 3)", "(3, H, W)"):
        assert taken in caught.value.cure
    with photo.open(encoding="latin-1") as text, pytest.raises(SourceError, match="as text"):
        pixels(text)


def test_where_a_source_lies(photo):
    with photo.open("rb") as file, Image.open(photo) as image:
        assert [source_path(source) for source in (photo, str(photo), file, image)] == [str(photo)] * 4
    for nameless in (b"", io.BytesIO(), PICTURE, torch.zeros(1), Image.new("RGB", (1, 1))):
        assert source_path(nameless) is None
