"""Exit statuses of the command, and what stops it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

EXIT_REFUSED = 1  # some inputs were refused, the rest was done
EXIT_USAGE = 2  # nothing could be done: wrong option, file or setting
EXIT_BUG = 70  # a mistake of the program's (EX_SOFTWARE of sysexits.h)
EXIT_PIPE = 128 + 13  # who read standard output has closed it: what a shell says of a process that SIGPIPE ended
EXIT_STOPPED = 128 + signal.SIGINT  # by Ctrl-C, as shells say it
EXIT_TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def refused_status(refused: int, images: int) -> int:
    """The status where images were refused."""
    return EXIT_USAGE if refused == images else EXIT_REFUSED


@contextmanager
def stoppable(told: Callable[[], str]) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM leave the work in order, say `told()`, and end with the status that shells expect."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as stopped:
        print(f"pesi: stopped: {told()}", file=sys.stderr)
        raise typer.Exit(EXIT_TERMINATED if isinstance(stopped, Terminated) else EXIT_STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
