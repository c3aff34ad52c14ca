"""Classifiers where it is hard: other copies of the same photographs, another source, artefacts, the lesion hidden.

    python benchmarks/robustness.py copies --data DIR --other DIR [--bundle NAME]

How much a classifier's answers change when it gets other copies of the same photographs: another size or framing. Both
folders are data sets; the images that both have in the split count. Nothing is refused for its quality.

    python benchmarks/robustness.py recalibrated --data DIR [--bundle NAME] [--fitted 200] [--draws 100]

Whether prediction sets hold what they promise on another source, once `pesi calibrate` had so many images of it: drawn
again and again, the rest measured. One image a lesion.

    python benchmarks/run.py benchmarks/isic2017/search.toml --data isic2017 --keep-bundles \\
        --only base-s0-fold0 artefacts-s0-fold0
    python benchmarks/robustness.py pair runs/benchmarks/isic2017/search/{base,artefacts}-s0-fold0/bundle \\
        --data isic2017 --held-out benchmarks/isic2017/search.toml base-s0-fold0 --also ham10000

Two classifiers on images that neither was trained with: OTHER minus REFERENCE on the same images, 95 % intervals
(DeLong for one AUC, paired bootstrap for the rest). Changed images are predicted from one view of the whole image.
About 6 minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pack import read_rows
from page import markdown, signed
from table import load_table

import pesi
from pesi.bundle.config import BundleConfig
from pesi.datasets.artefact_labels import artefact_table
from pesi.datasets.readers import read_dataset
from pesi.decide.calibration import calibrated_probabilities
from pesi.decide.conformal import prediction_sets
from pesi.errors import DataError, PesiError
from pesi.evaluate.answer_change import compare_answers, single_view_probabilities
from pesi.evaluate.audit.data import AuditData, lesion_grouped_part, read_audit_data
from pesi.images.perturb import PERTURBATIONS, Perturbation
from pesi.machine import keep_memory
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import fit_decisions
from pesi.predict.members import Outputs
from pesi.predict.prediction import Refusal
from pesi.stats import metrics
from pesi.stats.paired import Floats, PairedResult, delong, paired_bootstrap

GROUPS = ("paste", "remove", "lesion")
LEAST = 10  # images of each of both classes, below which no AUC is compared

Row = tuple[str, int, PairedResult]  # what, over how many images, A minus B


def mean_auc(
    data: AuditData, a: Floats, b: Floats, *, replicates: int, seed: int, at: NDArray[np.int64] | None = None
) -> PairedResult:
    """Difference of the mean AUC of the scored classes, A minus B.

    Args:
        data: Of the images.
        a, b: Probabilities, (N, K), columns the task's classes.
        replicates: Bootstrap resamples, stratified by class.
        seed: Of the bootstrap.
        at: Which of the data's images the rows of `a` and `b` are, (N,); default all.
    """
    at = np.arange(len(data)) if at is None else at
    names = data.task.scored_names

    def score(which: int, weights: NDArray) -> Floats:
        values = (a, b)[which]
        areas = [
            metrics.auc(metrics.curve(data.labels(n)[at], values[:, data.task.class_names.index(n)], weights))
            for n in names
        ]
        return np.asarray(np.mean(areas, axis=0))

    rng = np.random.default_rng(seed)
    return paired_bootstrap(score, data.classes[at], replicates=replicates, rng=rng)


def share_difference(
    a: NDArray[np.bool_], b: NDArray[np.bool_], strata: NDArray, *, replicates: int, seed: int
) -> PairedResult:
    """Difference of two shares of the same images, A minus B, (N,) each."""
    values = (a.astype(float), b.astype(float))
    rng = np.random.default_rng(seed)
    return paired_bootstrap(lambda i, w: metrics.weighted_mean(values[i], w), strata, replicates=replicates, rng=rng)


def with_artefact(data: AuditData, a: Floats, b: Floats) -> Iterator[Row]:
    """Melanoma AUC among the images that show each artefact, as people labelled them."""
    labels = artefact_table(data.records)
    if labels is None:
        return
    column = data.task.class_names.index("melanoma")
    for name in labels.columns:
        shown = labels[name].eq(True).to_numpy(bool)
        melanoma = data.labels("melanoma")[shown]
        if min(melanoma.sum(), (~melanoma).sum()) >= LEAST:
            yield name, int(shown.sum()), delong(melanoma, a[shown, column], b[shown, column])


def changed(
    data: AuditData, pair: tuple[Classifier, Classifier], *, replicates: int, seed: int
) -> Iterator[tuple[Perturbation, Row, Row | None]]:
    """Each perturbation: the share of answers that it changes, and the mean AUC with the lesion hidden.

    Args:
        data: Of the images.
        pair: The two classifiers.
        replicates: Bootstrap resamples.
        seed: Of the artefacts and the bootstrap.
    """
    before = [single_view_probabilities(classifier, data.images) for classifier in pair]
    for perturbation in (each for each in PERTURBATIONS if each.group in GROUPS):
        made = {}
        for index, image in enumerate(data.images):
            mask = data.masks[index] if data.has_mask[index] else None
            result = perturbation.apply(image, mask, perturbation.generator(seed, index))
            if result is not None:
                made[index] = result.image
        if not made:
            continue
        at = np.array(list(made), np.int64)
        after = [single_view_probabilities(classifier, list(made.values())) for classifier in pair]
        flips = [old[at].argmax(1) != new.argmax(1) for old, new in zip(before, after, strict=True)]
        strata = data.classes[at]
        share = share_difference(flips[0], flips[1], strata, replicates=replicates, seed=seed)
        area = None
        if perturbation.group == "lesion":
            area = mean_auc(data, after[0], after[1], replicates=replicates, seed=seed, at=at)
        row = (perturbation.name, len(at), share)
        yield perturbation, row, None if area is None else (perturbation.name, len(at), area)


def answers(classifier: Classifier, records: pd.DataFrame) -> NDArray[np.float64]:
    """Calibrated probabilities of a record table's images, (N, K).

    Raises:
        DataError: An image cannot be read.
    """
    rows = []
    for result in classifier.predict_many(records["path"], image_ids=records["image_id"], gates=False):
        if isinstance(result, Refusal):
            raise DataError(f"{result.path}: {result.reason}", result.cure)
        rows.append(list(result.probabilities.values()))
    return np.array(rows)


def change_text(classifier: Classifier, first: pd.DataFrame, other: pd.DataFrame, *, replicates: int) -> str:
    """What changes from the first to the other copies, over the images that both tables have.

    Raises:
        DataError: They share no labelled image, or one cannot be read.
    """
    both = set(first["image_id"]) & set(other["image_id"][other["diagnosis"].map(classifier.task.has)])
    if not both:
        raise DataError("The two data sets share no labelled image in this split.", "Give two copies of one data set.")
    tables = [table[table["image_id"].isin(both)].sort_values("image_id") for table in (first, other)]
    classes = np.array([classifier.task.class_of(str(code)) for code in tables[1]["diagnosis"]], np.int64)
    before, after = (answers(classifier, table) for table in tables)
    change = compare_answers(classifier, classes, before, after, replicates=replicates, rng=np.random.default_rng(0))
    flips = change.class_flips
    lines = [
        f"{change.images} images; {classifier.config.answer_id}; first to other copies, with 95 % intervals",
        f"another {change.answer}: {flips.count}, {flips.value:.3f} ({flips.low:.3f} to {flips.high:.3f})",
    ]
    if change.call_flips is not None:
        calls = change.call_flips
        lines.append(
            f"another call at the threshold: {calls.count}, {calls.value:.3f} ({calls.low:.3f} to {calls.high:.3f})"
        )
    lines += [
        f"AUC {name}: {auc.before.value:.3f} -> {auc.after.value:.3f}; "
        f"{auc.change.value:+.3f} ({auc.change.low:+.3f} to {auc.change.high:+.3f})"
        for name, auc in change.auc.items()
    ]
    return "\n".join(lines)


class Coverage(NamedTuple):
    """Over many draws: how often the sets of a wanted coverage held the truth, by class, and their size.

    Attributes:
        wanted: Such as "0.90".
        means: Class -> mean over the draws; "any class" is of all images.
        deviations: The same: standard deviation over the draws.
        size: Classes in a set, on average.
    """

    wanted: str
    means: dict[str, float]
    deviations: dict[str, float]
    size: float


def recalibrated(
    config: BundleConfig, outputs: Outputs, classes: NDArray[np.int64], *, fitted: int, draws: int, seed: int
) -> list[Coverage]:
    """The bundle recalibrated on `fitted` of the images, and its sets measured on the rest, `draws` times.

    Args:
        config: The bundle's.
        outputs: Of the images, one a lesion.
        classes: The truth, (N,).
        fitted, draws, seed: Of the draws.

    Raises:
        DataError: There are not twice as many images as are to be fitted on.
    """
    if len(classes) < 2 * fitted:
        raise DataError(f"{len(classes)} images are too few to fit on {fitted} of them.", "Give more, or fit on fewer.")
    rng = np.random.default_rng(seed)
    names = config.to_task().class_names
    found: dict[str, list[list[float]]] = {}
    for _ in range(draws):
        chosen = np.zeros(len(classes), bool)
        chosen[rng.permutation(len(classes))[:fitted]] = True
        ids = [str(index) for index in np.flatnonzero(chosen)]
        decided = fit_decisions(config, outputs.take(chosen), classes[chosen], ids, on="a draw").config
        head = decided.task.head
        p = calibrated_probabilities(outputs.logits[~chosen], head, decided.temperature, decided.vector)
        for sets in decided.conformal:
            inside = prediction_sets(p, sets)
            held = inside[np.arange(len(p)), classes[~chosen]]
            each = [float(held[classes[~chosen] == index].mean()) for index in range(len(names))]
            found.setdefault(f"{sets.coverage:.2f}", []).append(
                [float(held.mean()), *each, float(inside.sum(1).mean())]
            )
    coverages = []
    for wanted, rows in found.items():
        mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        keys = ("any class", *names)
        means, deviations = (dict(zip(keys, values[:-1].tolist(), strict=True)) for values in (mean, deviation))
        coverages.append(Coverage(wanted, means, deviations, float(mean[-1])))
    return coverages


def recalibrate(options: argparse.Namespace) -> None:
    """Print the coverage on another source after calibration on some of its images."""
    classifier = pesi.load(options.bundle, runtime="eager")
    part = lesion_grouped_part(read_dataset(options.data), classifier.task, options.images, options.seed)
    logits = []
    for result in classifier.predict_many(part["path"], image_ids=part["image_id"], gates=False, held_out=True):
        if isinstance(result, Refusal):
            raise DataError(f"{result.path}: {result.reason}", "Repair the data set.")
        logits.append(result.logits)
    classes = np.array([classifier.task.class_of(str(code)) for code in part["diagnosis"]], np.int64)
    count = len(classes)
    outputs = Outputs(np.stack(logits), np.zeros((count, 1, 1), np.float32), np.zeros((count, 1), np.int64))
    config = classifier.config.model_copy(update={"novelty": None})
    drawn = {"fitted": options.fitted, "draws": options.draws, "seed": options.seed}
    rows = [
        [each.wanted, name, f"{each.means[name]:.3f}", f"{each.deviations[name]:.3f}", f"{each.size:.2f}"]
        for each in recalibrated(config, outputs, classes, **drawn)
        for name in each.means
    ]
    print(f"{classifier.config.answer_id}, {count} images of {options.data.name}, one a lesion; {drawn}\n")
    print(markdown(["wanted", "class", "held, mean over the draws", "deviation", "classes a set"], rows))


def table(title: str, what: str, rows: Iterable[Row]) -> str:
    """A Markdown table of differences."""
    cells = []
    for name, count, result in rows:
        difference = signed(result.difference, result.interval) + ", **shown**" * result.shown
        cells.append([name, f"{count}", f"{result.a:.3f}", f"{result.b:.3f}", difference])
    return f"**{title}**\n\n{markdown([what, 'images', 'other', 'reference', 'difference'], cells)}\n"


def compare_pair(options: argparse.Namespace) -> None:
    """Print the tables of two bundles."""
    pair = pesi.load(options.bundles[1], runtime="eager"), pesi.load(options.bundles[0], runtime="eager")
    if pair[0].config.outputs != pair[1].config.outputs or pair[0].config.task.head != "multiclass":
        raise DataError("The bundles do not predict the same classes.", "Compare two of one task, multiclass.")
    drawing = {"replicates": options.replicates, "seed": options.seed}
    records = read_dataset(options.data)
    held_out = read_rows(load_table(options.held_out[0]))[options.held_out[1]].predictions["held_out"]
    records = records[records["image_id"].isin(held_out.index)].reset_index(drop=True)
    sources = {f"{options.data.name}, held out": records}
    for folder in options.also:
        part = lesion_grouped_part(read_dataset(folder), pair[0].task, options.also_images, options.seed)
        sources[folder.name] = part
    areas: list[Row] = []
    read = {}
    for name, part in sources.items():
        data, other = read[name] = [read_audit_data(classifier, part, name) for classifier in reversed(pair)]
        areas.append((name, len(data), mean_auc(data, other.probabilities, data.probabilities, **drawing)))
        column = data.task.class_names.index("melanoma")
        melanoma = delong(data.labels("melanoma"), other.probabilities[:, column], data.probabilities[:, column])
        areas.append((f"{name}: melanoma AUC", len(data), melanoma))
    print(table("Mean AUC", "source", areas))
    data, other = next(iter(read.values()))
    artefacts = with_artefact(data, other.probabilities, data.probabilities)
    print(table("Melanoma AUC where a real artefact is", "artefact", artefacts))
    rows = list(changed(data, pair, **drawing))
    for group in GROUPS:
        shares = [row for perturbation, row, _ in rows if perturbation.group == group]
        print(table(f"Share of the answers that change: {group}", "change", shares))
    print(table("Mean AUC with the lesion hidden, or its surroundings", "change", [r for *_, r in rows if r]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    copies, pair, again = (kinds.add_parser(kind) for kind in ("copies", "pair", "recalibrated"))
    again.add_argument("--data", type=Path, required=True, help="a data set of another source")
    again.add_argument("--bundle", help="default: the one that ships")
    again.add_argument("--images", type=int, default=2000, help="of it at most (default: %(default)s)")
    again.add_argument("--fitted", type=int, default=200, help="images a draw (default: %(default)s)")
    again.add_argument("--draws", type=int, default=100)
    again.add_argument("--seed", type=int, default=0)
    for each in (copies, pair):
        each.add_argument("--data", type=Path, required=True, help="a data set")
        each.add_argument("--replicates", type=int, default=2000, help="bootstrap resamples")
    copies.add_argument("--other", type=Path, required=True, help="other copies of the same photographs")
    copies.add_argument("--split", default="val")
    copies.add_argument("--bundle", help="default: the one that ships")
    pair.add_argument("bundles", type=Path, nargs=2, help="the reference, and another of the same task")
    what = "a row that held out images which neither was trained with"
    pair.add_argument("--held-out", nargs=2, required=True, metavar=("TABLE", "ROW"), help=what)
    pair.add_argument("--also", type=Path, action="append", default=[], help="another source; one image a lesion")
    pair.add_argument("--also-images", type=int, default=1000, help="of it at most (default: %(default)s)")
    pair.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_memory()
    try:
        if options.kind == "pair":
            compare_pair(options)
        elif options.kind == "recalibrated":
            recalibrate(options)
        else:
            tables = (read_dataset(folder) for folder in (options.data, options.other))
            parts = [records[records["split"] == options.split] for records in tables]
            print(change_text(pesi.load(options.bundle, runtime="eager"), *parts, replicates=options.replicates))
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
