"""`pesi data`: fetch a data set, check it, draw a synthetic one, find its near-duplicates, split it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pesi.cli.divide import SkipMissingOption, image_bar, near_duplicate_pairs, read_records
from pesi.cli.status import EXIT_REFUSED
from pesi.errors import DataError
from pesi.files import check_ending

if TYPE_CHECKING:
    import pandas as pd

data_app = typer.Typer(
    help="Fetch, check, make and split data sets.", no_args_is_help=True, rich_markup_mode="markdown"
)

_SHOWN = 20  # pairs printed; the CSV has them all

_Path = Annotated[str, typer.Argument(metavar="PATH", help="The data set's folder, or a CSV file.")]
_Dataset = Annotated[str | None, typer.Option(help="Which data set it is, where that cannot be found out.")]
_Progress = Annotated[bool, typer.Option(help="Show progress bars.")]


@data_app.command()
def fetch(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="isic2017.")],
    out: Annotated[Path | None, typer.Option(help="The folder for it. Default: the data set's name.")] = None,
    part: Annotated[list[str] | None, typer.Option(help="train, val or test; may be repeated. Default: all.")] = None,
    keep_archives: Annotated[bool, typer.Option(help="Keep the zip files too.")] = False,
    progress: _Progress = True,
) -> None:
    """Download a data set's official files, verify and unpack them.

    A download that was cut goes on when the same command is run again; what is there already is not asked for.
    ISIC 2017 takes 12 GB, and 6 GB more while it is unpacked.

    Examples:

        pesi data fetch isic2017

        pesi data fetch isic2017 --part val --out data/isic2017
    """
    from pesi.datasets.fetch import ISIC2017, fetch_isic2017

    if dataset != "isic2017":
        raise DataError(
            f"{dataset!r} cannot be fetched.",
            "Only isic2017 can. Get others from challenge.isic-archive.com/data, unpack them, and run pesi data check.",
        )
    with _byte_bars(progress) as report:
        root = fetch_isic2017(out or Path(dataset), parts=part or list(ISIC2017), progress=report)
    print(f"{root} is complete. Now look whether all is in order: pesi data check {root}")


@data_app.command()
def check(
    path: _Path,
    dataset: _Dataset = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole report there too.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Images read at the same time.")] = 1,
    progress: _Progress = True,
) -> None:
    """Read every image and mask, and tell what is wrong: missing and damaged files, copies, odd labels and masks.

    Ends with status 1 if anything is.

    Examples:

        pesi data check isic2017

        pesi data check photos/ --json report.json --workers 4
    """
    from pesi.datasets.check import check_records
    from pesi.datasets.readers import survey_dataset
    from pesi.files import write_json

    check_ending(json, ".json")
    records, reading = survey_dataset(path, dataset=dataset)
    with image_bar("checking", len(records), progress) as report:
        found = check_records(records, reading=reading, workers=workers, progress=lambda done, total: report(done))
    if json is not None:
        write_json(json, found.to_dict())
    print(found.to_text())
    if not found.ok:
        raise typer.Exit(EXIT_REFUSED)


@data_app.command()
def synthetic(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="The set's folder; must be new or empty.")],
    train: Annotated[int, typer.Option(min=0, help="Training images.")] = 900,
    val: Annotated[int, typer.Option(min=0, help="Validation images.")] = 150,
    test: Annotated[int, typer.Option(min=0, help="Test images.")] = 300,
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw; they change nothing in the images.")] = 1,
    progress: _Progress = True,
) -> None:
    """Draw synthetic dermoscopy images with labels, masks and known criteria, for tests and demonstrations.

    They are drawn by rules: no figure that is measured on them says anything about real lesions.

    Examples:

        pesi data synthetic demo/images

        pesi data synthetic small --train 60 --val 15 --test 30 --size 128 --seed 1
    """
    from pesi.synthetic import write_synthetic

    with image_bar("drawing", train + val + test, progress) as report:
        root = write_synthetic(
            out, train=train, val=val, test=test, size=size, seed=seed, workers=workers, progress=report
        )
    print(f"{root}: {train + val + test} images (train {train}, val {val}, test {test})")


@data_app.command()
def duplicates(
    path: _Path,
    dataset: _Dataset = None,
    skip_missing: SkipMissingOption = False,
    against: Annotated[
        str | None, typer.Option(metavar="PATH", help="Another data set: only pairs of one image of each are found.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="CSV", help="Write all pairs there.")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(metavar="TXT", help="With --against: write the ids of PATH's images that have one, one a line."),
    ] = None,
    progress: _Progress = True,
) -> None:
    """Find pairs of images that show nearly the same: resized, re-compressed, turned or twice taken.

    Pairs in two splits make a test score too good: look at them, and split again with `pesi data split`. A set to
    train with may hold copies of another set's test images: find them with `--against` and `--ids`, and leave them out
    with `pesi train --exclude`.

    Examples:

        pesi data duplicates isic2017

        pesi data duplicates isic2017 --out pairs.csv

        pesi data duplicates ham10000 --against isic2017 --ids copies.txt
    """
    import pandas as pd

    from pesi.datasets.splits import leak_report
    from pesi.files import write_text

    check_ending(out, ".csv")
    if ids is not None and against is None:
        raise DataError("--ids needs --against.", "Say which data set's images must not be trained with.")
    records = read_records(path, dataset, skip_missing)
    others = None if against is None else read_records(against, None, skip_missing)
    pairs = near_duplicate_pairs(records, others, progress=progress)
    if out is not None:
        _write_csv(out, pairs)
    if ids is not None:
        write_text(ids, "".join(f"{image_id}\n" for image_id in sorted(set(pairs["image_a"]))))
    both = records if others is None else pd.concat([records, others], ignore_index=True)
    splits = dict(zip(both["image_id"], both["split"], strict=True))
    labels = dict(zip(both["image_id"], both["diagnosis"], strict=True))
    if others is None:
        crossing = leak_report(records, pairs).pairs or ()
        told = f"among {len(records)} images, {len(crossing)} of them across splits"
    else:
        told = f"between {len(records)} images and {len(others)} others"
    print(f"{len(pairs)} pairs of near-duplicates {told}")
    shown = pairs.head(_SHOWN)
    for image_a, image_b, distance in zip(shown["image_a"], shown["image_b"], shown["distance"], strict=True):
        ends = (f"{i} ({splits[i] or 'no split'}, {labels[i] or 'no diagnosis'})" for i in (image_a, image_b))
        print(f"  {' and '.join(ends)}: distance {distance:.3f}")
    if len(pairs) > _SHOWN:
        print(f"  ... and {len(pairs) - _SHOWN} more" + ("" if out else "; see all with --out FILE.csv"))


@data_app.command()
def split(
    path: _Path,
    out: Annotated[Path, typer.Option(metavar="CSV", help="Where the record table with its splits goes.")],
    dataset: _Dataset = None,
    skip_missing: SkipMissingOption = False,
    val: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the images for validation.")] = 0.15,
    test: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the images for testing.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same splits.")] = 0,
    near_duplicates: Annotated[
        bool, typer.Option(help="Keep near-duplicate images together too (reads every image).")
    ] = True,
    progress: _Progress = True,
) -> None:
    """Divide a data set so that no patient, lesion or near-duplicate is in two parts, balanced by diagnosis.

    Official splits stay as they are; what leaks between them is told. The CSV is a data set for every other command.

    Examples:

        pesi data split ham10000 --out ham10000-split.csv

        pesi data split photos/ --out photos.csv --val 0.1 --test 0.2 --seed 7
    """
    from pesi.datasets.splits import leak_report, split_records

    check_ending(out, ".csv")  # or the other commands will not read it
    records = read_records(path, dataset, skip_missing)
    pairs = clusters = None
    if near_duplicates:
        from pesi.datasets.duplicates import clusters as cluster_of

        pairs = near_duplicate_pairs(records, progress=progress)
        clusters = cluster_of(records, pairs)
    table = split_records(records, val=val, test=test, seed=seed, clusters=clusters)
    written = table.copy()
    for column in ("path", "mask_path"):
        written[column] = [_from(out.parent, name) for name in table[column]]
    _write_csv(out, written)
    found = leak_report(table, pairs)
    print(found.to_text())
    if found.leaks:
        print("The data set's own splits were kept, and they share images: see above.", file=sys.stderr)
    print(f"Written: {out} (use it as --data {out})")


def _from(folder: Path, path: str | None) -> str | None:
    """A path as the CSV in `folder` shall name it: relative if the file lies below it, so that both can move."""
    if path is None:
        return None
    below = Path(path).resolve()
    root = folder.resolve()
    return below.relative_to(root).as_posix() if below.is_relative_to(root) else str(below)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    from pesi.files import write_text

    write_text(path, table.to_csv(index=False, lineterminator="\n"))


@contextmanager
def _byte_bars(progress: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each thing that is done in turn."""
    from tqdm import tqdm

    from pesi.cli.bars import move

    show = progress and sys.stderr.isatty()
    bars: dict[str, tqdm] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in bars:
            for bar in bars.values():
                bar.close()
            # What an earlier run brought is no part of the speed: initial.
            bars[what] = tqdm(
                desc=what, total=total or None, initial=done, unit="B", unit_scale=True, disable=not show, leave=False
            )
        move(bars[what], done)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()
