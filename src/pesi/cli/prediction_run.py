"""The work of `pesi predict`: who answers which images, each answer kept as it comes, and all written at the end."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pesi.errors import DataError, PesiError
from pesi.version import __version__

if TYPE_CHECKING:
    from pesi.datasets.stored import StoredImage
    from pesi.decide.triage import TriageLevel
    from pesi.predict.classifier import Classifier
    from pesi.predict.journal import Journal
    from pesi.predict.prediction import Prediction
    from pesi.predict.similar import ReferenceSet
    from pesi.predict.tables import Row

STANDARD = Path("-")  # input, output


class Format(StrEnum):
    """What `--out` holds."""

    table = "table"
    isic2017 = "isic2017"


@dataclass(frozen=True)
class Outputs:
    """Where the answers go."""

    out: Path | None
    file: Path | None  # `out`, where that is a file
    format: Format
    gallery: Path | None
    overlay: Path | None
    lesions: Path | None

    @property
    def journal(self) -> Path | None:
        """Where rows are kept until all are done."""
        kept = self.file or self.gallery
        return kept.with_name(f"{kept.name}.journal") if kept is not None else None

    @property
    def shown(self) -> bool:
        """Whether rows go to the terminal or a pipe, and so in the images' order."""
        return self.out == STANDARD or (self.out is None and self.format is Format.table)

    def show(self, row: Row) -> None:
        """Print a row, where it goes to the terminal or a pipe."""
        from pesi.predict.tables import json_line, text_lines

        if self.out == STANDARD:
            print(json_line(row), end="", flush=True)
        elif self.shown:
            print("\n".join(text_lines(row)), flush=True)


@dataclass(frozen=True)
class Work:
    """The images, and who answers them how."""

    members: Sequence[Classifier]
    names: Sequence[str]
    sources: Sequence[Path | bytes | StoredImage]
    ids: Sequence[str]
    lesion_ids: Sequence[str | None] | None
    views: str | None
    gates: bool
    cases: ReferenceSet | None
    batch_size: int
    device: str | None = None
    ray: str | None = None
    runtime: str | None = None
    precision: str | None = None

    @property
    def name(self) -> str:
        """Who answers."""
        return " + ".join(member.config.bundle_id for member in self.members)

    @property
    def levels(self) -> tuple[TriageLevel, ...]:
        """Of triage."""
        return self.members[0].config.triage if len(self.members) == 1 else ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the probabilities."""
        return self.members[0].config.outputs

    @property
    def made_from(self) -> dict[str, str]:
        """What must be equal where rows stand together."""
        digest = hashlib.sha256()
        for image_id, name in zip(self.ids, self.names, strict=True):
            digest.update(f"{image_id}\0{name}\n".encode("utf-8", "surrogateescape"))
        return {
            "bundle": " + ".join(member.config.answer_id for member in self.members),
            "pesi": __version__,
            "views": self.views or "of the bundle",
            "gates": str(self.gates),
            "reference set": self.cases.config.features_sha256 if self.cases is not None else "none",
            "runtime": " + ".join(member.run_by for member in self.members),
            "images": f"{len(self.names)} ({digest.hexdigest()[:16]})",
        }

    def answers(
        self, numbers: Sequence[int], *, in_order: bool
    ) -> Iterator[tuple[int, dict[str, Any], Prediction | None]]:
        """Number, row and, where the image was read here, the prediction of some of the images."""
        from pesi.predict.ensemble import Ensemble
        from pesi.predict.prediction import Prediction

        options: dict[str, Any] = {"views": self.views, "batch_size": self.batch_size}
        if len(self.members) == 1:
            options |= {"gates": self.gates, "reference": self.cases}
        if self.ray is not None:
            yield from ((number, row, None) for number, row in self._on_cluster(self.ray, options, numbers))
            return
        predictor = self.members[0] if len(self.members) == 1 else Ensemble(self.members)
        results = predictor.predict_many(
            [self.sources[n] for n in numbers], image_ids=[self.ids[n] for n in numbers], in_order=in_order, **options
        )
        places = dict(zip((self.ids[n] for n in numbers), numbers, strict=True))
        for result in results:
            yield places[result.image_id], result.to_dict(), result if isinstance(result, Prediction) else None

    def _on_cluster(
        self, address: str, options: dict[str, Any], numbers: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from pesi.datasets.stored import is_address
        from pesi.predict.cluster import Question, cluster_rows, packed_bundle

        def anywhere(name: str) -> str:
            return name if is_address(name) else str(Path(name).absolute())

        bundles = tuple(packed_bundle(member.folder) for member in self.members if member.folder)
        question = Question(bundles, options, self.device, self.runtime, self.precision)
        images = [(number, anywhere(self.names[number]), self.ids[number]) for number in numbers]
        for number, row in cluster_rows(address, question, images):
            yield number, row | {"path": self.names[number]}

    def picture(self, number: int) -> Path | bytes:
        """An image's file."""
        source = self.sources[number]
        return source if isinstance(source, Path | bytes) else source.read()

    def rows(self, journal: Journal, numbers: Iterable[int] | None = None, *, pictures: bool = False) -> Iterator[Row]:
        """The journal's rows as the outputs hold them."""
        for number, row in journal.rows(numbers):
            if not pictures:
                row.pop("pictures", None)
            yield row if self.lesion_ids is None else row | {"lesion_id": self.lesion_ids[number]}


def fill(journal: Journal, work: Work, outputs: Outputs, show: bool) -> int:
    """Predict what the journal lacks; returns how many pictures could not be drawn."""
    from tqdm import tqdm

    left = journal.missing(len(work.names))
    missing = set(left)
    done = [number for number in range(len(work.names)) if number not in missing]
    for kept in work.rows(journal, done):
        outputs.show(kept)
    classifier, failed = work.members[0], 0
    with tqdm(
        total=len(work.names), initial=len(done), unit="image", desc="predicting", disable=not show, leave=False
    ) as bar:
        for number, row, result in work.answers(left, in_order=outputs.shown):
            name = work.names[number]
            if "refused" in row:
                bar.write(f"pesi: refused {name}: {row['refused']}\n  -> {row['cure']}", file=sys.stderr)
            elif result is not None:
                try:
                    source = work.picture(number) if outputs.overlay or outputs.gallery else b""
                    if outputs.overlay is not None and not result.no_result:
                        from pesi.cli.explain import draw_explanation  # matplotlib is slow to import

                        target = outputs.overlay / f"{result.image_id}-explained.png"
                        draw_explanation(classifier, source, target, prediction=result)
                    if outputs.gallery is not None:
                        from pesi.explain.gallery import gallery_pictures

                        row["pictures"] = gallery_pictures(classifier, source, class_name=result.most_probable)
                except (OSError, PesiError) as error:
                    failed += 1
                    bar.write(f"pesi: no picture of {name}: {error}", file=sys.stderr)
            journal.add(number, row)  # after its pictures: a row that is kept is done
            with bar.external_write_mode():
                outputs.show(next(work.rows(journal, [number])))
            bar.update()
    return failed


def write(journal: Journal, work: Work, outputs: Outputs) -> tuple[str, int]:
    """Write the outputs; returns the summary, and how many images could not be read."""
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
        from pesi.explain.gallery import gallery_order, write_gallery

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


def check_complete(file: Path, work: Work) -> None:
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


def standard_input() -> bytes:
    """The image on standard input."""
    cure = "Give it an image: pesi predict - < mole.jpg"
    if sys.stdin is None or sys.stdin.isatty():
        raise DataError("Standard input is a terminal and not an image.", cure)
    data = sys.stdin.buffer.read()
    if not data:
        raise DataError("Standard input is empty.", cure)
    return data


def lesion_of_each(lesions: str | None, ids: Sequence[str], paths: Sequence[Path]) -> list[str | None] | None:
    """Which lesion each image shows; None where that was not asked."""
    from pesi.predict.lesions import lesions_by_folder, lesions_by_table

    if lesions is None:
        return None
    found = lesions_by_folder(paths) if lesions == "folders" else lesions_by_table(lesions, ids, paths)
    if None in found:
        print(f"pesi: {found.count(None)} of {len(ids)} images are of no known lesion.", file=sys.stderr)
    return found
