"""Novelty scores that the shipped one is compared with, each as its paper gives it; higher is stranger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf

from pesi.decide.novelty import fit_novelty, novelty_score
from pesi.evaluate.audit.novelty import energy
from pesi.stats.separation import below_shares

Floats = NDArray[np.float64]


class Outputs(NamedTuple):
    """Of one set of images: pooled features (N, C), logits of the views (N, V, K)."""

    features: NDArray[np.float32]
    logits: NDArray[np.float32]


Score = Callable[[Outputs], Floats]


def all_scores(train: Outputs, classes: NDArray[np.int64], weight: Floats, bias: Floats) -> dict[str, Score]:
    """Name -> score, fitted on the training images.

    Args:
        train: Of the training images.
        classes: Theirs, (N,).
        weight, bias: Of the network's last layer, (K, C) and (K,).
    """
    scores: dict[str, Score] = {"energy": lambda o: energy(o.logits)}
    for power in (1.0, 0.5, 0.25):
        for rank in (64, 128, 256):
            scores[f"PPCA, rank {rank}, power {power:g}"] = _ppca(train, rank, power)
        for name, score in _mahalanobis(train, classes, power).items():
            scores[f"{name}, power {power:g}"] = score
        for k in (1, 20):
            scores[f"neighbour {k}, power {power:g}"] = _neighbour(train, k, power)
    for rank in (128, 256):
        scores[f"ViM, rank {rank}"] = _vim(train, weight, bias, rank)
    return scores


def _ppca(train: Outputs, rank: int, power: float) -> Score:
    """What ships."""
    statistics = fit_novelty(train.features, rank=rank, power=power)
    return lambda o: novelty_score(o.features, statistics)


def _neighbour(train: Outputs, k: int, power: float) -> Score:
    """Distance to the k-th nearest training image on the unit sphere (Sun et al., ICML 2022), as minus the cosine."""
    known = _unit(_powered(train, power))
    return lambda o: np.asarray(-np.partition(_unit(_powered(o, power)) @ known.T, -k, axis=1)[:, -k])


def _mahalanobis(train: Outputs, classes: NDArray[np.int64], power: float) -> dict[str, Score]:
    """Distance to the nearest class under one covariance (Lee 2018), and less that to all images (Ren 2021)."""
    x = _powered(train, power)
    means = np.stack([x[classes == k].mean(0) for k in np.unique(classes)])
    within = LedoitWolf(assume_centered=True).fit(x - means[np.unique(classes, return_inverse=True)[1]]).precision_
    centre, overall = x.mean(0), LedoitWolf().fit(x).precision_

    def tied(o: Outputs) -> Floats:
        y = _powered(o, power)
        return np.asarray(np.min([np.einsum("ij,jk,ik->i", y - m, within, y - m) for m in means], axis=0))

    def relative(o: Outputs) -> Floats:
        y = _powered(o, power) - centre
        return np.asarray(tied(o) - np.einsum("ij,jk,ik->i", y, overall, y))

    return {"Mahalanobis": tied, "relative Mahalanobis": relative}


def _powered(outputs: Outputs, power: float) -> Floats:
    x = outputs.features.astype(np.float64)
    return np.asarray(np.sign(x) * np.abs(x) ** power)


def _unit(x: Floats) -> Floats:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def _vim(train: Outputs, weight: Floats, bias: Floats, rank: int) -> Score:
    """Residual outside of the principal space as a virtual logit (Wang et al., CVPR 2022)."""
    origin = -np.linalg.pinv(weight) @ bias
    x = train.features - origin
    directions = np.linalg.eigh(x.T @ x / len(x))[1][:, :-rank]
    residual = np.linalg.norm(x @ directions, axis=1)
    scale = float((train.features @ weight.T + bias).max(1).mean() / residual.mean())
    return lambda o: np.asarray(
        scale * np.linalg.norm((o.features - origin) @ directions, axis=1)
        - logsumexp(o.features @ weight.T + bias, axis=1)
    )


def crossed_choice(
    candidates: Mapping[str, tuple[Sequence[Floats], Mapping[str, Floats]]], *, folds: int, rng: np.random.Generator
) -> tuple[dict[str, tuple[str, Floats]], dict[str, str]]:
    """Choose a score on some families of outliers and read it on the others.

    Args:
        candidates: Score's name -> its scores of each source of dermoscopy, and family -> scores.
        folds: Parts of the families.
        rng: Draws the parts.

    Returns:
        Family -> the chosen score's name and, for each source, the family's AUROC (S,); and fold -> chosen name.
    """
    families = sorted(next(iter(candidates.values()))[1])
    parts = np.array_split(rng.permutation(len(families)), folds)
    table = {
        name: np.array([[below_shares(source, scores[family]).mean() for source in sources] for family in families])
        for name, (sources, scores) in candidates.items()
    }
    read: dict[str, tuple[str, Floats]] = {}
    chosen: dict[str, str] = {}
    for index, part in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(families)), part)
        best = max(table, key=lambda name: float(table[name][rest].mean()))
        chosen[str(index)] = best
        read.update({families[i]: (best, table[best][i]) for i in part})
    return read, chosen
