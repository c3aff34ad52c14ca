"""Novelty: whether a picture is of the kind that the classifier learned from, by its pooled features.

The features are raised to a small power, so that the few large ones do not drown the rest, and scored by a
probabilistic principal component analysis of the training images (Tipping and Bishop, J. R. Statist. Soc. B 61(3),
1999): the Mahalanobis distance within the leading directions, plus the squared residual outside of them over its mean
variance. Lee et al. (NeurIPS 2018) look at the first, Wang et al. (ViM, CVPR 2022) at the second. `benchmarks/novelty`
compares it with these, with kNN, relative Mahalanobis and energy. Whether a picture is dermoscopy at all is another
question: `decide.dermoscopy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pesi.errors import BundleError, DataError
from pesi.files import whole_file
from pesi.verdict import Verdict

Floats = NDArray[np.float64]

NOVELTY_FILE = "novelty.safetensors"
RANK = 256  # 0.7 MB for 1280 features
POWER = 0.25
FEWEST_HELD_OUT = 10  # images that can set a threshold
REFUSED_SHARE = 0.005  # of the held-out images' fitted distribution: leaves room for another clinic's camera
# Times the threshold: far out. Of 1181 dermoscopy images that the shipped classifier did not learn from (ISIC 2017 val
# and test, isic_extra) none is, of 24 screenshots 23; the farthest of the former is 1.35 times as far.
FAR_OUT = 1.5


class NoveltyConfig(BaseModel):
    """What a bundle's config says of its novelty statistics.

    Attributes:
        method: How the score is computed.
        power: To which the features are raised.
        rank: Leading directions kept.
        threshold: A picture whose score is above is warned of; 1 is the training images' mean.
        refused_share: Share of the held-out images that the threshold was set to have above it.
        how: How it was set, in words.
        train_images: How many the statistics were fitted on.
        held_out: Source -> how many images set the threshold.
        sha256: Of the file beside the config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["ppca"] = "ppca"
    power: float = Field(gt=0, le=1)
    rank: int = Field(ge=1)
    threshold: float = Field(gt=0)
    refused_share: float = Field(gt=0, lt=1)
    how: str
    train_images: int = Field(ge=2)
    held_out: dict[str, int]
    sha256: str = ""

    @property
    def far_out(self) -> float:
        """The score above which a picture is refused."""
        return FAR_OUT * self.threshold


@dataclass(frozen=True, eq=False)
class NoveltyStatistics:
    """What the training images' features are like.

    Attributes:
        mean: Of the transformed features, (C,) float32.
        basis: Leading directions, orthonormal to float16's rounding, (C, r) float16: half the file.
        variances: Along them, (r,) float32.
        residual: Mean variance along each of the other directions.
        power: To which the features are raised.
        images: How many it was fitted on.
    """

    mean: NDArray[np.float32] = field(repr=False)
    basis: NDArray[np.float16] = field(repr=False)
    variances: NDArray[np.float32] = field(repr=False)
    residual: float
    power: float
    images: int

    @cached_property
    def directions(self) -> Floats:
        """The basis to compute with, (C, r): to bring it to float64 takes longer than to score an image."""
        return self.basis.astype(np.float64)


def fit_novelty(features: NDArray[np.float32], *, rank: int = RANK, power: float = POWER) -> NoveltyStatistics:
    """Fit the statistics on the training images.

    Args:
        features: Pooled features of the training images only, (N, C), as `Classifier.outputs` gives them.
        rank: Leading directions to keep; fewer where there are fewer images or features.
        power: To which the features are raised, their sign kept.

    Raises:
        DataError: Fewer than four images or two features, or features that do not vary.
    """
    x = _transformed(features, power)
    count, width = x.shape
    rank = min(rank, count - 2, width - 1)
    if count < 4 or rank < 1:
        raise DataError(
            f"Novelty statistics cannot be fitted on features of shape {features.shape}.",
            "Give the features of all training images, a row an image.",
        )
    mean = x.mean(0)
    _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
    variances = singular**2 / (count - 1)
    residual = float(variances[rank:].sum() / (width - rank))
    if residual <= 0:
        raise DataError("The features do not vary.", "Give the features of different images.")
    return NoveltyStatistics(
        mean.astype(np.float32),
        directions[:rank].T.astype(np.float16),
        variances[:rank].astype(np.float32),
        residual,
        power,
        count,
    )


def novelty_score(features: NDArray[np.float32], statistics: NoveltyStatistics) -> Floats:
    """How far images are from the training images: 1 is the training images' mean, higher is stranger.

    Args:
        features: Pooled features, (N, C).
        statistics: Of the training images.

    Returns:
        (N,): the squared Mahalanobis distance over C.
    """
    x = _transformed(features, statistics.power) - statistics.mean.astype(np.float64)
    along = x @ statistics.directions
    outside = np.maximum((x**2).sum(1) - (along**2).sum(1), 0)
    inside = (along**2 / statistics.variances.astype(np.float64)).sum(1)
    return np.asarray((inside + outside / statistics.residual) / x.shape[1])


def novelty_threshold(scores: Mapping[str, Floats], *, refused_share: float = REFUSED_SHARE) -> float:
    """The score above which a picture is warned of.

    The logarithm of the score of real dermoscopy is close to normal, so the threshold is the quantile of a normal
    distribution fitted to it: steadier than a quantile of 150 images. With several sources, the largest of theirs, so
    that each source has at most that share above.

    Args:
        scores: Source -> scores of held-out dermoscopy images, (n,), n at least `FEWEST_HELD_OUT`.
        refused_share: Share of such images above it, 0..0.5.

    Raises:
        DataError: A source has too few images.
    """
    from scipy.special import ndtri  # slow to import, and only to fit

    limits = []
    for source, values in scores.items():
        if len(values) < FEWEST_HELD_OUT:
            raise DataError(
                f"{source}: {len(values)} held-out images cannot set a novelty threshold.",
                f"Give at least {FEWEST_HELD_OUT}.",
            )
        logs = np.log(values)
        limits.append(float(np.exp(logs.mean() - ndtri(refused_share) * logs.std(ddof=1))))
    if not limits:
        raise DataError("A novelty threshold needs held-out images.", "Give the validation images.")
    return max(limits)


def novelty_config(
    statistics: NoveltyStatistics, scores: Mapping[str, Floats], *, refused_share: float = REFUSED_SHARE
) -> NoveltyConfig:
    """Set the threshold on held-out dermoscopy; `save_novelty` adds the file's hash.

    Args:
        statistics: Of the training images; of several networks, any one's.
        scores: Source -> scores (n,) of images that the network was not trained on.
        refused_share: See `novelty_threshold`.
    """
    threshold = novelty_threshold(scores, refused_share=refused_share)
    refused = ", ".join(
        f"{source}: {int((values > threshold).sum())} of {len(values)} above" for source, values in scores.items()
    )
    return NoveltyConfig(
        power=statistics.power,
        rank=statistics.basis.shape[1],
        threshold=threshold,
        refused_share=refused_share,
        how=f"{1 - refused_share:.1%} quantile of a normal distribution fitted to log scores ({refused})",
        train_images=statistics.images,
        held_out={source: len(values) for source, values in scores.items()},
    )


def novelty_verdict(score: float, config: NoveltyConfig) -> Verdict:
    """What to do with a picture of that score: "ok", "warn" above the threshold, "refuse" far out."""
    if score <= config.threshold:
        reason = (
            f"Like the images that the classifier learned from (novelty {score:.2f}; at most {config.threshold:.2f})."
        )
        return Verdict("novelty", "ok", float(score), config.threshold, reason)
    if score <= config.far_out:
        reason = (
            f"Unlike the images that the classifier learned from (novelty {score:.2f}; usually at most "
            f"{config.threshold:.2f}): trust the answer less. Another camera or a rare lesion may be why: measure, and "
            f"calibrate, on such images."
        )
        return Verdict("novelty", "warn", float(score), config.threshold, reason)
    reason = (
        f"This does not look at all like the dermoscopy images that the classifier learned from (novelty {score:.2f}; "
        f"at most {config.far_out:.2f}). Check that it is a dermoscopy image of one lesion in ordinary colours; if it "
        f"is one, this classifier is not made for it."
    )
    return Verdict("novelty", "refuse", float(score), config.far_out, reason)


def save_novelty(
    folder: str | Path, statistics: Sequence[NoveltyStatistics | None], config: NoveltyConfig
) -> NoveltyConfig:
    """Write the statistics beside a bundle's config.

    Args:
        folder: The bundle's.
        statistics: Of each of its networks; None: that one knows nothing.
        config: What is told of them.

    Returns:
        The config with the file's hash, to go into the bundle's.

    Raises:
        StorageError: The system refused to write.
    """
    tensors: dict[str, NDArray] = {}
    for index, one in enumerate(statistics):
        if one is not None:
            prefix = f"{index}." if len(statistics) > 1 else ""
            tensors |= {
                f"{prefix}mean": one.mean,
                f"{prefix}basis": np.ascontiguousarray(one.basis),
                f"{prefix}variances": one.variances,
                f"{prefix}residual": np.array([one.residual], np.float64),
            }
    data: bytes = save(tensors)
    with whole_file(Path(folder) / NOVELTY_FILE) as temporary:
        temporary.write_bytes(data)
    return config.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})


def load_novelty(folder: str | Path, config: NoveltyConfig, networks: int = 1) -> tuple[NoveltyStatistics | None, ...]:
    """The statistics of a bundle's networks, checked against its config; None for one that knows nothing.

    Raises:
        BundleError: The file is missing, not the one that was hashed, or damaged.
    """
    path = Path(folder) / NOVELTY_FILE
    if not path.is_file():
        raise BundleError(f"{folder} has no {NOVELTY_FILE}, which its config names.", "Copy the bundle again.")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != config.sha256:
        raise BundleError(
            f"{path} is not the file that the config names (SHA-256 {digest[:12]}, not {config.sha256[:12]}).",
            "The bundle is damaged or mixed from two: copy it again.",
        )
    try:
        tensors = load(data)
        prefixes = [f"{index}." if networks > 1 else "" for index in range(networks)]
        statistics = [_statistics(tensors, prefix, config) for prefix in prefixes]
    except (SafetensorError, KeyError, IndexError) as error:
        raise BundleError(f"{path} cannot be read: {error}", "Fit the bundle's novelty statistics again.") from error
    for one in statistics:
        if one is not None and (one.basis.ndim != 2 or one.basis.shape != (len(one.mean), len(one.variances))):
            raise BundleError(
                f"{path} has a basis of shape {one.basis.shape}, its mean {one.mean.shape}.",
                "The bundle is mixed from two: copy it again.",
            )
        # Of networks with few training images each may have a rank of its own, at most the config's.
        if one is not None and (
            one.basis.shape[1] > config.rank or (networks == 1 and one.basis.shape[1] != config.rank)
        ):
            raise BundleError(
                f"{path} has a basis of shape {one.basis.shape}, its config a rank of {config.rank}.",
                "The bundle is mixed from two: copy it again.",
            )
    return tuple(statistics)


def _statistics(tensors: Mapping[str, NDArray], prefix: str, config: NoveltyConfig) -> NoveltyStatistics | None:
    if prefix and f"{prefix}mean" not in tensors:
        return None
    mean, basis, variances, residual = (
        tensors[f"{prefix}{name}"] for name in ("mean", "basis", "variances", "residual")
    )
    return NoveltyStatistics(mean, basis, variances, float(residual[0]), config.power, config.train_images)


def _transformed(features: NDArray, power: float) -> Floats:
    x = np.asarray(features, np.float64)
    return np.asarray(np.sign(x) * np.abs(x) ** power)
