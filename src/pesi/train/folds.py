"""A cross-validation: a training a fold and member, each a run folder of its own, and one bundle of all of them.

Its folder holds `recipe.toml` and `run.json` (what was asked for), `records.csv`, `folds.csv` (image, fold, group), a
run folder a training (`fold0-whole`, ...), `predictions/out-of-fold.csv`, `bundle/`, and last of all `result.json`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pesi.bundle.card import model_card
from pesi.bundle.config import Bundle, BundleConfig, load_bundle, save_bundle
from pesi.datasets.records import with_absolute_paths
from pesi.datasets.splits import id_lists
from pesi.decide.calibration import TemperatureConfig
from pesi.errors import DataError, PesiError, RecipeError
from pesi.files import write_json, write_text
from pesi.nn.pretrained import load_pretrained
from pesi.predict.classifier import Classifier
from pesi.predict.crossfit import BETWEEN, SET, CrossFitted, calibrated_members, fit_on_folds
from pesi.predict.fitting import id_list, network_outputs, told_by
from pesi.taxonomy import Task
from pesi.train.callbacks import PartOf
from pesi.train.classification import ClassifierRun
from pesi.train.dataset import class_indices
from pesi.train.environment import leave_launch
from pesi.train.folder import (
    RUN,
    RunSettings,
    Say,
    asked_task,
    check_new_run,
    kept_records,
    read_asked,
    weights_file,
    with_absolute_settings,
)
from pesi.train.loaders import read_squares
from pesi.train.recipe import Recipe
from pesi.train.run import run_training, start_run

KIND, FOLDS = "folds", "folds.csv"
OUT_OF_FOLD = Path("predictions") / "out-of-fold.csv"


@dataclass(frozen=True, eq=False)
class FoldsRun:
    """A cross-validation.

    Attributes:
        folder: Its folder.
        recipe: Resolved, with its members.
        records: Record table of all images.
        folds: Columns image_id, fold (0 ... k - 1), group (patient, lesion or near-duplicates), in the records' order;
            where there is a column apart, its ones mark images that trained nothing: they are measured and set nothing.
        settings: The rest.
        task: The classes.
        count: Networks a fold.
    """

    folder: Path
    recipe: Recipe
    records: pd.DataFrame
    folds: pd.DataFrame
    settings: RunSettings
    task: Task
    count: int

    @cached_property
    def numbers(self) -> list[int]:
        """The folds."""
        return sorted({int(fold) for fold in self.folds["fold"]})

    def parts(self) -> list[tuple[int, str, Recipe]]:
        """Fold, name and recipe of each training, in the order of work."""
        members = [self.recipe.member(index) for index in range(self.count)]
        return [(fold, f"fold{fold}-{name}", recipe) for fold in self.numbers for name, recipe in members]

    def split(self, fold: int) -> pd.DataFrame:
        """The records with that fold as validation images."""
        held_out = (self.folds["fold"] == fold).to_numpy()
        return self.records.assign(split=np.where(held_out, "val", "train"))

    def check(self) -> None:
        """Refuse what would fail hours later: labels, batches, weights, networks that do not go together."""
        features: dict[int, str] = {}
        for fold, name, recipe in self.parts():
            run = ClassifierRun(self.folder, recipe, self.split(fold), self.settings, self.task)
            run.check()
            _ = run.steps_per_epoch
            weights = weights_file(recipe, self.settings)
            if fold == self.numbers[0]:
                network = run.network()
                if weights is not None:
                    load_pretrained(network, weights)
                features.setdefault(network.num_features, f"{recipe.network.name} of {name}")
        if len(features) > 1:
            told = " and ".join(f"{count} ({name})" for count, name in features.items())
            raise RecipeError(
                f"The members' networks have different numbers of features: {told}.", "Choose networks of one family."
            )

    def write(self) -> None:
        """Make the folder; `run.json` comes last: then the run exists.

        Raises:
            StorageError: The system refused to write.
        """
        write_text(self.folder / "recipe.toml", self.recipe.to_toml())
        write_text(self.folder / "records.csv", self.records.to_csv(index=False))
        write_text(self.folder / FOLDS, self.folds.to_csv(index=False))
        asked = {"kind": KIND, "settings": asdict(self.settings), "task": asdict(self.task), "members": self.count}
        write_json(self.folder / RUN, asked)


def start_folds(
    recipe: Recipe,
    records: pd.DataFrame,
    folds: pd.DataFrame,
    folder: str | Path,
    settings: RunSettings,
    task: Task,
    *,
    members: int | None = None,
) -> None:
    """Make the folder of a new cross-validation.

    Args:
        recipe: What to do; which epoch is taken is no question: the last one, for the held-out images choose nothing.
        records: Record table of the images; each needs a diagnosis. Their splits are not looked at.
        folds: Columns image_id, fold, group of each of them.
        folder: Must not hold another run.
        settings: The rest.
        task: The classes.
        members: Networks a fold; default as many as the recipe has members, or one.

    Raises:
        PesiError: The folder holds a run already.
        DataError: An image has no fold, or the labels make no sense.
        RecipeError: More than one process, training images that do not fill a batch, or a member at fault.
        StorageError: The system refused to write.
    """
    folder = Path(folder)
    check_new_run(folder)
    if settings.processes > 1:
        cure = "Leave out --devices; torchrun or srun may start several processes, which share the trainings."
        raise RecipeError("Each training of a cross-validation is of one process.", cure)
    own = folds.set_index("image_id").reindex(records["image_id"]).reset_index()
    if own["fold"].isna().any():
        first = own.loc[own["fold"].isna(), "image_id"].iloc[0]
        raise DataError(f"The image {first} has no fold.", "Give each image one.")
    recipe = recipe.model_copy(update={"select": "last", "patience": 0}).resolved()
    run = FoldsRun(
        folder,
        recipe,
        with_absolute_paths(records.assign(split=None).reset_index(drop=True)),
        own.astype({"fold": int})[["image_id", "fold", "group"]],
        with_absolute_settings(settings),
        task,
        members or max(1, len(recipe.members)),
    )
    run.check()
    run.write()


def open_folds(folder: str | Path) -> FoldsRun:
    """Read the folder that `start_folds` made.

    Raises:
        PesiError: It is none.
    """
    folder = Path(folder)
    asked = read_asked(folder)
    if asked["kind"] != KIND:
        raise PesiError(f"{folder} holds no cross-validation.", "Give a folder that `pesi train --folds` made.")
    recipe, settings = Recipe.load(folder / "recipe.toml"), RunSettings(**asked["settings"])
    folds = pd.read_csv(folder / FOLDS, dtype={"image_id": str, "group": str}, keep_default_na=False)
    return FoldsRun(folder, recipe, kept_records(folder), folds, settings, asked_task(asked), int(asked["members"]))


def run_folds(folder: str | Path, *, say: Say = lambda text: None, show_progress: bool = True) -> dict[str, Any]:
    """Train, or go on training, all folds; then write the bundle.

    Each training is a run of its own, which goes on after its last finished epoch. Its checkpoints go when it is done.
    Processes that torchrun or srun has started take turns: each trains by itself, and the first waits for the others.

    Args:
        folder: Made by `start_folds`.
        say: Told what happens, a line at a time.
        show_progress: Whether to show one bar for all trainings on stderr.

    Returns:
        The contents of `result.json`; empty in a process other than the first.

    Raises:
        PesiError: As `run_training`.
    """
    started, run = leave_launch(), open_folds(folder)
    finished = run.folder / "result.json"
    if finished.is_file():
        say(f"{folder} is finished already.")
        kept: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return {} if started.rank else kept
    parts = run.parts()
    for done, (fold, name, recipe) in list(enumerate(parts))[started.rank :: started.processes]:
        own = run.folder / name
        if not (own / "result.json").is_file():
            say(f"Training {done + 1} of {len(parts)}: {name}.")
            if not (own / RUN).is_file():
                start_run(recipe, run.split(fold), own, run.settings, run.task)
            run_training(own, say=say, show_progress=show_progress, part=PartOf(name, done, len(parts), run.folder))
        shutil.rmtree(own / "checkpoints", ignore_errors=True)
    if started.rank:
        return {}
    while not all((run.folder / name / "result.json").is_file() for _, name, _ in parts):
        time.sleep(1.0)
    say(f"All {len(parts)} trainings are done. Deciding on what the networks say of the images they have not seen.")
    config, crossed = write_folds_bundle(
        [(fold, load_bundle(run.folder / name / "bundle")) for fold, name, _ in parts],
        run,
        run.folder / "bundle",
        show=show_progress,
    )
    write_text(run.folder / OUT_OF_FOLD, out_of_fold_table(run, config, crossed).to_csv(index=False))
    result = {"bundle": config.bundle_id, "networks": len(config.members), "images": len(run.records)}
    write_json(finished, result)
    say(f"{len(config.members)} networks, temperature {config.temperature.value:.3f}. Bundle: {run.folder / 'bundle'}")
    return result


def write_folds_bundle(
    trained: Sequence[tuple[int, Bundle]], run: FoldsRun, folder: Path, *, show: bool = False
) -> tuple[BundleConfig, CrossFitted]:
    """Write the bundle of all networks, decided by the pooled out-of-fold answers.

    Args:
        trained: Fold and bundle of each training.
        run: Its images, recipe and task.
        folder: The bundle's.
        show: Whether to show bars.

    Returns:
        The config as written, and what it decides of each image, cross-fitted.

    Raises:
        BundleError: The bundles do not fit together.
        DataError: An image cannot be read.
    """
    # Networks that look at the whole picture first: they tell what is new, and their maps are shown first.
    ordered = sorted(trained, key=lambda each: (each[1].config.preprocess.regions[0] != "image", each[0]))
    recipe, records = run.recipe, run.records
    fold_of, ids = run.folds["fold"].to_numpy(), list(records["image_id"])
    first = ordered[0][1].config
    members = tuple(
        bundle.config.members[0].model_copy(update={"fold": fold, "temperature": TemperatureConfig(), "vector": None})
        for fold, bundle in ordered
    )
    config = BundleConfig(
        name=recipe.name,
        members=members,
        folds=tuple(id_list([i for i, f in zip(ids, fold_of, strict=True) if f == fold]) for fold in run.numbers),
        task=first.task,
        views=recipe.views,
        licence=recipe.licence,
        provenance=_provenance(run, [bundle for _, bundle in ordered]),
    )
    whole = told_by(config)
    novelty = [bundle.novelty[0] if tells else None for tells, (_, bundle) in zip(whole, ordered, strict=True)]
    if any(tells and known is None for tells, known in zip(whole, novelty, strict=True)):
        novelty = []  # a fold has too few images to tell: then none does
    networks = [bundle.networks[0] for _, bundle in ordered]
    classifier = Classifier(config, networks, novelty, device="cpu" if run.settings.accelerator == "cpu" else None)
    pool = records.sort_values("image_id", ignore_index=True)
    rows = pd.Index(pool["image_id"]).get_indexer(pd.Index(records["image_id"]))
    squares = [read_squares(pool, region, run.settings.cache_dir, show) for region in classifier.regions]
    outputs = network_outputs(
        classifier,
        lambda index: np.stack([region[rows[index]] for region in squares]),
        len(records),
        folds=classifier.folds_of(ids),
    )
    classes = class_indices(records, run.task)
    apart = run.folds["apart"].to_numpy().astype(int) > 0 if "apart" in run.folds else None
    config, outputs = calibrated_members(config, outputs, classes, apart=apart)
    groups = pd.factorize(run.folds["group"])[0]
    data = Path(run.settings.data).name or "the data"
    decisions, crossed = fit_on_folds(
        config,
        outputs,
        classes,
        ids,
        fold_of,
        on=f"the {len(ids)} images of {data}, each by the networks that have not seen it",
        novelty=novelty,
        seed=recipe.seed,
        groups=groups if len(groups) > groups.max() + 1 else None,
        apart=apart,
    )
    config = save_bundle(
        folder,
        decisions.config,
        networks,
        card=model_card(decisions.config),
        keep=recipe.weights,
        novelty=decisions.novelty,
    )
    return config, crossed


def out_of_fold_table(run: FoldsRun, config: BundleConfig, crossed: CrossFitted) -> pd.DataFrame:
    """What the bundle decides of each image, cross-fitted: id, fold, diagnosis, probabilities, sets, triage."""
    table = run.folds[["image_id", "fold"]].assign(diagnosis=run.records["diagnosis"].to_numpy())
    for index, name in enumerate(config.outputs):
        table[name] = crossed.probabilities[:, index]
    for coverage, inside in crossed.sets.items():
        names = np.array(config.outputs, object)
        table[SET + coverage] = [BETWEEN.join(names[row]) for row in inside]
    table["triage"] = crossed.triage
    if crossed.strange is not None:
        table["strange"] = crossed.strange.astype(int)
    return table


def _provenance(run: FoldsRun, bundles: Sequence[Bundle]) -> dict[str, Any]:
    made = bundles[0].config.provenance
    lists = id_lists(run.records.assign(split="train"))["train"]
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "sources": sorted({str(source) for source in run.records["source"]}),
        "splits": {"train": {"count": lists["count"], "sha256": lists["sha256"]}},
        "environment": made.get("environment"),
        "pretrained": made.get("pretrained"),
    }
