"""Standard output and error that may be full or closed: lost output ends the command and is told, lost messages not."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_KEPT = 4000  # bytes of messages that are told elsewhere in the end


class OutputLostError(BaseException):
    """Standard output takes no more; no `except Exception` on the way goes on with work that nobody will see.

    `closed`: a pipe whose reader has what it wanted (`| head`), which is no fault at all.
    """

    def __init__(self, error: OSError) -> None:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or error
        super().__init__(f"Could not write to standard output: {reason}.")
        self.closed = error.errno == errno.EPIPE


class _Stream(io.FileIO):
    """Once it has failed it takes everything: what is still buffered shall not fail again when the process ends."""

    lost = b""  # the last of what it did not take

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) if not self.lost else self._keep(data)
        except OSError as error:
            self._keep(data)
            if self.fileno() == 1:
                raise OutputLostError(error) from error
            return memoryview(data).nbytes

    def _keep(self, data: ReadableBuffer) -> int:
        self.lost = (self.lost + bytes(data))[-_KEPT:]
        return memoryview(data).nbytes


def guard_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` such that nothing is lost unseen; a closed one counts as a full one.

    Python leaves a closed stream out without a word, and the next file that is opened would take its place. After
    this, output that cannot be written raises `OutputLostError`; messages that cannot be are kept for `tell_lost`.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest free number; writing to it fails
    for number, name in ((1, "stdout"), (2, "stderr")):
        old, raw = getattr(sys, name), _Stream(number, "wb", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(old, "encoding", "utf-8"),
            errors="backslashreplace",  # names of files may hold anything
            line_buffering=number == 2 or raw.isatty(),
            write_through=getattr(old, "write_through", False),
        )
        setattr(sys, name, stream)


def tell_lost() -> None:
    """Say on standard output, where that can still be written to, the messages that standard error did not take."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if isinstance(raw, _Stream) and raw.lost:
        with suppress(OutputLostError):
            print(raw.lost.decode(errors="replace"), end="", flush=True)
