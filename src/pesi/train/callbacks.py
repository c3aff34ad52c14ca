"""What happens around the training loop: whole checkpoints, the epoch log, the progress bar."""

from __future__ import annotations

import csv
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

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


class PartOf(NamedTuple):
    """A run that is one of several equal ones.

    Attributes:
        name: What it is called.
        done: How many are done.
        of: How many there are.
        whole: The folder of all of them, which is resumed.
    """

    name: str = ""
    done: int = 0
    of: int = 1
    whole: Path | None = None


class RunProgress(TQDMProgressBar):
    """Lightning's bar, but one for the whole run, or all runs, on stderr, and none for the validation.

    It reads the loss only when it is drawn: a value that is fetched at every step makes a GPU wait for each.

    Args:
        score: Name of the logged score, and what to call it.
        part: Which of several runs this is.
    """

    def __init__(self, score: tuple[str, str], part: PartOf = PartOf()) -> None:
        super().__init__()
        self.score = score
        self.part = part

    def init_train_tqdm(self) -> Tqdm:
        """The bar, at the epoch that a resumed run starts from."""
        steps, epochs = int(self.trainer.num_training_batches), int(self.trainer.max_epochs or 0)
        return Tqdm(
            total=steps * epochs * self.part.of,
            initial=steps * (epochs * self.part.done + self.trainer.current_epoch),
            leave=self.part.done + 1 == self.part.of,
            unit="batch",
            disable=self.is_disabled,
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def init_validation_tqdm(self) -> Tqdm:
        """None is shown."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Show the epoch."""
        name = f"{self.part.name} " if self.part.name else ""
        self.train_progress_bar.set_description(f"{name}epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar one batch."""
        if self.train_progress_bar.update():  # it was drawn
            loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
            self.train_progress_bar.set_postfix_str(f"loss {loss:.3f}{self._told(trainer)}")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new score."""
        loss = trainer.callback_metrics["train/loss"]
        self.train_progress_bar.set_postfix_str(f"loss {loss:.3f}{self._told(trainer)}")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that an error's message stands on its own line."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()

    def _told(self, trainer: L.Trainer) -> str:
        value = trainer.callback_metrics.get(self.score[0])
        return "" if value is None else f", {self.score[1]} {value:.3f}"
