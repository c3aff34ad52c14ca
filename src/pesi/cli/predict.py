"""`pesi predict`: images and folders in, a table of probabilities and triage out."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.status import EXIT_REFUSED, refused_status, stoppable
from pesi.datasets.inputs import image_files, image_ids
from pesi.errors import DataError, PesiError
from pesi.version import __version__

if TYPE_CHECKING:
    from pesi.decide.triage import TriageLevel
    from pesi.predict.classifier import Classifier
    from pesi.predict.journal import Journal
    from pesi.predict.prediction import Prediction, Refusal
    from pesi.predict.similar import ReferenceSet
    from pesi.predict.tables import Row

_STANDARD = Path("-")  # input, output


class Format(StrEnum):
    """What `--out` holds."""

    table = "table"
    isic2017 = "isic2017"


def predict(
    inputs: Annotated[
        list[Path], typer.Argument(help="Images, or folders of images (searched to any depth); - for standard input.")
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

        pesi predict isic2017/images/test --bundle runs/mine/bundle --format isic2017 --out submission.csv
    """
    file = None if out == _STANDARD else out
    if lesions is not None and lesions_out is None and file is not None:
        lesions_out = file.with_name(f"{file.stem}-lesions{file.suffix}")
    for wrong, said in (
        (format_ is Format.isic2017 and out and out.suffix.lower() != ".csv", "A submission is a .csv file: --out."),
        (gallery and gallery.suffix.lower() not in (".html", ".htm"), "A gallery is a .html file: --gallery."),
        (
            len(bundle or ()) > 1 and (reference or overlay or gallery),
            "An ensemble has no --reference, no --overlay and no --gallery: name one bundle for them.",
        ),
        (_STANDARD in inputs and len(inputs) > 1, "Standard input (-) is one image: give it alone."),
        (lesions is None and lesions_out is not None, "--lesions-out needs --lesions: which image shows which."),
        (lesions is not None and lesions_out is None, "The lesions' answers need a file: --lesions-out or --out."),
        (resume and not (file or gallery), "--resume goes on with a file: name the same --out FILE."),
    ):
        if wrong:
            raise typer.BadParameter(said)
    if overlay is not None and overlay.exists() and not overlay.is_dir():
        raise DataError(f"{overlay} is a file.", "Name a folder for the pictures.")
    outputs = _Outputs(out, file, format_, gallery, overlay, lesions_out)
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
        from pesi.predict.similar import load_reference
        from pesi.predict.tables import check_output

        for path in (file, lesions_out):
            if path is not None:
                check_output(path)
        sources: Sequence[Path | bytes]
        if inputs == [_STANDARD]:
            paths, sources, ids = inputs, [_standard_input()], ["standard-input"]
        else:
            paths = sources = image_files(inputs)
            ids = image_ids(paths)
            if format_ is Format.isic2017 and ids != [path.stem for path in paths]:
                what = "Two of the images have one name, or one has a name that is too long for an id."
                raise DataError(what, "A submission names each image once, by its file's name.")
        count = len(paths)
        lesion_ids = _lesion_ids(lesions, ids, paths)
        cases = load_reference(reference) if reference is not None else None
        members = [load(name, device=device) for name in bundle or (None,)]
        gates = gates and format_ is Format.table
        work = _Work(members, paths, sources, ids, lesion_ids, views, gates, cases, batch_size)
        place = outputs.journal
        if resume and file is not None and file.exists() and not (place and place.exists()):
            _check_complete(file, work)
            return
        made_from = work.made_from | {"overlay": str(bool(overlay)), "gallery": str(bool(gallery))}
        journals.append(stack.enter_context(Journal(place, made_from, resume=resume)))
        failed = _fill(journals[0], work, outputs, progress and sys.stderr.isatty() and count > 1)
        told, unread = _write(journals[0], work, outputs)
        journals[0].remove()
    if count > 1:
        print(told, file=sys.stderr if file is None else sys.stdout)
    if written := ", ".join(str(path) for path in (file, gallery, lesions_out) if path is not None):
        print(f"{count - unread} predictions by {work.name} in {written}", file=sys.stderr)
    if unread or failed:
        raise typer.Exit(refused_status(unread, count) if unread else EXIT_REFUSED)


@dataclass(frozen=True)
class _Outputs:
    """Where the answers go."""

    out: Path | None
    file: Path | None  # `out`, where that is a file
    format: Format
    gallery: Path | None
    overlay: Path | None
    lesions: Path | None

    @property
    def journal(self) -> Path | None:
        kept = self.file or self.gallery
        return kept.with_name(f"{kept.name}.journal") if kept is not None else None

    @property
    def shown(self) -> bool:
        """Whether rows go to the terminal or a pipe, and so in the images' order."""
        return self.out == _STANDARD or (self.out is None and self.format is Format.table)

    def show(self, row: Row) -> None:
        """Print a row, where it goes to the terminal or a pipe."""
        from pesi.predict.tables import json_line, text_lines

        if self.out == _STANDARD:
            print(json_line(row), end="", flush=True)
        elif self.shown:
            print("\n".join(text_lines(row)), flush=True)


@dataclass(frozen=True)
class _Work:
    """The images, and who answers them how."""

    members: Sequence[Classifier]
    paths: Sequence[Path]
    sources: Sequence[Path | bytes]
    ids: Sequence[str]
    lesion_ids: Sequence[str | None] | None
    views: str | None
    gates: bool
    cases: ReferenceSet | None
    batch_size: int

    @property
    def name(self) -> str:
        return " + ".join(member.config.bundle_id for member in self.members)

    @property
    def levels(self) -> tuple[TriageLevel, ...]:
        return self.members[0].config.triage if len(self.members) == 1 else ()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.members[0].config.outputs

    @property
    def made_from(self) -> dict[str, str]:
        """What must be equal where rows stand together."""
        digest = hashlib.sha256()
        for image_id, path in zip(self.ids, self.paths, strict=True):
            digest.update(f"{image_id}\0{path}\n".encode("utf-8", "surrogateescape"))
        return {
            "bundle": " + ".join(member.config.answer_id for member in self.members),
            "pesi": __version__,
            "views": self.views or "of the bundle",
            "gates": str(self.gates),
            "reference set": self.cases.config.features_sha256 if self.cases is not None else "none",
            "images": f"{len(self.paths)} ({digest.hexdigest()[:16]})",
        }

    def results(self, numbers: Sequence[int], *, in_order: bool) -> Iterator[tuple[int, Prediction | Refusal]]:
        """The answers to some of the images, each with its image's number."""
        places = dict(zip((self.ids[n] for n in numbers), numbers, strict=True))
        return ((places[result.image_id], result) for result in self._results(numbers, in_order))

    def _results(self, numbers: Sequence[int], in_order: bool) -> Iterator[Prediction | Refusal]:
        from pesi.predict.ensemble import Ensemble

        sources, ids = [self.sources[n] for n in numbers], [self.ids[n] for n in numbers]
        if len(self.members) > 1:
            ensemble = Ensemble(self.members)
            return ensemble.predict_many(
                sources, image_ids=ids, views=self.views, batch_size=self.batch_size, in_order=in_order
            )
        return self.members[0].predict_many(
            sources,
            image_ids=ids,
            views=self.views,
            gates=self.gates,
            reference=self.cases,
            batch_size=self.batch_size,
            in_order=in_order,
        )

    def rows(self, journal: Journal, numbers: Iterable[int] | None = None, *, pictures: bool = False) -> Iterator[Row]:
        """The journal's rows as the outputs hold them."""
        for number, row in journal.rows(numbers):
            if not pictures:
                row.pop("pictures", None)
            yield row if self.lesion_ids is None else row | {"lesion_id": self.lesion_ids[number]}


def _fill(journal: Journal, work: _Work, outputs: _Outputs, show: bool) -> int:
    """Predict what the journal lacks; returns how many pictures could not be drawn."""
    from tqdm import tqdm

    from pesi.cli.explain import draw_explanation
    from pesi.explain.gallery import gallery_pictures
    from pesi.predict.prediction import Refusal

    left = journal.missing(len(work.paths))
    missing = set(left)
    done = [number for number in range(len(work.paths)) if number not in missing]
    for kept in work.rows(journal, done):
        outputs.show(kept)
    classifier, failed = work.members[0], 0
    with tqdm(
        total=len(work.paths), initial=len(done), unit="image", desc="predicting", disable=not show, leave=False
    ) as bar:
        for number, result in work.results(left, in_order=outputs.shown):
            row = result.to_dict()
            path, source = work.paths[number], work.sources[number]
            if isinstance(result, Refusal):
                bar.write(f"pesi: refused {path}: {result.reason}\n  -> {result.cure}", file=sys.stderr)
            else:
                try:
                    if outputs.overlay is not None and not result.no_result:
                        target = outputs.overlay / f"{result.image_id}-explained.png"
                        draw_explanation(classifier, source, target, prediction=result)
                    if outputs.gallery is not None:
                        row["pictures"] = gallery_pictures(classifier, source, class_name=result.most_probable)
                except (OSError, PesiError) as error:
                    failed += 1
                    bar.write(f"pesi: no picture of {path}: {error}", file=sys.stderr)
            journal.add(number, row)  # after its pictures: a row that is kept is done
            with bar.external_write_mode():
                outputs.show(next(work.rows(journal, [number])))
            bar.update()
    return failed


def _write(journal: Journal, work: _Work, outputs: _Outputs) -> tuple[str, int]:
    """Write the outputs; returns the summary, and how many images could not be read."""
    from pesi.explain.gallery import gallery_order, write_gallery
    from pesi.files import write_text
    from pesi.predict.lesions import lesion_answers, write_lesions
    from pesi.predict.tables import isic2017_submission, summary, write_rows

    if outputs.format is Format.isic2017:
        text = isic2017_submission(work.rows(journal))
        if outputs.file is None:
            print(text, end="")
        else:
            write_text(outputs.file, text)
    elif outputs.file is not None:
        write_rows(outputs.file, work.rows(journal), work.classes)
    if outputs.lesions is not None:
        answers = lesion_answers(work.rows(journal), work.levels, work.members[0].malignant_probability)
        write_lesions(outputs.lesions, answers, work.classes)
    if outputs.gallery is not None:
        keys = {number: gallery_order(row) for number, row in enumerate(work.rows(journal))}
        write_gallery(
            outputs.gallery,
            work.rows(journal, sorted(keys, key=keys.__getitem__), pictures=True),
            count=len(keys),
            levels=[level.level for level in work.levels],
            classes=work.classes,
            bundle=work.name,
        )
    return summary(work.rows(journal), [level.level for level in work.levels])


def _check_complete(file: Path, work: _Work) -> None:
    """Say that an output is complete, where it is."""
    from pesi.predict.tables import read_predictions

    read = read_predictions(file, work.classes)
    names = {work.members[0].config.answer_id} if len(work.members) == 1 else read.bundles
    if {*read.table["image_id"], *read.no_result} != set(work.ids) or not read.bundles <= names:
        raise DataError(
            f"{file} is complete, but of other images or by another bundle, and there is no {file.name}.journal.",
            "Name another --out; or leave --resume out, to write it anew.",
        )
    print(f"{file} is complete: {len(work.ids)} images.", file=sys.stderr)


def _standard_input() -> bytes:
    """The image on standard input."""
    cure = "Give it an image: pesi predict - < mole.jpg"
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("Standard input is a terminal and not an image.", cure)
    data = sys.stdin.buffer.read()
    if not data:
        raise DataError("Standard input is empty.", cure)
    return data


def _lesion_ids(lesions: str | None, ids: Sequence[str], paths: Sequence[Path]) -> list[str | None] | None:
    """Which lesion each image shows; None where that was not asked."""
    from pesi.predict.lesions import lesions_by_folder, lesions_by_table

    if lesions is None:
        return None
    found = lesions_by_folder(paths) if lesions == "folders" else lesions_by_table(lesions, ids, paths)
    if None in found:
        print(f"pesi: {found.count(None)} of {len(ids)} images are of no known lesion.", file=sys.stderr)
    return found
