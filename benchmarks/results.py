"""Writes docs/results.md, docs/results-tables.md, their figures and the test predictions, from all saved rows.

    python benchmarks/results.py --data DIR [DIR ...]

Every figure in the page is computed here from per-image predictions and the data set's labels, but for the published
results of others, which stand in benchmarks/isic2017/published.toml. Unfinished tables give what is finished.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from believing import ages_table, answers_table
from outcome import Outcome, counted, read_outcome
from pack import read_rows
from page import (
    cost_table,
    difference_table,
    ensemble_tables,
    growth_table,
    learning_curve,
    learning_table,
    progress,
    read_published,
    repository_path,
    score_table,
)
from plots import learning_figure
from questions import Evidence, page_text, read_shipped
from scoring import (
    EnsembleResult,
    TableResult,
    VariantScores,
    difference,
    ensemble_result,
    read_ensembles,
    variant_scores,
)
from table import Table, load_table

from pesi.datasets.readers import read_dataset
from pesi.errors import PesiError
from pesi.files import write_text
from pesi.predict.tables import ISIC2017_COLUMNS

HERE = Path(__file__).resolve().parent
PUBLISHED = HERE / "isic2017" / "published.toml"
COPIES = (
    "In the challenge's format; they are scored elsewhere, the labels are held apart. A table's rows predict the "
    "copies that they were trained with: all 600 images, or the 529 of them that there are at 512 px. "
    "`bundle-NAME.csv`, what ships, has each image in the best copy that there is: 529 at 512 px, the others at 256 px."
)


def table_result(path: Path, data: list[pd.DataFrame], *, replicates: int, seed: int) -> TableResult:
    """Read and score one table."""
    table = load_table(path)
    reference = load_table(path.parent / table.reference) if table.reference else None
    outcome = read_outcome(table, reference, _labels(table, data), replicates=replicates, seed=seed)
    result = TableResult(outcome, {variant: variant_scores(outcome, variant) for variant in outcome.own}, [], [])
    for variant, other in ((variant, outcome.compared_with(variant)) for variant in outcome.own):
        found = difference(outcome, variant, other) if other != variant else None
        if found is None:
            continue
        result.differences.append(found)
        block = outcome.block(variant, other, most="seeds")
        if len(block.seeds) > len(found.block.seeds):
            again = difference(outcome, variant, other, block)
            result.more_seeds.extend([again] if again else [])
    return result


def _labels(table: Table, data: list[pd.DataFrame]) -> pd.DataFrame:
    """The first data set that has the table's images; the first of all where no row is finished."""
    row = next(iter(read_rows(table).values()), None)
    if row is None:
        return data[0]
    ids = set(row.predictions["held_out"].index)
    for records in data:
        if ids <= set(records["image_id"][records["diagnosis"].notna()]):
            return records
    raise PesiError(f"No data set has labels for the images of {table.name}.", "Give that data set too: --data A B.")


def section(result: TableResult, figures: Path, page: Path) -> str:
    """The section of a table with finished rows; its figures are written."""
    outcome = result.outcome
    table = outcome.table
    parts = [f"## {table.title}", f"`{repository_path(table.path)}`"]

    if not table.find_duplicates:
        parts.append("Near-duplicates were not looked for: a fold keeps the images of a patient or lesion together.")
    parts += [progress(outcome), score_table(outcome, result.scores)]
    if result.differences:
        parts += ["**Differences**", difference_table(outcome, result.differences)]
    if result.more_seeds:
        parts += ["**Differences over fewer folds, with more seeds**", difference_table(outcome, result.more_seeds)]
    learned = _learned(result)
    if len(learned) > 1:
        points = [(images, scores.averaged[outcome.headline]) for images, scores in learned]
        parts += ["**Learning curve**", learning_table(outcome, learned)]
        path = figures / f"{table.name.replace('/', '-')}-learning.svg"
        write_text(path, learning_figure(points, outcome.headline))
        parts.append(f"![{path.stem}]({path.relative_to(page.parent).as_posix()})")
    growth = growth_table(outcome)
    if growth:
        what = "means over the finished rows, of the weights before their moving average, which is what is scored"
        parts += [f"**Alpha and attention energy**, {what}", growth]
    if table.answers:
        parts += ["**Believing its probabilities**", answers_table(outcome)]
    told = ages_table(outcome, table.ages) if table.ages else ""
    parts += ["**What the patient's age would add**", told] if told else []
    parts += ["**Training cost**", cost_table(outcome)]
    return "\n\n".join(part for part in parts if part)


def _learned(result: TableResult) -> list[tuple[int, VariantScores]]:
    """The learning curve over the same held-out images, where variants of the table train on a share; else empty."""
    outcome = result.outcome
    if all(variant.share == 1 for variant in outcome.table.variants.values()):
        return []
    there = [variant for variant in dict.fromkeys((outcome.reference, *outcome.own)) if outcome.finished[variant]]
    block = outcome.block(*there)
    return learning_curve(outcome, {v: variant_scores(outcome, v, block) for v in there})


def tables_text(
    results: list[TableResult], page: Path, predictions: Path, ensembles: Sequence[EnsembleResult] = ()
) -> str:
    """The page of all tables; its figures, and the test predictions in their folder, are written."""
    figures = page.with_name(page.stem.removesuffix("-tables"))
    differences = [d for result in results for d in (*result.differences, *result.more_seeds)]
    shown = [d for d in differences if d.shown]
    summary = (
        f"{counted(len(differences), 'comparison')} with a reference; the difference is shown in {len(shown)} of them"
        + (f" ({', '.join(f'`{d.name}` {d.averaged.difference:+.4f}' for d in shown)})" if shown else "")
        + f". In {sum(d.apart for d in differences)} the intervals exclude zero; they are at 95 %, uncorrected, and "
        f"without the luck of a training: by the choice of images alone about {0.05 * len(differences):.1f} would be "
        "expected."
    )
    averaged = (
        "`benchmarks/ensembles.toml`. The members' held-out probabilities, averaged. The best member was "
        "chosen on the same images, so the gain over it is not flattered."
    )
    parts = [
        "# All tables of results",
        "Written by `python benchmarks/results.py --data DIR ...`, as is "
        f"[what follows from them]({figures.name}.md). Don't edit; run the command.",
        summary if differences else "No comparison can be made yet.",
        "## How to read the tables",
        "A row is one training run. In a fold, the held-out images (near-duplicates share a fold, "
        "where nothing else is said, and images like official validation or test images are never trained with) choose "
        "nothing: the last epoch is used. Held-out predictions are pooled over the folds; probabilities are averages "
        "of four flipped views (of the whole image and of the lesion, where a recipe looks at both), not calibrated. "
        "The lesion is found by the segmenter that ships, which learned from masks, not diagnoses, of images of ISIC "
        "2017 that are held out here: so a score with its crops may flatter. Intervals are 95 %: "
        "stratified bootstrap over the images, over the lesions where they have several images "
        f"({results[0].outcome.replicates} resamples), for single AUC differences DeLong. They do not hold the luck "
        "of a seed: the seeds stand beside them. *Seeds averaged*: the probabilities of the seeds' networks are "
        "averaged first. *One network*: "
        "each seed is scored by itself, then the scores are averaged. *Within folds*: nothing is pooled, the folds' "
        "scores are averaged. A difference is called *shown* only if the intervals of both, seeds averaged and one "
        "network, exclude zero; if it is of the same networks or of more than one seed; if both were trained in the "
        "same arithmetic; and if, where one of them crops, it is there without the images that the segmenter had "
        "learned from. In bf16 the convolutions run in bfloat16; the residual stream was float32 with the "
        "attention spatial, spatial-mean1 or channel and bfloat16 without, with sigmoid or se (since then each block "
        "adds up in float32 and gives bfloat16).",
        *(section(result, figures, page) for result in results if not result.empty),
        *(["## Ensembles", averaged, ensemble_tables(ensembles)] if ensembles else []),
    ]
    waiting = [f"`{repository_path(r.outcome.table.path)}`" for r in results if r.empty]
    if waiting:
        parts += ["## Not trained yet", f"Ready to run, without a finished row: {', '.join(waiting)}."]
    files = write_test_predictions([r for r in results if r.outcome.table.ranked], ensembles, predictions)
    files += [f"- `{repository_path(path)}`: what ships" for path in sorted(predictions.glob("bundle-*.csv"))]
    if files:
        parts += ["## Test predictions", COPIES, "\n".join(files)]
    return "\n\n".join(parts) + "\n"


def write_test_predictions(results: list[TableResult], ensembles: Sequence[EnsembleResult], folder: Path) -> list[str]:
    """Write the test predictions of each variant and of each ensemble, in the official format.

    A variant's are averaged over the fold models and seeds; an ensemble's members have equal weight, however many
    networks each is.

    Returns:
        A line for each file.
    """
    of_members = {
        f"{r.outcome.table.path.stem}-{variant}": [(r.outcome, variant)] for r in results for variant in r.outcome.own
    }
    of_members |= {f"ensemble-{ensemble.name}": [*ensemble.members] for ensemble in ensembles}
    lines = []
    for name, members in of_members.items():
        found = [mean_test_predictions(outcome, variant) for outcome, variant in members]
        means = [predicted[0] for predicted in found if predicted is not None]
        if len(means) < len(found) or not all(mean.index.equals(means[0].index) for mean in means):
            continue
        values = np.mean([mean.to_numpy() for mean in means], axis=0)
        whole = pd.DataFrame(values, index=means[0].index, columns=list(ISIC2017_COLUMNS))
        networks = counted(sum(predicted[1] for predicted in found if predicted), "network")
        path = folder / f"{name}.csv"
        write_text(path, whole.to_csv(float_format="%.6f"))
        lines.append(f"- `{repository_path(path)}`: {counted(len(whole), 'image')}, {networks} averaged")
    return lines


def mean_test_predictions(outcome: Outcome, variant: str) -> tuple[pd.DataFrame, int] | None:
    """A variant's test predictions, averaged, and how many networks made them; None where there are none.

    Returns:
        Index image_id, sorted; columns those of the challenge.

    Raises:
        PesiError: Its rows predict different images.
    """
    rows = sorted(outcome.finished[variant].values(), key=lambda row: row.row.name)
    tables = [row.test for row in rows if row.test is not None]
    if outcome.columns != ISIC2017_COLUMNS or not tables:
        return None
    if not all(table.index.equals(tables[0].index) for table in tables):
        raise PesiError(f"{outcome.table.name}, {variant}: rows predict different test images.", "Run them again.")
    values = np.mean([table[list(ISIC2017_COLUMNS)].to_numpy() for table in tables], axis=0)
    return pd.DataFrame(values, index=tables[0].index, columns=list(ISIC2017_COLUMNS)), len(tables)


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
        shipped = read_shipped(HERE.parent / "src" / "pesi" / "bundles", HERE / "shipped")
        asked = tomllib.loads((HERE / "questions.toml").read_text(encoding="utf-8"))
        data = [read_dataset(folder) for folder in options.data]
        results = []
        for path in options.tables or all_tables():
            results.append(table_result(path, data, replicates=options.replicates, seed=options.seed))
            compared = counted(len(results[-1].differences), "comparison")
            print(f"{results[-1].outcome.table.name}: {compared}", flush=True)
        outcomes = {r.outcome.table.name: r.outcome for r in results}
        members = read_ensembles(HERE / "ensembles.toml", outcomes)
        found = [ensemble_result(name, each) for name, each in members.items()]
        ensembles = [result for result in found if result is not None]
        tables = options.out.with_name(f"{options.out.stem}-tables.md")
        write_text(tables, tables_text(results, tables, options.predictions, ensembles))
        evidence = Evidence({r.outcome.table.name: r for r in results}, {e.name: e for e in ensembles})
        write_text(options.out, page_text(evidence, shipped, asked, read_published(PUBLISHED), options.out, tables))
        print(f"Written: {options.out} and {tables}")
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
