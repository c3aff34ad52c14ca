"""The audit's first section: how well the classes are told apart, by the rules of the ISIC 2017 challenge."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
from pesi.evaluate.evaluation import evaluate_predictions
from pesi.predict.classifier import Classifier


def performance_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """AUC, average precision, sensitivity and specificity of each scored class, with stratified-bootstrap intervals."""
    frame = pd.DataFrame(data.probabilities, columns=list(classifier.config.outputs))
    frame.insert(0, "image_id", data.records["image_id"].to_numpy())
    evaluation = evaluate_predictions(
        frame, data.records, data.task, replicates=options.replicates, seed=options.seed, thresholds=None
    )
    progress(f"scoring {data.name}", 1, 1)
    scores = evaluation.to_dict()
    tasks: dict[str, Any] = scores["tasks"]
    small = [name for name, task in tasks.items() if min(task["positives"], task["negatives"]) < 50]
    summary = f"Mean AUC {figure_text(scores['mean_auc'], scores['mean_auc_ci'])} on {len(data)} images" + "".join(
        f"; {name.replace('_', ' ')} {figure_text(task['auc'], task['auc_ci'])}, {task['positives']} with it"
        for name, task in tasks.items()
    )
    if small:
        summary += f". Few images with {' and '.join(n.replace('_', ' ') for n in small)}: the intervals are wide"
    if data.fitted_on or data.chose_epoch:
        summary += f". {_what_else(classifier, data)}"
    rows = [
        (
            name.replace("_", " "),
            f"{task['positives']} / {task['negatives']}",
            *(
                figure_text(task.get(key), task.get(f"{key}_ci"))
                for key in ("auc", "average_precision", "accuracy", "sensitivity", "specificity")
            ),
        )
        for name, task in tasks.items()
    ]
    at_sensitivity = [
        (
            name.replace("_", " "),
            *(figure_text(entry["value"], entry["ci"]) for entry in task["specificity_at_sensitivity"].values()),
        )
        for name, task in tasks.items()
        if "specificity_at_sensitivity" in task
    ]
    tables = [
        Table(
            "Each class against the rest; accuracy, sensitivity and specificity at probability 0.5.",
            ("class", "with / without", "AUC", "average precision", "accuracy", "sensitivity", "specificity"),
            tuple(rows),
        )
    ]
    if at_sensitivity:
        tables.append(
            Table(
                "Specificity at the threshold that finds a wanted share of the lesions.",
                ("class", *(f"sensitivity {s}" for s in next(_wanted(tasks)))),
                tuple(at_sensitivity),
            )
        )
    plots = []
    if evaluation.bands:
        plots = [
            Plot(
                figures.roc_figure(evaluation),
                "Each point is a threshold; the band holds 95 % of resamples.",
                "The further the curve bends to the upper left, the fewer healthy people are worried for each cancer "
                "found.",
            ),
            Plot(
                figures.precision_figure(evaluation),
                "Of the lesions called, the share that has the class; the thin line is calling at random.",
                "Among these images a call is right as often as the curve says; where the disease is rare, less.",
            ),
            Plot(
                figures.histogram_figure(evaluation),
                "How the probabilities of images with and without each class are spread.",
                "Where the two overlap, patients are told the wrong thing at any threshold.",
            ),
        ]
    if "multiclass" in scores:
        plots.append(
            Plot(
                figures.confusion_figure(evaluation),
                "Rows are the truth; columns what the network says is most probable.",
                "The row of melanoma shows how many melanomas would be taken for something harmless, were the most "
                "probable class believed.",
            )
        )
    for task in tasks.values():
        task.pop("curves", None)
    return Section(
        key="performance",
        title="Telling the classes apart",
        summary=summary + ".",
        meaning="Of a patient with the disease and one without it, drawn at random, the first gets the higher "
        "probability as often as the AUC says.",
        method="ISIC 2017 Part 3: one-vs-rest AUC and average precision; intervals by bootstrap within each class. "
        "Where a figure is 0 or 1 resamples of it would not vary, and where fewer than 10 images are with or without "
        "the class, too little: there an AUC has Newcombe's interval (2006, method 5), a share of 0 or 1 Wilson's, and "
        "an average precision none; the mean AUC then has the mean of its classes' limits.",
        values=scores,
        tables=tuple(tables),
        plots=tuple(plots),
    )


def _what_else(classifier: Classifier, data: AuditData) -> str:
    """What else these images did for the bundle, and what that does to an AUC."""
    if data.chose_epoch:
        return "These images also chose the network's epoch, so the figures flatter"
    if classifier.config.vector is not None:
        return "These images also set the vector scaling, which can move an AUC, and the thresholds, which do not"
    return "These images also set the temperature and the thresholds, which hardly move an AUC"


def _wanted(tasks: dict[str, Any]) -> Any:
    """The wanted sensitivities of the first class that was scored."""
    return (task["specificity_at_sensitivity"] for task in tasks.values() if "specificity_at_sensitivity" in task)
