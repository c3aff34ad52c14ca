"""What is found out while a data set is read, besides its records: files that are not there, and what is to be said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pesi.datasets.readers.csv_file import Row, read_csv


@dataclass(frozen=True)
class Fault:
    """One file that is not as it should be."""

    image_id: str
    path: str
    reason: str


@dataclass
class Reading:
    """The by-products of reading one data set.

    Args:
        remarks: What the user should know and need not change.
        missing: Files that a table names and that are not there; their images are not among the records.
        unreadable: Folders that may not be read.
    """

    remarks: list[str] = field(default_factory=list)
    missing: list[Fault] = field(default_factory=list)
    unreadable: list[Fault] = field(default_factory=list)

    def rows(self, path: Path, *, needed: Sequence[str] = (), header: Sequence[str] | None = None) -> list[Row]:
        """`read_csv`, whose remarks are kept."""
        return read_csv(path, needed=needed, header=header, remarks=self.remarks)

    def image(self, images: Mapping[str, Path], row: Row, column: str, places: Iterable[Path]) -> Path | None:
        """The picture that a row names by its id; None, and noted as missing, where there is none."""
        image_id = row.name(column)
        if image_id not in images:
            self.lacks(
                image_id, row, column, f"names the image {image_id!r}, which is not in {', '.join(map(str, places))}"
            )
        return images.get(image_id)

    def lacks(self, image_id: str, row: Row, column: str, what: str) -> None:
        """Note a file that a row names and that is not there."""
        fault = Fault(image_id, row.values[column], row.error(column, what, "").problem)
        if fault not in self.missing:
            self.missing.append(fault)

    def closed(self, error: OSError) -> None:
        """Note a folder that the system does not let us read."""
        path = str(error.filename)
        fault = Fault(Path(path).name, path, f"{path} cannot be read: {error.strerror or error}.")
        if fault not in self.unreadable:
            self.unreadable.append(fault)
