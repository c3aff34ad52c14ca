"""The audit's first section: how well the classes are told apart, by the rules of the ISIC 2017 challenge."""

from __future__ import annotations

import pandas as pd

from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
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
    plots = {}
    if evaluation.bands:
        plots = {
            "roc": figures.roc_figure(evaluation),
            "precision": figures.precision_figure(evaluation),
            "histogram": figures.histogram_figure(evaluation),
        }
    scores = evaluation.to_dict()
    if "multiclass" in scores:
        plots["confusion"] = figures.confusion_figure(evaluation)
    for task in scores["tasks"].values():
        task.pop("curves", None)
    few = [name for name, task in scores["tasks"].items() if min(task["positives"], task["negatives"]) < 50]
    shown = {"few": few, "vector": classifier.config.vector is not None}
    return Section("performance", data, options, scores, plots, shown=shown)
