"""`pesi describe`: images in; each lesion's asymmetry, border, colours and size out, in words, as JSON, drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.segmenter import DeviceOption, ProgressOption
from pesi.cli.status import refused_status
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError, ImageError

if TYPE_CHECKING:
    from pesi.images.masks import Mask
    from pesi.images.transforms import Image
    from pesi.predict.classifier import Classifier
    from pesi.predict.segmenter import LesionMask


def describe(
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders of images (searched to any depth).")],
    mm_per_pixel: Annotated[
        float | None, typer.Option("--mm-per-pixel", help="Side of a pixel in millimetres, where the scale is known.")
    ] = None,
    pixels_per_mm: Annotated[
        float | None, typer.Option("--pixels-per-mm", help="The same the other way round: pixels to a millimetre.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .json file for every number, with how each is defined.")] = None,
    picture: Annotated[Path | None, typer.Option(help="A folder for ID-described.png: outline, axes, colours.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Your own lesion mask (PNG) of the one image given.")] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(
            help="The lesion segmenter: a bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one."
        ),
    ] = None,
    attention: Annotated[
        bool, typer.Option(help="Also measure how much of the classifier's attention is inside the lesion.")
    ] = True,
    bundle: Annotated[str | None, typer.Option(help="Whose attention: a classifier. Default: the shipped one.")] = None,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Describe the lesion in each image after the ABCD rule of dermatoscopy: a measurement, not a diagnosis.

    The numbers stand beside the classifier's probability and never go into it. An image that cannot be read is named
    on stderr and the rest is done; the exit status is then 1, and 2 where none could be read.

    Examples:

        pesi describe mole.jpg

        pesi describe mole.jpg --mm-per-pixel 0.02 --picture pictures/

        pesi describe photos/ --out described.json --no-attention
    """
    from tqdm import tqdm

    from pesi.explain.description import describe_lesion
    from pesi.explain.description_picture import description_png
    from pesi.files import check_ending, whole_file, write_json
    from pesi.images.decode import decode_image, image_size

    check_ending(out, ".json")
    if mm_per_pixel is not None and pixels_per_mm is not None:
        raise typer.BadParameter("Give the scale once: --mm-per-pixel or --pixels-per-mm.")
    if pixels_per_mm is not None:
        if not pixels_per_mm > 0:
            raise DataError(f"The scale {pixels_per_mm:g} pixels per mm is not a positive number.", "Give such as 50.")
        mm_per_pixel = 1 / pixels_per_mm
    paths = image_files(inputs)
    ids = image_ids(paths)
    if mask is not None and len(paths) != 1:
        raise typer.BadParameter("A mask belongs to one image.", param_hint="--mask")
    find = _Finder(mask, segmenter, device)
    classifier = _classifier(bundle, device) if attention else None
    results: list[dict[str, Any]] = []
    refused = 0
    show = progress and sys.stderr.isatty() and len(paths) > 1
    with tqdm(total=len(paths), unit="image", desc="describing", disable=not show, leave=False) as bar:
        for image_id, path in zip(ids, paths, strict=True):
            try:
                image = decode_image(path)
                lesion = find(image, path)
            except ImageError as error:
                refused += 1
                results.append({"image": image_id, "path": str(path), "refused": error.problem, "cure": error.cure})
                bar.write(f"pesi: refused {path}: {error.problem}\n  -> {error.cure}", file=sys.stderr)
                bar.update()
                continue
            shares = _attention(classifier, image, lesion)
            pixel = image_size(path)[0] / image.shape[1]
            described = describe_lesion(image, lesion, mm_per_pixel=mm_per_pixel, pixel=pixel, attention=shares)
            results.append({"image": image_id, "path": str(path), "mask": find.name, **described.to_dict()})
            if picture is not None:
                png = description_png(image, _mask(lesion), described, title=path.name)
                with whole_file(picture / f"{image_id}-described.png") as temporary:
                    temporary.write_bytes(png)
            bar.write(f"{image_id}\n" + _indented(described.to_text()), file=sys.stdout)
            bar.update()
    if out is not None:
        write_json(out, results)
        print(f"{len(results) - refused} descriptions in {out}", file=sys.stderr)
    if picture is not None:
        print(f"{len(results) - refused} pictures in {picture}", file=sys.stderr)
    if refused:
        raise typer.Exit(refused_status(refused, len(paths)))


class _Finder:
    """Gives an image's lesion: from the user's mask, or by the segmenter. `name` says which."""

    def __init__(self, mask: Path | None, segmenter: str | None, device: str | None) -> None:
        from pesi.bundle.installed import named_bundle
        from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter

        self._mask = mask
        self._segmenter = None
        self.name = "the given mask"
        if mask is None:
            self._segmenter = (
                LesionSegmenter.load(named_bundle(segmenter), device=device)
                if segmenter
                else shipped_segmenter(device=device)
            )
            self.name = self._segmenter.bundle_id

    def __call__(self, image: Image, path: Path) -> LesionMask | Mask:
        from pesi.images.masks import mask_of_size, read_mask

        if self._segmenter is not None:
            return self._segmenter.segment(image)
        return mask_of_size(read_mask(str(self._mask), path), *image.shape[:2])


def _mask(lesion: LesionMask | Mask) -> Mask:
    """The region that is described."""
    from pesi.predict.segmenter import LesionMask, largest_region

    return lesion.mask if isinstance(lesion, LesionMask) else largest_region(lesion)


def _attention(classifier: Classifier | None, image: Image, lesion: LesionMask | Mask) -> dict[str, float]:
    from pesi.explain.description import attention_shares
    from pesi.explain.maps import explain
    from pesi.predict.segmenter import LesionMask

    mask = _mask(lesion)
    if classifier is None or not mask.any() or (isinstance(lesion, LesionMask) and not lesion.found):
        return {}
    return attention_shares(classifier, explain(classifier, image), mask)


def _classifier(bundle: str | None, device: str | None) -> Classifier:
    from pesi.explain.localisation import check_whole_image
    from pesi.predict.loading import load

    classifier = load(bundle, device=device, runtime="eager")
    check_whole_image(classifier)
    return classifier


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
