"""Predictions as files: CSV, JSON, JSON lines, Parquet, and the ISIC 2017 challenge's submission format."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pesi.errors import DataError
from pesi.files import check_ending, utf8, whole_file
from pesi.predict.prediction import Prediction, Refusal

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES: tuple[str, ...] = (".csv", ".json", ".jsonl", ".parquet")
ISIC2017_COLUMNS: tuple[str, ...] = ("melanoma", "seborrheic_keratosis")
_SET = "0.90"  # the coverage of the prediction set that tables show
_UNREAD = "cannot be read: "
_BESIDE = ("triage", "no_result", "path", "diagnosis", "malignant", "prediction_set", "warnings", "bundle", "lesion_id")
_AT_ONCE = 4096  # rows in memory while a table is written

Row = Mapping[str, Any]  # what `Prediction.to_dict` and `Refusal.to_dict` give; with lesion_id where that is known


def check_output(path: str | Path) -> None:
    """Refuse an output file whose format is not known, before any work is done.

    Raises:
        PesiError: The ending is none of `SUFFIXES`.
    """
    check_ending(path, *SUFFIXES)


def write_predictions(path: str | Path, results: Sequence[Prediction | Refusal]) -> None:
    """Write predictions to a file, as `write_rows` does."""
    write_rows(path, (result.to_dict() for result in results), _classes(results))


def write_rows(path: str | Path, rows: Iterable[Row], classes: Sequence[str]) -> None:
    """Write predictions to a file, in the format of its ending, whole or not at all; a few rows are in memory at once.

    Tables (.csv, .parquet) have the columns of `prediction_frame`, in a .csv with six significant digits. JSON (.json:
    a list, .jsonl: one object a line) holds everything.

    Args:
        path: The file.
        rows: Of each image, `to_dict()` of its Prediction or Refusal.
        classes: Names of the probabilities.

    Raises:
        PesiError: The ending is unknown.
        StorageError: The file cannot be written.
    """
    check_output(path)
    suffix = Path(path).suffix.lower()
    with whole_file(path) as temporary:
        if suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            writer = None
            for frame in _frames(rows, classes):
                numbers = {*classes, "malignant"}
                schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in frame])
                writer = writer or pq.ParquetWriter(temporary, schema)
                writer.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            if writer is not None:
                writer.close()
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            if suffix == ".csv":
                for number, frame in enumerate(_frames(rows, classes)):
                    frame.to_csv(file, index=False, header=number == 0, float_format="%.6g")
            elif suffix == ".jsonl":
                file.writelines(json_line(row) for row in rows)
            else:
                for number, row in enumerate(rows):
                    file.write(",\n" if number else "[\n")
                    file.write(utf8(json.dumps(row, indent=2, ensure_ascii=False)))
                file.write("\n]\n")


def json_line(row: Row) -> str:
    """A row as one line of JSON."""
    return utf8(json.dumps(row, ensure_ascii=False)) + "\n"


def prediction_frame(results: Sequence[Prediction | Refusal]) -> pd.DataFrame:
    """Predictions as a frame, an image a row; what does not apply is empty.

    Columns: image, one probability a class, triage, no_result (why there is none; then the probabilities are empty),
    path, diagnosis (the class of the highest probability), malignant (probability), prediction_set (at 90 % coverage,
    "; " between the classes), warnings (of the gates), bundle.
    """
    rows, classes = [result.to_dict() for result in results], _classes(results)
    return _frame(rows, classes, _beside(rows, classes))


def _classes(results: Sequence[Prediction | Refusal]) -> list[str]:
    return next((list(result.probabilities) for result in results if isinstance(result, Prediction)), [])


def _beside(rows: Sequence[Row], classes: Sequence[str]) -> list[str]:
    """The columns after the probabilities; rows either all have a lesion_id or none has."""
    unknown = () if rows and "lesion_id" in rows[0] else ("lesion_id",)
    return [name for name in _BESIDE if name not in (*classes, *unknown)]


def _frame(rows: Sequence[Row], classes: Sequence[str], beside: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([_table_row(row) for row in rows], columns=["image", *classes, *beside])
    return frame.astype(dict.fromkeys([*classes, "malignant"], float))


def _frames(rows: Iterable[Row], classes: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Rows as frames of at most `_AT_ONCE`; where there are none, an empty one."""
    left = iter(rows)
    chunk = list(islice(left, _AT_ONCE))
    beside = _beside(chunk, classes)
    yield _frame(chunk, classes, beside)
    while chunk := list(islice(left, _AT_ONCE)):
        yield _frame(chunk, classes, beside)


def _table_row(row: Row) -> dict[str, Any]:
    """The columns of one row, see `prediction_frame`."""
    reason = refusal_of(row)
    answered: Row = {} if reason else row
    values = dict(answered.get("probabilities", {}))
    found = {
        "image": row["image"],
        "triage": answered.get("triage") or "",
        "no_result": reason,
        "path": row["path"],
        "diagnosis": max(values, key=values.__getitem__, default=""),
        "malignant": answered.get("malignant"),
        "prediction_set": set_text(answered, "; "),
        "warnings": " ".join(warnings_of(row)),
        "bundle": row.get("bundle", ""),
        "lesion_id": row.get("lesion_id"),
    }
    return {key: utf8(value) if isinstance(value, str) else value for key, value in found.items()} | values


def refusal_of(row: Row) -> str:
    """Why an image has no result, or cannot be read; "" where it has one."""
    return f"{_UNREAD}{row['refused']}" if "refused" in row else row.get("no_result") or ""


def warnings_of(row: Row) -> list[str]:
    """What the gates warned of."""
    return [verdict["reason"] for verdict in row.get("verdicts", ()) if verdict["level"] == "warn"]


def set_text(row: Row, between: str = " or ") -> str:
    """The classes that remain possible at 90 % coverage; "none of these", or "" where the bundle has no sets."""
    sets = row.get("prediction_sets", {})
    return (between.join(sets[_SET]) or "none of these") if _SET in sets else ""


def text_lines(row: Row) -> list[str]:
    """What is printed of an image; of one that cannot be read nothing, as stderr has it."""
    if "refused" in row:
        return []
    if row["no_result"]:
        return [f"{row['image']}: no result. {row['no_result']}"]
    values = ", ".join(f"{name} {value:.3f}" for name, value in row["probabilities"].items())
    lines = [f"{row['image']}: {values}; triage: {row['triage'] or 'none'}"]
    if remain := set_text(row):
        lines.append(f"  at 90 % coverage: {remain}")
    if row["similar"]:
        found = [f"{case['diagnosis']} ({case['image_id']}, {case['similarity']:.2f})" for case in row["similar"]]
        lines.append(f"  most like: {', '.join(found)}")
    return lines + [f"  warning: {warning}" for warning in warnings_of(row)]


def summary(rows: Iterable[Row], levels: Sequence[str]) -> tuple[str, int]:
    """A table of how many images were answered, in which level, and refused, why; and how many could not be read."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("answered", "no result", "cannot be read")}
    found["answered"].update(dict.fromkeys(levels, 0))
    total = Counter[str]()
    for row in rows:
        if "refused" in row:
            state, why = "cannot be read", row["refused"].replace(str(row["path"]), "").strip(" .:")
        elif row["no_result"]:
            state, why = "no result", " and ".join(v["check"] for v in row["verdicts"] if v["level"] == "refuse")
        else:
            state, why = "answered", row["triage"] or ""
        total[state] += 1
        found[state][why] += 1
    lines = [("images", total.total())]
    for state, reasons in found.items():
        if total[state] or state == "answered":
            lines.append((f"  {state}", total[state]))
            lines += [(f"    {why}", number) for why, number in reasons.items() if why]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {number:>6}" for name, number in lines), total["cannot be read"]


def isic2017_submission(rows: Iterable[Row]) -> str:
    """The challenge's Part 3 submission: `image_id,melanoma,seborrheic_keratosis`, one line an image.

    Raises:
        DataError: An image was refused (a submission must hold all), or the classifier knows other classes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image_id", *ISIC2017_COLUMNS))
    refused: list[Row] = []
    for row in rows:
        if "refused" in row:
            refused.append(row)
            continue
        missing = [name for name in ISIC2017_COLUMNS if name not in row["probabilities"]]
        if missing:
            raise DataError(
                f"This bundle gives no probability of {missing[0]}: its classes are {', '.join(row['probabilities'])}.",
                "Use a bundle trained for the task isic2017.",
            )
        writer.writerow((row["image"], *(f"{row['probabilities'][name]:.8f}" for name in ISIC2017_COLUMNS)))
    if refused:
        raise DataError(
            f"{len(refused)} image(s) were refused, the first is {refused[0]['path']}: {refused[0]['refused']}",
            "A submission must hold every image: repair or replace those files.",
        )
    return text.getvalue()


class ReadPredictions(NamedTuple):
    """Predictions, read back.

    Attributes:
        table: `image_id`, then one column of probabilities a class; images without a result are left out.
        no_result: Image id -> why it has none, of those left out.
        bundles: Ids of the bundles that they are by, where that is told.
    """

    table: pd.DataFrame
    no_result: Mapping[str, str]
    bundles: frozenset[str]


def read_predictions(path: str | Path, classes: Sequence[str] | None = None) -> ReadPredictions:
    """Read what `write_predictions` wrote (.csv, .parquet, .json, .jsonl), or a challenge's submission.

    Ids are taken as they stand: `NA` and `007` too.

    Args:
        path: The file.
        classes: The columns to take; the others are passed over. None: all but those that `write_predictions` writes
            beside the probabilities.

    Raises:
        DataError: The file is missing or damaged, has no image column or none of the classes, or holds something that
            is no probability.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no predictions file {path}.", "Write one: pesi predict DIR --out FILE.")
    entries = _entries(path)
    columns = list(dict.fromkeys(name for _, values in entries for name in values))
    key = next((name for name in ("image_id", "image") if name in columns), None)
    if key is None:
        raise DataError(f"{path} has no column image_id (or image).", "Write it with: pesi predict DIR --out FILE.")
    names = [name for name in columns if name != key and (name not in _BESIDE if classes is None else name in classes)]
    if classes is not None and not names:
        raise DataError(
            f"{path} has no column of the classes {', '.join(classes)}; it has: {', '.join(columns)}.",
            "Name the task that the predictions are of: --task.",
        )
    reasons = {str(values[key]): str(values["no_result"]) for _, values in entries if values.get("no_result")}
    rows: list[dict[str, Any]] = []
    for where, values in entries:
        if not values.get("no_result"):
            found = {name: _probability(values.get(name), f"{path}, {where}, column {name}") for name in names}
            rows.append({"image_id": str(values[key]), **found})
    bundles = frozenset(str(values["bundle"]) for _, values in entries if values.get("bundle"))
    import pandas as pd

    return ReadPredictions(pd.DataFrame(rows, columns=["image_id", *names]), reasons, bundles)


def read_prediction_table(path: str | Path) -> pd.DataFrame:
    """The table of `read_predictions`."""
    return read_predictions(path).table


def _entries(path: Path) -> list[tuple[str, Row]]:
    """Where each row stands, and its values by column."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return [(f"row {i + 1}", row) for i, row in enumerate(pq.read_table(path).to_pylist())]
        if suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            lines = (line for line in text.split("\n") if line.strip())
            found = json.loads(text) if suffix == ".json" else [json.loads(line) for line in lines]
            return [(f"entry {i + 1}", _flat(row)) for i, row in enumerate(found)]
    except (ValueError, OSError, AttributeError, TypeError, KeyError) as error:  # pyarrow's are ValueErrors
        raise DataError(f"{path} cannot be read as predictions: {error}", "Write it again: pesi predict.") from error
    from pesi.datasets.readers.csv_file import read_csv  # brings pandas along

    return [(f"row {row.number}", row.values) for row in read_csv(path)]


def _flat(row: Row) -> Row:
    """A JSON entry as a table has it."""
    beside = {"image": row["image"], "no_result": refusal_of(row), "bundle": row.get("bundle")}
    return {**row.get("probabilities", {}), **beside}


def _probability(value: object, where: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise DataError(
            f"{where}: {value!r} is no probability.",
            "Probabilities lie between 0 and 1, and an image without a result says why in the column no_result.",
        )
    return number
