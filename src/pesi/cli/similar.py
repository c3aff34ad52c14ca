"""`pesi similar`: a reference set of one's own labelled images, and the most similar of them to an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.divide import SkipMissingOption
from pesi.cli.evaluate import DatasetOption
from pesi.cli.segmenter import DeviceOption, ProgressOption
from pesi.cli.status import EXIT_REFUSED
from pesi.errors import ImageError

if TYPE_CHECKING:
    from pesi.images.transforms import Image
    from pesi.predict.prediction import Refusal

similar_app = typer.Typer(
    help="Find similar cases among your own labelled images.", no_args_is_help=True, rich_markup_mode="markdown"
)

BundleOption = Annotated[
    str | None,
    typer.Option(help="The classifier: a bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one."),
]


@similar_app.command()
def build(
    data: Annotated[str, typer.Argument(help="The labelled images: a data set's folder, or a CSV file.")],
    out: Annotated[Path, typer.Option(help="The folder for the reference set.")],
    bundle: BundleOption = None,
    dataset: DatasetOption = None,
    split: Annotated[str, typer.Option(help="train, val, test, or all.")] = "train",
    skip_missing: SkipMissingOption = False,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Compute the classifier's features of labelled images and keep them, to look for similar cases in.

    The folder holds ids, diagnoses, paths and features, no pictures. An image that cannot be read is named on stderr
    and left out; the exit status is then 1.

    Examples:

        pesi similar build isic2017 --out references

        pesi similar build mine.csv --split all --bundle runs/mine/bundle --out references
    """
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.cli.evaluate import chosen_records
    from pesi.predict.loading import load
    from pesi.predict.similar import build_reference

    records = chosen_records(data, dataset, split, skip_missing)
    classifier = load(bundle, device=device, runtime="eager")
    refusals: list[Refusal] = []
    show = progress and sys.stderr.isatty()
    with tqdm(total=len(records), unit="image", desc="features", disable=not show, leave=False) as bar:
        reference = build_reference(
            classifier, records, out, progress=lambda done, _: move(bar, done), refused=refusals.append
        )
    for refusal in refusals:
        print(f"pesi: refused {refusal.path}: {refusal.reason}\n  -> {refusal.cure}", file=sys.stderr)
    print(f"{len(reference)} images by {reference.config.bundle} in {out}")
    if refusals:
        raise typer.Exit(EXIT_REFUSED)


@similar_app.command()
def find(
    image: Annotated[Path, typer.Argument(help="A dermoscopy image.")],
    reference: Annotated[Path, typer.Option(help="The reference set's folder: see `pesi similar build`.")],
    k: Annotated[int, typer.Option("-k", "--count", min=1, help="How many similar cases.")] = 6,
    picture: Annotated[Path | None, typer.Option(help="A PNG: the image and its similar cases.")] = None,
    out: Annotated[Path | None, typer.Option(help="A .json file.")] = None,
    without_own: Annotated[
        bool,
        typer.Option("--without-own", help="Leave out this image and its lesion, where the set holds them (by id)."),
    ] = False,
    bundle: BundleOption = None,
    device: DeviceOption = None,
) -> None:
    """Find the images of a reference set that the classifier sees as most like an image, with their diagnoses.

    Similarity is the cosine between the network's features, at most 1. It says what the network finds alike; it proves
    no diagnosis.

    Examples:

        pesi similar find mole.jpg --reference references

        pesi similar find mole.jpg --reference references -k 12 --picture similar.png --out similar.json
    """
    from pesi.explain.contact_sheet import contact_sheet_png
    from pesi.files import check_ending, whole_file, write_json
    from pesi.images.decode import decode_image
    from pesi.predict.loading import load
    from pesi.predict.similar import load_reference

    check_ending(picture, ".png")
    check_ending(out, ".json")
    cases = load_reference(reference)
    classifier = load(bundle, device=device, runtime="eager")
    query = decode_image(image)
    nearest = cases.similar_to(classifier, query, k, without_image=image.stem if without_own else None)
    for case in nearest:
        print(f"{case.similarity:.3f}  {case.diagnosis}  {case.image_id}  {case.path}")
    if out is not None:
        found = [case.to_dict() for case in nearest]
        write_json(out, {"image": image.stem, "path": str(image), "bundle": cases.config.bundle, "similar": found})
    if picture is not None:
        png = contact_sheet_png(query, [(case, _picture(case.path)) for case in nearest], title=image.name)
        with whole_file(picture) as temporary:
            temporary.write_bytes(png)
        print(f"Picture: {picture}", file=sys.stderr)


def _picture(path: str) -> Image | None:
    """A similar case's picture, None where the file has gone or cannot be read."""
    from pesi.images.decode import decode_image

    try:
        return decode_image(path)
    except ImageError:
        return None
