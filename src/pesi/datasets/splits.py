"""Train, validation and test parts and cross-validation folds that keep a patient's or lesion's images together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pesi.datasets.leaks import LeakReport, leak_report
from pesi.datasets.records import SPLITS
from pesi.errors import DataError

__all__ = ["LeakReport", "folds", "group_ids", "id_lists", "leak_report", "read_ids", "split_records"]


def split_records(
    records: pd.DataFrame, *, val: float = 0.15, test: float = 0.15, seed: int = 0, clusters: pd.Series | None = None
) -> pd.DataFrame:
    """Give every labelled image a split, stratified by diagnosis; no patient, lesion or cluster is in two of them.

    Official splits stay:

    - a table with train and val is returned with its splits as they are;
    - where there is a test or a val part but not both train and val, that part stays, and the missing parts are
      taken out of the remaining images (those of train, or without a split); images without a split that share a
      patient, lesion or cluster with the official part are left without one;
    - otherwise, also where there is only train, all three parts are made.

    Images without a diagnosis are never in train or val: they lose such a split. The result depends on the set of
    images and the seed, not on the order of the rows.

    Args:
        records: A record table.
        val: Share of the images to divide that goes to val; 0 makes none.
        test: Share that goes to test; 0 makes none.
        seed: Seed of the division.
        clusters: Near-duplicate cluster by image id (`pesi.datasets.duplicates.clusters`).

    Returns:
        A copy of the table with `split` filled in.

    Raises:
        DataError: Bad shares, or no labelled images to divide.
    """
    if not (0.0 <= val < 1.0 and 0.0 <= test < 1.0 and val + test < 1.0):
        raise DataError(f"Shares of val={val} and test={test} leave nothing to train with.", "Choose smaller ones.")
    table = records.copy()
    labelled = table["diagnosis"].notna()
    table.loc[~labelled & table["split"].isin(["train", "val"]), "split"] = None
    official = set(table["split"].dropna())
    if {"train", "val"} <= official:
        return table
    kept = table["split"].isin(["val", "test"]) if official & {"val", "test"} else pd.Series(False, index=table.index)
    pool = labelled & ~kept
    if not pool.any():
        raise DataError(
            f"None of the {len(table)} images that could be trained with has a diagnosis.",
            "Give labels: a ground-truth file, a folder a class, or a diagnosis column.",
        )
    groups = group_ids(table, clusters)
    # Where official images are kept, another part must not take their relatives.
    related = pool & groups.isin(set(groups[kept]))
    free = pool & ~related
    shares = {"train": 1.0 - val - test, "val": val, "test": test}
    shares = {split: share for split, share in shares.items() if share > 0 and not (split in official and kept.any())}
    if kept.any():
        shares["train"] = 1.0 - sum(share for split, share in shares.items() if split != "train")
    if free.any():
        table.loc[free, "split"] = _assign(table[free], groups[free], shares, np.random.default_rng(seed))
    return table


def folds(records: pd.DataFrame, *, k: int = 5, seed: int = 0, clusters: pd.Series | None = None) -> pd.Series:
    """Fold numbers for cross-validation, stratified by diagnosis, with patients, lesions and clusters kept together.

    Args:
        records: A record table; whatever its splits are, all its labelled images are given a fold.
        k: Number of folds, at least 2.
        seed: Seed of the division.
        clusters: Near-duplicate cluster by image id.

    Returns:
        Series "fold" of 0 .. k-1 with the table's index (dtype Int64); missing for images without a diagnosis.

    Raises:
        DataError: Fewer groups, or fewer images of every diagnosis, than folds.
    """
    groups = group_ids(records, clusters)
    rows = records[records["diagnosis"].notna()].sort_values("image_id")
    if k < 2 or groups[rows.index].nunique() < k:
        raise DataError(
            f"{groups[rows.index].nunique()} patients or lesions with a diagnosis cannot be divided into {k} folds.",
            "Choose at least 2 folds, and no more than there are patients or lesions.",
        )
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import

    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    result = pd.Series(pd.NA, index=records.index, dtype="Int64", name="fold")
    try:
        parts = list(splitter.split(rows, rows["diagnosis"], groups[rows.index]))
    except ValueError as error:
        raise DataError(f"No division into {k} folds: {error}.", "Choose fewer folds.") from error
    for number, (_, held_out) in enumerate(parts):
        result.loc[rows.index[held_out]] = number
    return result


def group_ids(records: pd.DataFrame, clusters: pd.Series | None = None) -> pd.Series:
    """The group of each image: images that share a patient, a lesion or a cluster, also by way of others.

    Returns:
        Series with the table's index; a group is named by the first of its image ids.
    """
    keys = [records["patient_id"], records["lesion_id"]]
    if clusters is not None:
        keys.append(records["image_id"].map(clusters))
    count = len(records)
    edges: list[tuple[np.ndarray, np.ndarray]] = []
    nodes = count
    for column in keys:
        codes, values = pd.factorize(column)
        known = np.flatnonzero(codes >= 0)
        edges.append((known, codes[known] + nodes))
        nodes += len(values)
    rows, columns = (np.concatenate(ends) for ends in zip(*edges, strict=True))
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(nodes, nodes))
    labels = pd.Series(connected_components(graph, directed=False)[1][:count], index=records.index)
    return records["image_id"].groupby(labels).transform("min").rename("group")


def repeated_groups(records: pd.DataFrame) -> np.ndarray | None:
    """Number of each image's group, (N,): patient or lesion; None where no two images share one."""
    codes = pd.factorize(group_ids(records))[0]
    return codes if len(codes) and codes.max() + 1 < len(codes) else None


def id_lists(records: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The image ids of each split that has any, sorted, with their number and hash.

    The hash is that of a UTF-8 text file with one id a line, so `sha256sum ids.txt` checks it.
    """
    lists: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        ids = sorted(str(image_id) for image_id in records.loc[records["split"] == split, "image_id"])
        if ids:
            lists[split] = {"count": len(ids), "sha256": id_hash(ids), "ids": ids}
    return lists


def id_hash(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, one a line."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in sorted(image_ids)).encode()).hexdigest()


def read_ids(path: Path) -> set[str]:
    """Image ids of a text file, one a line, without the blanks around them.

    Raises:
        DataError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}.", "Give a text file of image ids, one a line.") from error
    return {line.strip() for line in lines if line.strip()}


def _assign(records: pd.DataFrame, groups: pd.Series, shares: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """A split for each row, whole groups at a time.

    The iterative stratification of Sechidis et al. (2011), with groups for examples: classes from the one with the
    fewest groups on, its groups from the largest on, each to the split that still wants most of the class. Before
    that, each split gets one small group of each class, so far as there are enough.
    """
    counts = pd.crosstab(groups, records["diagnosis"]).sort_index()
    wanted = {split: counts.sum() * share for split, share in shares.items()}
    names, classes = counts.index.to_numpy(), list(counts.columns)
    table = counts.to_numpy()
    need = np.array([wanted[split].to_numpy(dtype=float) for split in shares])
    place = np.full(len(names), -1)
    tie = rng.permutation(len(names))
    size = table.sum(axis=1)
    rare_first = sorted(range(len(classes)), key=lambda c: (int((table[:, c] > 0).sum()), classes[c]))
    order = [list(shares).index(split) for split in ("train", "test", "val") if split in shares]

    def put(group: int, split: int) -> None:
        place[group] = split
        need[split] -= table[group]

    for c in rare_first:
        for split in order:
            if (table[place == split, c] > 0).any():
                continue
            left = np.flatnonzero((place < 0) & (table[:, c] > 0))
            if len(left):
                put(left[np.lexsort((tie[left], size[left]))[0]], split)
    for c in rare_first:
        left = np.flatnonzero((place < 0) & (table[:, c] > 0))
        for group in left[np.lexsort((tie[left], -size[left]))]:
            most = need[:, c].max()
            equal = np.flatnonzero(need[:, c] >= most - 1e-9)
            put(int(group), int(equal[np.argmax(need[equal].sum(axis=1))]))
    named: np.ndarray = np.array(list(shares), dtype=object)[place]
    return named[counts.index.get_indexer(pd.Index(groups))]
