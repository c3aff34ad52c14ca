"""`pesi segmenter` and `pesi segment`: train and score the lesion segmenter; images in, lesion masks out."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.divide import NearDuplicatesOption, SkipMissingOption, read_records, say, with_train_and_val
from pesi.cli.evaluate import DataOption, DatasetOption, ReplicatesOption, SplitOption
from pesi.cli.status import refused_status
from pesi.cli.train import refuse_with_resume
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError, ImageError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pesi.evaluate.segmentation import SegmentationEvaluation
    from pesi.predict.segmenter import LesionSegmenter

segmenter_app = typer.Typer(
    help="Train and score the lesion segmenter.", no_args_is_help=True, rich_markup_mode="markdown"
)

BundleOption = Annotated[str | None, typer.Option(help="The segmenter: a bundle's folder. Default: the shipped one.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")]
ProgressOption = Annotated[bool, typer.Option(help="Show a progress bar.")]


@segmenter_app.command()
def train(
    ctx: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="segmenter-lite0, or a .toml file.")] = None,
    data: Annotated[str | None, typer.Option(help="The data set's folder, or a CSV file; it needs masks.")] = None,
    dataset: DatasetOption = None,
    skip_missing: SkipMissingOption = False,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="The encoder's weights: a .safetensors or .pth file, or `imagenet` for those of an installed package. "
            "Default: what the recipe says."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/RECIPE-DATE.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, as it was started.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe's field: optimizer.lr=5e-4.")
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: one a core.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes; 0: load in the training process.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images and masks are kept.")] = None,
    near_duplicates: NearDuplicatesOption = True,
    progress: ProgressOption = True,
) -> None:
    """Train the lesion segmenter on images with masks, and score it on the validation images.

    A run that was cut goes on with `--resume`, to the same result. A data set without a validation part is divided; a
    patient's or lesion's images and near-duplicates stay in one part.

    Examples:

        pesi segmenter train segmenter-lite0 --data isic2017 --out runs/segmenter

        pesi segmenter train segmenter-lite0 --data isic2017 --set network.name=pesi18 --pretrained resnet18.safetensors

        pesi segmenter train --resume runs/segmenter
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("Give a recipe to start a run, or --resume FOLDER to go on with one.")
    if resume is None and data is None:
        raise typer.BadParameter("Name the images: --data DIR.")
    if resume is not None:
        refuse_with_resume(ctx)
    from pesi.train.segmentation import run_segmenter_training
    from pesi.train.segmenter_run import SegmenterRunSettings

    folder = resume or Path(out or f"runs/{Path(str(recipe)).stem}-{datetime.now():%Y%m%d-%H%M%S}")
    if resume is None:
        settings = SegmenterRunSettings(
            data=str(data),
            pretrained=pretrained,
            accelerator=accelerator,
            threads=threads,
            workers=workers,
            cache_dir=str(cache) if cache else None,
        )
        _start(str(recipe), set_ or [], folder, settings, dataset, skip_missing, near_duplicates, progress)
    run_segmenter_training(folder, say=say, show_progress=progress and sys.stderr.isatty())
    _score_run(folder)


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
    print(_summary(evaluation, name))
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
    image that cannot be read is named on stderr and the rest is done; the exit status is then 1, and 2 where none could
    be read.

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
            _write_png(out / f"{image_id}_segmentation.png", np.where(mask, np.uint8(255), np.uint8(0)))
            if overlay:
                _write_png(out / f"{image_id}_outline.png", outlined(image, lesion.mask))
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
    from pesi.datasets.records import SPLITS

    if split not in (*SPLITS, "all"):
        raise DataError(f"Unknown split {split!r}.", f"Choose one of: {', '.join(SPLITS)}, all.")
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


def _start(
    recipe: str,
    overrides: list[str],
    folder: Path,
    settings: Any,
    dataset: str | None,
    skip_missing: bool,
    near_duplicates: bool,
    progress: bool,
) -> None:
    from pesi.train.segmenter_recipe import load_segmenter_recipe
    from pesi.train.segmenter_run import pretrained_encoder, start_segmenter_run
    from pesi.train.trainer import check_accelerator, check_new_run

    resolved = load_segmenter_recipe(recipe, overrides)
    check_new_run(folder)
    check_accelerator(settings.accelerator)
    pretrained_encoder(resolved, settings)  # before anything is written: they may be missing
    records = with_train_and_val(
        read_records(settings.data, dataset, skip_missing),
        val=resolved.val_share,
        seed=resolved.seed,
        near_duplicates=near_duplicates,
        progress=progress,
        masked=True,
    )
    start_segmenter_run(resolved, records, folder, settings)


def _score_run(folder: Path) -> None:
    """Score a finished run's bundle on its validation images; the figures go into `val/` and the bundle."""
    from pesi.bundle.segmenter import SegmenterMeasured, keep_measured
    from pesi.evaluate.segmentation import evaluate_segmenter
    from pesi.predict.segmenter import LesionSegmenter
    from pesi.train.segmenter_run import open_segmenter_run

    run = open_segmenter_run(folder)
    segmenter = LesionSegmenter.load(folder / "bundle")
    evaluation = evaluate_segmenter(segmenter, run.records[run.records["split"] == "val"])
    on = f"the validation images of {Path(run.settings.data).name or 'the data'}, which also chose the epoch"
    evaluation.write(folder / "val", segmenter=segmenter.config.bundle_id, on=on)
    counts = evaluation.to_dict()
    measured = SegmenterMeasured(on=on, images=counts["images"], found=counts["found"], scores=evaluation.scores)
    keep_measured(folder / "bundle", measured)
    print(_summary(evaluation, on))
    print(f"Scores: {folder / 'val' / 'metrics.json'}\nBundle: {folder / 'bundle'}")


def _summary(evaluation: SegmentationEvaluation, on: str) -> str:
    values = evaluation.to_dict()
    lines = [f"{values['images']} images ({on}); a lesion found in {values['found']}"]
    for name, (mean, low, high) in evaluation.scores.items():
        lines.append(f"{name.replace('_', ' ')} {mean:.3f} (95 % interval {low:.3f} to {high:.3f})")
    return "\n".join(lines)
