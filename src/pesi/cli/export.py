"""`pesi export`: a bundle's networks as graphs of OpenVINO or ONNX Runtime, in a precision, and what that changes."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.divide import SkipMissingOption, SkipOtherDiagnosesOption, read_records, records_of_task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from pesi.predict.classifier import Classifier


class Target(StrEnum):
    """Whose graphs."""

    openvino = "openvino"
    onnx = "onnx"


class Precision(StrEnum):
    """What convolutions are computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"


def export(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one.")
    ] = None,
    runtime: Annotated[Target, typer.Option(help="What will run the graphs.")] = Target.openvino,
    precision: Annotated[Precision, typer.Option(help="What convolutions are computed in.")] = Precision.float32,
    data: Annotated[
        str | None, typer.Option(help="Images on which the change is measured; int8 needs them to be made at all.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Which data set it is, where that cannot be found out.")] = None,
    split: Annotated[str, typer.Option(help="The labelled images to measure on: train, val, test, or all.")] = "val",
    known: Annotated[
        str, typer.Option(help="int8: the split whose images tell what numbers occur; no label is looked at.")
    ] = "train",
    limit: Annotated[
        int, typer.Option(min=0, help="Measure on at most so many images, drawn at random; 0: on all.")
    ] = 300,
    calibrate: Annotated[
        int, typer.Option(min=32, help="int8: how many images of --known are used, drawn at random.")
    ] = 300,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the graphs. Default: `graphs` in the bundle's folder; of an installed one, the cache."
        ),
    ] = None,
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Write a classifier's networks as graphs, compare them with PyTorch, and record what they change.

    `pesi predict --runtime NAME --precision NAME` takes graphs that lie in the bundle's folder, or in the cache.
    float32 and bfloat16 need no export: graphs are built when they are first asked for. int8 does; for OpenVINO they
    are made by NNCF (pip install pesi-cnn[int8]). Depthwise convolutions and the attention are not computed in int8.

    A graph takes pictures, uint8 sRGB (N, S, S, 3), and gives logits (N, networks, classes), not calibrated, and pooled
    features. Each folder holds export.json: the graphs, and what was measured.

    Examples:

        pesi export --precision int8 --data isic2017

        pesi export runs/mine/bundle --runtime onnx --data clinic.csv --split all

        pesi export runs/mine/bundle --precision int8 --data isic2017 --limit 0
    """
    from tqdm import tqdm

    from pesi.bundle.installed import bundle_folder, installed_bundles
    from pesi.cli.bars import move
    from pesi.datasets.records import check_split
    from pesi.errors import PesiError
    from pesi.evaluate.scoring import labelled_part
    from pesi.predict.export import export_graphs, write_record
    from pesi.predict.loading import load
    from pesi.predict.runtimes.exports import export_folders, name_of
    from pesi.predict.runtimes.runtime import Runtime

    for name in (split, known):
        check_split(name)
    if precision is Precision.int8 and data is None:
        raise PesiError("int8 needs images, to tell what numbers occur in the networks.", "Name some: --data DIR.")
    Runtime(runtime.value, precision.value, device="cpu")  # what is not installed is told before the work
    source = bundle_folder(bundle)
    classifier = load(source, device="cpu", runtime="eager")
    beside, cached = export_folders(source, classifier.config.bundle_id)
    comes_with_a_package = any(each.folder == source for each in installed_bundles().bundles)
    folder = out or (cached if comes_with_a_package else beside)
    show = progress and sys.stderr.isatty()
    labelled: pd.DataFrame | None = None
    squares: list[NDArray[np.uint8]] = []
    on = ""
    if data is not None:
        records = read_records(data, dataset, skip_missing)
        labelled = records_of_task(labelled_part(records, split, data), classifier.task, skip_other_diagnoses)
        if limit and limit < len(labelled):
            labelled = labelled.sample(limit, random_state=seed).reset_index(drop=True)
        squares, on = _known(classifier, records, known, calibrate, seed, cache, data)
    with tqdm(unit="graph", desc=name_of(runtime, precision), disable=not show, leave=False) as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            move(bar, done)

        record = export_graphs(
            classifier, runtime.value, precision.value, folder, squares=squares, on=on, progress=told
        )
    place = folder / name_of(runtime, precision)
    size = sum(path.stat().st_size for path in place.iterdir()) / 1e6
    print(f"{runtime.value} {precision.value}: {len(record.graphs)} graph(s), {size:.1f} MB, in {place}")
    if labelled is not None:
        measured = _measure(classifier, folder, runtime.value, precision.value, labelled, show)
        measured["on"] = f"{len(labelled)} of the {split} images of {Path(str(data)).stem}"
        write_record(place, record.model_copy(update={"measured": measured}))
        _tell(measured)
    if out is None:
        asked = "" if bundle is None else f" --bundle {bundle}"
        print(f"To use them: pesi predict IMAGES{asked} --runtime {runtime.value} --precision {precision.value}")
    else:
        print(f"pesi predict takes such graphs from {beside}, or {cached}: copy that folder into one of these.")


def _known(
    classifier: Classifier,
    records: pd.DataFrame,
    split: str,
    count: int,
    seed: int,
    cache: Path | None,
    data: str,
) -> tuple[list[NDArray[np.uint8]], str]:
    """Squares of images that tell what numbers occur in the networks, and what they are."""
    import numpy as np

    from pesi.datasets.cache import cached_squares

    chosen = records if split == "all" else records[records["split"] == split]
    chosen = chosen.sample(min(count, len(chosen)), random_state=seed)
    regions = [
        cached_squares(list(chosen["path"]), region, cache_dir=str(cache) if cache else None)
        for region in (classifier.regions if len(chosen) else ())
    ]
    squares = [np.stack([region[i] for region in regions]) for i in range(len(chosen))]
    return squares, f"{len(chosen)} of the {split} images of {Path(data).stem}"


def _measure(
    classifier: Classifier,
    folder: Path,
    runtime: str,
    precision: str,
    records: pd.DataFrame,
    show: bool,
) -> dict[str, Any]:
    """The whole way from the files, by PyTorch and by the graphs."""
    from functools import partial

    import numpy as np
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.evaluate.evaluation import compare_predictions
    from pesi.evaluate.scoring import predicted_table
    from pesi.predict.classifier import Classifier
    from pesi.predict.runtimes.runtime import Runtime

    chosen = Runtime(runtime, precision, device="cpu").with_exports((folder,))
    exported = Classifier(classifier.config, classifier.networks, classifier.novelty, runtime=chosen)
    tables = []
    for each, what in ((classifier, "PyTorch"), (exported, exported.run_by)):
        with tqdm(total=len(records), unit="image", desc=what, disable=not show, leave=False) as bar:
            tables.append(predicted_table(each, records, progress=partial(move, bar)))
    names = list(classifier.config.outputs)
    change = np.abs(tables[0][names].to_numpy() - tables[1][names].to_numpy())
    return {
        "images": len(records),
        "largest_change": float(change.max()),
        "mean_change": float(change.mean()),
        "scores": compare_predictions(tables[1], tables[0], records, classifier.task).to_dict()["results"],
    }


def _tell(measured: dict[str, Any]) -> None:
    largest, mean = measured["largest_change"], measured["mean_change"]
    print(f"Against PyTorch in float32, on {measured['on']}, each by the networks that have not seen it:")
    print(f"  a probability changes by at most {largest:.4f}, by {mean:.5f} on average")
    for name, score in measured["scores"].items():
        low, high = score["ci"]
        change = f"{score['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        few = "; too few images to tell" if score["few"] else ""
        print(f"  {name}: {score['b']:.4f} -> {score['a']:.4f}, {change}{few}")
