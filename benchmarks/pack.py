"""A table's finished rows on disk: small files as they are trained, then one Parquet and one JSON-lines file.

    python benchmarks/pack.py TABLE [--from FOLDER ...] [--drop PATTERN ...]

TABLE.parquet holds the predictions, TABLE.jsonl a line a row of how it was made, sorted, so that git merges it. Rows
made elsewhere are taken with --from: from another checkout's folder of the table, packed or not, or from a folder of
row files. The same rows give the same files byte for byte, wherever they are packed. Of a row that was made twice the
one that was finished later stays (rows from before the time was kept are the earlier; among them, the one whose
predictions have the greater SHA-256: nobody's choice, and everywhere the same).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from table import Table, load_table

from pesi.errors import PesiError
from pesi.files import whole_file, write_json, write_text
from pesi.predict.tables import read_prediction_table

PARTS = {"held_out": "", "test": "-test"}  # and how the name of a row's CSV file ends
_KEYS = ["row", "part", "image_id"]
_SHA256 = "predictions_sha256"


@dataclass(frozen=True)
class RowResult:
    """A finished row.

    Attributes:
        content: How it was made: what its JSON line holds.
        predictions: A frame each of `PARTS` (no test images, no test): index image_id, sorted, a column a class.
    """

    content: Mapping[str, Any]
    predictions: Mapping[str, pd.DataFrame] = field(repr=False)

    @property
    def name(self) -> str:
        """VARIANT-sSEED-SPLIT."""
        return str(self.content["row"])

    @property
    def line(self) -> str:
        """Its JSON line."""
        return json.dumps(self.content, ensure_ascii=False)


def write_row(table: Table, content: Mapping[str, Any], predictions: Mapping[str, pd.DataFrame]) -> None:
    """Write a row's own files; its JSON comes last and says that the row is finished.

    Args:
        table: Its table.
        content: How it was made.
        predictions: A frame each of `PARTS`, with a column image_id.
    """
    for part, frame in predictions.items():
        path = table.rows_folder / f"{content['row']}{PARTS[part]}.csv"
        write_text(path, frame.to_csv(index=False, float_format="%.5g"))
    write_json(table.rows_folder / f"{content['row']}.json", content)


def finished(table: Table) -> set[str]:
    """The names of the rows that are done, packed or not."""
    return {content["row"] for content in _lines(table.jsonl)} | {p.stem for p in table.rows_folder.glob("*.json")}


def read_rows(table: Table, folders: Iterable[Path] = ()) -> dict[str, RowResult]:
    """A table's finished rows by name, packed or not; of a row that was made twice, the one that stays.

    Args:
        table: The table.
        folders: Where more of its rows are.

    Raises:
        PesiError: A file is damaged, or a line has no predictions.
    """
    rows: dict[str, RowResult] = {}
    named: set[str] = set()
    for folder in (table.path.parent, *folders):
        parquet, jsonl = (folder / path.name for path in (table.parquet, table.jsonl))
        lines = _lines(jsonl)
        named |= {content["row"] for content in lines}
        found = [*_packed(parquet, lines)]
        for rows_folder in (folder / table.path.stem / "rows", *([folder] if folder != table.path.parent else [])):
            found += _row_files(rows_folder)
        for row in found:
            if row.content["table"] != table.name:
                what = f"{folder}: {row.name} is of {row.content['table']}, not of {table.name}."
                raise PesiError(what, "Give a folder that holds rows of this table.")
            rows[row.name] = max(rows.get(row.name, row), row, key=_rank)
    for name in sorted(named - set(rows)):
        raise PesiError(
            f"{table.jsonl.name} has {name}, {table.parquet.name} lacks its predictions: a merge took one side's.",
            f"Get the other side's files: python benchmarks/pack.py {table.path} --from FOLDER.",
        )
    return rows


def _rank(row: RowResult) -> tuple[str, str, str]:
    return (row.content.get("finished", ""), row.content[_SHA256], row.line)


def _lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            content = json.loads(line)
            found.append({key: content[key] for key in ("row", _SHA256, "table")} | content)
        except (ValueError, KeyError, TypeError) as error:
            cure = "Remove the marks of a merge, and keep all rows' lines; or restore the file."
            raise PesiError(f"{path}, line {number} is no row: {error}.", cure) from error
    return found


def _packed(path: Path, lines: Sequence[Mapping[str, Any]]) -> Iterator[RowResult]:
    """The packed rows whose line and predictions belong together."""
    if not lines or not path.is_file():
        return
    try:
        whole = pq.read_table(path).to_pandas()
        frames: dict[str, dict[str, pd.DataFrame]] = {}
        for (name, part), frame in whole.groupby(["row", "part"], sort=False):
            frames.setdefault(name, {})[part] = frame.drop(columns=["row", "part"]).set_index("image_id")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise PesiError(f"{path} cannot be read: {error}.", "Restore it from the repository.") from error
    hashes = {name: _sha256(predictions) for name, predictions in frames.items()}
    yield from (RowResult(c, frames[c["row"]]) for c in lines if hashes.get(c["row"]) == c[_SHA256])


def _row_files(folder: Path) -> Iterator[RowResult]:
    """The rows that lie in a folder each with its own files."""
    for path in sorted(folder.glob("*.json")):
        files = {part: path.with_name(f"{path.stem}{ending}.csv") for part, ending in PARTS.items()}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["row"] != path.stem:
                raise ValueError(f"it is of row {content['row']}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PesiError(f"{path} cannot be read: {error}.", "Delete it, and run the row again.") from error
        frames = {
            part: read_prediction_table(file).set_index("image_id").sort_index()
            for part, file in files.items()
            if part == "held_out" or file.is_file()
        }
        yield RowResult({"row": path.stem, _SHA256: _sha256(frames)} | content, frames)


def _sha256(predictions: Mapping[str, pd.DataFrame]) -> str:
    """Of parts, classes, ids and the probabilities as little-endian float64."""
    digest = hashlib.sha256()
    for part, frame in sorted(predictions.items()):
        digest.update("\n".join((part, *frame.columns, *frame.index, "")).encode())
        digest.update(frame.to_numpy("<f8").tobytes())
    return digest.hexdigest()


def pack(table: Table, folders: Iterable[Path] = (), *, drop: Sequence[str] = ()) -> str:
    """Pack all finished rows; files that hold just these already stay untouched.

    Args:
        table: The table.
        folders: Where more of its rows are.
        drop: Patterns of rows that are forgotten, with their own files, to be made anew.

    Returns:
        What was done.

    Raises:
        PesiError: A file is damaged, a line has no predictions, or rows have different classes.
    """
    every = read_rows(table, folders)
    rows = {n: every[n] for n in sorted(every) if not any(fnmatchcase(n, pattern) for pattern in drop)}
    before = {c["row"]: c[_SHA256] for c in _lines(table.jsonl)}
    classes = {tuple(frame.columns) for row in rows.values() for frame in row.predictions.values()}
    if len(classes) > 1:
        raise PesiError(f"{table.name}: rows predict different classes.", "Make a table for each task.")
    if rows:
        _write_parquet(table.parquet, rows.values())
        text = "".join(f"{row.line}\n" for row in rows.values())
        if not table.jsonl.is_file() or table.jsonl.read_text(encoding="utf-8") != text:
            write_text(table.jsonl, text)  # last: what it names is packed
    else:
        table.jsonl.unlink(missing_ok=True)
        table.parquet.unlink(missing_ok=True)
    for name in set(every) - set(rows):
        for ending in (".json", *(f"{part}.csv" for part in PARTS.values())):
            (table.rows_folder / f"{name}{ending}").unlink(missing_ok=True)
    new = sum(name not in before for name in rows)
    again = sum(before.get(name, row.content[_SHA256]) != row.content[_SHA256] for name, row in rows.items())
    return f"{table.name}: {len(rows)} rows; {new} new, {again} made again, {len(every) - len(rows)} dropped"


def _write_parquet(path: Path, rows: Iterable[RowResult]) -> None:
    """Write the predictions, where the file does not hold just these: another version's bytes may be others.

    They are float64, since a row's five digits are no float32, and without pandas' own notes.
    """
    frames = [
        frame.reset_index().assign(row=row.name, part=part)
        for row in rows
        for part, frame in sorted(row.predictions.items())
    ]
    whole = pd.concat(frames)
    columns = [*_KEYS, *whole.columns.drop(_KEYS)]
    arrow = pa.table({name: pa.array(whole[name].tolist()) for name in columns})
    with suppress(pa.ArrowException, OSError):
        if pq.read_table(path).equals(arrow):
            return
    with whole_file(path) as temporary:
        pq.write_table(
            arrow, temporary, compression="zstd", compression_level=19, use_dictionary=_KEYS, store_schema=False
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="+")
    parser.add_argument("--from", type=Path, nargs="+", default=[], metavar="FOLDER", dest="folders")
    parser.add_argument("--drop", nargs="+", default=[], metavar="PATTERN", help="forget rows, to make them anew")
    options = parser.parse_args()
    try:
        for folder in options.folders:
            if not folder.is_dir():
                raise PesiError(f"There is no folder {folder}.", "Check the path.")
        for path in options.table:
            print(pack(load_table(path), options.folders, drop=options.drop))
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
