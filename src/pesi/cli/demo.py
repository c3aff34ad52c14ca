"""`pesi demo`: the whole way on synthetic images, in a few minutes: make, train, evaluate, explain."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pesi.errors import DataError, PesiError
from pesi.machine import available_cores


def demo(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="The folder for everything; must be new.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the images and of the training.")] = 0,
    train: Annotated[int, typer.Option(min=60, help="Training images.")] = 1200,
    test: Annotated[int, typer.Option(min=30, help="Test images.")] = 300,
    threads: Annotated[int, typer.Option(min=0, help="Threads to train with; 0: one a core.")] = 0,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Make synthetic dermoscopy images, train a Pesi-14 on them, evaluate it, and explain one image.

    The images are drawn by rules: the figures show that the software works, and say nothing about real lesions.

    Examples:

        pesi demo

        pesi demo somewhere/else --seed 1
    """
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.cli.evaluate import evaluate
    from pesi.cli.explain import explain
    from pesi.cli.train import train as train_verb
    from pesi.datasets.readers import read_dataset
    from pesi.synthetic import write_synthetic

    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file.", "Choose a folder: pesi demo OTHER.")
    if out.exists() and any(out.iterdir()):
        raise PesiError(f"{out} is there already.", f"Choose another folder: pesi demo OTHER; or remove {out}.")
    started = time.perf_counter()
    show = progress and sys.stderr.isatty()
    images, run, scores = out / "images", out / "run", out / "test"
    val = max(30, train // 8)
    with tqdm(total=train + val + test, unit="image", desc="drawing", disable=not show, leave=False) as bar:
        write_synthetic(
            images,
            train=train,
            val=val,
            test=test,
            seed=seed,
            workers=min(available_cores(), 8),
            progress=lambda done: move(bar, done),
        )
    train_verb(
        ctx,
        "demo-pesi14",
        data=str(images),
        out=run,
        set_=[f"seed={seed}"],
        cache=out / "cache",
        threads=threads,
        progress=progress,
    )
    evaluate(data=str(images), out=scores, bundle=str(run / "bundle"), split="test", progress=progress)
    records = read_dataset(str(images))
    melanoma = records[(records["split"] == "test") & (records["diagnosis"] == "MEL")].iloc[0]
    explain(
        [Path(melanoma["path"])],
        bundle=str(run / "bundle"),
        out=out / "explained.png",
        class_="melanoma",
        mask=Path(melanoma["mask_path"]),
    )
    print(f"Done in {time.perf_counter() - started:.0f} s. Synthetic images: not evidence about real lesions.")
    print(f"Report: {scores / 'report.html'}")
