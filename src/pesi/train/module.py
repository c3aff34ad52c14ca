"""The Lightning module: loss, optimiser groups, schedule, validation by mean AUC, alpha and energy logs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pesi.images.transforms import normalise
from pesi.nn.cnn import PesiCNN
from pesi.taxonomy import Task
from pesi.train.dataset import output_names, targets_of
from pesi.train.mixing import Mixture, cutmix, mixup
from pesi.train.recipe import Recipe
from pesi.train.trainer import check_outputs


def class_weights(classes: NDArray[np.int64], count: int, mode: str) -> NDArray[np.float64]:
    """Weights of the classes in the loss, mean 1 over the images: 1 / frequency (`balanced`) or its root (`sqrt`)."""
    frequency = np.maximum(np.bincount(classes, minlength=count), 1).astype(float)
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[mode]
    weights: NDArray[np.float64] = frequency**-power
    weights /= weights[classes].mean()
    return weights


def class_offsets(classes: NDArray[np.int64], count: int, strength: float) -> NDArray[np.float64]:
    """What logit adjustment adds to the logits in the loss, (K,): strength times the log of the class's share.

    Trained with strength 1 the network's own probabilities are those of equally frequent classes (Menon et al., ICLR
    2021, arXiv 2007.07314). A class without images counts as having one.
    """
    frequency = np.maximum(np.bincount(classes, minlength=count), 1)
    offsets: NDArray[np.float64] = strength * np.log(frequency / frequency.sum())
    return offsets


class LesionLoss(nn.Module):
    """Cross-entropy on soft targets, softmax (`multiclass`) or sigmoid (`multilabel`).

    Args:
        weights: A weight a class of the task, (K,).
        task: The task.
        head: `multiclass` or `multilabel`.
        label_smoothing: Share of the target spread over all outputs (multiclass) or drawn to 1/2 (multilabel).
        offsets: Added to the logits of `multiclass`, (K,); None: nothing.
    """

    weights: Tensor
    offsets: Tensor

    def __init__(
        self,
        weights: NDArray[np.float64],
        task: Task,
        *,
        head: str,
        label_smoothing: float,
        offsets: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__()
        offsets = np.zeros(len(task.classes)) if offsets is None else offsets
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.float32), persistent=False)
        self.task, self.head, self.label_smoothing = task, head, label_smoothing

    def forward(self, logits: Tensor, classes: Tensor, partner: Tensor | None = None, share: float = 1.0) -> Tensor:
        """Mean loss; `partner` (N,) are the classes mixed in with weight 1 - share."""
        loss = share * self._of(logits, classes)
        if partner is not None:
            loss = loss + (1 - share) * self._of(logits, partner)
        return loss.mean()

    def _of(self, logits: Tensor, classes: Tensor) -> Tensor:
        targets, outputs = targets_of(classes, self.task, self.head), logits.shape[1]
        if self.head == "multiclass":
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / outputs
            each = -(targets * (logits.float() + self.offsets).log_softmax(1)).sum(1)
        else:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none").mean(1)
        return each * self.weights[classes]


def attention_mask_loss(maps: Iterable[Tensor], masks: Tensor) -> Tensor:
    """Mean over blocks and pictures of -log(share of the attention that falls on the lesion).

    Args:
        maps: Each block's attention, (N, h, w), non-negative.
        masks: Lesions (N, H, W), bool; pictures whose mask is empty do not count.

    Returns:
        A scalar, 0 where all attention is on the lesion, -log(the lesion's share of the area) where it is even.
    """
    marked = masks.flatten(1).any(1)
    losses = []
    for attention in maps:
        mask = nn.functional.adaptive_avg_pool2d(masks[:, None].float(), (attention.shape[1], attention.shape[2]))[:, 0]
        inside = (attention * mask).sum((1, 2)) / attention.sum((1, 2)).clamp_min(1e-12)
        losses.append(-torch.log(inside.clamp_min(1e-6))[marked].sum() / marked.sum().clamp_min(1))
    return torch.stack(losses).mean()


class LesionModule(L.LightningModule):
    """Trains one Pesi-CNN by a recipe.

    Args:
        network: The network.
        recipe: The recipe, resolved.
        task: What its outputs mean.
        weights: Class weights of the loss, (K,).
        steps_per_epoch: Optimiser steps an epoch, for the schedule.
        offsets: What the loss adds to the logits, (K,); None: nothing.
    """

    def __init__(
        self,
        network: PesiCNN,
        recipe: Recipe,
        task: Task,
        weights: NDArray[np.float64],
        *,
        steps_per_epoch: int,
        offsets: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.task = network, recipe, task
        smoothing = recipe.loss.label_smoothing
        self.loss = LesionLoss(weights, task, head=recipe.loss.head, label_smoothing=smoothing, offsets=offsets)
        self.steps_per_epoch = steps_per_epoch
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sample: Tensor | None = None

    def on_train_epoch_start(self) -> None:
        """Seed what draws from torch's own generator (dropout) by the epoch, so that a resumed run repeats it."""
        torch.manual_seed(
            int(np.random.SeedSequence([self.recipe.seed, self.current_epoch, self.global_rank]).generate_state(1)[0])
        )

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """One batch: uint8 pictures (N, 3, S, S), classes (N,), and masks (N, S, S) where the attention learns them."""
        pictures, classes, *masks = batch
        x = normalise(pictures, self.recipe.picture.mean, self.recipe.picture.std)
        mixture = self._mixed(x, batch_index)
        if masks:
            logits, maps = self.network.forward_attention(x)
            aside = attention_mask_loss(maps.values(), masks[0])
            self.log("train/attention_mask", aside, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(x))
            loss: Tensor = self.loss(logits, classes) + self.recipe.loss.attention_mask * aside
        elif mixture is not None:
            loss = self.loss(self.network(mixture.pictures), classes, classes[mixture.partner], mixture.share)
        else:
            loss = self.loss(self.network(x), classes)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(classes))
        return loss

    def _mixed(self, x: Tensor, batch_index: int) -> Mixture | None:
        """The batch mixed as the recipe says; of mixup and CutMix, where both are on, one by chance."""
        settings = self.recipe.loss
        ways = [(mix, alpha) for mix, alpha in ((mixup, settings.mixup), (cutmix, settings.cutmix)) if alpha > 0]
        if not ways:
            return None
        rng = np.random.default_rng([self.recipe.seed, self.current_epoch, batch_index, self.global_rank])
        mix, alpha = ways[int(rng.integers(len(ways)))] if len(ways) > 1 else ways[0]
        return mix(x, alpha, rng)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> None:
        """Keep the outputs; the AUC needs all of them together."""
        pictures, classes, indices = batch
        x = normalise(pictures, self.recipe.picture.mean, self.recipe.picture.std)
        if self._sample is None:
            self._sample = x[:8]
        self._seen.append((self.network(x).float(), classes, indices))

    def on_validation_epoch_end(self) -> None:
        """Log loss, each task's AUC and their mean (`val/mean_auc`), and the attention's energy a block.

        Raises:
            PesiError: The outputs are no finite numbers: the training diverged.
        """
        logits, classes, indices = (torch.cat(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        if self.trainer.world_size > 1:
            logits, classes, indices = (self._gathered(part) for part in (logits, classes, indices))
        order = np.unique(indices.cpu().numpy(), return_index=True)[1]  # a picture may have been dealt out twice
        logits, classes = logits[order], classes[order]
        check_outputs(logits, self.current_epoch)
        head = self.recipe.loss.head
        loss = self.loss(logits, classes)
        self.log("val/loss", loss)
        scores = (logits.softmax(1) if head == "multiclass" else logits.sigmoid()).cpu().numpy()
        names, aucs = output_names(self.task, head), []
        labels = targets_of(classes, self.task, head).cpu().numpy()
        for name in self.task.scored_names:
            column = names.index(name)
            if 0 < labels[:, column].sum() < len(labels):
                aucs.append(roc_auc_score(labels[:, column], scores[:, column]))
                self.log(f"val/auc_{name}", float(aucs[-1]), rank_zero_only=True)
        # Every process has all outputs, so all log the same and stop together.
        mean_auc = float(np.mean(aucs)) if aucs else 0.0
        self.log("val/mean_auc", mean_auc)
        # What chooses the best epoch: among equal AUCs (few images) the lower loss, not the first epoch.
        self.log("val/rank", mean_auc - 1e-6 * min(float(loss), 100.0))
        if self._sample is not None:
            for name, energy in self.network.forward_maps(self._sample).energy.items():
                self.log(f"energy/{name}", energy.mean(), rank_zero_only=True)
            self._sample = None

    def _gathered(self, part: Tensor) -> Tensor:
        whole = self.all_gather(part)
        assert isinstance(whole, Tensor)
        return whole.flatten(0, 1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an epoch's last batch, log every block's alpha (its mean, where it is one a channel)."""
        if self.trainer.is_last_batch:
            for name, alpha in self.network.alphas().items():
                self.log(f"alpha/{name}", alpha.detach().mean(), on_step=False, on_epoch=True, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """Groups: weights (decay), norms and biases (none), head, alphas (own learning rate, no decay)."""
        settings = self.recipe.optimizer
        groups: dict[str, list[nn.Parameter]] = {"weights": [], "norms": [], "head": [], "alpha": []}
        for name, parameter in self.network.named_parameters():
            if name.endswith("alpha"):
                groups["alpha"].append(parameter)
            elif name.startswith("fc."):
                groups["head"].append(parameter)
            else:
                groups["norms" if parameter.ndim == 1 else "weights"].append(parameter)
        scale = {"weights": 1.0, "norms": 1.0, "head": settings.head_lr_scale, "alpha": settings.alpha_lr_scale}
        decay = {"weights": settings.weight_decay, "norms": 0.0, "head": settings.weight_decay, "alpha": 0.0}
        parameters = [
            {"params": members, "lr": settings.lr * scale[name], "weight_decay": decay[name], "name": name}
            for name, members in groups.items()
            if members
        ]
        optimizer: torch.optim.Optimizer
        if settings.name == "sgd":
            optimizer = torch.optim.SGD(parameters, lr=settings.lr, momentum=settings.momentum)
        else:
            optimizer = torch.optim.AdamW(parameters, lr=settings.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        settings = self.recipe.optimizer
        epoch = step / self.steps_per_epoch
        warmup = (
            min(1.0, (step + 1) / (settings.warmup_epochs * self.steps_per_epoch)) if settings.warmup_epochs else 1.0
        )
        if settings.schedule == "halve":
            return float(warmup * 0.5 ** (int(epoch + 1e-9) // settings.halve_every))
        if settings.schedule == "cosine":
            done = (epoch - settings.warmup_epochs) / max(self.recipe.epochs - settings.warmup_epochs, 1e-9)
            return float(warmup * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))))
        return float(warmup)
