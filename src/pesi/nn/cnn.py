"""Pesi-CNN: stem, four stages of Pesi blocks, global average pool, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pesi.nn.attention import FORMS
from pesi.nn.block import BlockTrace, PesiBlock


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


class PesiMaps(NamedTuple):
    """What a forward pass saw.

    Attributes:
        logits: (N, K).
        features: Last feature map, (N, C, h, w).
        cam: Exact class activation maps, (N, K, h, w): mean over h x w plus the head's bias is the logit.
        attention: Block name -> M averaged over channels (N, H, W); spatial forms sum to 1 (`spatial-mean1`: H*W).
            Empty for a network without attention.
        energy: Block name -> ||alpha M s|| / ||s + O||, (N,).
    """

    logits: Tensor
    features: Tensor
    cam: Tensor
    attention: dict[str, Tensor]
    energy: dict[str, Tensor]


class PesiCNN(nn.Module):
    """The network of "Attention Residual Learning for Skin Lesion Classification" (IEEE TMI 2019).

    Args:
        blocks: Blocks in each of the four stages.
        bottleneck: Bottleneck blocks (ResNet-50's) or basic ones (ResNet-18's).
        num_classes: Outputs of the linear head.
        attention: A key of `attention.FORMS`; `"none"` is a plain ResNet.
        alpha: Initial value of every alpha.
        per_channel: One alpha a channel instead of one a block.
        temperature: Of the attention's normalisation.
        attend_projection: Whether blocks with a projected shortcut attend too.
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
        blocks: Sequence[int],
        *,
        bottleneck: bool,
        num_classes: int,
        attention: str = "spatial",
        alpha: float = 1e-3,
        per_channel: bool = False,
        temperature: float = 1.0,
        attend_projection: bool = True,
        attend_stages: Sequence[int] = (1, 2, 3, 4),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}.")
        if unknown := sorted(set(attend_stages) - {1, 2, 3, 4}):
            raise ValueError(f"attend_stages takes stages 1 to 4, not {unknown}.")
        self.attention = attention
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(blocks, start=1):
            layers = []
            for index in range(count):
                block = PesiBlock(
                    channels,
                    32 * 2**stage,
                    stride=2 if stage > 1 and index == 0 else 1,
                    bottleneck=bottleneck,
                    attention=attention if stage in attend_stages else "none",
                    alpha=alpha,
                    per_channel=per_channel,
                    temperature=temperature,
                    attend_projection=attend_projection,
                )
                layers.append(block)
                channels = block.out_channels
            setattr(self, f"layer{stage}", nn.Sequential(*layers))
        self.num_features = channels
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def num_classes(self) -> int:
        """Outputs of the head."""
        return self.fc.out_features

    def blocks(self) -> dict[str, PesiBlock]:
        """Every block by its name, from the lowest: `layer1.0`, `layer1.1`, ..."""
        return {name: module for name, module in self.named_modules() if isinstance(module, PesiBlock)}

    def alphas(self) -> dict[str, nn.Parameter]:
        """Every block's alpha by the block's name; blocks without attention have none."""
        return {name: block.alpha for name, block in self.blocks().items() if block.alpha is not None}

    def _stem(self, x: Tensor) -> Tensor:
        stem: Tensor = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return stem

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), H and W at least 64 -> features (N, C, H / 32, W / 32)."""
        x = self._stem(x)
        for block in self.blocks().values():
            x = block(x)
        return x

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Features (N, C, h, w) -> logits (N, K), or the pooled features (N, C) with `pre_logits`."""
        pooled: Tensor = self.dropout(features.mean((2, 3)))
        return pooled if pre_logits else self._classify(pooled)

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.fc(pooled.to(self.fc.weight.dtype))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised as the weights want them -> logits (N, K)."""
        return self.forward_head(self.forward_features(x))

    def forward_maps(self, x: Tensor) -> PesiMaps:
        """One forward pass that also returns the class activation maps and every block's attention."""
        x = self._stem(x)
        traces: dict[str, BlockTrace] = {}
        for name, block in self.blocks().items():
            x, traces[name] = block.forward_traced(x)
        cam = torch.einsum("kc,nchw->nkhw", self.fc.weight.float(), x.float())
        return PesiMaps(
            logits=self.forward_head(x),
            features=x,
            cam=cam,
            attention={
                # The channel form sums to 1 over channels, so its mean says nothing: show where one channel takes all.
                name: trace.attention.amax(1) if self.attention == "channel" else trace.attention.mean(1)
                for name, trace in traces.items()
                if trace.attention is not None
            },
            energy={name: trace.energy for name, trace in traces.items()},
        )

    def get_classifier(self) -> nn.Linear:
        """The linear head."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new linear head with `num_classes` outputs."""
        self.fc = nn.Linear(self.num_features, num_classes).to(self.fc.weight)


def create_model(name: str, *, num_classes: int, attention: str = "spatial", **options: Any) -> PesiCNN:
    """Make a Pesi-CNN by its name.

    Args:
        name: A key of `ARCHITECTURES`: pesi14, pesi18, pesi34, pesi50, pesi101.
        num_classes: Outputs of the head.
        attention: A key of `attention.FORMS`.
        **options: Any further keyword of `PesiCNN`.

    Raises:
        KeyError: No network has that name; the message lists those that exist.
        ValueError: An option is out of range.
    """
    if name not in ARCHITECTURES:
        raise KeyError(f"Unknown network {name!r}; choose one of: {', '.join(ARCHITECTURES)}.")
    if attention not in FORMS:
        raise ValueError(f"Unknown attention {attention!r}; choose one of: {', '.join(FORMS)}.")
    architecture = ARCHITECTURES[name]
    return PesiCNN(
        architecture.blocks,
        bottleneck=architecture.bottleneck,
        num_classes=num_classes,
        attention=attention,
        **options,
    )
