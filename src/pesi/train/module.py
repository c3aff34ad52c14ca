"""What the training of every kind of network shares: seeds, optimiser and schedule, validation over all processes."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from pesi.errors import PesiError
from pesi.images.transforms import normalise
from pesi.train.device_augmentation import Unvaried, varied
from pesi.train.recipe import CommonRecipe


class TrainingModule(L.LightningModule):
    """Trains one network by a recipe; a subclass says with which loss, in which groups, and by which score.

    Args:
        network: The network.
        recipe: The recipe, resolved.
        steps_per_epoch: Optimiser steps an epoch, for the schedule.
    """

    def __init__(self, network: nn.Module, recipe: CommonRecipe, *, steps_per_epoch: int) -> None:
        super().__init__()
        self.network, self.recipe, self.steps_per_epoch = network, recipe, steps_per_epoch
        self._kept: list[tuple[Tensor, ...]] = []

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """The parameters in groups, each with its learning rate, weight decay and name."""

    @abstractmethod
    def lr_factor(self, step: int) -> float:
        """What the learning rates are multiplied with at a step."""

    @abstractmethod
    def score(self, *values: Tensor) -> None:
        """Log the scores of a validation: `values` as `keep` was given them, of all pictures in order."""

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, unless a subclass has others."""
        return torch.optim.AdamW(groups, lr=self.recipe.optimizer.lr)

    def configure_optimizers(self) -> Any:
        """The optimiser over the groups, and the schedule by steps."""
        optimizer = self.make_optimizer(self.groups())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what draws from torch's own generator (dropout) by the epoch, so that a resumed run repeats it.

        Not at the epoch's start: there the loader draws after it, but before it in the epoch that a run resumes with.
        """
        if batch_idx == 0:
            key = [self.recipe.seed, self.current_epoch, self.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
            if self.current_epoch:  # the loader's draw, which stood here first: earlier results come out the same
                torch.empty((), dtype=torch.int64).random_()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Vary, here on the device, the pictures that no loader has varied."""
        return varied(batch, self.recipe.picture.size) if isinstance(batch, Unvaried) else batch

    def inputs(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, S, S), uint8 -> the network's input."""
        return normalise(pictures, self.recipe.picture.mean, self.recipe.picture.std)

    def log_mean(self, name: str, value: Tensor, pictures: Tensor) -> None:
        """Log a value's mean over the epoch; it stays on the device until then."""
        self.log(name, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(pictures))

    def keep(self, indices: Tensor, *values: Tensor) -> None:
        """Keep what a validation batch gave, (N, ...) each, for `score`; the first must be finite."""
        self._kept.append((indices, *values))

    def on_validation_epoch_end(self) -> None:
        """Gather what all processes kept, each picture once, and score it.

        Raises:
            PesiError: The first value is not finite: the training diverged.
        """
        indices, *values = (torch.cat(part) for part in zip(*self._kept, strict=True))
        self._kept.clear()
        if self.trainer.world_size > 1:
            indices, *values = (self._gathered(part) for part in (indices, *values))
        order = np.unique(indices.cpu().numpy(), return_index=True)[1]  # a picture may have been dealt out twice
        values = [part[order] for part in values]
        if not bool(values[0].isfinite().all()):
            raise PesiError(
                f"The training diverged: after epoch {self.current_epoch + 1} the network's outputs are no finite "
                "numbers.",
                "Start a run with a lower learning rate: --set optimizer.lr=...",
            )
        self.score(*values)

    def _gathered(self, part: Tensor) -> Tensor:
        whole = self.all_gather(part)
        assert isinstance(whole, Tensor)
        return whole.flatten(0, 1)


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0, for the share of the training that is done, 0..1; beyond them as at the ends."""
    return 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
