"""Trains one row of a table, and writes its predictions and how they were made; `run.py` starts it, a process a row.

    python benchmarks/train_row.py ROW TABLE --data DIR --work DIR [--pretrained FILE] [--threads 1] [--workers 0]

Exit status: 0 done, 2 an error that is told, 3 another process has the row.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
import warnings
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
from energy import EnergyMeter
from lightning.pytorch.callbacks import Callback
from locks import claim
from pool import file_sha256, saved_folds, split_records
from rows import Row, Table, load_table
from sklearn.metrics import roc_auc_score

from pesi.datasets.readers import read_dataset
from pesi.datasets.splits import id_lists
from pesi.decide.calibration import view_probabilities
from pesi.errors import ImageError, PesiError
from pesi.files import write_json, write_text
from pesi.machine import keep_memory
from pesi.predict.classifier import Classifier
from pesi.predict.prediction import Refusal
from pesi.taxonomy import Task, task_of
from pesi.train.finish import preprocess_config
from pesi.train.recipe import Recipe
from pesi.train.run import RunSettings, open_run, run_training, start_run

BUSY = 3


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
    diagnosis = records.set_index("image_id")["diagnosis"]
    classes = np.array([task.class_names[task.class_of(str(diagnosis[i]))] for i in predictions["image_id"]])
    aucs = {
        name: float(roc_auc_score(classes == name, predictions[name]))
        for name in task.scored_names
        if 0 < (classes == name).sum() < len(classes)
    }
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
        pretrained: A checkpoint to start from, or "imagenet"; None: what the recipe says.
        threads: Torch threads.
        workers: Loader processes.
        keep_bundles: Whether the trained network stays in the run folder.

    Returns:
        A line that tells time and score.

    Raises:
        PesiError: The recipe or the data are at fault, or the run folder is of another recipe or of other images.
    """
    files, recipe, source = table.files(row), table.recipe(row), network_row(table, row)
    run = work / source.name
    records = read_dataset(data)
    used = split_records(
        records,
        saved_folds(table.folds, records, data),
        row.split,
        share=row.settings.share,
        relatives=row.settings.relatives,
        seed=row.seed,
    )
    task = task_of(recipe.task, used["diagnosis"].dropna())
    settings = RunSettings(
        data=data.name,
        pretrained=pretrained,
        threads=threads,
        workers=workers,
        cache_dir=str(work.parent / "cache"),
    )
    _train(run, table.recipe(source), used, task, settings)  # nothing, where it is trained already
    spent = json.loads((run / "seconds.json").read_text(encoding="utf-8"))
    log = pd.read_csv(run / "log.csv")
    classifier = _looking(Classifier.load(run / "bundle"), recipe)
    parts = {name: used[used["split"] == name] for name in ("val", "test")}
    predicted = {name: probabilities(classifier, part) for name, part in parts.items() if len(part)}
    looks = {"views": recipe.views, "predict_regions": recipe.predict_regions}
    resolved = open_run(run).recipe.model_copy(update=looks)
    made, weights = json.loads((run / "environment.json").read_text(encoding="utf-8")), run / "pretrained.json"
    content = {
        "row": row.name,
        "table": table.name,
        "variant": row.variant,
        "seed": row.seed,
        "split": row.split,
        "set": list(row.settings.overrides),
        "share": row.settings.share,
        "relatives": row.settings.relatives,
        "network_of": row.settings.network_of,
        "network_sha256": file_sha256(run / "bundle" / "model.safetensors"),
        "recipe": resolved.model_dump(mode="json"),
        "pretrained": json.loads(weights.read_text(encoding="utf-8")) if weights.is_file() else None,
        **spent,
        "processor": processor_name(),
        "device": made["device"],
        "threads": made["threads"],
        "torch": made["packages"]["torch"],
        "python": made["python"],
        "git_commit": made["git_commit"],
        "folds_sha256": file_sha256(table.folds.path),
        "splits": {
            name: {"count": part["count"], "sha256": part["sha256"]}
            for name, part in id_lists(used[used["split"] != "test"]).items()
        },
        "log": [
            {str(key): float(f"{value:.6g}") for key, value in line.items() if pd.notna(value)}
            for line in log.to_dict("records")
        ],
    }
    write_text(files.held_out, predicted["val"].to_csv(index=False, float_format="%.5g"))
    if "test" in predicted:
        write_text(files.test, predicted["test"].to_csv(index=False, float_format="%.5g"))
    write_json(files.json, content)  # last: the row is finished
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # of the network, which is finished too
    taken = any(variant.network_of == source.variant for variant in table.variants.values())
    if not keep_bundles and not taken:
        (run / "bundle" / "model.safetensors").unlink(missing_ok=True)
    return f"{row.name}: {spent['seconds']:.0f} s, {scores(predicted['val'], used, task)}"


def network_row(table: Table, row: Row) -> Row:
    """The row that trains the network that this one takes; itself, where it trains its own."""
    name = row.settings.network_of or row.variant
    return replace(row, variant=name, settings=table.variants[name])


def _train(run: Path, recipe: Recipe, used: pd.DataFrame, task: Task, settings: RunSettings) -> None:
    """Train in the run folder, or go on there."""
    if (run / "result.json").is_file() and not (run / "bundle" / "model.safetensors").is_file():
        shutil.rmtree(run)  # it was finished and tidied up, and then its result was deleted: begin anew
    if not (run / "run.json").is_file():
        start_run(recipe, used, run, settings, task)
    elif open_run(run).recipe != recipe.resolved():
        raise PesiError(f"{run} was begun with another recipe.", "Remove that folder to begin the row anew.")
    elif json.loads((run / "splits.json").read_text(encoding="utf-8")) != id_lists(used[used["split"] != "test"]):
        raise PesiError(f"{run} was begun with other images.", "Remove that folder to begin the row anew.")
    if not _same_weights(run / "pretrained.json", settings.pretrained):
        raise PesiError(f"{run} began with other weights.", "Remove that folder to begin the row anew.")
    run_training(run, show_progress=sys.stderr.isatty(), callbacks=(Stopwatch(run / "seconds.json"),))


def _same_weights(noted: Path, pretrained: str | None) -> bool:
    """Whether a run began with a file's weights; where the run or the file does not tell, it is taken to have."""
    if not (noted.is_file() and pretrained and Path(pretrained).is_file()):
        return True
    return bool(json.loads(noted.read_text(encoding="utf-8"))["sha256"] == file_sha256(Path(pretrained)))


def _looking(classifier: Classifier, recipe: Recipe) -> Classifier:
    """The same network, looking as the recipe says."""
    preprocess = preprocess_config(recipe.picture, recipe.looks_at)
    config = classifier.config.model_copy(update={"preprocess": preprocess, "views": recipe.views})
    return Classifier(config, classifier.network)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row")
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the table's run folders")
    parser.add_argument("--pretrained")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--keep-bundles", action="store_true")
    options = parser.parse_args()
    keep_memory()
    warnings.filterwarnings("ignore", message=".*logging interval.*")  # a short epoch is no mistake here
    try:
        table = load_table(options.table)
        row = next((row for row in table.rows() if row.name == options.row), None)
        if row is None:
            raise PesiError(f"{options.table} has no row {options.row!r}.", "Rows are called VARIANT-sSEED-SPLIT.")
        with ExitStack() as claims:
            names = {row.name, network_row(table, row).name}
            if not all(claims.enter_context(claim(options.work / f"{name}.claim")) for name in sorted(names)):
                return BUSY
            if table.files(row).finished:
                return 0
            line = train_row(
                table,
                row,
                data=options.data,
                work=options.work,
                pretrained=options.pretrained,
                threads=options.threads,
                workers=options.workers,
                keep_bundles=options.keep_bundles,
            )
            print(line, flush=True)
    except PesiError as error:
        print(f"{options.row}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
