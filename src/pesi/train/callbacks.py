"""What happens around the training loop: whole checkpoints, the epoch log, the progress bar."""

from __future__ import annotations

import csv
import io
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from tqdm import tqdm

from pesi.errors import StorageError
from pesi.files import whole_file, write_text


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all, and opened without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file, then rename: a full disk leaves the last good checkpoint."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole_file(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of ours; anything that would run code is refused."""
        return read_checkpoint_file(path)


def read_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """The contents of a training checkpoint, on the CPU.

    Raises:
        StorageError: The file is missing, damaged, or holds more than tensors and plain values.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise StorageError(
            f"Checkpoint {path} cannot be opened: {str(error).splitlines()[0]}",
            f"Delete the folder {Path(path).parent}; with --resume the run then starts from the beginning.",
        ) from error
    return checkpoint


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's, which knows the best epoch so far also where the run folder was moved or renamed since."""

    @property
    def state_key(self) -> str:
        """As Lightning's own class has it: so checkpoints of before this class are read too."""
        return ModelCheckpoint.__qualname__ + super().state_key.removeprefix(type(self).__qualname__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state, with the files in the run folder as it is called now."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else ""

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(state_dict | paths | {"dirpath": self.dirpath, "best_k_models": best})


class EpochLog(Callback):
    """Keeps one row of all logged values an epoch, in the checkpoint and as `log.csv` in the run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, so that a resumed run's log is whole."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to the checkpoint."""
        self.rows = list(state_dict["rows"])

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add this epoch's row."""
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch, "lr": rate} | dict(sorted(values.items())))
        if trainer.is_global_zero:
            columns = list(dict.fromkeys(name for row in self.rows for name in row))
            text = io.StringIO()
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_text(self.path, text.getvalue())


class RunProgress(ProgressBar):
    """One bar for the whole run: epoch, loss, a validation score, images/s, time left.

    Args:
        batch_size: Pictures a step and process.
        score: Name of the logged score, and what to call it.
    """

    def __init__(self, batch_size: int, *, score: tuple[str, str] = ("val/mean_auc", "mean AUC")) -> None:
        super().__init__()
        self.batch_size, self.score = batch_size, score
        self.enabled = True
        self.bar: tqdm | None = None
        self._loss = 0.0
        self._value = float("nan")
        self._since, self._images, self._rate = time.perf_counter(), 0, 0.0

    def disable(self) -> None:
        """Called by the trainer on all processes but the first."""
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar, at the epoch that a resumed run starts from."""
        steps, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 0)
        if self.enabled:
            self.bar = tqdm(
                total=steps * epochs,
                initial=steps * trainer.current_epoch,
                unit="batch",
                dynamic_ncols=True,
                leave=True,
            )

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the epoch and start its clock."""
        self._since, self._images = time.perf_counter(), 0
        if self.bar is not None:
            self.bar.set_description(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar one batch."""
        if self.bar is None:
            return
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs) * trainer.accumulate_grad_batches
        self._loss = loss if not self._loss else 0.95 * self._loss + 0.05 * loss
        self._images += self.batch_size * trainer.world_size
        self._rate = self._images / (time.perf_counter() - self._since)
        self._show()
        self.bar.update()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new score."""
        self._value = float(trainer.callback_metrics.get(self.score[0], float("nan")))
        if self.bar is not None:
            self._show()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar; after an early stop it ends where it is."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that an error's message stands on its own line."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _show(self) -> None:
        if self.bar is not None:
            value = "-" if self._value != self._value else f"{self._value:.3f}"
            self.bar.set_postfix_str(f"loss {self._loss:.3f}, {self.score[1]} {value}, {self._rate:.1f} images/s")
