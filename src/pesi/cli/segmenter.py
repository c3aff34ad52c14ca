"""`pesi segmenter` and `pesi segment`: train and score the lesion segmenter; images in, lesion masks out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.divide import SkipMissingOption, read_records
from pesi.cli.evaluate import DataOption, DatasetOption, ReplicatesOption, SplitOption
from pesi.cli.status import refused_status
from pesi.cli.train import SEGMENTER_HELP, segmentation_summary, train_segmenter
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import ImageError, StorageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pesi.predict.segmenter import LesionSegmenter

segmenter_app = typer.Typer(
    help="Train and score the lesion segmenter.", no_args_is_help=True, rich_markup_mode="markdown"
)

BundleOption = Annotated[
    str | None,
    typer.Option(help="The segmenter: a bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")]
ProgressOption = Annotated[bool, typer.Option(help="Show a progress bar.")]


segmenter_app.command("train", help=SEGMENTER_HELP, context_settings={"obj": "segmenter"})(train_segmenter)


@segmenter_app.command()
def evaluate(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The folder for metrics.json and per_image.csv.")],
    bundle: BundleOption = None,
    dataset: DatasetOption = None,
    skip_missing: SkipMissingOption = False,
    split: SplitOption = "val",
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Score the lesion segmenter by the rules of ISIC 2017 Part 1 and ISIC 2018 Task 1, with 95 % intervals.

    Images without a mask are passed over.

    Examples:

        pesi segmenter evaluate --data isic2017 --split val --out scores

        pesi segmenter evaluate --bundle runs/segmenter/bundle --data ham10000 --split all --out runs/segmenter/ham10000
    """
    from pesi.evaluate.segmentation import evaluate_segmenter

    records = _records(data, dataset, split, skip_missing)
    segmenter = _open(bundle, device)
    masked = int(records["mask_path"].notna().sum())
    with _bar(masked, "segmenting", progress) as bar:
        evaluation = evaluate_segmenter(
            segmenter, records, replicates=replicates, seed=seed, progress=lambda done: bar.update()
        )
    name = f"{split} of {Path(data).name}"
    evaluation.write(out, segmenter=segmenter.config.bundle_id, on=name, without_mask=len(records) - masked)
    print(segmentation_summary(evaluation, name))
    print(f"Scores: {out / 'metrics.json'}, {out / 'per_image.csv'}")


def segment(
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders of images (searched to any depth).")],
    out: Annotated[
        Path, typer.Option(help="The folder for the masks: ID_segmentation.png, 255 for lesion. Default: here.")
    ] = Path(),
    bundle: BundleOption = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write ID_outline.png: the border drawn.")] = False,
    device: DeviceOption = None,
    progress: ProgressOption = True,
) -> None:
    """Find the lesion in each image and write it as a mask of the image's size.

    Where no lesion is found, the line of that image says why; its mask then holds what region there was, if any. An
    image that cannot be read, or whose mask cannot be written, is named on stderr and the rest is done; the exit status
    is then 1, and 2 where none could be done.

    Examples:

        pesi segment mole.jpg

        pesi segment mole.jpg --out masks --overlay

        pesi segment photos/ --bundle runs/segmenter/bundle --out masks
    """
    import numpy as np

    from pesi.explain.outline import outlined
    from pesi.images.decode import decode_image, image_size
    from pesi.images.masks import mask_of_size

    paths = image_files(inputs)
    segmenter = _open(bundle, device)
    refused = missed = 0
    with _bar(len(paths), "segmenting", progress and len(paths) > 1) as bar:
        for image_id, path in zip(image_ids(paths), paths, strict=True):
            try:
                image = decode_image(path)
            except ImageError as error:
                refused += 1
                bar.update()
                bar.write(f"pesi: refused {path}: {error.problem}\n  -> {error.cure}", file=sys.stderr)
                continue
            lesion = segmenter.segment(image)
            width, height = image_size(path)
            mask = mask_of_size(lesion.mask, height, width)
            try:
                _write_png(out / f"{image_id}_segmentation.png", np.where(mask, np.uint8(255), np.uint8(0)))
                if overlay:
                    _write_png(out / f"{image_id}_outline.png", outlined(image, lesion.mask))
            except (StorageError, OSError) as error:
                refused += 1
                bar.update()
                bar.write(f"pesi: no mask of {path}: {error}", file=sys.stderr)
                continue
            missed += not lesion.found
            told = f"lesion, {lesion.area:.1%} of the picture" if lesion.found else f"no lesion found: {lesion.reason}"
            bar.write(f"{image_id}: {told}", file=sys.stdout)
            bar.update()
    done = len(paths) - refused
    print(f"{done} masks by {segmenter.config.bundle_id} in {out}; in {missed} no lesion found", file=sys.stderr)
    if refused:
        raise typer.Exit(refused_status(refused, len(paths)))


def _records(data: str, dataset: str | None, split: str, skip_missing: bool) -> pd.DataFrame:
    """The images of one split; unlike for a classifier's scores they need no diagnosis."""
    from pesi.datasets.records import check_split

    check_split(split)
    records = read_records(data, dataset, skip_missing)
    return records if split == "all" else records[records["split"] == split]


def _open(bundle: str | None, device: str | None) -> LesionSegmenter:
    from pesi.bundle.installed import named_bundle
    from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter

    return LesionSegmenter.load(named_bundle(bundle), device=device) if bundle else shipped_segmenter(device=device)


def _bar(total: int, what: str, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="image", desc=what, disable=not (progress and sys.stderr.isatty()), leave=False)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    from pesi.files import whole_file

    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
