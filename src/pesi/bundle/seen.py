"""Which images a bundle has seen: some bytes of each id's hash are kept, so that parts of a list are recognised too."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pesi.bundle.config import BundleConfig

_BYTES = 5  # of SHA-256: that one of 10,000 other ids is taken for one of 10,000 kept ones has probability 1e-4


class Seen(NamedTuple):
    """How many of some images a bundle has seen, and for what.

    Attributes:
        trained: Trained the network; of several, all of them.
        held_out: Trained some of its networks, and can be answered by the others.
        fitted: Set calibration, thresholds and the rest.
        chose: Chose the epoch, where the recipe let images choose it.
        known: Whether the bundle tells of single images, and not only of whole lists.
    """

    trained: int
    held_out: int
    fitted: int
    chose: int
    known: bool


def packed_ids(image_ids: Iterable[str]) -> str:
    """Image ids as base64 of the first bytes of their hashes, sorted."""
    return base64.b64encode(b"".join(sorted({_short(image_id) for image_id in image_ids}))).decode("ascii")


def seen_images(config: BundleConfig, image_ids: Sequence[str], *, of: Sequence[str] | None = None) -> Seen:
    """How many of these images the bundle has seen.

    Args:
        config: The bundle's.
        image_ids: The images.
        of: The whole list that they were drawn from: a bundle that keeps no single ids knows only whole lists.
    """
    from pesi.datasets.splits import id_hash  # brings pandas along

    splits: Mapping[str, Any] = config.provenance.get("splits", {})
    whole = id_hash(image_ids if of is None else of)
    val = splits.get("val", {})
    fitted = val if config.fitted_on is None else config.fitted_on.model_dump()
    chose = val if config.provenance.get("recipe", {}).get("select") == "best" else {}
    parts = (splits.get("train", {}), fitted, chose)
    trained, calibrated, chosen = (_count(part, image_ids, whole) for part in parts)
    held_out = sum(fold is not None for fold in fold_indices(config, image_ids))
    known = all(part.get("ids") for part in parts[:2]) or bool(config.folds)
    return Seen(max(trained - held_out, 0), held_out, calibrated, chosen, known)


def fold_indices(config: BundleConfig, image_ids: Sequence[str]) -> list[int | None]:
    """The fold of a bundle in which each image is, (N,); None: in none."""
    where = {short: index for index, fold in enumerate(config.folds) for short in _shorts(fold.ids)}
    return [where.get(_short(image_id)) for image_id in image_ids]


def _count(part: Mapping[str, Any], image_ids: Sequence[str], whole: str) -> int:
    if not part.get("ids"):
        return len(image_ids) if part.get("sha256") == whole else 0
    shorts = _shorts(part["ids"])
    return sum(_short(image_id) in shorts for image_id in image_ids)


def _shorts(packed: str) -> set[bytes]:
    """The first bytes of the hashes that `packed_ids` wrote; none where that cannot be read."""
    try:
        kept = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError):
        return set()
    return {kept[start : start + _BYTES] for start in range(0, len(kept), _BYTES)}


def _short(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode("utf-8", "surrogateescape")).digest()[:_BYTES]
