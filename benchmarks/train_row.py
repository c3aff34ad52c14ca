"""Trains one row of a table, and writes its predictions and how they were made."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from lightning.pytorch.callbacks import Callback
from pack import PARTS, write_row
from pool import file_sha256, saved_folds, split_records
from sklearn.metrics import roc_auc_score
from table import Row, Table

from pesi.datasets.readers import read_dataset
from pesi.datasets.splits import id_lists
from pesi.decide.calibration import view_probabilities
from pesi.errors import ImageError, PesiError
from pesi.files import write_json
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Refusal
from pesi.taxonomy import Task, task_of
from pesi.train.classification import preprocess_config
from pesi.train.folder import RunSettings
from pesi.train.recipe import Recipe
from pesi.train.run import open_run, run_training, start_run

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Joules that the processor packages have taken since the meter was last read, as Linux shows them (RAPL).

    Many virtual machines have no counter. It reads what all processes take together, and nothing of a GPU.

    Args:
        root: Where the counters are.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        # A package is intel-rapl:N (AMD's too); intel-rapl:N:M is a part of one.
        packages = [path for path in sorted(root.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._counters = {path: _joules(path / "energy_uj") for path in packages}

    def joules(self) -> float | None:
        """Since the last call, or since the meter was made; None where no counter can be read."""
        spent: float | None = 0.0 if self._counters else None
        for path, before in self._counters.items():
            now = _joules(path / "energy_uj")
            if now is None or before is None or spent is None:
                return None
            if now < before:  # the counter began anew
                spent += _joules(path / "max_energy_range_uj") or 0.0
            spent += now - before
            self._counters[path] = now
        return spent


def _joules(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):  # on many systems only root may read them
        return None


class Stopwatch(Callback):
    """Adds up time and energy of the epochs that count; it is kept in the checkpoint, so a cut row loses none.

    Args:
        path: Where the sums are written after each epoch, for a row that is cut after its last one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = self.cpu_seconds = 0.0
        self.joules: float | None = 0.0  # None: there was an epoch without a counter
        self._since = self._cpu_since = 0.0
        self._meter = EnergyMeter()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "joules": self.joules}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.cpu_seconds = state_dict["seconds"], state_dict["cpu_seconds"]
        self.joules = state_dict.get("joules")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._cpu_since = time.perf_counter(), time.process_time()
        self._meter = EnergyMeter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds += time.perf_counter() - self._since
        self.cpu_seconds += time.process_time() - self._cpu_since
        joules = self._meter.joules()
        self.joules = None if joules is None or self.joules is None else self.joules + joules
        rounded = {name: None if value is None else round(value, 1) for name, value in self.state_dict().items()}
        write_json(self.path, rounded)


def processor_name() -> str:
    """The processor, in its maker's words where the system tells them."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def probabilities(classifier: Classifier, part: pd.DataFrame) -> pd.DataFrame:
    """Probabilities of a record table's images: the bundle's views averaged, not calibrated (temperature 1).

    Returns:
        Columns image_id, then one a class.

    Raises:
        ImageError: An image cannot be read.
    """
    logits = []
    for result in classifier.predict_many(part["path"], image_ids=part["image_id"], gates=False):
        if isinstance(result, Refusal):
            raise ImageError(f"{result.path}: {result.reason}", "A row predicts every image: repair the data set.")
        logits.append(result.logits)
    values = view_probabilities(np.stack(logits).astype(np.float64), classifier.config.task.head, 1.0)
    table = pd.DataFrame(values, columns=list(classifier.config.outputs))
    table.insert(0, "image_id", part["image_id"].to_numpy())
    return table


def scores(predictions: pd.DataFrame, records: pd.DataFrame, task: Task) -> str:
    """The held-out AUCs, for the line that tells of the row."""
    diagnosis = records.set_index("image_id")["diagnosis"].loc[predictions["image_id"]]
    classes = np.array([task.class_names[task.class_of(str(code))] for code in diagnosis])
    there = [name for name in task.scored_names if 0 < (classes == name).sum() < len(classes)]
    aucs = {name: float(roc_auc_score(classes == name, predictions[name])) for name in there}
    parts = ", ".join(f"{name} {value:.3f}" for name, value in aucs.items())
    return f"{parts}, mean AUC {np.mean(list(aucs.values())):.3f}" if aucs else "one class only, no AUC"


def train_row(
    table: Table,
    row: Row,
    *,
    data: Path,
    work: Path,
    pretrained: str | None = None,
    threads: int = 1,
    workers: int = 0,
    keep_bundles: bool = False,
) -> str:
    """Train a row, or go on with it, and write its files.

    Args:
        table, row: Which.
        data: The data set's folder.
        work: Folder of the table's run folders.
        pretrained, threads, workers: As `RunSettings` has them.
        keep_bundles: Whether the trained network stays in the run folder.

    Returns:
        A line that tells time and score.

    Raises:
        PesiError: The recipe or the data are at fault, or the run folder is of another recipe or of other images.
    """
    recipe, source = table.recipe(row), network_row(table, row)
    run, records = work / source.name, read_dataset(data)
    folds, own = saved_folds(table, records, data), row.settings
    used = split_records(records, folds, row.split, share=own.share, relatives=own.relatives, seed=row.seed)
    task = task_of(recipe.task, used["diagnosis"].dropna())
    lists = id_lists(used[used["split"] != "test"])
    cache = str(work.parent / "cache")
    settings = RunSettings(data=data.name, pretrained=pretrained, threads=threads, workers=workers, cache_dir=cache)
    _train(run, table.recipe(source), used, lists, task, settings)  # nothing, where it is trained already
    spent, made = (json.loads((run / name).read_text("utf-8")) for name in ("seconds.json", "environment.json"))
    weights, log = run / "pretrained.json", pd.read_csv(run / "log.csv")
    classifier = _looking(Classifier.load(run / "bundle", runtime="eager"), recipe)
    parts = {part: used[used["split"] == split] for part, split in zip(PARTS, ("val", "test"), strict=True)}
    predicted = {name: probabilities(classifier, part) for name, part in parts.items() if len(part)}
    looks = {"views": recipe.views, "predict_regions": recipe.predict_regions}
    resolved = open_run(run).recipe.model_copy(update=looks)
    content = {
        "row": row.name,
        "table": table.name,
        "variant": row.variant,
        "seed": row.seed,
        "split": row.split,
        "set": table.settings(row),
        **own.model_dump(include={"share", "relatives", "network_of"}),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "network_sha256": file_sha256(run / "bundle" / "model.safetensors"),
        "recipe": resolved.model_dump(mode="json"),
        "pretrained": json.loads(weights.read_text(encoding="utf-8")) if weights.is_file() else None,
        **spent,
        "processor": processor_name(),
        **{name: made[name] for name in ("device", "threads", "python", "git_commit")},
        "torch": made["packages"]["torch"],
        "folds_sha256": file_sha256(table.folds_path),
        "splits": {name: {key: part[key] for key in ("count", "sha256")} for name, part in lists.items()},
        "log": [
            {str(key): float(f"{value:.6g}") for key, value in line.items() if pd.notna(value)}
            for line in log.to_dict("records")
        ],
    }
    write_row(table, content, predicted)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # of the network, which is finished too
    taken = any(variant.network_of == source.variant for variant in table.variants.values())
    if not keep_bundles and not taken:
        (run / "bundle" / "model.safetensors").unlink(missing_ok=True)
    return f"{row.name}: {spent['seconds']:.0f} s, {scores(predicted['held_out'], used, task)}"


def network_row(table: Table, row: Row) -> Row:
    """The row that trains the network that this one takes; itself, where it trains its own."""
    name = row.settings.network_of or row.variant
    return replace(row, variant=name, settings=table.variants[name])


def _train(
    run: Path, recipe: Recipe, used: pd.DataFrame, lists: dict[str, Any], task: Task, settings: RunSettings
) -> None:
    """Train in the run folder, or go on there."""
    if (run / "result.json").is_file() and not (run / "bundle" / "model.safetensors").is_file():
        shutil.rmtree(run)  # it was finished and tidied up, and then its result was deleted: begin anew
    if not (run / "run.json").is_file():
        start_run(recipe, used, run, settings, task)
    other = {
        "another recipe": open_run(run).recipe != recipe.resolved(),
        "other images": json.loads((run / "splits.json").read_text(encoding="utf-8")) != lists,
        "other weights": not _same_weights(run / "pretrained.json", settings.pretrained),
    }
    for what in (what for what, differs in other.items() if differs):
        raise PesiError(f"{run} was begun with {what}.", "Remove that folder to begin the row anew.")
    run_training(run, show_progress=sys.stderr.isatty(), callbacks=(Stopwatch(run / "seconds.json"),))


def _same_weights(noted: Path, pretrained: str | None) -> bool:
    """Whether a run began with a file's weights; where the run or the file does not tell, it is taken to have."""
    if not (noted.is_file() and pretrained and Path(pretrained).is_file()):
        return True
    return bool(json.loads(noted.read_text(encoding="utf-8"))["sha256"] == file_sha256(Path(pretrained)))


def _looking(classifier: Classifier, recipe: Recipe) -> Classifier:
    """The same network, looking as the recipe says."""
    preprocess = preprocess_config(recipe.picture, recipe.looks_at)
    config = classifier.config.with_preprocess(preprocess).model_copy(update={"views": recipe.views})
    return Classifier(config, classifier.network)
