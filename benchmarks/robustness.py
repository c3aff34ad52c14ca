"""Two classifiers, on images that neither was trained with: another source, artefacts, and the lesion hidden.

    python benchmarks/run.py benchmarks/isic2017/search.toml --data isic2017 --keep-bundles \\
        --only base-s0-fold0 artefacts-s0-fold0
    python benchmarks/robustness.py runs/benchmarks/isic2017/search/{base,artefacts}-s0-fold0/bundle --data isic2017 \\
        --held-out benchmarks/isic2017/search/rows/base-s0-fold0.csv --also ham10000

Prints Markdown: OTHER minus REFERENCE on the same images, 95 % intervals (DeLong for one AUC, paired bootstrap for the
rest). Changed images are predicted from one view of the whole image. About 6 minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sections import signed

import pesi
from pesi.datasets.artefact_labels import artefact_table
from pesi.datasets.readers import read_dataset
from pesi.errors import DataError
from pesi.evaluate.answer_change import single_view_probabilities
from pesi.evaluate.audit.data import AuditData, lesion_grouped_part, read_audit_data
from pesi.images.perturb import PERTURBATIONS, Perturbation
from pesi.machine import keep_memory
from pesi.predict.classifier import Classifier
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


def table(title: str, what: str, rows: list[Row]) -> str:
    """A Markdown table of differences."""
    lines = [f"**{title}**", "", f"| {what} | images | other | reference | difference |", "|---|---|---|---|---|"]
    for name, count, result in rows:
        difference = signed(result.difference, result.interval) + ", **shown**" * result.shown
        lines.append(f"| {name} | {count} | {result.a:.3f} | {result.b:.3f} | {difference} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="a bundle")
    parser.add_argument("other", type=Path, help="a bundle of the same task")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--held-out", type=Path, required=True, help="a CSV whose image_id neither was trained with")
    parser.add_argument("--also", type=Path, action="append", default=[], help="another source; one image a lesion")
    parser.add_argument("--also-images", type=int, default=1000, help="of it at most (default: %(default)s)")
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keep_memory()
    pair = pesi.load(options.other), pesi.load(options.reference)
    if pair[0].config.outputs != pair[1].config.outputs or pair[0].config.task.head != "multiclass":
        raise DataError("The bundles do not predict the same classes.", "Compare two of one task, multiclass.")
    drawing = {"replicates": options.replicates, "seed": options.seed}
    records = read_dataset(options.data)
    wanted = pd.read_csv(options.held_out)["image_id"]
    records = records[records["image_id"].isin(wanted)].reset_index(drop=True)
    sources = {f"{options.data.name}, held out": records}
    for folder in options.also:
        part = lesion_grouped_part(read_dataset(folder), pair[0].task, options.also_images, options.seed)
        sources[folder.name] = part
    areas: list[Row] = []
    for name, part in sources.items():
        data, other = (read_audit_data(classifier, part, name) for classifier in reversed(pair))
        result = mean_auc(data, other.probabilities, data.probabilities, **drawing)
        areas.append((name, len(data), result))
        column = data.task.class_names.index("melanoma")
        melanoma = delong(data.labels("melanoma"), other.probabilities[:, column], data.probabilities[:, column])
        areas.append((f"{name}: melanoma AUC", len(data), melanoma))
        if name == next(iter(sources)):
            first, artefacts = data, list(with_artefact(data, other.probabilities, data.probabilities))
    print(table("Mean AUC", "source", areas))
    print(table("Melanoma AUC where a real artefact is", "artefact", artefacts))
    rows = list(changed(first, pair, **drawing))
    for group in GROUPS:
        shares = [row for perturbation, row, _ in rows if perturbation.group == group]
        print(table(f"Share of the answers that change: {group}", "change", shares))
    print(table("Mean AUC with the lesion hidden, or its surroundings", "change", [r for *_, r in rows if r]))


if __name__ == "__main__":
    main()
