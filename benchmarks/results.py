"""Writes docs/results.md, its figures and the test predictions, from the saved rows of all tables.

    python benchmarks/results.py --data DIR [DIR ...]

Every figure in the page is computed here from per-image predictions and the data set's labels, but for the published
results of others, which stand in benchmarks/isic2017/published.toml. Unfinished tables give what is finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from ages import ages_table
from answers import answers_table
from claims import OurRow, claims_table, held_out, our_rows, published_table, read_published
from ensembles import EnsembleResult, ensemble_result, ensemble_tables, read_ensembles
from outcome import Outcome, read_outcome
from plots import difference_figure, learning_figure, trajectories, trajectory_figure
from rows import Table, load_table
from scoring import Difference, VariantScores, difference, variant_scores
from sections import (
    cost_table,
    counted,
    difference_table,
    growth_table,
    learning_curve,
    learning_table,
    progress,
    score_table,
)
from submissions import repository_path, write_ensemble_predictions, write_test_predictions

import pesi
from pesi.bundle.config import read_config
from pesi.bundle.files import WEIGHTS, bundle_kind
from pesi.bundle.segmenter import read_segmenter_config
from pesi.datasets.readers import read_dataset
from pesi.errors import PesiError
from pesi.files import write_text
from pesi.predict.tables import ISIC2017_COLUMNS, read_prediction_table

HERE = Path(__file__).resolve().parent
_ENSEMBLES = (
    "`benchmarks/*/ensembles.toml`. The members' held-out probabilities, averaged. The best member was "
    "chosen on the same images, so the gain over it is not flattered."
)


class TableResult(NamedTuple):
    """All that is computed of one table.

    Attributes:
        differences: Over the most folds.
        more_seeds: Over fewer folds that more seeds have, where there are such.
    """

    outcome: Outcome
    scores: dict[str, VariantScores | None]
    differences: list[Difference]
    more_seeds: list[Difference]
    replicates: int
    seed: int

    @property
    def empty(self) -> bool:
        return not any(self.outcome.finished[variant] for variant in self.outcome.own)


def table_result(path: Path, data: list[pd.DataFrame], *, replicates: int, seed: int) -> TableResult:
    """Read and score one table."""
    table = load_table(path)
    reference = load_table(table.reference) if table.reference else None
    outcome = read_outcome(table, reference, _labels(table, data))
    differences, more_seeds = [], []
    for variant in outcome.own:
        other = outcome.compared_with(variant)
        if other == variant:
            continue
        found = difference(outcome, variant, other, replicates=replicates, seed=seed)
        if found is None:
            continue
        differences.append(found)
        block = outcome.block(variant, other, most="seeds")
        if len(block.seeds) > len(found.block.seeds):
            again = difference(outcome, variant, other, replicates=replicates, seed=seed, block=block)
            more_seeds += [again] if again is not None else []
    return TableResult(
        outcome,
        {v: variant_scores(outcome, v, replicates=replicates, seed=seed) for v in outcome.own},
        differences,
        more_seeds,
        replicates,
        seed,
    )


def _labels(table: Table, data: list[pd.DataFrame]) -> pd.DataFrame:
    """The first data set that has the table's images; the first of all where no row is finished."""
    finished = next((files for files in map(table.files, table.rows()) if files.finished), None)
    if finished is None:
        return data[0]
    ids = set(read_prediction_table(finished.held_out)["image_id"])
    for records in data:
        if ids <= set(records["image_id"][records["diagnosis"].notna()]):
            return records
    raise PesiError(f"No data set has labels for the images of {table.name}.", "Give that data set too: --data A B.")


def section(result: TableResult, figures: Path, page: Path) -> str:
    """The section of a table with finished rows; its figures are written."""
    outcome = result.outcome
    parts = [f"## {outcome.table.title}", f"`{repository_path(outcome.table.path)}`"]
    stem = outcome.table.name.replace("/", "-")
    if not outcome.table.folds.find_duplicates:
        parts.append("Near-duplicates were not looked for: a fold keeps the images of a patient or lesion together.")
    parts += [progress(outcome), score_table(outcome, result.scores)]
    if result.differences:
        parts += ["**Differences**", difference_table(outcome, result.differences)]
        parts.append(
            _figure(figures / f"{stem}-differences.svg", difference_figure(result.differences, outcome.headline), page)
        )
    if result.more_seeds:
        parts += ["**Differences over fewer folds, with more seeds**", difference_table(outcome, result.more_seeds)]
    parts += _learning(result, figures / f"{stem}-learning.svg", page)
    growth = growth_table(outcome)
    if growth:
        rows = {v: list(outcome.finished[v].values()) for v in outcome.own}
        attended = {v: r for v, r in rows.items() if r and trajectories(r, "alpha")}
        what = "means over the finished rows, of the weights before their moving average, which is what is scored"
        parts += [f"**Alpha and attention energy**, {what}", growth]
        parts.append(_figure(figures / f"{stem}-attention.svg", trajectory_figure(attended), page))
    if outcome.table.answers:
        parts += ["**Believing its probabilities**", answers_table(outcome, result.replicates)]
    if outcome.table.ages:
        told = ages_table(outcome, outcome.table.ages, replicates=result.replicates, seed=result.seed)
        parts += ["**What the patient's age would add**", told] if told else []
    parts += ["**Training cost**", cost_table(outcome)]
    return "\n\n".join(part for part in parts if part)


def _learning(result: TableResult, path: Path, page: Path) -> list[str]:
    """The learning curve, where variants of the table train on a share of the images."""
    outcome = result.outcome
    if all(variant.share == 1 for variant in outcome.table.variants.values()):
        return []
    there = [variant for variant in dict.fromkeys((outcome.reference, *outcome.own)) if outcome.finished[variant]]
    block = outcome.block(*there)  # the same held-out images for all
    scores = {
        variant: variant_scores(outcome, variant, replicates=result.replicates, seed=result.seed, block=block)
        for variant in there
    }
    points = [(images, s.averaged[outcome.headline]) for images, s in learning_curve(outcome, scores)]
    if len(points) < 2:
        return []
    table = learning_table(outcome, scores)
    return ["**Learning curve**", table, _figure(path, learning_figure(points, outcome.headline), page)]


def _figure(path: Path, svg: str, page: Path) -> str:
    write_text(path, svg)
    return f"![{path.stem}]({path.relative_to(page.parent).as_posix()})"


def shipped_sections() -> list[str]:
    """What comes with the package, as measured when it was made; nothing where nothing ships."""
    folders = sorted(path.parent for path in (Path(pesi.__file__).parent / "bundles").glob("*/config.json"))
    parts = []
    for folder in folders:
        kind = bundle_kind(folder)
        config = read_config(folder) if kind == "classifier" else read_segmenter_config(folder)
        if config.measured is not None:
            size = (folder / WEIGHTS).stat().st_size / 1e6
            parts.append(f"**{kind.capitalize()}** `{config.bundle_id}`, {size:.1f} MB")
            parts.append(f"On {config.measured.images} images: {config.measured.on}.")
            parts.append(config.measured.to_markdown())
    return ["## What ships", *parts] if parts else []


def page_text(
    results: list[TableResult],
    published: Path,
    figures: Path,
    page: Path,
    predictions: Path,
    n: int,
    ensembles: list[EnsembleResult] | None = None,
) -> str:
    """The whole page; figures and prediction files are written."""
    ensembles = ensembles or []
    source = read_published(published)
    ranked = [result for result in results if result.outcome.table.ranked]
    differences = [d for result in results for d in (*result.differences, *result.more_seeds)]
    shown = [d for d in differences if d.shown]
    summary = (
        f"{counted(len(differences), 'comparison')} with a reference; the difference is shown in {len(shown)} of them"
        + (f" ({', '.join(f'`{d.name}` {d.averaged.difference:+.4f}' for d in shown)})" if shown else "")
        + f". In {sum(d.apart for d in differences)} the intervals exclude zero; they are at 95 %, uncorrected, and "
        f"without the luck of a training: by the choice of images alone about {0.05 * len(differences):.1f} would be "
        "expected."
    )
    parts = [
        "# Results",
        "Written by `python benchmarks/results.py --data DIR` from the per-image predictions in "
        "`benchmarks/*/*/rows/`: anyone can score them again. Don't edit; run the command.",
        summary if differences else "No comparison can be made yet.",
        "How to read it. A row is one training run. In a fold, the held-out images (near-duplicates share a fold, "
        "where nothing else is said, and images like official validation or test images are never trained with) choose "
        "nothing: the last epoch is used. Held-out predictions are pooled over the folds; probabilities are averages "
        "of four flipped views (of the whole image and of the lesion, where a recipe looks at both), not calibrated. "
        "The lesion is found by the segmenter that ships, which learned from masks, not diagnoses, of images of ISIC "
        "2017 that are held out here: so a score with its crops may flatter. Intervals are 95 %: "
        "stratified bootstrap over the images, over the lesions where they have several images "
        f"({n} resamples), for single AUC differences DeLong. They do not hold the luck of a seed: the seeds stand "
        "beside them. *Seeds averaged*: the probabilities of the seeds' networks are averaged first. *One network*: "
        "each seed is scored by itself, then the scores are averaged. *Within folds*: nothing is pooled, the folds' "
        "scores are averaged. A difference is called *shown* only if the intervals of both, seeds averaged and one "
        "network, exclude zero; if it is of the same networks or of more than one seed; if both were trained in the "
        "same arithmetic; and if, where one of them crops, it is there without the images that the segmenter had "
        "learned from. In bf16 the convolutions run in bfloat16; the residual stream is float32 with the attention "
        "spatial, spatial-mean1 or channel and bfloat16 without, with sigmoid or se, as each would be used.",
        "## Published and ours",
        published_table(
            source, [row for r in ranked for row in our_rows(r.outcome, r.scores)] + ensemble_rows(ensembles)
        ),
        *shipped_sections(),
        *(section(result, figures, page) for result in results if not result.empty),
        *(["## Ensembles", _ENSEMBLES, ensemble_tables(ensembles)] if ensembles else []),
        "## Claimed and measured",
        claims_table(source, [(r.outcome, r.scores, r.differences) for r in results]),
    ]
    files = [line for result in ranked for line in write_test_predictions(result.outcome, predictions)]
    files += write_ensemble_predictions(ensembles, predictions)
    waiting = [f"- {r.outcome.table.title}: `{repository_path(r.outcome.table.path)}`" for r in results if r.empty]
    if waiting:
        parts += [
            "## Not trained yet",
            "Tables that are ready to run, of which no row is finished.",
            "\n".join(waiting),
        ]
    if files:
        parts += [
            "## Test predictions",
            "In the challenge's format; they are scored elsewhere, the labels are held apart.",
            "\n".join(files),
        ]
    return "\n\n".join(parts) + "\n"


def ensemble_rows(ensembles: list[EnsembleResult]) -> list[OurRow]:
    """The ensembles beside the published models."""
    rows = []
    for ensemble in ensembles:
        outcome = ensemble.members[0][0]
        if outcome.columns == ISIC2017_COLUMNS:
            where = held_out(ensemble.splits, len(outcome.table.splits), ensemble.images)
            model = f"ensemble {ensemble.name}, {counted(ensemble.networks, 'network')}"
            rows.append(OurRow(model, where, ensemble.averaged, ensemble.points))
    return rows


def all_tables() -> list[Path]:
    """The table files under benchmarks/; in each folder those first that others refer to."""
    found = []
    for path in HERE.glob("*/*.toml"):
        text = path.read_text(encoding="utf-8")
        if "[variants." in text:
            found.append((path.parent.name, "\nreference = " in text, len(path.name), path))
    return [path for *_, path in sorted(found)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="the data sets that the rows are of")
    parser.add_argument("--tables", type=Path, nargs="+", help="default: all under benchmarks/")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    parser.add_argument("--predictions", type=Path, default=HERE / "isic2017" / "predictions")
    parser.add_argument("--replicates", type=int, default=2000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    options = parser.parse_args()
    try:
        data = [read_dataset(folder) for folder in options.data]
        results = []
        for path in options.tables or all_tables():
            results.append(table_result(path, data, replicates=options.replicates, seed=options.seed))
            print(
                f"{results[-1].outcome.table.name}: {counted(len(results[-1].differences), 'comparison')}", flush=True
            )
        outcomes = {r.outcome.table.name: r.outcome for r in results}
        found = [
            ensemble_result(name, members, replicates=options.replicates, seed=options.seed)
            for path in sorted(HERE.glob("*/ensembles.toml"))
            for name, members in read_ensembles(path, outcomes).items()
        ]
        ensembles = [result for result in found if result is not None]
        figures = options.out.parent / options.out.stem
        text = page_text(
            results,
            HERE / "isic2017" / "published.toml",
            figures,
            options.out,
            options.predictions,
            options.replicates,
            ensembles,
        )
        write_text(options.out, text)
        print(f"Written: {options.out}")
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
