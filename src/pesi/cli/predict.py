"""`pesi predict`: images and folders in, a table of probabilities and triage out."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.status import refused_status
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pesi.predict.classifier import Classifier
    from pesi.predict.prediction import Prediction, Refusal


class Format(StrEnum):
    """What `--out` holds."""

    table = "table"
    isic2017 = "isic2017"


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders of images (searched to any depth).")],
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="The classifier: a bundle's folder. Default: the shipped one. Given again: an ensemble, whose "
            "probabilities are averaged; it has no triage and refuses nothing."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A .csv, .json, .jsonl or .parquet file. Default: print.")] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="isic2017: the challenge's submission (.csv).")
    ] = Format.table,
    overlay: Annotated[
        Path | None, typer.Option(help="Also draw what the network attended to, as PNGs in this folder.")
    ] = None,
    views: Annotated[str | None, typer.Option(help="single, flips4, grid9 or scales12. Default: the bundle's.")] = None,
    gates: Annotated[
        bool, typer.Option(help="Give no result for an image of poor quality, or unlike those learned from.")
    ] = True,
    reference: Annotated[
        Path | None, typer.Option(help="A reference set (`pesi similar build`): also name the cases most like each.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Predict the probability of each diagnosis, with a triage.

    An image that cannot be read is named on stderr and in --out, and the rest is done; the exit status is then 1, and
    2 where none could be read. An image of poor quality, or unlike those that the classifier learned from, gives "no
    result" and the reason. A challenge's submission must hold every image: for it, the gates are off.

    Examples:

        pesi predict mole.jpg

        pesi predict mole.jpg --overlay pictures/

        pesi predict mole.jpg --reference references

        pesi predict photos/ --bundle runs/mine/bundle --out photos.csv

        pesi predict photos/ --bundle runs/a/bundle --bundle runs/b/bundle --out photos.csv

        pesi predict isic2017/images/test --bundle runs/mine/bundle --format isic2017 --out submission.csv
    """
    from tqdm import tqdm

    from pesi.files import write_text
    from pesi.predict.ensemble import Ensemble
    from pesi.predict.loading import load
    from pesi.predict.prediction import Refusal
    from pesi.predict.similar import load_reference
    from pesi.predict.tables import check_output, isic2017_submission, write_predictions

    if out is not None:
        check_output(out)
        if format_ is Format.isic2017 and out.suffix.lower() != ".csv":
            raise typer.BadParameter("A submission is a .csv file.", param_hint="--out")
    if overlay is not None and overlay.exists() and not overlay.is_dir():
        raise DataError(f"{overlay} is a file.", "Name a folder for the pictures.")
    paths = image_files(inputs)
    ids = image_ids(paths)
    if format_ is Format.isic2017 and ids != [path.stem for path in paths]:
        raise DataError("Two of the images have one name, which is their id.", "A submission names each image once.")
    members = [load(name, device=device) for name in bundle] if bundle else [load(device=device)]
    classifier = members[0]
    show = progress and sys.stderr.isatty() and len(paths) > 1
    results: list[Prediction | Refusal] = []
    gates = gates and format_ is Format.table
    stream: Iterator[Prediction | Refusal]
    if len(members) > 1:
        if reference is not None or overlay is not None:
            raise typer.BadParameter("An ensemble has no --reference and no --overlay: name one bundle for them.")
        stream = Ensemble(members).predict_many(paths, image_ids=ids, views=views, batch_size=batch_size)
    else:
        cases = load_reference(reference) if reference is not None else None
        stream = classifier.predict_many(
            paths, image_ids=ids, views=views, gates=gates, reference=cases, batch_size=batch_size
        )
    with tqdm(total=len(paths), unit="image", desc="predicting", disable=not show, leave=False) as bar:
        for result in stream:
            results.append(result)
            bar.update()
    refusals = [result for result in results if isinstance(result, Refusal)]
    for refusal in refusals:
        print(f"pesi: refused {refusal.path}: {refusal.reason}\n  -> {refusal.cure}", file=sys.stderr)
    if format_ is Format.isic2017:
        text = isic2017_submission(result.to_dict() for result in results)
        if out is None:
            print(text, end="")
        else:
            write_text(out, text)
    elif out is not None:
        write_predictions(out, results)
    else:
        _print(results)
    if overlay is not None:
        _draw(classifier, results, overlay, show)
    if out is not None:
        names = " + ".join(member.config.bundle_id for member in members)
        print(f"{len(results) - len(refusals)} predictions by {names} in {out}", file=sys.stderr)
    if refusals:
        raise typer.Exit(refused_status(len(refusals), len(results)))


def _draw(classifier: Classifier, results: list[Prediction | Refusal], folder: Path, show: bool) -> None:
    from tqdm import tqdm

    from pesi.cli.explain import draw_explanation
    from pesi.predict.prediction import Prediction

    predictions = [result for result in results if isinstance(result, Prediction) and not result.no_result]
    for result in tqdm(predictions, unit="image", desc="drawing", disable=not show, leave=False):
        target = folder / f"{result.image_id}-explained.png"
        draw_explanation(classifier, Path(str(result.path)), target, prediction=result)
    print(f"{len(predictions)} pictures in {folder}", file=sys.stderr)


def _print(results: list[Prediction | Refusal]) -> None:
    from pesi.predict.prediction import Prediction

    for result in results:
        if isinstance(result, Prediction):
            if result.no_result:
                print(f"{result.image_id}: no result. {result.no_result}")
                continue
            values = ", ".join(f"{name} {value:.3f}" for name, value in result.probabilities.items())
            print(f"{result.image_id}: {values}; triage: {result.triage or 'none'}")
            if "0.90" in result.sets:
                print(f"  at 90 % coverage: {' or '.join(result.sets['0.90']) or 'none of these'}")
            if result.similar:
                found = ", ".join(
                    f"{case.diagnosis} ({case.image_id}, {case.similarity:.2f})" for case in result.similar
                )
                print(f"  most like: {found}")
            for verdict in result.verdicts:
                if verdict.level == "warn":
                    print(f"  warning: {verdict.reason}")
