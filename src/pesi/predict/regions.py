"""What a bundle cuts from an image, with the segmenter that finds the lesion where one is needed."""

from __future__ import annotations

from collections.abc import Sequence

from pesi.bundle.config import MemberConfig, PreprocessConfig
from pesi.errors import BundleError
from pesi.images.regions import Corrected, LesionBox, Region, RegionName, WholeImage
from pesi.predict.runtimes.runtime import Runtime
from pesi.predict.segmenter import shipped_segmenter


def regions_of(preprocess: PreprocessConfig, runtime: Runtime | None = None) -> tuple[Region, ...]:
    """What a bundle cuts from an image.

    Args:
        preprocess: The bundle's.
        runtime: Runs the segmenter; default PyTorch.

    Raises:
        BundleError: It needs a lesion segmenter that is not the one that ships.
    """
    regions: list[Region] = []
    for name in preprocess.regions:
        if name == "image":
            regions.append(WholeImage(preprocess.source_size, preprocess.geometry))
        else:
            segmenter = shipped_segmenter(runtime)
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


def distinct_regions(
    members: Sequence[MemberConfig], looks: Sequence[Sequence[Region]]
) -> tuple[tuple[RegionName, ...], tuple[Region, ...], list[tuple[int, ...]]]:
    """The regions of a bundle, each once, with their names; and which of them each member looks at, their indices.

    Args:
        members: The bundle's.
        looks: What each of them cuts, see `regions_of`.
    """
    found: dict[str, tuple[RegionName, Region]] = {}
    for member, own in zip(members, looks, strict=True):
        for name, region in zip(member.preprocess.regions, own, strict=True):
            found.setdefault(region.key, (name, region))
    keys = list(found)
    names, regions = (tuple(each) for each in zip(*found.values(), strict=True))
    return names, regions, [tuple(keys.index(region.key) for region in own) for own in looks]


def looking_at(preprocess: PreprocessConfig, regions: Sequence[RegionName]) -> PreprocessConfig:
    """The same, of other regions, with the segmenter that ships where the lesion is one of them.

    Raises:
        BundleError: A segmenter is needed and none ships.
    """
    segmenter = shipped_segmenter().bundle_id if "lesion" in regions else ""
    return preprocess.model_copy(update={"regions": tuple(regions), "segmenter": segmenter})
