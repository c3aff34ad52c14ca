"""The segmenter's training, inside: pictures with masks, loss, and the Lightning module with validation by Jaccard."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from pesi.images.masks import augment_pair, resize_mask
from pesi.images.transforms import Augmentation, normalise, to_tensor
from pesi.images.views import VIEWS, cut_views
from pesi.nn.segmenter import PesiSegmenter
from pesi.train.segmenter_recipe import SegmenterRecipe
from pesi.train.trainer import check_outputs


class MaskedPictures(Dataset[tuple[Tensor, Tensor]]):
    """Augmented pictures: item (index, seed) -> (uint8 picture (3, size, size), bool mask (size, size)).

    Args:
        squares: (N, S, S, 3).
        masks: (N, S, S), see `images.masks.read_mask_square`.
        augmentation: How they are varied.
        size: Side of the results.
    """

    def __init__(
        self, squares: NDArray[np.uint8], masks: NDArray[np.uint8], augmentation: Augmentation, size: int
    ) -> None:
        self.squares, self.masks, self.augmentation, self.size = squares, masks, augmentation, size

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, seed = item
        draw = self.augmentation.draw(np.random.default_rng(seed))
        picture, mask = augment_pair(self.squares[index], self.masks[index], draw, self.size)
        return to_tensor(picture), torch.from_numpy(mask)


class WholeMaskedPictures(Dataset[tuple[Tensor, Tensor]]):
    """Whole pictures as the segmenter sees them: item -> (uint8 picture (3, size, size), bool mask (size, size))."""

    def __init__(self, squares: NDArray[np.uint8], masks: NDArray[np.uint8], size: int) -> None:
        self.squares, self.masks, self.size = squares, masks, size

    def __len__(self) -> int:
        return len(self.squares)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = cut_views(self.squares[index], VIEWS["single"], self.size)[0]
        return to_tensor(picture.copy()), torch.from_numpy(resize_mask(self.masks[index], self.size))


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


class SegmentationModule(L.LightningModule):
    """Trains one segmenter by a recipe.

    Args:
        network: The segmenter.
        recipe: The recipe, resolved.
        steps_per_epoch: Optimiser steps an epoch, for the schedule.
    """

    def __init__(self, network: PesiSegmenter, recipe: SegmenterRecipe, *, steps_per_epoch: int) -> None:
        super().__init__()
        self.network, self.recipe, self.steps_per_epoch = network, recipe, steps_per_epoch
        self.loss = SegmentationLoss(**recipe.loss.model_dump())
        self._seen: list[tuple[Tensor, Tensor]] = []

    def on_train_epoch_start(self) -> None:
        """Seed what might draw from torch's own generator by the epoch, so that a resumed run repeats it."""
        torch.manual_seed(int(np.random.SeedSequence([self.recipe.seed, self.current_epoch]).generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """One batch: uint8 pictures (N, 3, S, S) and bool masks (N, S, S)."""
        pictures, masks = batch
        loss: Tensor = self.loss(self._logits(pictures), masks)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(pictures))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Keep each picture's Jaccard and the batch's loss."""
        pictures, masks = batch
        logits = self._logits(pictures).float()
        predicted = logits[:, 0].sigmoid() > self.recipe.threshold
        shared, union = (predicted & masks).sum((1, 2)), (predicted | masks).sum((1, 2))
        jaccard = torch.where(union > 0, shared / union.clamp(min=1), 1.0)
        self._seen.append((jaccard, self.loss(logits, masks).expand(len(pictures))))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the mean Jaccard, at the network's size and without any tidying of the masks.

        Raises:
            PesiError: The loss is no finite number: the training diverged.
        """
        jaccard, losses = (torch.cat(part) for part in zip(*self._seen, strict=True))
        self._seen.clear()
        check_outputs(losses, self.current_epoch)
        self.log("val/loss", losses.mean())
        self.log("val/jaccard", jaccard.mean())
        self.log("val/thresholded_jaccard", torch.where(jaccard >= 0.65, jaccard, 0.0).mean())

    def _logits(self, pictures: Tensor) -> Tensor:
        picture = self.recipe.picture
        logits: Tensor = self.network(normalise(pictures, picture.mean, picture.std))
        return logits

    def configure_optimizers(self) -> Any:
        """AdamW; the encoder learns more slowly, vectors (norms, biases, alphas) do not decay."""
        settings = self.recipe.optimizer
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": members,
                    "lr": settings.lr * (settings.encoder_lr_scale if encoder else 1.0),
                    "weight_decay": settings.weight_decay if decays else 0.0,
                    "name": ("encoder" if encoder else "decoder") + ("" if decays else " vectors"),
                }
                for (encoder, decays), members in sorted(groups.items(), key=lambda item: item[0])
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        warmup = self.recipe.optimizer.warmup_epochs * self.steps_per_epoch
        if step < warmup:
            return (step + 1) / (math.ceil(warmup) + 1)
        done = (step - warmup) / max(self.recipe.epochs * self.steps_per_epoch - warmup, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
