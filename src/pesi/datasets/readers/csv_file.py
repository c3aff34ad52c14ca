"""CSV files as lists of rows that know where they stand, so that every complaint names file, row and field."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pesi.errors import DataError

_MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
_NOT_TOLD = frozenset({"unknown", "other", "intersex", "diverse"})
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male"}
_MAX_AGE = 130.0


@dataclass(frozen=True)
class Row:
    """One row of a CSV file.

    Args:
        file: The file.
        number: The row's number as a spreadsheet counts it: the file's first row, here mostly the header, is 1.
        values: Text by column name.
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

    def flag(self, field: str) -> bool:
        """A label that must be 0 or 1 (also written 0.0 or 1.0)."""
        value = self.needed(field)
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if number not in (0.0, 1.0):
            raise self.error(field, f"is {value!r}, neither 0 nor 1", "Correct the label.")
        return number == 1.0

    def age(self, field: str) -> float | None:
        """An age in years; None where missing or "unknown"."""
        value = self.text(field)
        if value is None or value.lower() == "unknown":
            return None
        try:
            years = float(value)
        except ValueError:
            years = -1.0
        if not 0.0 <= years <= _MAX_AGE:
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
    """The column names, or [] where the file is empty or no text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return []
    return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(first)), [])]


def read_csv(path: Path, *, needed: Sequence[str] = (), header: Sequence[str] | None = None) -> list[Row]:
    """All rows of a CSV file in UTF-8 (with comma, semicolon or tab between fields); empty lines are left out.

    Args:
        path: The file.
        needed: Columns that must be there.
        header: The columns of a file that has no header of its own.

    Raises:
        DataError: The file cannot be read, is no table, or lacks a column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not written in UTF-8.", "Save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check that it exists and may be read.") from error
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.partition("\n")[0])))
    except csv.Error as error:
        raise DataError(f"{path} is no CSV table: {error}.", "Export it again.") from error
    if header is None:
        names, start = ([name.strip() for name in lines[0]] if lines else []), 1
    else:
        names, start = list(header), 0
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has: {', '.join(names) or 'none'}.",
            "Use the official file, unchanged.",
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path} has the column {twice!r} twice.", "Rename or remove one of them.")
    rows = []
    for number, fields in enumerate(lines[start:], start=start + 1):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(names):
            raise DataError(
                f"{path}, row {number}: {len(fields)} fields where the table has {len(names)} columns.",
                "Correct the row; a comma inside a text needs quotation marks around the text.",
            )
        rows.append(Row(path, number, dict(zip(names, fields, strict=True))))
    return rows


def rows_by(rows: Sequence[Row], field: str) -> dict[str, Row]:
    """Rows by the value of a field, in their order.

    Raises:
        DataError: The field is empty, or a value stands twice.
    """
    table: dict[str, Row] = {}
    for row in rows:
        key = row.needed(field)
        if key in table:
            raise row.error(field, f"{key!r} stands already in row {table[key].number}", "Keep one of the two rows.")
        table[key] = row
    return table


def _delimiter(first_line: str) -> str:
    return max(",;\t", key=first_line.count)
