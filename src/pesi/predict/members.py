"""The networks of a bundle: forward passes over what each of them looks at, calibrated each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pesi.bundle.config import MemberConfig
from pesi.decide.novelty import NoveltyStatistics, novelty_score
from pesi.images.views import View, cut_views
from pesi.predict.runtimes.networks import Maps, Networks

if TYPE_CHECKING:
    from pesi.nn.cnn import PesiCNN


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
        networks: The bundle's networks.
        index: Its place among them.
        novelty: What it knows of novelty, if anything.
        regions: Which of the bundle's regions it looks at, their indices.
    """

    config: MemberConfig
    networks: Networks
    index: int
    novelty: NoveltyStatistics | None
    regions: tuple[int, ...]

    @property
    def network(self) -> PesiCNN:
        """It, as PyTorch has it: for what needs gradients, whatever runs it otherwise."""
        return self.networks.modules[self.index]

    @property
    def same_pictures(self) -> tuple[object, ...]:
        """Members of which this is equal see the same pictures first, and have maps of the same size."""
        preprocess = self.config.preprocess
        return self.regions[0], preprocess.size, preprocess.mean, preprocess.std, self.config.network.name


def outputs_of(
    members: Sequence[Member],
    squares: Sequence[NDArray[np.uint8]],
    views: tuple[View, ...],
    folds: Sequence[int | None] | None = None,
) -> Outputs:
    """What a bundle's networks give for N images' squares, each (R, S, S, 3).

    Args:
        members: The networks.
        squares: Of the images. For features alone the squares of the first region are enough.
        views: Of each region.
        folds: Of each image, the fold whose networks answer it, for they have not seen it; None: all of them do.
    """
    answering: list[tuple[int, ...]] = []
    for fold in folds if folds is not None else [None] * len(squares):
        own = tuple(index for index, member in enumerate(members) if fold is None or member.config.fold == fold)
        answering.append(own)
    found: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    for answers in dict.fromkeys(answering):
        rows = [row for row, own in enumerate(answering) if own == answers]
        for alike in groups_alike(members, answers):
            logits, features = _group_outputs(
                [members[index] for index in alike], [squares[row] for row in rows], views
            )
            for place, index in enumerate(alike):
                found |= {(row, index): (logits[n, place], features[n, place]) for n, row in enumerate(rows)}
    if not len(squares):
        empty = [_group_outputs([member], [], views) for member in members]
        logits = np.concatenate([each for each, _ in empty], axis=2)[:, 0]
        features = np.concatenate([each for _, each in empty], axis=1)
        return Outputs(logits, features, np.zeros((0, len(members)), np.int64))
    most = len(members)
    answering = [own * (most // len(own)) for own in answering]  # so that all images have as many
    return Outputs(
        np.stack([np.concatenate([found[row, i][0] for i in own]) for row, own in enumerate(answering)]),
        np.stack([np.stack([found[row, i][1] for i in own]) for row, own in enumerate(answering)]),
        np.array(answering, np.int64),
    )


def groups_alike(members: Sequence[Member], indices: Sequence[int]) -> list[tuple[int, ...]]:
    """Those of the members that see the same pictures of an image, together: one graph answers for them."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index in indices:
        preprocess = members[index].config.preprocess
        groups.setdefault((members[index].regions, preprocess.size), []).append(index)
    return [tuple(group) for group in groups.values()]


def _group_outputs(
    group: Sequence[Member], squares: Sequence[NDArray[np.uint8]], views: tuple[View, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Calibrated logits of all views, (N, M, R * V, K), and features, (N, M, C), of N images by M networks alike."""
    first, count = group[0], len(squares)
    given = [region for region in first.regions if not count or region < len(squares[0])]
    size = first.config.preprocess.size
    pictures = [cut for image in squares for region in given for cut in cut_views(image[region], views, size)]
    logits, features = first.networks.answers([member.index for member in group], pictures)
    each = len(given) * len(views)
    whole = features.reshape(count, each, len(group), features.shape[-1])[:, : len(views)]
    return logits.reshape(count, each, len(group), logits.shape[-1]).swapaxes(1, 2), whole.mean(axis=1)


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


def mean_maps(maps: Sequence[Maps]) -> Maps:
    """Maps of one picture by M networks, averaged, attention and energy where all have the block; logits (M, K)."""
    if len(maps) == 1:
        return maps[0]

    def shared(each: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
        return {key: np.mean([one[key] for one in each], axis=0) for key in each[0] if all(key in one for one in each)}

    return Maps(
        np.concatenate([one.logits for one in maps]),
        np.mean([one.features for one in maps], axis=0),
        np.mean([one.cam for one in maps], axis=0),
        shared([one.attention for one in maps]),
        shared([one.energy for one in maps]),
    )
