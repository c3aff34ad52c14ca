"""Composed clinical photographs: a real lesion, shrunk, on the skin of a photographed face, and the face without it.

These are composed, not taken: no clinical photograph is at hand that may be used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from pesi.evaluate.outliers import Families
from pesi.images.decode import decode_image, decode_mask
from pesi.images.transforms import Image, resize

# Boxes of skin as shares of the picture: top, bottom, left, right.
SKIN = {
    ("skimage", "data/astronaut.png"): ((0.05, 0.36, 0.30, 0.58), (0.10, 0.30, 0.36, 0.52)),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"): ((0.20, 0.52, 0.30, 0.68), (0.26, 0.47, 0.36, 0.62)),
}


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
