"""The end of a run: the best (or last) weights become a bundle, calibrated on the validation images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.bundle.card import model_card
from pesi.bundle.config import (
    BundleConfig,
    NetworkConfig,
    PreprocessConfig,
    save_bundle,
    task_config,
)
from pesi.bundle.seen import packed_ids
from pesi.datasets.splits import repeated_groups
from pesi.decide.calibration import calibrated_probabilities
from pesi.files import write_json, write_text
from pesi.images.regions import RegionName
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.predict.fitting import NOVELTY_IMAGES, fit_decisions, network_outputs
from pesi.predict.regions import looking_at
from pesi.taxonomy import Task
from pesi.train.callbacks import read_checkpoint_file
from pesi.train.dataset import Squares, output_names
from pesi.train.recipe import Picture, Recipe


def finish_run(
    folder: Path,
    recipe: Recipe,
    data: str,
    validation: pd.DataFrame,
    squares: Squares,
    training: Squares,
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
        squares, classes: Their pictures, (N, S, S, 3) a region that is looked at, and classes (N,).
        training: The training images' pictures; from the first region the bundle learns what is not new to it.
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
        preprocess=preprocess_config(recipe.picture, recipe.looks_at),
        views=recipe.views,
        licence=recipe.licence,
    )
    classifier = Classifier(config, network, device="cpu")
    outputs = network_outputs(classifier, lambda i: np.stack([region[i] for region in squares]), len(classes))
    on = f"the validation images of {Path(data).name or 'the data'}"
    drawn = np.random.default_rng(recipe.seed).permutation(len(training[0]))[:NOVELTY_IMAGES]
    known = network_outputs(classifier, lambda i: training[0][drawn[i]][None], len(drawn)).features
    ids = list(validation["image_id"])
    config, novelty = fit_decisions(
        config,
        outputs,
        classes,
        ids,
        on=on,
        training_features=known,
        seed=recipe.seed,
        groups=repeated_groups(validation),
    )
    environment = json.loads((folder / "environment.json").read_text())
    splits = json.loads((folder / "splits.json").read_text())
    started_from = folder / "pretrained.json"
    pretrained = json.loads(started_from.read_text()) if started_from.is_file() else None
    config = config.model_copy(
        update={
            "provenance": {
                "recipe": recipe.model_dump(mode="json"),
                "sources": sorted({str(source) for source in validation["source"]}),
                "splits": {
                    name: {"count": part["count"], "sha256": part["sha256"], "ids": packed_ids(part["ids"])}
                    for name, part in splits.items()
                },
                "environment": environment,
                "best_epoch": int(checkpoint["epoch"]) + 1,
                "pretrained": pretrained,
            },
        }
    )
    probabilities = calibrated_probabilities(outputs.logits, recipe.loss.head, config.temperature, config.vector)
    predictions = pd.DataFrame(probabilities, columns=list(names))
    predictions.insert(0, "image_id", validation["image_id"].to_numpy())
    write_text(folder / "predictions" / "val.csv", predictions.to_csv(index=False))
    config = save_bundle(folder / "bundle", config, network, card=model_card(config), half=half, novelty=novelty)
    result = {"bundle": config.bundle_id, "best_epoch": int(checkpoint["epoch"]) + 1}
    write_json(folder / "result.json", result)
    chosen = f"{recipe.select.capitalize()} epoch {result['best_epoch']}"
    say(f"{chosen}, temperature {config.temperature.value:.3f}. Bundle: {folder / 'bundle'}")
    return result


def preprocess_config(picture: Picture, regions: Sequence[RegionName]) -> PreprocessConfig:
    """A recipe's picture as a bundle that looks at these regions keeps it.

    Raises:
        BundleError: A segmenter is needed and none ships.
    """
    return looking_at(PreprocessConfig(**picture.model_dump()), regions)
