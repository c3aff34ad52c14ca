"""Several images of one lesion: which image shows which, and one answer for each lesion."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.triage import TriageLevel, triage_of
from pesi.errors import DataError
from pesi.files import whole_file, write_json, write_text
from pesi.predict.tables import Row, check_output, json_line, refusal_of


def lesions_by_folder(paths: Sequence[Path]) -> list[str | None]:
    """Of each image, the folder that holds it, named by its path below the folder that all share.

    An image in that shared folder itself, beside the folders of lesions, has none.
    """
    parents = [str(path.parent.absolute()) for path in paths]
    root = os.path.commonpath(parents) if parents else ""
    if set(parents) == {root}:
        return [Path(root).name] * len(paths)
    return [None if parent == root else Path(os.path.relpath(parent, root)).as_posix() for parent in parents]


def lesions_by_table(table: str | Path, image_ids: Sequence[str], paths: Sequence[Path]) -> list[str | None]:
    """Of each image, the `lesion_id` of a CSV table's row with its id or file name (column image_id, image or isic_id).

    Raises:
        DataError: The table cannot be read or lacks a column, gives one image two lesions, or knows none of the images.
    """
    from pesi.datasets.readers.csv_file import read_csv  # brings pandas along

    rows = read_csv(Path(table), needed=["lesion_id"])
    column = next((name for name in ("image_id", "image", "isic_id") if rows and name in rows[0].values), None)
    if column is None:
        raise DataError(f"{table} has no column image_id (or image, isic_id), or no rows.", "Add one: the images' ids.")
    known: dict[str, str] = {}
    for row in rows:
        name, lesion = Path(row.values[column].strip()).name, row.text("lesion_id")
        if lesion is not None and known.setdefault(name, lesion) != lesion:
            raise row.error("lesion_id", f"is {lesion!r}, and before it was {known[name]!r} for {name}", "Keep one.")
    found = [
        next((known[name] for name in (image_id, path.name, path.stem) if name in known), None)
        for image_id, path in zip(image_ids, paths, strict=True)
    ]
    if not any(found):
        raise DataError(
            f"{table} has a lesion_id for none of the images.",
            f"Give the table that belongs to them. An id of theirs: {image_ids[0]}; of its: {rows[0].values[column]}.",
        )
    return found


def lesion_answers(
    rows: Iterable[Row],
    levels: tuple[TriageLevel, ...],
    malignant: Callable[[NDArray[np.float64]], NDArray[np.float64] | None],
) -> list[dict[str, Any]]:
    """One answer a lesion: the mean of the calibrated probabilities of its images that have a result.

    The triage is that of the bundle's rule at the malignant probability of that mean. Neither the mean nor the rule is
    calibrated anew for several images; so a lesion has no prediction set.

    Args:
        rows: Of each image, as `Prediction.to_dict` gives it, with `lesion_id`; without one it is passed over.
        levels: The bundle's triage rule; empty: no triage.
        malignant: Probabilities (N, K) -> of a malignant class (N,), None where the task does not tell.

    Returns:
        Of each lesion, as they first come: lesion_id, images, answered (how many of them have a result), probabilities,
        diagnosis, malignant, triage, no_result, bundle.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.get("lesion_id") is None:
            continue
        entry = found.setdefault(row["lesion_id"], {"images": 0, "answered": 0, "sums": {}, "bundle": ""})
        entry["images"] += 1
        if not refusal_of(row):
            entry["answered"] += 1
            entry["bundle"] = row["bundle"]
            sums: dict[str, float] = entry["sums"]
            for name, value in row["probabilities"].items():
                sums[name] = sums.get(name, 0.0) + value
    return [_answer(lesion, entry, levels, malignant) for lesion, entry in found.items()]


def _answer(
    lesion: str,
    entry: Mapping[str, Any],
    levels: tuple[TriageLevel, ...],
    malignant: Callable[[NDArray[np.float64]], NDArray[np.float64] | None],
) -> dict[str, Any]:
    mean = {name: value / entry["answered"] for name, value in entry["sums"].items()}
    score = malignant(np.array([list(mean.values())])) if mean else None
    return {
        "lesion_id": lesion,
        "images": entry["images"],
        "answered": entry["answered"],
        "probabilities": mean,
        "diagnosis": max(mean, key=mean.__getitem__, default=None),
        "malignant": None if score is None else float(score[0]),
        "triage": None if score is None or not levels else levels[int(triage_of(levels, score)[0])].level,
        "no_result": None if mean else "none of its images has a result",
        "bundle": entry["bundle"],
    }


def write_lesions(path: str | Path, lesions: Sequence[Row], classes: Sequence[str]) -> None:
    """Write the answers of `lesion_answers`, in the format of the file's ending, as `tables.write_rows` does.

    Raises:
        PesiError: The ending is unknown.
        StorageError: The file cannot be written.
    """
    check_output(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        write_json(path, list(lesions))
    elif suffix == ".jsonl":
        write_text(path, "".join(json_line(lesion) for lesion in lesions))
    else:
        columns = [
            "lesion_id",
            "images",
            "answered",
            *classes,
            "diagnosis",
            "malignant",
            "triage",
            "no_result",
            "bundle",
        ]
        import pandas as pd

        frame = pd.DataFrame([lesion | lesion["probabilities"] for lesion in lesions], columns=columns)
        with whole_file(path) as temporary:
            if suffix == ".csv":
                frame.to_csv(temporary, index=False, float_format="%.6g")
            else:
                frame.to_parquet(temporary, index=False)
