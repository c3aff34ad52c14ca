"""The lesion segmenter: a U-Net decoder on the feature pyramid of a Pesi-CNN.

After Ronneberger, Fischer, Brox, *U-Net*, MICCAI 2015 (arXiv 1505.04597), with the encoder exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pesi.nn.cnn import PesiCNN
from pesi.nn.models import create_model

_TEXTURE_LEVELS = 3  # strides 2, 4 and 8


class DecoderBlock(nn.Module):
    """One level up: enlarge, join the encoder's map of that resolution, two 3x3 convolutions.

    Args:
        in_channels: Of the map from below.
        skip_channels: Of the encoder's map.
        out_channels: Of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels + skip_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C_in, h, w) and (N, C_skip, H, W) -> (N, C_out, H, W)."""
        # The convolutions smooth what "nearest" leaves in blocks; unlike "bilinear" it has a deterministic gradient.
        x = torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], 1)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)))


class PesiSegmenter(nn.Module):
    """Where the lesion is: one logit a pixel.

    Args:
        encoder: The network whose pyramid is decoded. It becomes part of the segmenter: what its pyramid does not
            need (head, top) is taken out, so that it neither trains nor is saved.
        width: Channels of the decoder at stride 2; twice, four and eight times as many at strides 4, 8 and 16.

    Raises:
        ValueError: `width` is below 1.

    Example:
        >>> import torch
        >>> from pesi.nn.segmenter import create_segmenter
        >>> create_segmenter("pesi18").eval()(torch.zeros(2, 3, 96, 64)).shape
        torch.Size([2, 1, 96, 64])
    """

    def __init__(self, encoder: PesiCNN, *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}.")
        self.width = width
        *skips, channels = encoder.pyramid_channels
        _keep_pyramid(encoder)
        self.encoder = encoder
        blocks = []
        for level in reversed(range(len(skips))):
            blocks.append(DecoderBlock(channels, skips[level], width * 2**level))
            channels = width * 2**level
        self.decoder = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, 1, 1)
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W), normalised, H and W at least 64 -> logits (N, 1, H, W)."""
        return self._decoded(self.encoder.forward_pyramid(x), x)

    def forward_described(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of `forward`, and what the encoder saw of the whole picture (`described`), from the same pass.

        Returns:
            (N, 1, H, W) and (N, F).
        """
        levels = self.encoder.forward_pyramid(x)
        features = described(levels)
        return self._decoded(levels, x), features

    def _decoded(self, levels: list[Tensor], x: Tensor) -> Tensor:
        y = levels.pop()
        for block in self.decoder:
            y = block(y, levels.pop())
        logits: Tensor = self.head(y)
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


def described(levels: Sequence[Tensor]) -> Tensor:
    """What a pyramid's maps (N, C, H, W) say of the whole picture, wherever in it: (N, F).

    First each level's mean and standard deviation of each channel over the positions, then of the finest three levels,
    which see texture, the correlation of each two channels, as Gatys, Ecker and Bethge describe style (CVPR 2016).
    """
    moments, correlations = [], []
    for number, level in enumerate(levels):
        flat = level.float().flatten(2)
        mean, deviation = flat.mean(2), flat.std(2, correction=0)
        moments += [mean, deviation]
        if number < _TEXTURE_LEVELS:
            z = (flat - mean[..., None]) / (deviation[..., None] + 1e-3)  # a channel may be 0 everywhere
            # Numbers and not tensors, so that a graph holds the places as constants.
            channels, positions = (int(side) for side in flat.shape[1:])
            places = np.flatnonzero(np.triu(np.ones((channels, channels)), 1))
            each = (z @ z.transpose(1, 2) / positions).flatten(1)
            correlations.append(each[:, torch.from_numpy(places).to(flat.device)])
    return torch.cat([*moments, *correlations], 1)


def create_segmenter(encoder_name: str, *, width: int = 16, **options: Any) -> PesiSegmenter:
    """Make a segmenter by its encoder's name.

    Args:
        encoder_name: A network of `pesi.nn.models.create_model`.
        width: See `PesiSegmenter`.
        **options: Further keywords of `create_model`, such as `attention`.

    Raises:
        ChoiceError: No network has that name (a ValueError).
        ValueError: An option is out of range.
    """
    return PesiSegmenter(create_model(encoder_name, num_classes=1, **options), width=width)


def _keep_pyramid(encoder: PesiCNN) -> None:
    """Put an identity for each layer that `forward_pyramid` does not run."""
    run: set[nn.Module] = set()
    layers = {
        name: module
        for name, module in encoder.named_modules()
        if not list(module.children()) and (list(module.parameters()) or list(module.buffers()))
    }
    hooks = [module.register_forward_hook(lambda module, *_: run.add(module)) for module in layers.values()]
    training = encoder.training
    with torch.no_grad():
        encoder.eval().forward_pyramid(next(encoder.parameters()).new_zeros(1, 3, 64, 64))
    encoder.train(training)
    for hook in hooks:
        hook.remove()
    for name, module in layers.items():
        if module not in run:
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, nn.Identity())
