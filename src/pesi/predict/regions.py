"""What a bundle cuts from an image, with the segmenter that finds the lesion where one is needed."""

from __future__ import annotations

from collections.abc import Sequence

from pesi.bundle.config import PreprocessConfig
from pesi.errors import BundleError
from pesi.images.regions import Corrected, LesionBox, Region, RegionName, WholeImage
from pesi.predict.segmenter import shipped_segmenter


def regions_of(preprocess: PreprocessConfig, *, device: str | None = None) -> tuple[Region, ...]:
    """What a bundle cuts from an image.

    Raises:
        BundleError: It needs a lesion segmenter that is not the one that ships.
    """
    regions: list[Region] = []
    for name in preprocess.regions:
        if name == "image":
            regions.append(WholeImage(preprocess.source_size, preprocess.geometry))
        else:
            segmenter = shipped_segmenter(device=device)
            if preprocess.segmenter not in ("", segmenter.bundle_id):
                raise BundleError(
                    f"This bundle was made with the segmenter {preprocess.segmenter}; {segmenter.bundle_id} is here.",
                    "Install the version of pesi-cnn that it was made with, or train it again.",
                )
            regions.append(
                LesionBox(
                    preprocess.source_size,
                    preprocess.geometry,
                    preprocess.lesion_margin,
                    segmenter.find,
                    segmenter.bundle_id,
                    segmenter.find_seen,
                )
            )
    if preprocess.corrections:
        regions = [Corrected(region, preprocess.corrections) for region in regions]
    return tuple(regions)


def looking_at(preprocess: PreprocessConfig, regions: Sequence[RegionName]) -> PreprocessConfig:
    """The same, of other regions, with the segmenter that ships where the lesion is one of them.

    Raises:
        BundleError: A segmenter is needed and none ships.
    """
    segmenter = shipped_segmenter().bundle_id if "lesion" in regions else ""
    return preprocess.model_copy(update={"regions": tuple(regions), "segmenter": segmenter})
