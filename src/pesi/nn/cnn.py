"""What every Pesi-CNN is: a stem, four stages of attending blocks, global average pool, one linear layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pesi.nn.block import AttendingBlock, BlockTrace, Stage

STAGES = (1, 2, 3, 4)


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
    """The common part of all networks; a subclass gives `_stem`, the stages `layer1` .. `layer4`, and perhaps `_top`.

    Args:
        num_classes: Outputs of the linear head; 0: no head, the network gives the pooled features.
        num_features: Channels of the last feature map.
        attention: A key of `attention.FORMS`.
        stem_channels: Channels of the stem's maps at strides 2 and (where the stem pools) 4.
        dropout: Probability of dropping a pooled feature before the head.

    Attributes:
        gradient_checkpointing: Whether training keeps only what goes into each block, and computes the rest anew in the
            backward pass (Chen et al., arXiv 1604.06174): less memory, about a third more time, the same gradients.
    """

    def __init__(
        self, *, num_classes: int, num_features: int, attention: str, stem_channels: tuple[int, ...], dropout: float
    ) -> None:
        super().__init__()
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, not {num_classes}.")
        self.attention = attention
        self.gradient_checkpointing = False
        self.num_features = num_features
        self.stem_channels = stem_channels
        self.dropout = nn.Dropout(dropout)
        self.fc: nn.Linear | nn.Identity = nn.Linear(num_features, num_classes) if num_classes else nn.Identity()

    def _stem(self, x: Tensor) -> list[Tensor]:
        """The stem's maps, one a resolution; the last goes into the blocks."""
        raise NotImplementedError

    def _top(self, x: Tensor) -> Tensor:
        """What stands between the last block and the pool."""
        return x

    def _initialise(self) -> None:
        """He initialisation of the convolutions (fan out, per group)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 where there is none."""
        return self.fc.out_features if isinstance(self.fc, nn.Linear) else 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """`layer1` to `layer4`."""
        return tuple(getattr(self, f"layer{stage}") for stage in STAGES)

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps of `forward_pyramid`."""
        channels = list(self.stem_channels)
        for block in self.blocks().values():
            if block.stride > 1:
                channels.append(block.out_channels)
            else:
                channels[-1] = block.out_channels
        return tuple(channels)

    def blocks(self) -> dict[str, AttendingBlock]:
        """Every block by its name, from the lowest: `layer1.0`, `layer1.1`, ..."""
        return {
            f"layer{number}.{index}": module
            for number, stage in zip(STAGES, self.stages, strict=True)
            for index, module in stage.named_children()
            if isinstance(module, AttendingBlock)
        }

    def alphas(self) -> dict[str, nn.Parameter]:
        """Every block's alpha by the block's name; blocks without attention have none."""
        return {name: block.alpha for name, block in self.blocks().items() if block.alpha is not None}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), H and W at least 64 -> features (N, C, H / 32, W / 32)."""
        x = self._stem(x)[-1]
        for stage in self.stages:
            x = stage(x, self._run)
        return self._top(x)

    def _run(self, module: nn.Module, x: Tensor, traces: list[BlockTrace] | None = None) -> Tensor:
        """A block's output, as `gradient_checkpointing` says."""
        arguments = (x, traces) if traces is not None and isinstance(module, AttendingBlock) else (x,)
        if not (self.gradient_checkpointing and self.training and torch.is_grad_enabled()) or len(arguments) > 1:
            y: Tensor = module(*arguments)
            return y

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _statistics_kept(module)

        y = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return y

    def forward_pyramid(self, x: Tensor) -> list[Tensor]:
        """Images (N, 3, H, W) -> the last map at each resolution: strides 2, 4, 8, 16, 32."""
        levels = self._stem(x)

        def run(module: nn.Module, x: Tensor) -> Tensor:
            x = self._run(module, x)
            if isinstance(module, AttendingBlock) and module.stride > 1:
                levels.append(x)
            else:
                levels[-1] = x
            return x

        for stage in self.stages:
            levels[-1] = stage(levels[-1], run)
        return levels

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Features (N, C, h, w) -> logits (N, K), or the pooled features (N, C) with `pre_logits` or without a head."""
        pooled: Tensor = self.dropout(features.mean((2, 3)))
        return pooled if pre_logits else self.classify(pooled)

    def classify(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> logits (N, K)."""
        logits: Tensor = self.fc(pooled.to(self.fc.weight.dtype) if isinstance(self.fc, nn.Linear) else pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised as the weights want them -> logits (N, K); without a head features (N, C)."""
        return self.forward_head(self.forward_features(x))

    def _traced(self, x: Tensor) -> tuple[Tensor, dict[str, BlockTrace]]:
        """Features as `forward_features` gives them, and what every block's attention did."""
        x = self._stem(x)[-1]
        traces: list[BlockTrace] = []
        for stage in self.stages:
            x = stage(x, lambda module, x: self._run(module, x, traces))
        return self._top(x), dict(zip(self.blocks(), traces, strict=True))

    def forward_attention(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (N, K), and each attending block's M averaged over its channels, (N, H, W); for training on M."""
        features, traces = self._traced(x)
        maps = {name: trace.attention.mean(1) for name, trace in traces.items() if trace.attention is not None}
        return self.forward_head(features), maps

    def forward_maps(self, x: Tensor) -> PesiMaps:
        """One forward pass that also returns the class activation maps and every block's attention.

        Raises:
            ValueError: The network has no head, so there is no class to map.
        """
        if not isinstance(self.fc, nn.Linear):
            raise ValueError("A network without a head (num_classes=0) has no class activation maps.")
        x, traces = self._traced(x)
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

    def get_classifier(self) -> nn.Linear | nn.Identity:
        """The linear head; an identity where there is none."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Give the network a new linear head with `num_classes` outputs; 0 takes the head away."""
        like = self.fc.weight if isinstance(self.fc, nn.Linear) else next(self.parameters())
        self.fc = nn.Linear(self.num_features, num_classes).to(like) if num_classes else nn.Identity()


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it the module's batch norms do not learn their running statistics: these pictures have been counted."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def attending_stages(stages: tuple[int, ...] | list[int]) -> frozenset[int]:
    """The stages that attend, checked.

    Raises:
        ValueError: A stage is not one of 1 to 4.
    """
    if unknown := sorted(set(stages) - set(STAGES)):
        raise ValueError(f"attend_stages takes stages 1 to 4, not {unknown}.")
    return frozenset(stages)
