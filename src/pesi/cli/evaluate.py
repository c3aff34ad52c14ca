"""`pesi evaluate` and `pesi compare`: predictions against the truth, with intervals."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pesi.cli.divide import SkipMissingOption, SkipOtherDiagnosesOption, read_records, records_of_task, say_held_out
from pesi.taxonomy import TASK_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from pesi.evaluate.evaluation import Evaluation
    from pesi.predict.classifier import Classifier

DataOption = Annotated[str, typer.Option(help="The data set's folder, or a CSV file.")]
DatasetOption = Annotated[str | None, typer.Option(help="Which data set it is, where that cannot be found out.")]
SplitOption = Annotated[str, typer.Option(help="train, val, test, or all.")]
TaskOption = Annotated[
    str, typer.Option(help=f"With predictions of your own: the task that they are for, {', '.join(TASK_NAMES)}.")
]
ReplicatesOption = Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")]


def evaluate(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="The folder for metrics.json, report.html, predictions.csv.")],
    bundle: Annotated[str | None, typer.Option(help="The classifier. Default: the shipped one.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Score these predictions (.csv, .parquet, .json, .jsonl) and no bundle; images without a result are "
            "counted and left out."
        ),
    ] = None,
    dataset: DatasetOption = None,
    split: SplitOption = "val",
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    task: TaskOption = "isic2017",
    views: Annotated[
        str | None, typer.Option(help="single, flips2, flips4, grid9 or scales12. Default: the bundle's.")
    ] = None,
    operating_point: Annotated[
        str | None, typer.Option(help="Threshold to use, by its name in the bundle: sensitivity_0.90. Default: 0.5.")
    ] = None,
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    attention: Annotated[bool, typer.Option(help="Measure attention inside the lesion, where there are masks.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Score a classifier by the rules of the ISIC 2017 challenge, every figure with its 95 % interval.

    Examples:

        pesi evaluate --bundle runs/mine/bundle --data isic2017 --split val --out runs/mine/val

        pesi evaluate --predictions submission.csv --data isic2017 --split test --out scores
    """
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.evaluate.evaluation import evaluate_predictions
    from pesi.evaluate.scoring import predicted_table, predictions_of, thresholds_of
    from pesi.taxonomy import task_of

    records = chosen_records(data, dataset, split, skip_missing)
    show = progress and sys.stderr.isatty()
    provenance = {"images": f"{split} of {Path(data).name}"}
    if predictions is not None:
        if bundle is not None:
            raise typer.BadParameter("Give --bundle or --predictions, not both.")
        known = task_of(task, records["diagnosis"].dropna())
        records = records_of_task(records, known, skip_other_diagnoses)
        provenance["ids"] = _ids_hash(records)
        read = predictions_of(predictions, records, known)
        provenance |= {"predictions": predictions.name, "by": ", ".join(sorted(read.bundles)) or "not told"}
        if read.no_result:
            missing = records["image_id"].isin(list(read.no_result))
            counts = records["diagnosis"][missing].value_counts()
            told = (
                f"{missing.sum()} of {len(records)} images ({', '.join(f'{n} {code}' for code, n in counts.items())})"
            )
            absent = list(read.no_result.values()).count("no row")
            told += f", {absent} of them without a row" if absent else ""
            provenance["without a result"] = f"{told}; left out of the scores"
            print(f"Without a result: {provenance['without a result']}")
            records = records[~missing].reset_index(drop=True)
        table = read.table
        evaluation = evaluate_predictions(table, records, known, replicates=replicates, seed=seed)
        _write(out, evaluation, table, f"Predictions on {split}", provenance, None, [])
        return
    from pesi.bundle.seen import seen_images
    from pesi.predict.loading import load

    classifier = load(bundle, device=device, runtime="eager")
    records = records_of_task(records, classifier.task, skip_other_diagnoses)
    provenance["ids"] = _ids_hash(records)
    held_out = seen_images(classifier.config, list(records["image_id"])).held_out
    say_held_out(classifier, held_out, len(records))
    thresholds = thresholds_of(classifier, operating_point)
    with tqdm(total=len(records), unit="image", desc="predicting", disable=not show, leave=False) as bar:
        table = predicted_table(classifier, records, views=views, progress=lambda done: move(bar, done))
    evaluation = evaluate_predictions(
        table, records, classifier.task, replicates=replicates, seed=seed, thresholds=thresholds
    )
    summary, pictures = None, []
    whole = classifier.config.preprocess.regions[0] == "image"
    if attention and whole and records["mask_path"].notna().any():
        summary = _attention(classifier, records, show)
    if attention:
        pictures = _examples(classifier, records, table)
    provenance |= {
        "bundle": classifier.config.bundle_id,
        "network": classifier.config.network_names,
        "attention form": " and ".join(
            dict.fromkeys(str(m.network.options.get("attention", "spatial")) for m in classifier.config.members)
        ),
        "views": views or classifier.config.views,
        "temperature": f"{classifier.config.temperature.value:.3f}: {classifier.config.temperature.how}",
        "thresholds": operating_point or "0.5",
    }
    if held_out:
        provenance["out of fold"] = f"{held_out} of the images, each answered by the networks that have not seen it"
    _write(out, evaluation, table, f"{classifier.config.name} on {split}", provenance, summary, pictures)


def compare(
    a: Annotated[Path, typer.Argument(help="Predictions: a table, or a folder that `pesi evaluate` wrote.")],
    b: Annotated[Path, typer.Argument(help="Predictions of the same images by another classifier.")],
    data: DataOption,
    dataset: DatasetOption = None,
    split: SplitOption = "val",
    skip_missing: SkipMissingOption = False,
    skip_other_diagnoses: SkipOtherDiagnosesOption = False,
    task: TaskOption = "isic2017",
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
    replicates: ReplicatesOption = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Test whether two classifiers differ, on the same images: paired DeLong and paired bootstrap.

    Examples:

        pesi compare runs/a/val runs/b/val --data isic2017

        pesi compare a.csv b.csv --data isic2017 --split test --out difference.json
    """
    from pesi.evaluate.evaluation import compare_predictions
    from pesi.evaluate.scoring import predictions_of
    from pesi.files import check_ending, write_json
    from pesi.taxonomy import task_of

    check_ending(out, ".json")
    records = chosen_records(data, dataset, split, skip_missing)
    known = task_of(task, records["diagnosis"].dropna())
    records = records_of_task(records, known, skip_other_diagnoses)
    read = [predictions_of(path / "predictions.csv" if path.is_dir() else path, records, known) for path in (a, b)]
    if refused := {*read[0].no_result, *read[1].no_result}:
        print(f"Without a result by A or B: {len(refused)} of {len(records)} images, left out")
        records = records[~records["image_id"].isin(refused)].reset_index(drop=True)
    tables = [found.table[~found.table["image_id"].isin(refused)] for found in read]
    comparison = compare_predictions(tables[0], tables[1], records, known, replicates=replicates, seed=seed)
    print(f"A: {a}\nB: {b}\n{comparison.to_text()}", end="")
    if out is not None:
        write_json(out, comparison.to_dict())


def chosen_records(data: str, dataset: str | None, split: str, skip_missing: bool = False) -> pd.DataFrame:
    """The labelled images of one split.

    Raises:
        DataError: The split's name is unknown, or it holds no labelled images.
    """
    from pesi.datasets.records import check_split
    from pesi.evaluate.scoring import labelled_part

    check_split(split)  # before anything is read
    return labelled_part(read_records(data, dataset, skip_missing), split, str(data))


def _attention(classifier: Classifier, records: pd.DataFrame, show: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from pesi.cli.bars import move
    from pesi.evaluate.attention import summarise_attention
    from pesi.explain.localisation import localise

    total = int(records["mask_path"].notna().sum())
    with tqdm(total=total, unit="image", desc="attention", disable=not show, leave=False) as bar:
        return summarise_attention(localise(classifier, records, progress=lambda done: move(bar, done)), records)


def _examples(classifier: Classifier, records: pd.DataFrame, table: pd.DataFrame) -> list[tuple[str, bytes]]:
    """Of each scored class: the clearest find and the worst miss, explained."""
    from pesi.explain.maps import explain
    from pesi.explain.overlay import explanation_png

    merged = records.merge(table, on="image_id")
    pictures = []
    for name in classifier.task.scored_names:
        own = merged[
            [classifier.task.class_names[classifier.task.class_of(str(d))] == name for d in merged["diagnosis"]]
        ]
        for kind, row in (("the clearest", own.nlargest(1, name)), ("the worst missed", own.nsmallest(1, name))):
            if len(row):
                image_id, path, value = row["image_id"].iloc[0], row["path"].iloc[0], float(row[name].iloc[0])
                own_networks = classifier.of_fold(classifier.folds_of([image_id])[0])
                png = explanation_png(explain(own_networks, path, class_name=name), title=str(image_id))
                pictures.append((f"{kind} {name.replace('_', ' ')}: {image_id}, probability {value:.3f}", png))
    return pictures


def _write(
    out: Path,
    evaluation: Evaluation,
    table: pd.DataFrame,
    title: str,
    provenance: dict[str, str],
    attention: dict[str, Any] | None,
    pictures: list[tuple[str, bytes]],
) -> None:
    from pesi.evaluate.report import write_report
    from pesi.files import write_json, write_text

    scores = evaluation.to_dict() | {"provenance": provenance}
    if attention is not None:
        scores["attention_inside_lesion"] = attention
    write_text(out / "predictions.csv", table.to_csv(index=False))
    write_report(
        evaluation, out / "report.html", title=title, provenance=provenance, pictures=pictures, attention=attention
    )
    write_json(out / "metrics.json", scores)
    print(summary_text(scores))
    print(f"Report: {out / 'report.html'}")


def summary_text(scores: dict[str, Any]) -> str:
    """The headline figures, a line each."""
    lines = []
    if scores["mean_auc"] is not None:
        low, high = scores["mean_auc_ci"]
        lines.append(f"mean AUC {scores['mean_auc']:.3f} (95 % interval {low:.3f} to {high:.3f})")
    for name, task in scores["tasks"].items():
        if task["auc"] is None:
            lines.append(f"AUC {name}: not measured, {task['reason']}")
        else:
            low, high = task["auc_ci"]
            lines.append(f"AUC {name} {task['auc']:.3f} ({low:.3f} to {high:.3f}), {task['positives']} with it")
    if "attention_inside_lesion" in scores:
        summary = scores["attention_inside_lesion"]
        lines.append(f"lesion {summary['area']:.1%} of the area; inside it, of")
        for name, row in summary["maps"].items():
            low, high = row["above_ci"]
            above = f"{100 * row['above']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
            lines.append(f"  {name}: {row['inside']:.1%}, {above}")
    return "\n".join(lines)


def _ids_hash(records: pd.DataFrame) -> str:
    from pesi.datasets.splits import id_hash

    return f"{len(records)} images, SHA-256 of their sorted ids, one a line: {id_hash(records['image_id'])[:16]}"
