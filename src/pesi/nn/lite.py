"""Pesi-CNN on EfficientNet-Lite: inverted residual blocks, the attention wherever a block has a shortcut.

EfficientNet-Lite (Google, 2020) is EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946) without squeeze-excitation
and with ReLU6 for Swish. Its ImageNet weights are free (Apache-2.0) and come as packages, see `pretrained`. Padding is
TensorFlow's 'SAME'; input is (x - 127) / 128 for x in 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pesi.nn.block import AttendingBlock, AttentionSettings, Stage
from pesi.nn.cnn import STAGES, PesiCNN, attending_stages
from pesi.nn.depthwise import depthwise_conv2d, learns_in_bfloat16
from pesi.nn.fused import Branch


class _Group(NamedTuple):
    """Blocks of one kind in a row."""

    stage: int  # 1: strides 2 and 4; 2, 3, 4: strides 8, 16, 32
    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# EfficientNet-B0's table; width and depth are scaled, but the first and last group are not repeated.
_B0 = (
    _Group(1, 1, 3, 1, 1, 16),
    _Group(1, 2, 3, 2, 6, 24),
    _Group(2, 2, 5, 2, 6, 40),
    _Group(3, 3, 3, 2, 6, 80),
    _Group(3, 3, 5, 1, 6, 112),
    _Group(4, 4, 5, 2, 6, 192),
    _Group(4, 1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280


class Scale(NamedTuple):
    """Multiples of B0's width and depth."""

    width: float
    depth: float


LITE_SCALES: dict[str, Scale] = {"pesi_lite0": Scale(1.0, 1.0), "pesi_lite2": Scale(1.1, 1.2)}


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's 'SAME' padding: output ceil(H / stride), an odd pixel at the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride))."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        padding = kernel // 2
        if stride > 1:
            pad_y, pad_x = (max((n - 1) // stride * stride + kernel - n, 0) for n in x.shape[2:])
            x, padding = F.pad(x, (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2)), 0
        if self.groups == self.in_channels == self.out_channels and learns_in_bfloat16(x):
            return depthwise_conv2d(x, self.weight, stride, padding)
        return F.conv2d(x, self.weight, self.bias, stride, padding, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    # TensorFlow's epsilon. Its momentum of 0.01 is for ImageNet's many steps: after an epoch of a few thousand images
    # the running statistics would lag behind the weights.
    return nn.BatchNorm2d(channels, eps=1e-3)


class InvertedResidual(AttendingBlock):
    """1x1 expansion - depthwise - 1x1 projection; y = s + O + alpha * M . s where it has a shortcut, else O.

    Args:
        in_channels, out_channels: Of the block.
        kernel: Side of the depthwise convolution.
        stride: Of the depthwise convolution.
        expansion: Inner channels as a multiple of `in_channels`; 1: no expansion.
        attention: How it attends.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int,
        expansion: int,
        attention: AttentionSettings,
    ) -> None:
        shortcut = stride == 1 and in_channels == out_channels
        super().__init__(out_channels, stride, attention, attends=shortcut, relu=False)
        self.shortcut = shortcut
        inner = in_channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.conv1 = nn.Conv2d(in_channels, inner, 1, bias=False)
            self.bn1 = _norm(inner)
        self.conv2 = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self.bn2 = _norm(inner)
        self.conv3 = nn.Conv2d(inner, out_channels, 1, bias=False)
        self.bn3 = _norm(out_channels)

    def branches(self, x: Tensor) -> tuple[Branch, Branch | None]:
        """O = F(x), before its batch norm, and x where it is a shortcut."""
        o = x
        if self.expands:
            o = F.relu6(self.bn1(self.conv1(o)))
        o = F.relu6(self.bn2(self.conv2(o)))
        return Branch(self.conv3(o), self.bn3), Branch(x) if self.shortcut else None


class PesiLite(PesiCNN):
    """EfficientNet-Lite with residual attention.

    Args:
        scale: Width and depth.
        num_classes: Outputs of the linear head; 0: none, the pooled features.
        attention: How the blocks attend; form "none" is a plain EfficientNet-Lite.
        attend_stages: The stages (1..4) whose blocks attend.
        dropout: Probability of dropping a pooled feature before the head.

    Example:
        >>> import torch, pesi
        >>> model = pesi.create_model("pesi_lite0", num_classes=3).eval()
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        scale: Scale,
        *,
        num_classes: int,
        attention: AttentionSettings,
        attend_stages: Sequence[int] = STAGES,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            num_features=_TOP,
            attention=attention.form,
            stem_channels=(_STEM,),
            dropout=dropout,
        )
        attending = attending_stages(tuple(attend_stages))
        self.conv1 = SameConv2d(3, _STEM, 3, 2, bias=False)
        self.bn1 = _norm(_STEM)
        channels = _STEM
        stages: dict[int, list[InvertedResidual]] = {stage: [] for stage in STAGES}
        for group in _B0:
            scaled = group not in (_B0[0], _B0[-1])
            for index in range(math.ceil(group.repeats * scale.depth) if scaled else group.repeats):
                block = InvertedResidual(
                    channels,
                    _rounded(group.channels * scale.width),
                    kernel=group.kernel,
                    stride=group.stride if index == 0 else 1,
                    expansion=group.expansion,
                    attention=attention if group.stage in attending else replace(attention, form="none"),
                )
                stages[group.stage].append(block)
                channels = block.out_channels
        for stage, members in stages.items():
            setattr(self, f"layer{stage}", Stage(*members))
        self.conv_top = nn.Conv2d(channels, _TOP, 1, bias=False)
        self.bn_top = _norm(_TOP)
        self._initialise()

    def _stem(self, x: Tensor) -> list[Tensor]:
        return [F.relu6(self.bn1(self.conv1(x)))]

    def _top(self, x: Tensor) -> Tensor:
        top: Tensor = F.relu6(self.bn_top(self.conv_top(x)))
        return top


def _rounded(channels: float) -> int:
    """To the nearest multiple of 8, but never lower by more than a tenth (EfficientNet's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def own_names(state: dict[str, Tensor], model: PesiLite) -> dict[str, Tensor]:
    """A checkpoint under the names of the `efficientnet_lite_pytorch` packages -> under the names of `model`.

    Names that are not known stay as they are.
    """
    outer = {"_conv_stem": "conv1", "_bn0": "bn1", "_conv_head": "conv_top", "_bn1": "bn_top", "_fc": "fc"}
    inner = {
        "_expand_conv": "conv1",
        "_bn0": "bn1",
        "_depthwise_conv": "conv2",
        "_bn1": "bn2",
        "_project_conv": "conv3",
        "_bn2": "bn3",
    }
    blocks = list(model.blocks())
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "_blocks" and int(parts[1]) < len(blocks) and parts[2] in inner:
            name = ".".join([blocks[int(parts[1])], inner[parts[2]], *parts[3:]])
        elif parts[0] in outer:
            name = ".".join([outer[parts[0]], *parts[1:]])
        renamed[name] = value
    return renamed
