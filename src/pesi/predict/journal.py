"""The journal of many predictions: each row is kept as soon as it is made, so that a stop at any moment loses none."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from pesi.errors import DataError, StorageError
from pesi.files import remove_file

_KIND = "pesi predict journal"
_BEGIN = f'{{"{_KIND}": 1'


class Journal:
    """Rows by their number, appended to a file as they are made (JSON lines) and read from it again.

    The first line says what the rows were made from. A last line that was cut short, by `kill -9` say, is dropped. Two
    processes cannot write one journal.

    Args:
        path: The file; None: one without a name, which goes when this process does.
        made_from: What -> value: everything that must be equal for rows to stand together.
        resume: Whether to go on with rows that are there.

    Raises:
        DataError: Rows are there and `resume` is off; they were made from something else; the file is no journal; or
            another process writes it.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path | None, made_from: Mapping[str, str], *, resume: bool = False) -> None:
        self.path = path
        self._starts, self._sizes = array("q"), array("q")  # of each row in the file, in bytes; size 0: not there
        self._count = 0
        self._again: set[int] = set()
        self._end = 0
        self._file: IO[bytes]
        header = (_BEGIN + ", " + json.dumps(dict(made_from))[1:] + "\n").encode()
        if path is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as the journal
            self._write(header)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
        except OSError as error:
            cure = "Choose another place for the output: the journal lies beside it."
            raise StorageError(f"Could not write {path}: {error.strerror}.", cure) from error
        try:
            self._lock(path)
            found = self._read(path)
            if found is None or not (self._count or resume):
                self._file.truncate(0)
                self._end = 0
                self._write(header)
            elif not resume:
                raise DataError(
                    f"{path} holds {len(self)} predictions of a run that was stopped.",
                    "Go on with them: the same command and --resume. To begin again, remove that file.",
                )
            else:
                self._check(path, found, made_from)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, number: int, row: Mapping[str, Any]) -> None:
        """Keep a row.

        Raises:
            StorageError: It cannot be written.
        """
        self._again.discard(number)
        start = self._end
        self._place(number, start, self._write(json.dumps([number, row]).encode() + b"\n"))

    def missing(self, count: int) -> list[int]:
        """Which of the rows 0 .. count - 1 are to be made: those not here, and images that could not be read before."""
        return [number for number in range(count) if number not in self or number in self._again]

    def __contains__(self, number: int) -> bool:
        return number < len(self._sizes) and self._sizes[number] > 0

    def rows(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers and rows; by default all, in their order."""
        for number in (n for n in range(len(self._sizes)) if n in self) if numbers is None else numbers:
            self._file.seek(self._starts[number])
            yield number, json.loads(self._file.read(self._sizes[number]))[1]

    def remove(self) -> None:
        """Remove the file: the rows are elsewhere now."""
        self._file.close()
        if self.path is not None:
            remove_file(self.path)

    def _place(self, number: int, start: int, size: int) -> None:
        """Note where a row lies: 16 bytes a row, for there may be millions."""
        more = number + 1 - len(self._sizes)
        if more > 0:
            self._starts.extend([0] * more)
            self._sizes.extend([0] * more)
        self._count += number not in self
        self._starts[number], self._sizes[number] = start, size

    def _write(self, line: bytes) -> int:
        try:
            self._file.seek(self._end)
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            raise StorageError(
                f"Could not write {self.path or 'to the folder for temporary files'}: {error.strerror}.",
                "Free some space, then go on: the same command and --resume."
                if self.path
                else "Free some space, or name another folder (TMPDIR).",
            ) from error
        self._end += written
        return written

    def _lock(self, path: Path) -> None:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"Another process is writing {path}.", "Wait for it, or name another output."
                ) from error
            except OSError:  # a file system without locks
                pass

    def _read(self, path: Path) -> dict[str, Any] | None:
        """The header, None where there is none yet; what follows the last whole row is cut off."""
        header: dict[str, Any] | None = None
        with path.open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    found = None
                if header is None:
                    if found is None and _BEGIN.encode().startswith(line[: len(_BEGIN)]):
                        return None
                    if not isinstance(found, dict) or found.pop(_KIND, None) != 1:
                        raise DataError(f"{path} is no journal of ours.", "Move that file, or name another output.")
                    header = found
                elif not isinstance(found, list) or len(found) != 2:
                    break
                else:
                    number, row = found
                    self._place(number, self._end, len(line))
                    (self._again.add if "refused" in row else self._again.discard)(number)
                self._end += len(line)
        if header is not None and self._end < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(self._end)
        return header

    @staticmethod
    def _check(path: Path, found: Mapping[str, Any], made_from: Mapping[str, str]) -> None:
        other = [name for name in made_from if found.get(name) != made_from[name]]
        if other:
            told = "; ".join(f"{name} {found.get(name)}, now {made_from[name]}" for name in other)
            raise DataError(
                f"{path} was begun with other settings: {told}.",
                "Give the settings that it was begun with; or remove that file, to begin again.",
            )
