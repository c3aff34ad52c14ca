"""Predictions as files: CSV, JSON, JSON lines, Parquet, and the ISIC 2017 challenge's submission format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pesi.errors import DataError, PesiError
from pesi.files import utf8, whole_file, write_text
from pesi.predict.prediction import Prediction, Refusal

SUFFIXES: tuple[str, ...] = (".csv", ".json", ".jsonl", ".parquet")
ISIC2017_COLUMNS: tuple[str, ...] = ("melanoma", "seborrheic_keratosis")
_UNREAD = "cannot be read: "


def check_output(path: str | Path) -> None:
    """Refuse an output file whose format is not known, before any work is done.

    Raises:
        PesiError: The ending is none of `SUFFIXES`.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise PesiError(
            f"Cannot tell the format of {path} by its ending.", f"End the file's name in one of: {', '.join(SUFFIXES)}."
        )


def write_predictions(path: str | Path, results: Sequence[Prediction | Refusal]) -> None:
    """Write predictions to a file, in the format of its ending, whole or not at all.

    Tables (.csv, .parquet) have the columns image, one probability a class, triage, no_result, path; images without a
    result, also those that cannot be read, have the reason and no probabilities. JSON (.json: a list, .jsonl: one
    object a line) holds everything.

    Raises:
        PesiError: The ending is unknown.
        StorageError: The file cannot be written.
    """
    path = Path(path)
    check_output(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_text(path, json.dumps([result.to_dict() for result in results], indent=2, ensure_ascii=False) + "\n")
        return
    if suffix == ".jsonl":
        write_text(path, "".join(json.dumps(result.to_dict(), ensure_ascii=False) + "\n" for result in results))
        return
    frame = prediction_frame(results)
    with whole_file(path) as temporary:
        if suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)


def prediction_frame(results: Sequence[Prediction | Refusal]) -> pd.DataFrame:
    """Predictions as a frame: image, one probability a class (none without a result), triage, no_result, path."""
    names = next((list(result.probabilities) for result in results if isinstance(result, Prediction)), [])
    rows = []
    for result in results:
        if isinstance(result, Prediction):
            values = {} if result.no_result else dict(result.probabilities)
            triage, reason = result.triage or "", result.no_result
        else:
            values, triage, reason = {}, "", f"{_UNREAD}{result.reason}"
        row: dict[str, object] = {"image": result.image_id, "triage": triage, "no_result": reason, "path": result.path}
        rows.append({key: utf8(value) if isinstance(value, str) else value for key, value in row.items()} | values)
    return pd.DataFrame(rows, columns=["image", *names, "triage", "no_result", "path"])


def isic2017_submission(results: Sequence[Prediction | Refusal]) -> str:
    """The challenge's Part 3 submission: `image_id,melanoma,seborrheic_keratosis`, one line an image.

    Raises:
        DataError: An image was refused (a submission must hold all), or the classifier knows other classes.
    """
    refused = [result for result in results if isinstance(result, Refusal)]
    if refused:
        raise DataError(
            f"{len(refused)} image(s) were refused, the first is {refused[0].path}: {refused[0].reason}",
            "A submission must hold every image: repair or replace those files.",
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", *ISIC2017_COLUMNS))
    for result in results:
        assert isinstance(result, Prediction)
        missing = [name for name in ISIC2017_COLUMNS if name not in result.probabilities]
        if missing:
            raise DataError(
                f"This bundle gives no probability of {missing[0]}: its classes are {', '.join(result.probabilities)}.",
                "Use a bundle trained for the task isic2017.",
            )
        writer.writerow((result.image_id, *(f"{result.probabilities[name]:.8f}" for name in ISIC2017_COLUMNS)))
    return text.getvalue()


def read_prediction_table(path: str | Path) -> pd.DataFrame:
    """A table of probabilities as `evaluate` and `compare` want it: `image_id`, then one column a class.

    Takes what `write_predictions` wrote (.csv, .parquet) and the challenge's submissions; files that could not be read
    are left out.

    Raises:
        DataError: The file is missing, has no image column, or holds something that is no probability.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no predictions file {path}.", "Write one: pesi predict DIR --out FILE.")
    try:
        frame = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(path, dtype={0: str})
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}", "Give a .csv or .parquet file.") from error
    if "no_result" in frame:
        frame = frame[~frame["no_result"].astype(str).str.startswith(_UNREAD)].reset_index(drop=True)
    frame = frame.rename(columns={"image": "image_id"}).drop(columns=["triage", "no_result", "path"], errors="ignore")
    if "image_id" not in frame:
        raise DataError(f"{path} has no column image_id (or image).", "Write it with: pesi predict DIR --out FILE.")
    frame["image_id"] = frame["image_id"].astype(str)
    for column in frame.columns.drop("image_id"):
        values = pd.to_numeric(frame[column], errors="coerce")
        bad = ~values.between(0, 1)
        if bad.any():
            row = int(bad.to_numpy().argmax())
            raise DataError(
                f"{path}, row {row + 2}, column {column}: {frame[column].iloc[row]!r} is no probability.",
                "Probabilities lie between 0 and 1; to score images that gave no result too: pesi predict --no-gates.",
            )
        frame[column] = values
    return frame
