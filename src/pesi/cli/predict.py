"""`pesi predict`: images and folders in, a table of probabilities and triage out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.prediction_run import (
    STANDARD,
    Format,
    Outputs,
    Work,
    check_complete,
    fill,
    lesion_of_each,
    standard_input,
    write,
)
from pesi.cli.status import EXIT_REFUSED, refused_status, stoppable
from pesi.datasets.stored import StoredImage, listed_images, opened_later
from pesi.errors import DataError
from pesi.machine import tune_streams

if TYPE_CHECKING:
    from pesi.predict.journal import Journal


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, or folders of images (searched to any depth); lists of them (.csv, .parquet with a column "
            "path); addresses of object storage (s3://bucket/folder); - for standard input."
        ),
    ],
    bundle: Annotated[
        list[str] | None,
        typer.Option(
            help="The classifier: a bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one. Given "
            "again: an ensemble, whose probabilities are averaged; it has no triage and refuses nothing."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A .csv, .json, .jsonl or .parquet file; - for JSON lines here. Default: print.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="isic2017: the challenge's submission (.csv).")
    ] = Format.table,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped: its rows lie in OUT.journal.")
    ] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Also draw what the network attended to, as PNGs in this folder.")
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Also write one .html page of all images, the most suspicious first.")
    ] = None,
    lesions: Annotated[
        str | None,
        typer.Option(
            help="Which images show one lesion: a .csv table with image_id and lesion_id, or `folders`: each holds a "
            "lesion. A lesion's answer is the mean of its images."
        ),
    ] = None,
    lesions_out: Annotated[
        Path | None, typer.Option(help="The lesions' answers, as for --out. Default: OUT-lesions beside --out.")
    ] = None,
    views: Annotated[
        str | None, typer.Option(help="single, flips2, flips4, grid9 or scales12. Default: the bundle's.")
    ] = None,
    gates: Annotated[bool, typer.Option(help="Give no result for an image of poor quality, or no dermoscopy.")] = True,
    reference: Annotated[
        Path | None, typer.Option(help="A reference set (`pesi similar build`): also name the cases most like each.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto (default), eager, compile, onnx or openvino.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32 (default), bfloat16, or int8 (see pesi export).")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Let a Ray cluster answer: `auto`, HOST:PORT, or `local` for one of this machine's cores.",
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Predict the probability of each diagnosis, with a triage.

    An image that cannot be read is named on stderr and in --out, and the rest is done; the exit status is then 1, and
    2 where none could be read. An image of poor quality, or no dermoscopy, gives "no
    result" and the reason. A challenge's submission must hold every image: for it, the gates are off.

    Rows are kept in OUT.journal as they are made. Stopped at any moment, the same command and --resume goes on.

    Examples:

        pesi predict mole.jpg

        pesi predict mole.jpg --overlay pictures/

        pesi predict mole.jpg --reference references

        pesi predict - --out - < mole.jpg

        pesi predict photos/ --bundle runs/mine/bundle --out photos.csv --gallery photos.html

        pesi predict photos/ --out photos.csv --resume

        pesi predict photos/ --out photos.csv --lesions lesions.csv

        pesi predict photos/ --bundle runs/a/bundle --bundle runs/b/bundle --out photos.csv

        pesi predict s3://archive/dermoscopy --ray auto --out archive.parquet

        pesi predict isic2017/images/test --bundle runs/mine/bundle --format isic2017 --out submission.csv
    """
    file = None if out == STANDARD else out
    if lesions is not None and lesions_out is None and file is not None:
        lesions_out = file.with_name(f"{file.stem}-lesions{file.suffix}")
    for wrong, said in (
        (format_ is Format.isic2017 and out and out.suffix.lower() != ".csv", "A submission is a .csv file: --out."),
        (gallery and gallery.suffix.lower() not in (".html", ".htm"), "A gallery is a .html file: --gallery."),
        (
            len(bundle or ()) > 1 and (reference or overlay or gallery),
            "An ensemble has no --reference, no --overlay and no --gallery: name one bundle for them.",
        ),
        ("-" in inputs and len(inputs) > 1, "Standard input (-) is one image: give it alone."),
        (lesions is None and lesions_out is not None, "--lesions-out needs --lesions: which image shows which."),
        (lesions is not None and lesions_out is None, "The lesions' answers need a file: --lesions-out or --out."),
        (
            ray is not None and (file is None or reference or overlay or gallery or inputs == ["-"]),
            "--ray needs a file for the rows, --out; it has no --reference, --overlay or --gallery.",
        ),
        (resume and not (file or gallery), "--resume goes on with a file: name the same --out FILE."),
    ):
        if wrong:
            raise typer.BadParameter(said)
    if overlay is not None and overlay.exists() and not overlay.is_dir():
        raise DataError(f"{overlay} is a file.", "Name a folder for the pictures.")
    outputs = Outputs(out, file, format_, gallery, overlay, lesions_out)
    journals: list[Journal] = []

    def kept() -> str:
        if not journals:
            return "before the first image.\n  -> The same command begins again."
        done = f"{len(journals[0])} of {count} images are done"
        if journals[0].path is None:
            return f"{done} and kept nowhere.\n  -> With --out FILE it can go on."
        return f"{done} and kept in {journals[0].path}.\n  -> Go on with the same command and --resume."

    with stoppable(kept), ExitStack() as stack:
        from pesi.predict.journal import Journal
        from pesi.predict.loading import load
        from pesi.predict.tables import check_output

        for path in (file, lesions_out):
            if path is not None:
                check_output(path)
        sources: Sequence[Path | bytes | StoredImage]
        if inputs == ["-"]:
            names, sources, ids = inputs, [standard_input()], ["standard-input"]
        else:
            names, ids = listed_images(inputs)
            sources = [opened_later(name) for name in names]
            if format_ is Format.isic2017 and ids != [Path(name).stem for name in names]:
                what = "Two of the images have one name, or one has a name that is too long for an id."
                raise DataError(what, "A submission names each image once, by its file's name.")
        count = len(names)
        lesion_ids = lesion_of_each(lesions, ids, [Path(name) for name in names])
        cases = None
        if reference is not None:
            from pesi.predict.similar import load_reference

            cases = load_reference(reference)
        tune_streams(count)
        members = [load(name, device=device, runtime=runtime, precision=precision) for name in bundle or (None,)]
        gates = gates and format_ is Format.table
        asked = (device, ray, runtime, precision)
        work = Work(members, names, sources, ids, lesion_ids, views, gates, cases, batch_size, *asked)
        place = outputs.journal
        if resume and file is not None and file.exists() and not (place and place.exists()):
            check_complete(file, work)
            return
        made_from = {"overlay": str(bool(overlay)), "gallery": str(bool(gallery))}
        if place is not None:  # else nobody goes on with it, and networks open while the first images are read
            made_from |= work.made_from
        journals.append(stack.enter_context(Journal(place, made_from, resume=resume)))
        failed = fill(journals[0], work, outputs, progress and sys.stderr.isatty() and count > 1)
        told, unread = write(journals[0], work, outputs)
        journals[0].remove()
    if count > 1:
        print(told, file=sys.stderr if file is None else sys.stdout)
    if written := ", ".join(str(path) for path in (file, gallery, lesions_out) if path is not None):
        print(f"{count - unread} predictions by {work.name} in {written}", file=sys.stderr)
    if unread or failed:
        raise typer.Exit(refused_status(unread, count) if unread else EXIT_REFUSED)
