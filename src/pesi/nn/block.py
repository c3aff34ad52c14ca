"""The Pesi block: a ResNet block (basic or bottleneck) whose tail is the residual attention.

Parameter names are the usual ResNet names (conv1, bn1, ..., downsample.0, downsample.1), plus `alpha`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pesi.nn.attention import (
    FORMS,
    SqueezeExcitation,
    attend,
    attend_normed,
    attention_energy,
    attention_map,
    has_map,
)
from pesi.nn.fused import Branch


class BlockTrace(NamedTuple):
    """What one block's attention did: M (N, C, H, W) or None, and its energy ratio (N,)."""

    attention: Tensor | None
    energy: Tensor


@dataclass(frozen=True)
class AttentionSettings:
    """How the blocks of a network attend.

    Attributes:
        form: A key of `attention.FORMS`; "none" for none.
        alpha: Initial value of alpha.
        per_channel: One alpha a channel, shape (C,), instead of one a block, shape (1,).
        temperature: See `attention.attention_map`.
        attend_projection: Whether the attention also acts where the shortcut is a projection (the paper: yes).
    """

    form: str = "spatial"
    alpha: float = 1e-3
    per_channel: bool = False
    temperature: float = 1.0
    attend_projection: bool = True

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"Unknown attention {self.form!r}; choose one of: {', '.join(FORMS)}.")
        if not self.temperature > 0:
            raise ValueError(f"The attention's temperature must be above 0, not {self.temperature}.")


class AttendingBlock(nn.Module):
    """A residual block whose map O = F(x) attends over its shortcut s(x); a subclass gives the two branches.

    Args:
        out_channels: Channels of the block's output.
        stride: By how much it lowers the resolution.
        settings: The attention.
        attends: Whether this block attends at all (it has a shortcut to attend over).
        relu: Whether a ReLU ends the block.
    """

    def __init__(
        self, out_channels: int, stride: int, settings: AttentionSettings, *, attends: bool, relu: bool
    ) -> None:
        super().__init__()
        self.out_channels, self.stride, self.relu = out_channels, stride, relu
        self.form = settings.form if attends else "none"
        self.temperature = settings.temperature
        self.alpha: nn.Parameter | None = None
        if has_map(self.form):
            shape = out_channels if settings.per_channel else 1
            self.alpha = nn.Parameter(torch.full((shape,), float(settings.alpha)))
        self.se: SqueezeExcitation | None = SqueezeExcitation(out_channels) if self.form == "se" else None

    def branches(self, x: Tensor) -> tuple[Branch, Branch | None]:
        """O = F(x), and s(x) or None where the block has no shortcut, before their batch norms; (N, C_out, h, w)."""
        raise NotImplementedError

    def forward(self, x: Tensor, traces: list[BlockTrace] | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride).

        Args:
            x: The block's input.
            traces: Where to leave what the attention did.
        """
        o, s = self.branches(x)
        if traces is None and s is not None and self.alpha is not None:
            return attend_normed(o, s, self.alpha, self.form, self.temperature, relu=self.relu)
        maps = o.map(), None if s is None else s.map()
        if traces is not None:
            traces.append(self._trace(*maps))
        return self._tail(*maps)

    def _trace(self, o: Tensor, s: Tensor | None) -> BlockTrace:
        if self.alpha is None or s is None:
            return BlockTrace(None, torch.zeros(o.shape[0], device=o.device))
        m = attention_map(o, self.form, self.temperature)
        return BlockTrace(m, attention_energy(m, o, s, self.alpha))

    def _tail(self, o: Tensor, s: Tensor | None) -> Tensor:
        if s is not None and self.alpha is not None:
            return attend(o, s, self.alpha, self.form, self.temperature, relu=self.relu)
        o = o if self.se is None else self.se(o)
        y = o if s is None else o + s
        return torch.relu(y) if self.relu else y

    def extra_repr(self) -> str:
        """The attention's form and temperature, for `print(model)`."""
        return f"attention={self.form}, temperature={self.temperature}"


class Stage(nn.Sequential):
    """The blocks of one stage, in order; what is appended to it runs too.

    A subclass of Sequential only so that a pass can also see what leaves each block.
    """

    def forward(self, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w).

        Args:
            x: The stage's input.
            run: Gives a module's output; default the module's own call.
        """
        for module in self:
            x = module(x) if run is None else run(module, x)
        return x


class PesiBlock(AttendingBlock):
    """y = ReLU(s(x) + O + alpha * M . s(x)), O = F(x), M = R(O): METHOD section 1.

    Args:
        in_channels: Channels of x.
        width: Channels of the inner convolutions.
        stride: Stride of the 3 x 3 convolution that halves the resolution (1 or 2).
        bottleneck: 1x1 - 3x3 - 1x1 with 4 * width channels out, else 3x3 - 3x3 with `width` channels out.
        attention: How it attends.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        bottleneck: bool = False,
        attention: AttentionSettings = AttentionSettings(),
    ) -> None:
        out_channels = width * 4 if bottleneck else width
        projected = stride != 1 or in_channels != out_channels
        super().__init__(
            out_channels, stride, attention, attends=attention.attend_projection or not projected, relu=True
        )
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out_channels)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if projected:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def branches(self, x: Tensor) -> tuple[Branch, Branch]:
        """O = F(x) and s(x), before their batch norms, both (N, C_out, H_out, W_out)."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        if self.bottleneck:
            o = Branch(self.conv3(torch.relu(self.bn2(self.conv2(inner)))), self.bn3)
        else:
            o = Branch(self.conv2(inner), self.bn2)
        if isinstance(self.downsample, nn.Sequential):
            return o, Branch(self.downsample[0](x), self.downsample[1])
        return o, Branch(x)
