"""A segmenter's training, inside: loss, optimiser groups, schedule, and validation by Jaccard."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pesi.nn.segmenter import PesiSegmenter
from pesi.train.module import TrainingModule, cosine
from pesi.train.segmenter_recipe import SegmenterRecipe


def soft_overlap(probabilities: Tensor, masks: Tensor, kind: str) -> Tensor:
    """How well probabilities cover masks, a picture at a time: (N, H, W) twice -> (N,), in 0..1.

    Args:
        probabilities: Of lesion, 0..1.
        masks: 0 or 1.
        kind: `jaccard` is I / U, `dice` is 2 I / (P + T), where I = sum(p t), P = sum(p), T = sum(t), U = P + T - I.
            One pixel is added above and below, so that an empty mask has a gradient. For probabilities of 0 and 1
            they are the metrics themselves (Rahman and Wang, ISVC 2016; Milletari et al., 3DV 2016).
    """
    shared = (probabilities * masks).sum((1, 2))
    total = probabilities.sum((1, 2)) + masks.sum((1, 2))
    return (shared + 1) / (total - shared + 1) if kind == "jaccard" else (2 * shared + 1) / (total + 1)


class SegmentationLoss(nn.Module):
    """pixel_weight * cross-entropy of the pixels + overlap_weight * (1 - soft overlap), mean over the pictures.

    Args:
        overlap: `jaccard` or `dice`.
        overlap_weight, pixel_weight: Of the two parts.
    """

    def __init__(self, *, overlap: str, overlap_weight: float, pixel_weight: float) -> None:
        super().__init__()
        self.overlap, self.overlap_weight, self.pixel_weight = overlap, overlap_weight, pixel_weight

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Logits (N, 1, H, W) and masks (N, H, W), bool -> mean loss."""
        logits, truth = logits[:, 0].float(), masks.float()
        pixels = F.binary_cross_entropy_with_logits(logits, truth)
        overlap = soft_overlap(logits.sigmoid(), truth, self.overlap).mean()
        return self.pixel_weight * pixels + self.overlap_weight * (1 - overlap)


class SegmentationModule(TrainingModule):
    """Trains one segmenter by a recipe.

    Args:
        network: The segmenter.
        recipe: The recipe, resolved.
        steps_per_epoch: Optimiser steps an epoch, for the schedule.
    """

    network: PesiSegmenter
    recipe: SegmenterRecipe

    def __init__(self, network: PesiSegmenter, recipe: SegmenterRecipe, *, steps_per_epoch: int) -> None:
        super().__init__(network, recipe, steps_per_epoch=steps_per_epoch)
        self.loss = SegmentationLoss(**recipe.loss.model_dump())

    def training_step(self, batch: tuple[Tensor, ...], batch_index: int) -> Tensor:
        """One batch: uint8 pictures (N, 3, S, S), classes that do not count, and bool masks (N, S, S)."""
        pictures, _, masks = batch
        loss: Tensor = self.loss(self.network(self.inputs(pictures)), masks)
        self.log_mean("train/loss", loss, pictures)
        return loss

    def validation_step(self, batch: tuple[Tensor, ...], batch_index: int) -> None:
        """Keep each picture's Jaccard and the batch's loss."""
        pictures, _, indices, masks = batch
        logits = self.network(self.inputs(pictures)).float()
        predicted = logits[:, 0].sigmoid() > self.recipe.threshold
        shared, union = (predicted & masks).sum((1, 2)), (predicted | masks).sum((1, 2))
        jaccard = torch.where(union > 0, shared / union.clamp(min=1), 1.0)
        self.keep(indices, self.loss(logits, masks).expand(len(pictures)), jaccard)

    def score(self, *values: Tensor) -> None:
        """Log the loss and the mean Jaccard, at the network's size and without any tidying of the masks.

        Args:
            values: Losses and Jaccard indices, (N,).
        """
        losses, jaccard = values
        self.log("val/loss", losses.mean())
        self.log("val/jaccard", jaccard.mean())
        self.log("val/thresholded_jaccard", torch.where(jaccard >= 0.65, jaccard, 0.0).mean())

    def groups(self) -> list[dict[str, Any]]:
        """The encoder learns more slowly; vectors (norms, biases, alphas) do not decay."""
        settings = self.recipe.optimizer
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": members,
                "lr": settings.lr * (settings.encoder_lr_scale if encoder else 1.0),
                "weight_decay": settings.weight_decay if decays else 0.0,
                "name": ("encoder" if encoder else "decoder") + ("" if decays else " vectors"),
            }
            for (encoder, decays), members in sorted(groups.items(), key=lambda item: item[0])
        ]

    def lr_factor(self, step: int) -> float:
        """Linear warm-up, then a cosine."""
        warmup = self.recipe.optimizer.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (math.ceil(warmup) + 1)
        return cosine((step - warmup) / max(self.recipe.epochs * self.steps_per_epoch - warmup, 1e-9))
