"""`pesi audit`: everything that a clinician should know of a bundle before trusting it, as one report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.divide import SkipMissingOption, SkipOtherDiagnosesOption, records_of_task, say_held_out

if TYPE_CHECKING:
    import pandas as pd

    from pesi.bundle.seen import Seen
    from pesi.evaluate.audit.data import AuditData, Progress
    from pesi.predict.classifier import Classifier


def audit(
    data: Annotated[
        str, typer.Option(help="The data set's folder, or a CSV file: labelled images, of which one a lesion is drawn.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for report.html, report.pdf, audit.json, the card.")],
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder or name, or hf://OWNER/NAME. Default: the shipped one.")
    ] = None,
    split: Annotated[str, typer.Option(help="Its images: train, val, test, or all.")] = "val",
    dataset: Annotated[
        str | None, typer.Option(help="Which data set --data is, where that cannot be found out.")
    ] = None,
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A further data set, another source: one image a lesion is drawn. Can be given again."),
    ] = None,
    also_images: Annotated[int, typer.Option(min=20, help="At most so many images of each further data set.")] = 400,
    stress_images: Annotated[
        int, typer.Option(min=10, help="At most so many images for the stress tests and faithfulness.")
    ] = 150,
    replicates: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Also put the card and audit.json into the bundle's folder.")
    ] = False,
    pdf: Annotated[bool, typer.Option(help="Also write report.pdf (needs the extra `pdf`).")] = True,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Audit a classifier: scores, calibration, thresholds, uncertainty, refusals, stress tests, groups, explanations.

    Whatever is fitted (a temperature, a threshold, a prediction set) is measured on images that it was not fitted on.

    Examples:

        pesi audit --data isic2017 --out audit

        pesi audit runs/mine/bundle --data isic2017 --also ham10000 --out audit --keep
    """
    from pesi.bundle.card import keep_measured
    from pesi.bundle.installed import bundle_folder
    from pesi.evaluate.audit.data import AuditOptions
    from pesi.evaluate.audit.report import audit_card, pdf_writer, report_html, write_pdf
    from pesi.evaluate.audit.run import run_audit
    from pesi.evaluate.evaluation import measured_scores
    from pesi.files import write_json, write_text
    from pesi.predict.loading import load

    if pdf:
        pdf_writer()  # if it is missing, before the work
    classifier = load(bundle, device=device, runtime="eager")
    options = AuditOptions(replicates=replicates, seed=seed, stress_images=stress_images)
    with progress_bars(progress and sys.stderr.isatty()) as bars:
        sets = _read_sets(
            classifier,
            data,
            dataset,
            split,
            also or [],
            also_images,
            seed,
            cache,
            skip_missing,
            skip_other_diagnoses,
            bars,
        )
        result = run_audit(classifier, sets, options=options, progress=bars)
    title = f"Audit of {classifier.config.name}"
    html = report_html(result, title=title, provenance=_provenance(classifier, sets, options.seed, replicates))
    card = audit_card(classifier.config, result)
    for part in sets:
        table = part.records[["image_id", "diagnosis"]].copy()
        for index, name in enumerate(classifier.config.outputs):
            table[name] = part.probabilities[:, index]
        name = "".join(c if c.isalnum() else "-" for c in part.name)
        write_text(out / f"predictions-{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_json(out / "audit.json", result.to_dict(), indent=None)
    write_text(out / "README.md", card)
    write_text(out / "report.html", html)
    if keep:
        folder = bundle_folder(bundle)
        epoch = "the epoch, " if sets[0].chose_epoch else ""
        fitted = f", which also chose {epoch}the temperature and the thresholds" if sets[0].fitted_on else ""
        fitted = fitted or ", which also chose the epoch" * sets[0].chose_epoch
        performance = next(section for section in result.sets[0].sections if section.key == "performance")
        keep_measured(folder, measured_scores(performance.values, f"{sets[0].name}{fitted}"))
        write_json(folder / "audit.json", result.to_dict(), indent=None)
        write_text(folder / "README.md", card)
    if pdf:
        write_pdf(html, out / "report.pdf")
    for done in result.sets:
        print(f"{done.name}, {done.images} images")
        for section in done.sections:
            print(f"  {section.title}: {section.summary}")
    print(f"Report: {out / 'report.html'}" + (f", {out / 'report.pdf'}" if pdf else ""))


def _read_sets(
    classifier: Classifier,
    data: str,
    dataset: str | None,
    split: str,
    also: list[str],
    also_images: int,
    seed: int,
    cache: Path | None,
    skip_missing: bool,
    skip_other_diagnoses: bool,
    bars: Progress,
) -> list[AuditData]:
    from pesi.cli.evaluate import chosen_records
    from pesi.evaluate.audit.data import lesion_grouped_part, one_image_a_lesion, read_audit_data

    given, name = chosen_records(data, dataset, split, skip_missing), f"{Path(data).stem} {split}"
    of_task = records_of_task(given, classifier.task, skip_other_diagnoses)
    wanted = [(one_image_a_lesion(of_task, seed), name, given)]
    for other in also:
        given = chosen_records(other, None, "all", skip_missing)
        of_task = records_of_task(given, classifier.task, True)
        records = lesion_grouped_part(of_task, classifier.task, also_images, seed)
        same = sum(before.split(" #")[0] == Path(other).stem for _, before, _ in wanted)
        wanted.append((records, Path(other).stem + f" #{same + 1}" * bool(same), given))
    seen = [unseen_by_network(classifier, records, name, of=given) for records, name, given in wanted]
    return [
        read_audit_data(
            classifier,
            records,
            name,
            fitted_on=had.fitted > 0,
            chose_epoch=had.chose > 0,
            cache_dir=str(cache) if cache else None,
            progress=bars,
        )
        for (records, name, _), had in zip(wanted, seen, strict=True)
    ]


def unseen_by_network(
    classifier: Classifier, records: pd.DataFrame, name: str, *, of: pd.DataFrame | None = None
) -> Seen:
    """What the bundle has seen of images that did not train its networks; it is said where some trained a part of them.

    Args:
        classifier: The bundle.
        records: Record table of the images.
        name: What they are called.
        of: Those that they were drawn from.

    Raises:
        DataError: Some of them trained the network.
    """
    from pesi.bundle.seen import seen_images
    from pesi.errors import DataError

    drawn_from = None if of is None else list(of["image_id"])
    seen = seen_images(classifier.config, list(records["image_id"]), of=drawn_from)
    if seen.trained:
        raise DataError(
            f"{seen.trained} of the {len(records)} images of {name} trained this network.",
            "Choose images that it has not seen. It knows them by their ids: if these are others, rename them.",
        )
    say_held_out(classifier, seen.held_out, len(records))
    return seen


def _provenance(classifier: Classifier, sets: list[AuditData], seed: int, replicates: int) -> dict[str, str]:
    import platform

    from pesi.bundle.seen import seen_images
    from pesi.datasets.splits import id_hash
    from pesi.version import __version__

    rows = {"bundle": classifier.config.answer_id, "pesi-cnn": __version__, "Python": platform.python_version()}
    if len(classifier.members) > 1:
        rows["networks"] = (
            f"{classifier.config.network_names}: probabilities, features and maps are the means of theirs"
        )
    for part in sets:
        ids = list(part.records["image_id"])
        had = seen_images(classifier.config, ids)
        which = "them" if had.fitted in (0, len(ids)) else f"{had.fitted} of them"
        known = f"calibration and thresholds were set on {which}" if part.fitted_on else ""
        known = known or f"{'not' if had.known else 'not known to be'} those of the calibration"
        known += ", and they chose the epoch" * part.chose_epoch
        repeats = int(part.records["patient_id"].dropna().duplicated().sum())
        rows[part.name] = f"{len(part)} images, one a lesion, {known}; SHA-256 of their ids {id_hash(ids)[:16]}" + (
            f"; {repeats} repeat a patient: intervals draw patients, each with all of its images"
        ) * bool(repeats)
    rows["overlap"] = (
        "images that the bundle has seen are recognised by their ids, not copies of them under other ids"
        if seen_images(classifier.config, []).known
        else "only whole lists of images are recognised as seen before, by their hash; parts of them are not"
    )
    return rows | {"bootstrap resamples": str(replicates), "seed": str(seed)}


@contextmanager
def progress_bars(show: bool) -> Iterator[Progress]:
    """A progress bar a task, one after the other."""
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.evaluate.audit.data import silent

    if not show:  # a disabled bar does not know its own name
        yield silent
        return
    current: dict[str, tqdm] = {}  # one at most, by its name

    def progress(what: str, done: int, total: int) -> None:
        if what not in current:
            for bar in current.values():
                bar.close()
            current.clear()
            current[what] = tqdm(total=total, desc=what, unit="", file=sys.stderr)
        move(current[what], done)

    try:
        yield progress
    finally:
        for bar in current.values():
            bar.close()
