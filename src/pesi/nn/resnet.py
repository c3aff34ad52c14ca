"""Pesi-CNN as a ResNet: the network of the paper, at the usual depths and under the usual parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pesi.nn.block import AttentionSettings, PesiBlock, Stage
from pesi.nn.cnn import STAGES, PesiCNN, attending_stages


class Architecture(NamedTuple):
    """Blocks a stage, and whether they are bottlenecks."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


ARCHITECTURES: dict[str, Architecture] = {
    "pesi14": Architecture((1, 1, 1, 1), True),
    "pesi18": Architecture((2, 2, 2, 2), False),
    "pesi34": Architecture((3, 4, 6, 3), False),
    "pesi50": Architecture((3, 4, 6, 3), True),
    "pesi101": Architecture((3, 4, 23, 3), True),
}


class PesiResNet(PesiCNN):
    """The network of "Attention Residual Learning for Skin Lesion Classification" (IEEE TMI 2019).

    Args:
        architecture: Blocks a stage and their kind.
        num_classes: Outputs of the linear head; 0: none, the pooled features.
        attention: How the blocks attend; form "none" is a plain ResNet.
        attend_stages: The stages (1..4) whose blocks attend.
        dropout: Probability of dropping a pooled feature before the head.

    Example:
        >>> import torch, pesi
        >>> model = pesi.create_model("pesi18", num_classes=3).eval()
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        num_classes: int,
        attention: AttentionSettings,
        attend_stages: Sequence[int] = STAGES,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            num_features=2048 if architecture.bottleneck else 512,
            attention=attention.form,
            stem_channels=(64, 64),
            dropout=dropout,
        )
        attending = attending_stages(tuple(attend_stages))
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in zip(STAGES, architecture.blocks, strict=True):
            layers = []
            for index in range(count):
                block = PesiBlock(
                    channels,
                    32 * 2**stage,
                    stride=2 if stage > 1 and index == 0 else 1,
                    bottleneck=architecture.bottleneck,
                    attention=attention if stage in attending else replace(attention, form="none"),
                )
                layers.append(block)
                channels = block.out_channels
            setattr(self, f"layer{stage}", Stage(*layers))
        self._initialise()

    def _stem(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.bn1(self.conv1(x)))
        return [x, self.maxpool(x)]
