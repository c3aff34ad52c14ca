"""The data rule of the tables: the pool of labelled images but the test images, its folds, and the training sets.

Images of a patient, a lesion or a near-duplicate cluster share a fold. An image that is a near-duplicate of an official
validation or test image is never trained with, whatever the split. The fold list is made once and then read, so that
every table, here and elsewhere, uses the same images.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from table import Table

from pesi.datasets.duplicates import clusters, near_duplicates
from pesi.datasets.splits import folds, group_ids, read_ids
from pesi.errors import DataError
from pesi.files import write_text

SEED = 2017  # of the first fold lists
LISTED = "near_duplicates.csv"
COPIES = "train_ids_with_a_copy_elsewhere.txt"
_COLUMNS = ("image_id", "fold", "duplicate_of")


def pool_of(records: pd.DataFrame) -> pd.DataFrame:
    """The labelled images that are no test images."""
    return records[records["diagnosis"].notna() & (records["split"] != "test")].reset_index(drop=True)


def duplicate_pairs(records: pd.DataFrame, data: Path, *, find: bool) -> pd.DataFrame:
    """The near-duplicate pairs that are found (if `find`), and those that the set's own `near_duplicates.csv` lists.

    Returns:
        Columns image_a, image_b, distance (missing where the pair is only listed).
    """
    none = pd.DataFrame({name: [] for name in ("image_a", "image_b", "distance")})
    found = near_duplicates(records) if find else none
    if not (data / LISTED).is_file():
        return found
    listed = pd.read_csv(data / LISTED, dtype=str)
    if not {"image_a", "image_b"} <= set(listed.columns):
        raise DataError(f"{data / LISTED} has no columns image_a and image_b.", "Write one pair a line.")
    known = set(records["image_id"])
    have = {frozenset(pair) for pair in zip(found["image_a"], found["image_b"], strict=True)}
    more = [
        {"image_a": a, "image_b": b}
        for a, b in zip(listed["image_a"], listed["image_b"], strict=True)
        if {a, b} <= known and frozenset((a, b)) not in have
    ]
    return pd.concat([found, pd.DataFrame(more)], ignore_index=True) if more else found


def fold_list(
    records: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    count: int,
    grouped: bool = True,
    seed: int = SEED,
    copies: frozenset[str] = frozenset(),
) -> pd.DataFrame:
    """A fold for each image of the pool.

    Args:
        records: The record table, with the official splits.
        pairs: Near-duplicate pairs.
        count: Number of folds.
        grouped: Whether images of a patient, lesion or near-duplicate cluster share a fold.
        seed: Of the division.
        copies: Images that are known to have a copy in another split.

    Returns:
        Columns image_id (sorted), fold (0 ... count - 1), duplicate_of ("val", "test", "val test", "listed" or ""):
        the official splits other than its own in which the image has a near-duplicate.
    """
    cluster = clusters(records, pairs)
    held_apart: dict[int, set[str]] = {}
    for image_id, split in zip(records["image_id"], records["split"], strict=True):
        if split in ("val", "test"):
            held_apart.setdefault(int(cluster[image_id]), set()).add(split)
    pool = pool_of(records)
    if not len(pool):
        raise DataError("The data have no labelled images but test images.", "Give the data set with its ground truth.")
    alone = pool.assign(lesion_id=None, patient_id=None)
    fold = folds(pool, k=count, seed=seed, clusters=cluster) if grouped else folds(alone, k=count, seed=seed)
    duplicate_of = [
        " ".join(sorted(held_apart.get(int(cluster[image_id]), set()) - {split}, reverse=True))
        or ("listed" if image_id in copies else "")
        for image_id, split in zip(pool["image_id"], pool["split"], strict=True)
    ]
    # An official training image may be like a val image, a val image only like a test image.
    table = pd.DataFrame({"image_id": pool["image_id"], "fold": fold.astype(int), "duplicate_of": duplicate_of})
    return table.sort_values("image_id", ignore_index=True)


def saved_folds(table: Table, records: pd.DataFrame, data: Path) -> pd.DataFrame:
    """A table's fold list; where there is none yet, it is made and saved, the near-duplicate pairs beside it.

    It is made of `fold_count` folds. The images of a patient, lesion or near-duplicate cluster share one if
    `group_folds`; near-duplicates are looked for if `find_duplicates` (slow for many images), else only those taken
    that the data set lists.

    Raises:
        DataError: The list is damaged, or lacks an image of the data's pool.
    """
    path = table.folds_path
    if not path.is_file():
        pairs = duplicate_pairs(records, data, find=table.find_duplicates)
        write_text(path.with_name(f"{path.stem}-pairs.csv"), pairs.to_csv(index=False, float_format="%.4f"))
        made = fold_list(
            records,
            pairs,
            count=table.fold_count,
            grouped=table.group_folds,
            seed=table.fold_seed,
            copies=frozenset(read_ids(data / COPIES)) if (data / COPIES).is_file() else frozenset(),
        )
        write_text(path, made.to_csv(index=False))
    listed = pd.read_csv(path, dtype={"image_id": str, "duplicate_of": str}, keep_default_na=False)
    if tuple(listed.columns) != _COLUMNS:
        raise DataError(f"{path} has not the columns {', '.join(_COLUMNS)}.", "Restore the file, or delete it.")
    missing = sorted(set(pool_of(records)["image_id"]) - set(listed["image_id"]))
    if missing:
        raise DataError(
            f"{len(missing)} images of the data have no fold in {path}, the first is {missing[0]}.",
            "Use the data set that the list was made for, or delete the list to have another made.",
        )
    return listed


def split_records(
    records: pd.DataFrame,
    fold_table: pd.DataFrame,
    split: str,
    *,
    share: float = 1.0,
    relatives: str = "",
    seed: int = 0,
) -> pd.DataFrame:
    """The record table of one row: `split` is "train" or "val" as the row uses the image, "test" as it was.

    Args:
        records: The record table, with the official splits.
        fold_table: What `saved_folds` gave.
        split: `"official"` or `"fold0"` and so on.
        share, relatives: See `table.Variant`; a smaller share, drawn by diagnosis, is part of a larger.
        seed: Of the draws.

    Raises:
        DataError: There is no such fold, or no official validation split.
    """
    by_id = fold_table.set_index("image_id")
    table = records[(records["split"] == "test") | records["image_id"].isin(by_id.index)].reset_index(drop=True)
    inside = table["split"] != "test"
    if split == "official":
        held_out = table["split"] == "val"
        if not held_out.any():
            raise DataError("The data have no official validation images.", "Use folds.")
    else:
        number = int(split.removeprefix("fold"))
        if number not in set(by_id["fold"]):
            raise DataError(f"There is no {split}.", f"The fold list has fold0 to fold{int(by_id['fold'].max())}.")
        held_out = inside & (table["image_id"].map(by_id["fold"]) == number)
    table.loc[inside & ~held_out, "split"] = "train"
    table.loc[held_out, "split"] = "val"
    leaves = (table["split"] == "train") & (table["image_id"].map(by_id["duplicate_of"]).fillna("") != "")
    table = table[~leaves].reset_index(drop=True)
    table = _without_relatives(table, relatives, seed) if relatives else table
    return _share_of(table, share, seed) if share < 1 else table


def _without_relatives(table: pd.DataFrame, relatives: str, seed: int) -> pd.DataFrame:
    """`drop`: without the training images of held-out lesions; `keep`: without as many others of each diagnosis."""
    group = group_ids(table)
    train = table["split"] == "train"
    related = train & group.isin(set(group[table["split"] == "val"]))
    if relatives == "drop":
        return table[~related].reset_index(drop=True)
    rng = np.random.default_rng(seed)
    leaves = np.zeros(len(table), dtype=bool)
    for diagnosis in sorted(set(table["diagnosis"][related])):
        same = table["diagnosis"] == diagnosis
        others = np.flatnonzero(train & ~related & same)
        leaves[rng.permutation(others)[: int((related & same).sum())]] = True
    return table[~leaves].reset_index(drop=True)


def _share_of(table: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """With `share` of the training images of each diagnosis, at least one."""
    rng = np.random.default_rng(seed)
    kept = [np.flatnonzero(table["split"] != "train")]
    train = np.flatnonzero(table["split"] == "train")
    diagnoses = table["diagnosis"].to_numpy()[train]
    for diagnosis in sorted(set(diagnoses)):
        own = train[diagnoses == diagnosis]
        kept.append(rng.permutation(own)[: max(1, round(share * len(own)))])
    return table.loc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
