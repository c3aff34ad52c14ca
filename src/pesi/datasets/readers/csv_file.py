"""CSV files as lists of rows that know where they stand, so that every complaint names file, row and field."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pesi.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")

_MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
_NOT_TOLD = frozenset({"unknown", "other", "intersex", "diverse"})
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male"}
_FLAGS = {"true": True, "false": False}
_MAX_AGE = 130.0
_HEAD = 1 << 16  # bytes in which a header ends
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or a zip file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
}
_WINDOWS = "cp1252"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)  # Excel's own first line
_INDEX = re.compile(r"unnamed: \d+(\.\d+)?|", re.IGNORECASE)  # what pandas makes of an index without a name


@dataclass(frozen=True)
class Row:
    """One row of a CSV file.

    Args:
        file: The file.
        number: The row's number as a spreadsheet counts it: the file's first row, here mostly the header, is 1.
        values: Text by column name; columns without a name, such as pandas' index, are left out.
    """

    file: Path
    number: int
    values: Mapping[str, str]

    def text(self, field: str) -> str | None:
        """The field without blanks around it; None where it is empty, "NA" or the like, or no such column."""
        value = self.values.get(field, "").strip()
        return None if value.lower() in _MISSING else value

    def needed(self, field: str) -> str:
        """The field, which must not be missing."""
        value = self.text(field)
        if value is None:
            raise self.error(field, "is empty", "Fill it in, or remove the row.")
        return value

    def name(self, field: str) -> str:
        """The field as the name of an image, which must be there; "NA" is a name like any other."""
        return self.values.get(field, "").strip() or self.needed(field)

    def flag(self, field: str) -> bool:
        """A label that must be 0 or 1 (also written 0.0, 1,0 or True)."""
        value = self.needed(field)
        number = _FLAGS.get(value.lower(), _number(value))
        if number not in (0.0, 1.0):
            raise self.error(field, f"is {value!r}, neither 0 nor 1", "Correct the label.")
        return number == 1.0

    def age(self, field: str) -> float | None:
        """An age in years; None where missing or "unknown"."""
        value = self.text(field)
        if value is None or value.lower() == "unknown":
            return None
        years = _number(value)
        if years is None or not 0.0 <= years <= _MAX_AGE:
            raise self.error(field, f"is {value!r}, no age in years", "Correct it, or leave it empty.")
        return years

    def sex(self, field: str) -> str | None:
        """ "female" or "male"; None where missing, unknown or neither."""
        value = (self.text(field) or "unknown").lower()
        if value in _NOT_TOLD:
            return None
        if value not in _SEXES:
            raise self.error(field, f"is {value!r}", "Use female or male, or leave it empty.")
        return _SEXES[value]

    def site(self, field: str) -> str | None:
        """An anatomical site in the file's own words; None where missing or "unknown"."""
        value = self.text(field)
        return None if value is None or value.lower() == "unknown" else value

    def one_of(self, field: str, codes: Mapping[str, str]) -> str:
        """The diagnosis code of a field that must hold one of the words in `codes`, in any case."""
        value = self.needed(field)
        if value.lower() not in codes:
            known = ", ".join(codes)
            raise self.error(field, f"is {value!r}, an unknown diagnosis", f"Correct it to one of: {known}.")
        return codes[value.lower()]

    def one_hot(self, codes: Mapping[str, str], *, otherwise: str | None = None) -> str:
        """The diagnosis code of the one column that holds a 1.

        Args:
            codes: Diagnosis code by column.
            otherwise: The code of a row of zeros; None: such a row is an error.
        """
        marked = [column for column in codes if self.flag(column)]
        if len(marked) > 1:
            raise self.error(", ".join(marked), "are all 1: two classes at once", "An image has one diagnosis.")
        if not marked and otherwise is None:
            raise self.error(", ".join(codes), "are all 0: no class", "Mark one column, or remove the row.")
        return codes[marked[0]] if marked else str(otherwise)

    def error(self, field: str, what: str, cure: str) -> DataError:
        """The error to raise for a field."""
        return DataError(f"{self.file}, row {self.number}: {field} {what}.", cure)


def csv_header(path: Path) -> list[str]:
    """The names of the columns that have one, or [] where the file is empty or no text."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        text, _ = _decoded(head, path, whole=len(head) < _HEAD)
        fields = next((line for line in _lines(text, path) if any(field.strip() for field in line)), [])
    except (OSError, DataError):
        return []
    return [name for name in _names(fields) if name]


def read_csv(
    path: Path, *, needed: Sequence[str] = (), header: Sequence[str] | None = None, remarks: list[str] | None = None
) -> list[Row]:
    """All rows of a CSV file with comma, semicolon, tab or bar between fields; empty lines are left out.

    UTF-8 and UTF-16 are understood, also Excel's line `sep=;`, index columns without a name, and empty fields that
    stand behind the last column.

    Args:
        path: The file.
        needed: Columns that must be there.
        header: The columns of a file that has no header of its own.
        remarks: Where it is said that a file in another encoding was read as Windows-1252; None: it is refused.

    Raises:
        DataError: The file cannot be read, is no table, or lacks a column.
    """
    try:
        text, guessed = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check that it exists and may be read.") from error
    if guessed:
        sample = next(line for line in text.splitlines() if not line.isascii()).strip()[:80]
        told = f"{path} is not written in UTF-8; as Windows-1252 it reads {sample!r}"
        if remarks is None:
            raise DataError(f"{told}.", f"Save it as 'CSV UTF-8', or: iconv -f {_WINDOWS} -t UTF-8 FILE > NEW_FILE")
        remarks.append(f"{told}, and so it was read. If that is wrong, save it as 'CSV UTF-8'.")
    lines = _lines(text, path)
    rows = [(number, fields) for number, fields in enumerate(lines, 1) if any(field.strip() for field in fields)]
    names = list(header) if header is not None else _names(rows.pop(0)[1]) if rows else []
    numbered = [fields[0].strip() for _, fields in rows] == [str(n + 1) for n in range(len(rows))]
    if header is None and numbered and all(len(fields) == len(names) + 1 for _, fields in rows):
        names = ["", *names]  # R's write.table gives its row numbers no header
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has: {', '.join(filter(None, names)) or 'none'}.",
            "Use the official file, unchanged.",
        )
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{path} has the column {twice!r} twice.", "Rename or remove one of them.")
    found = []
    for number, fields in rows:
        while len(fields) > len(names) and not fields[-1].strip():
            fields.pop()
        if len(fields) != len(names):
            raise DataError(
                f"{path}, row {number}: {len(fields)} fields where the table has {len(names)} columns.",
                "Correct the row; a comma inside a text needs quotation marks around the text.",
            )
        found.append(Row(path, number, {n: f for n, f in zip(names, fields, strict=True) if n}))
    return found


def rows_by(rows: Sequence[Row], field: str) -> dict[str, Row]:
    """Rows by the name in a field, in their order.

    Raises:
        DataError: The field is empty, or a value stands twice.
    """
    table: dict[str, Row] = {}
    for row in rows:
        key = row.name(field)
        if key in table:
            raise row.error(field, f"{key!r} stands already in row {table[key].number}", "Keep one of the two rows.")
        table[key] = row
    return table


def _number(value: str) -> float | None:
    """The number, also with a decimal comma."""
    try:
        return float(value.replace(",", ".") if value.count(",") == 1 and "." not in value else value)
    except ValueError:
        return None


def _decoded(data: bytes, path: Path, *, whole: bool = True) -> tuple[str, bool]:
    """The text of a file, or (not `whole`) of its beginning, and whether its encoding is a guess.

    Raises:
        DataError: It is no text.
    """
    kind = next((kind for magic, kind in _NO_TEXT.items() if data.startswith(magic)), None)
    if kind is not None:
        raise DataError(f"{path} is {kind}, no text.", "Save the table as 'CSV UTF-8'.")
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\0" in data[:_HEAD]:  # UTF-16 of mostly Latin letters without its mark
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    for name in (encoding, _WINDOWS) if encoding == "utf-8-sig" else (encoding,):
        with suppress(UnicodeDecodeError):
            return codecs.getincrementaldecoder(name)().decode(data, whole), name == _WINDOWS
    raise DataError(f"{path} is not written in UTF-8.", "Save it as 'CSV UTF-8'.")


def _lines(text: str, path: Path) -> list[list[str]]:
    """The fields of each line, without Excel's own first one."""
    first, _, rest = text.lstrip("\r\n").partition("\n")
    told = _SEPARATOR_LINE.fullmatch(first.strip("\r\n "))
    if told:
        text, separator = rest, told[1]
    else:
        outside = re.sub(r'"[^"]*"', "", first)
        separator = max(",;\t|", key=outside.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV table: {error}.", "Export it again.") from error


def _names(fields: Sequence[str]) -> list[str]:
    return ["" if _INDEX.fullmatch(name.strip()) else name.strip() for name in fields]
