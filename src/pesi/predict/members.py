"""The networks of a bundle: forward passes over what each of them looks at, calibrated each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pesi.bundle.config import MemberConfig
from pesi.decide.calibration import scaled_logits
from pesi.decide.novelty import NoveltyStatistics, novelty_score
from pesi.images.transforms import Image, normalise, to_tensor
from pesi.images.views import View, cut_views
from pesi.nn.cnn import PesiCNN, PesiMaps

# Pictures a forward pass on a CPU. More is no faster, and needs buffers that are mapped anew in every layer, which can
# cost more than the arithmetic.
_CPU_PICTURES = 8


class Outputs(NamedTuple):
    """What M networks give for N images.

    Attributes:
        logits: Of every view of every region of every network, (N, S, K), each network calibrated by itself (of a
            bundle of one network: as they are), before the calibration that they have in common.
        features: Pooled features, averaged over the views of the network's first region, (N, M, C). A picture that is
            no dermoscopy is told by the whole of it far better than by a part.
        members: Index of the network that gave each, (N, M). An image that some networks were trained with is answered
            by the others alone, which stand here several times, so that all images have as many.
    """

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    members: NDArray[np.int64]

    @property
    def mean_features(self) -> NDArray[np.float32]:
        """Each network's features brought to length 1 and averaged, (N, C); those of one network as they are."""
        if self.features.shape[1] == 1:
            return self.features[:, 0]
        lengths = np.linalg.norm(self.features.astype(np.float64), axis=2, keepdims=True)
        return np.asarray((self.features / np.maximum(lengths, 1e-12)).mean(axis=1), np.float32)

    def take(self, rows: NDArray[np.bool_] | slice) -> Outputs:
        """Those of some images."""
        return Outputs(self.logits[rows], self.features[rows], self.members[rows])

    def each(self) -> list[Outputs]:
        """Those of every image, N times 1."""
        return [self.take(slice(index, index + 1)) for index in range(len(self.logits))]


@dataclass(frozen=True, eq=False)
class Member:
    """One network of a bundle.

    Attributes:
        config: How it is fed and calibrated.
        network: It.
        novelty: What it knows of novelty, if anything.
        regions: Which of the bundle's regions it looks at, their indices.
    """

    config: MemberConfig
    network: PesiCNN
    novelty: NoveltyStatistics | None
    regions: tuple[int, ...]

    @property
    def same_pictures(self) -> tuple[object, ...]:
        """Members of which this is equal see the same pictures first, and have maps of the same size."""
        preprocess = self.config.preprocess
        return self.regions[0], preprocess.size, preprocess.mean, preprocess.std, self.config.network.name

    def outputs(
        self, squares: Sequence[NDArray[np.uint8]], views: tuple[View, ...], device: torch.device
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Calibrated logits of all views, (N, R * V, K), and features, (N, C), of N images' squares (R, S, S, 3).

        For features alone the squares of the first region are enough.
        """
        size, count = self.config.preprocess.size, len(squares)
        if not count:
            shape = 0, len(self.regions) * len(views), self.network.num_classes
            return np.zeros(shape, np.float32), np.zeros((0, self.network.num_features), np.float32)
        given = [region for region in self.regions if region < len(squares[0])]
        pictures = [cut for image in squares for region in given for cut in cut_views(image[region], views, size)]
        step = _CPU_PICTURES if device.type == "cpu" else len(pictures)
        passes = [self._pass(pictures[start : start + step], device) for start in range(0, len(pictures), step)]
        logits, features = (np.concatenate(parts) for parts in zip(*passes, strict=True))
        first = features.reshape(count, -1, features.shape[1])[:, : len(views)]
        return logits.reshape(count, -1, logits.shape[1]), first.mean(axis=1)

    def logits(self, pictures: Sequence[Image] | NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
        """Calibrated logits (N, K) of pictures as the network sees them, (S, S, 3)."""
        return self._pass(pictures, device)[0]

    def maps(self, picture: Image, device: torch.device) -> PesiMaps:
        """The network's maps of a picture as it sees it, (S, S, 3); its logits are calibrated."""
        with torch.inference_mode():
            found = self.network.forward_maps(self._input([picture], device))
            return found._replace(logits=torch.from_numpy(self._calibrated(found.logits.float().cpu().numpy())))

    def _input(self, pictures: Sequence[Image] | NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        preprocess = self.config.preprocess
        x = torch.stack([to_tensor(picture) for picture in pictures]).to(device)
        return normalise(x, preprocess.mean, preprocess.std)

    def _pass(
        self, pictures: Sequence[Image] | NDArray[np.uint8], device: torch.device
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One forward pass: calibrated logits (N, K) and pooled features (N, C)."""
        with torch.inference_mode():
            maps = self.network.forward_features(self._input(pictures, device))
            pooled = self.network.forward_head(maps, pre_logits=True)
            logits = self.network.classify(pooled).float().cpu().numpy()
        return self._calibrated(logits), pooled.float().cpu().numpy()

    def _calibrated(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        config = self.config
        return np.asarray(scaled_logits(logits, config.vector) / config.temperature.value, np.float32)


def outputs_of(
    members: Sequence[Member],
    squares: Sequence[NDArray[np.uint8]],
    views: tuple[View, ...],
    device: torch.device,
    folds: Sequence[int | None] | None = None,
) -> Outputs:
    """What a bundle's networks give for N images' squares, each (R, S, S, 3).

    Args:
        members: The networks.
        squares: Of the images.
        views: Of each region.
        device: Where to compute.
        folds: Of each image, the fold whose networks answer it, for they have not seen it; None: all of them do.
    """
    found: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    answering: list[tuple[int, ...]] = []
    for fold in folds if folds is not None else [None] * len(squares):
        own = tuple(index for index, member in enumerate(members) if fold is None or member.config.fold == fold)
        answering.append(own * (len(members) // len(own)))
    for index, member in enumerate(members):
        rows = [row for row, own in enumerate(answering) if index in own]
        logits, features = member.outputs([squares[row] for row in rows], views, device)
        found |= {(row, index): (logits[place], features[place]) for place, row in enumerate(rows)}
    if not len(squares):
        empty = [member.outputs([], views, device) for member in members]
        parts = np.concatenate([logits for logits, _ in empty], axis=1), np.stack([f for _, f in empty], axis=1)
        return Outputs(*parts, np.zeros((0, len(members)), np.int64))
    return Outputs(
        np.stack([np.concatenate([found[row, i][0] for i in own]) for row, own in enumerate(answering)]),
        np.stack([np.stack([found[row, i][1] for i in own]) for row, own in enumerate(answering)]),
        np.array(answering, np.int64),
    )


def novelty_scores(outputs: Outputs, novelty: Sequence[NoveltyStatistics | None]) -> NDArray[np.float64] | None:
    """How strange images are to those of the networks that know, averaged, (N,); None where none of them knows.

    Args:
        outputs: Of the images.
        novelty: What each network knows.
    """
    if all(known is None for known in novelty):
        return None
    total, count = np.zeros(len(outputs.features)), np.zeros(len(outputs.features))
    for index, known in enumerate(novelty):
        rows, places = np.nonzero(outputs.members == index)
        if known is not None and len(rows):
            np.add.at(total, rows, novelty_score(outputs.features[rows, places], known))
            np.add.at(count, rows, 1)
    return np.asarray(total / np.maximum(count, 1))


def mean_maps(maps: Sequence[PesiMaps]) -> PesiMaps:
    """Maps of one picture by M networks, averaged, attention and energy where all have the block; logits (M, K)."""
    if len(maps) == 1:
        return maps[0]

    def mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([tensor.float() for tensor in tensors]).mean(0)

    def shared(name: str) -> dict[str, torch.Tensor]:
        each: list[dict[str, torch.Tensor]] = [getattr(one, name) for one in maps]
        return {key: mean([one[key] for one in each]) for key in each[0] if all(key in one for one in each)}

    logits = torch.cat([one.logits for one in maps])
    features, cam = (mean([getattr(one, name) for one in maps]) for name in ("features", "cam"))
    return PesiMaps(logits, features, cam, shared("attention"), shared("energy"))
