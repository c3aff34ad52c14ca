"""The programs as PyTorch modules, and the runtimes `eager` and `compile` that run them as they are."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pesi.images.transforms import normalise
from pesi.nn.cnn import PesiCNN
from pesi.nn.segmenter import PesiSegmenter
from pesi.predict.runtimes.session import CPU_PICTURES, Arrays

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation a channel


class _OfPictures(nn.Module):
    """A module over pictures (N, S, S, 3) in uint8."""

    names: tuple[str, ...]

    def __init__(self, networks: Sequence[nn.Module], statistics: Sequence[Statistics]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.statistics = tuple(statistics)

    def inputs(self, pictures: Tensor) -> list[Tensor]:
        """What each network sees, (N, 3, S, S); made once for those that are fed alike."""
        whole = pictures.permute(0, 3, 1, 2)
        made = {each: normalise(whole, *each) for each in dict.fromkeys(self.statistics)}
        return [made[each] for each in self.statistics]


class Answers(_OfPictures):
    """M networks -> logits (N, M, K) and pooled features (N, M, C)."""

    names = ("logits", "features")

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, S, S, 3) -> the outputs."""
        logits, features = [], []
        for network, x in zip(cast(Sequence[PesiCNN], self.networks), self.inputs(pictures), strict=True):
            pooled = network.forward_head(network.forward_features(x), pre_logits=True)
            logits.append(network.classify(pooled).float())
            features.append(pooled.float())
        return torch.stack(logits, 1), torch.stack(features, 1)


class MapsOf(_OfPictures):
    """M networks -> all of `PesiMaps`, under names such as "0/cam" and "0/attention/layer1.0"."""

    def __init__(self, networks: Sequence[PesiCNN], statistics: Sequence[Statistics]) -> None:
        super().__init__(networks, statistics)
        self.names = tuple(
            f"{place}/{name}"
            for place, network in enumerate(networks)
            for name in (
                *("logits", "features", "cam"),
                *(f"attention/{block}" for block in network.alphas()),
                *(f"energy/{block}" for block in network.blocks()),
            )
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, S, S, 3) -> the outputs."""
        found: list[Tensor] = []
        for network, x in zip(cast(Sequence[PesiCNN], self.networks), self.inputs(pictures), strict=True):
            maps = network.forward_maps(x)
            found += [maps.logits, maps.features, maps.cam, *maps.attention.values(), *maps.energy.values()]
        return tuple(each.float() for each in found)


class Lesion(_OfPictures):
    """A segmenter -> probability of lesion (N, S, S) and features (N, F)."""

    names = ("probabilities", "features")

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Pictures (N, S, S, 3) -> the outputs."""
        (network,), (x,) = self.networks, self.inputs(pictures)
        logits, features = cast(PesiSegmenter, network).forward_described(x)
        return logits[:, 0].float().sigmoid(), features.float()


class TorchSession:
    """A program run by PyTorch.

    Args:
        module: See `session.Program`.
        device: Where.
        precision: float32, or bfloat16: convolutions and products alone, the attention stays in float32.
        compiled: Whether `torch.compile` makes code of it first.
    """

    def __init__(self, module: nn.Module, device: torch.device, *, precision: str, compiled: bool) -> None:
        self.runtime, self.precision = "compile" if compiled else "eager", precision
        self.measured: Mapping[str, Any] = {}
        names: Any = module.names
        self._names, self._device = tuple(names), device
        module = module.eval().to(device)
        self._module = torch.compile(module, dynamic=True) if compiled else module
        self._lock = threading.Lock() if compiled else nullcontext()  # its first calls compile

    def run(self, pictures: NDArray[np.uint8]) -> Arrays:
        """Pictures (N, S, S, 3) -> the program's outputs."""
        step = CPU_PICTURES if self._device.type == "cpu" else max(len(pictures), 1)
        passes = [self._pass(pictures[start : start + step]) for start in range(0, max(len(pictures), 1), step)]
        return {
            str(name): np.concatenate(parts) for name, parts in zip(self._names, zip(*passes, strict=True), strict=True)
        }

    def _pass(self, pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        half = torch.autocast(self._device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()
        with torch.inference_mode(), half, self._lock:
            x = torch.from_numpy(np.require(pictures, requirements=("C", "W"))).to(self._device)
            return [each.float().cpu().numpy() for each in self._module(x)]


def cpu() -> torch.device:
    """Where graphs are compared with PyTorch."""
    return torch.device("cpu")
