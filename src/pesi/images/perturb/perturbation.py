"""What a perturbation is: a named change of a real image that keeps the lesion's diagnosis, or hides the lesion."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from pesi.images.masks import Mask
from pesi.images.transforms import Image

Group = Literal["paste", "remove", "lesion", "capture", "geometry"]


class Perturbed(NamedTuple):
    """A changed image.

    Attributes:
        image: (S, S, 3) uint8.
        changed: (S, S) bool: where the artefact was put or taken away; all True where the whole picture changed.
    """

    image: Image
    changed: Mask


Change = Callable[[Image, Mask | None, np.random.Generator], Perturbed | None]


@dataclass(frozen=True)
class Perturbation:
    """A named change of a square image.

    Attributes:
        name: Such as "ruler pasted".
        group: "paste" and "remove" an artefact; "lesion" hides the lesion or what surrounds it; "capture" is how the
            picture was taken; "geometry" how it was held.
        description: What it does, a sentence.
        change: From image, lesion mask or None, and generator to the changed image, or None where there is nothing to
            change or no room.
        needs_mask: Whether it can be made only with a lesion mask.
    """

    name: str
    group: Group
    description: str
    change: Change = field(repr=False, compare=False)
    needs_mask: bool = False

    def apply(self, image: Image, mask: Mask | None, rng: np.random.Generator) -> Perturbed | None:
        """Change one image.

        Args:
            image: (S, S, 3) uint8 sRGB.
            mask: The lesion, (S, S) bool; None where it is not known.
            rng: Where the artefact's shape and place come from.

        Returns:
            None where it cannot be made: no mask though one is needed, nothing to remove, no room beside the lesion.

        Raises:
            ValueError: The image is not square, or the mask not of its size.
        """
        if image.ndim != 3 or image.shape[0] != image.shape[1] or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"A perturbation takes uint8 squares (S, S, 3), not {image.dtype} {image.shape}.")
        if mask is not None and mask.shape != image.shape[:2]:
            raise ValueError(f"The mask has shape {mask.shape}, the image {image.shape[:2]}.")
        if mask is not None and not mask.any():
            mask = None
        if self.needs_mask and mask is None:
            return None
        return self.change(image, mask, rng)

    def generator(self, seed: int, index: int) -> np.random.Generator:
        """The generator for one image: the same whatever other perturbations and images there are."""
        return np.random.default_rng([seed, zlib.crc32(self.name.encode()), index])
