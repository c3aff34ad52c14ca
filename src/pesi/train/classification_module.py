"""A classifier's training, inside: loss, optimiser groups, schedule, validation by mean AUC, alpha and energy logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from pesi.nn.cnn import PesiCNN
from pesi.taxonomy import Task
from pesi.train.dataset import output_names, targets_of
from pesi.train.mixing import Mixture, cutmix, mixup
from pesi.train.module import TrainingModule, cosine
from pesi.train.recipe import Recipe


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


class LesionModule(TrainingModule):
    """Trains one Pesi-CNN by a recipe.

    Args:
        network: The network.
        recipe: The recipe, resolved.
        task: What its outputs mean.
        weights: Class weights of the loss, (K,).
        steps_per_epoch: Optimiser steps an epoch, for the schedule.
        offsets: What the loss adds to the logits, (K,); None: nothing.
    """

    network: PesiCNN
    recipe: Recipe

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
        super().__init__(network, recipe, steps_per_epoch=steps_per_epoch)
        self.task = task
        smoothing = recipe.loss.label_smoothing
        self.loss = LesionLoss(weights, task, head=recipe.loss.head, label_smoothing=smoothing, offsets=offsets)
        self._sample: Tensor | None = None

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """One batch: uint8 pictures (N, 3, S, S), classes (N,), and masks (N, S, S) where the attention learns them."""
        pictures, classes, *masks = batch
        x = self.inputs(pictures)
        mixture = self._mixed(x, batch_index)
        if masks:
            logits, maps = self.network.forward_attention(x)
            aside = attention_mask_loss(maps.values(), masks[0])
            self.log_mean("train/attention_mask", aside, pictures)
            loss: Tensor = self.loss(logits, classes) + self.recipe.loss.attention_mask * aside
        elif mixture is not None:
            loss = self.loss(self.network(mixture.pictures), classes, classes[mixture.partner], mixture.share)
        else:
            loss = self.loss(self.network(x), classes)
        self.log_mean("train/loss", loss, pictures)
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

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        """Keep the outputs; the AUC needs all of them together."""
        pictures, classes, indices = batch[:3]
        x = self.inputs(pictures)
        if self._sample is None:
            self._sample = x[:8]
        self.keep(indices, self.network(x).float(), classes)

    def score(self, *values: Tensor) -> None:
        """Log loss, each task's AUC and their mean (`val/mean_auc`), and the attention's energy a block.

        Args:
            values: Logits (N, K) and classes (N,).
        """
        logits, classes = values
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

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After an epoch's last batch, log every block's alpha (its mean, where it is one a channel)."""
        if self.trainer.is_last_batch:
            for name, alpha in self.network.alphas().items():
                self.log(f"alpha/{name}", alpha.detach().mean(), on_step=False, on_epoch=True, rank_zero_only=True)

    def groups(self) -> list[dict[str, Any]]:
        """Weights (decay), norms and biases (none), head, alphas (own learning rate, no decay)."""
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
        return [
            {"params": members, "lr": settings.lr * scale[name], "weight_decay": decay[name], "name": name}
            for name, members in groups.items()
            if members
        ]

    def make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The recipe's."""
        settings = self.recipe.optimizer
        if settings.name == "sgd":
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)
        return super().make_optimizer(groups)

    def lr_factor(self, step: int) -> float:
        """Linear warm-up, then the recipe's schedule."""
        settings = self.recipe.optimizer
        epoch, warmup = step / self.steps_per_epoch, 1.0
        if settings.warmup_epochs:
            warmup = min(1.0, (step + 1) / (settings.warmup_epochs * self.steps_per_epoch))
        if settings.schedule == "halve":
            return float(warmup * 0.5 ** (int(epoch + 1e-9) // settings.halve_every))
        if settings.schedule == "cosine":
            left = max(self.recipe.epochs - settings.warmup_epochs, 1e-9)
            return warmup * cosine((epoch - settings.warmup_epochs) / left)
        return warmup
