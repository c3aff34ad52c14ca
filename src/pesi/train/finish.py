"""The end of a run: the best (or last) weights become a bundle, calibrated on the validation images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pesi.files import write_json, write_text
from pesi.nn.models import create_model
from pesi.predict.bundle import (
    BundleConfig,
    NetworkConfig,
    PreprocessConfig,
    Threshold,
    save_bundle,
    task_config,
)
from pesi.predict.calibration import fit_temperature, threshold_at_sensitivity, triage_levels, view_probabilities
from pesi.predict.card import model_card
from pesi.predict.classifier import Classifier
from pesi.predict.segmenter import shipped_segmenter
from pesi.taxonomy import Task
from pesi.train.callbacks import read_checkpoint_file
from pesi.train.dataset import Squares, output_names, targets_of
from pesi.train.recipe import Picture, Recipe

SENSITIVITIES = (0.80, 0.90, 0.95)


def finish_run(
    folder: Path,
    recipe: Recipe,
    data: str,
    validation: pd.DataFrame,
    squares: Squares,
    classes: NDArray[np.int64],
    task: Task,
    *,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make the bundle of the recipe's checkpoint, and predict the validation images with it.

    Args:
        folder: The run folder.
        recipe: The resolved recipe.
        data: The data set's name or path as the user gave it.
        validation: Record table of the validation images.
        squares, classes: Their pictures, (N, S, S, 3) a region, and classes (N,).
        task: The task.
        say: Told what happens.

    Returns:
        What was written to `result.json`.
    """
    checkpoint = read_checkpoint_file(folder / "checkpoints" / f"{recipe.select}.ckpt")
    names = output_names(task, recipe.loss.head)
    network = create_model(recipe.network.name, num_classes=len(names), **recipe.network.options())
    prefix = "network."
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in checkpoint["state_dict"].items() if name.startswith(prefix)}
    )
    half = recipe.weights == "float16"
    if half:  # calibrated and scored as they will be stored
        network.half().float()
    config = BundleConfig(
        name=recipe.name,
        network=NetworkConfig(name=recipe.network.name, num_classes=len(names), options=recipe.network.options()),
        task=task_config(task, recipe.loss.head),
        preprocess=preprocess_config(recipe.picture),
        views=recipe.views,
        licence=recipe.licence,
    )
    classifier = Classifier(config, network, device="cpu")
    step = 16
    count = len(validation)
    images = [np.stack([region[i] for region in squares]) for i in range(count)]
    logits = np.concatenate([classifier.logits(images[i : i + step]) for i in range(0, count, step)])
    targets = targets_of(torch.from_numpy(classes), task, recipe.loss.head).numpy().astype(np.float64)
    on = f"the validation images of {Path(data).name or 'the data'}"
    temperature = fit_temperature(logits.astype(np.float64), targets, recipe.loss.head, on=on)
    probabilities = view_probabilities(logits.astype(np.float64), recipe.loss.head, temperature.value)
    thresholds = _thresholds(task, names, targets, probabilities, on)
    malignant = classifier.malignant_probability(probabilities)
    truth = np.array([bool(task.classes[index].malignant) for index in classes])
    triage = triage_levels(truth, malignant, on=on) if malignant is not None else ()
    environment = json.loads((folder / "environment.json").read_text())
    splits = json.loads((folder / "splits.json").read_text())
    started_from = folder / "pretrained.json"
    pretrained = json.loads(started_from.read_text()) if started_from.is_file() else None
    config = config.model_copy(
        update={
            "temperature": temperature,
            "thresholds": thresholds,
            "triage": triage,
            "provenance": {
                "recipe": recipe.model_dump(mode="json"),
                "sources": sorted({str(source) for source in validation["source"]}),
                "splits": {name: {k: part[k] for k in ("count", "sha256")} for name, part in splits.items()},
                "environment": environment,
                "best_epoch": int(checkpoint["epoch"]) + 1,
                "pretrained": pretrained,
            },
        }
    )
    predictions = pd.DataFrame(probabilities, columns=list(names))
    predictions.insert(0, "image_id", validation["image_id"].to_numpy())
    write_text(folder / "predictions" / "val.csv", predictions.to_csv(index=False))
    config = save_bundle(folder / "bundle", config, network, card=model_card(config), half=half)
    result = {"bundle": config.bundle_id, "best_epoch": int(checkpoint["epoch"]) + 1}
    write_json(folder / "result.json", result)
    chosen = f"{recipe.select.capitalize()} epoch {result['best_epoch']}"
    say(f"{chosen}, temperature {temperature.value:.3f}. Bundle: {folder / 'bundle'}")
    return result


def preprocess_config(picture: Picture) -> PreprocessConfig:
    """A recipe's picture as a bundle keeps it, with the segmenter that finds the lesion where one is needed.

    Raises:
        BundleError: A segmenter is needed and none ships.
    """
    segmenter = shipped_segmenter().bundle_id if "lesion" in picture.regions else ""
    return PreprocessConfig(**picture.model_dump(), segmenter=segmenter)


def _thresholds(
    task: Task, names: tuple[str, ...], targets: NDArray[np.float64], probabilities: NDArray[np.float64], on: str
) -> tuple[Threshold, ...]:
    thresholds = []
    for name in task.scored_names:
        labels, scores = targets[:, names.index(name)] > 0.5, probabilities[:, names.index(name)]
        if labels.any() and not labels.all():
            thresholds += [
                threshold_at_sensitivity(labels, scores, wanted, class_name=name, on=on) for wanted in SENSITIVITIES
            ]
    return tuple(thresholds)
