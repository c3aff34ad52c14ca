"""Files that are written whole or not at all: to a temporary name beside the target, then renamed."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from pesi.errors import StorageError

_CURES = {
    errno.ENOSPC: "Free some space or choose another folder, then run the same command again.",
    errno.EDQUOT: "Your disk quota is used up: free some space, then run the same command again.",
    errno.EACCES: "You may not write there: choose another folder or change its permissions.",
    errno.EROFS: "That file system is read-only: choose another folder.",
    errno.EEXIST: "A part of that path is a file, not a folder: choose another folder.",
    errno.ENOTDIR: "A part of that path is a file, not a folder: choose another folder.",
    errno.EISDIR: "That is a folder: give a file's name.",
    errno.ENAMETOOLONG: "That name is longer than the file system allows: choose a shorter one.",
    errno.EFBIG: "The file is larger than this system allows (see `ulimit -f`): raise the limit.",
}


def default_cache_dir() -> Path:
    """`$PESI_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("PESI_CACHE") or platformdirs.user_cache_dir("pesi-cnn", appauthor=False))


def check_ending(path: str | Path | None, *endings: str) -> None:
    """Refuse an output file whose ending names another format than is written there, before any work is done.

    Args:
        path: The file; None: there is none.
        endings: Those that may be, such as ".csv"; capitals count as small letters.

    Raises:
        StorageError: It has another ending, or none.
    """
    if path is not None and Path(path).suffix.lower() not in endings:
        formats = " or ".join(ending[1:].upper() for ending in endings)
        raise StorageError(
            f"{path} would hold {formats}, which its ending does not say.",
            f"End the file's name in {' or '.join(endings)}.",
        )


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; it takes the name `path` only if the block succeeds.

    The data are flushed to the disk before the rename, so that a crash leaves the old file or the new one.

    Args:
        path: Where the file shall be. Missing parent folders are made.

    Yields:
        The temporary path, on the same file system.

    Raises:
        StorageError: The system refused to write (full disk, quota, permission).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _CURES and error.filename not in (str(path), str(temporary)):
            raise
        cure = _CURES.get(error.errno or 0, "Check the folder and run the same command again.")
        raise StorageError(f"Could not write {path}: {error.strerror or error}.", cure) from error
    finally:
        with suppress(OSError):  # what went wrong above is what the user must hear of
            temporary.unlink(missing_ok=True)


@contextmanager
def made_by_one(path: str | Path) -> Iterator[None]:
    """Within it this process alone makes the file `path`; others that ask wait, and then should look for it.

    The lock is the operating system's, on a file beside it: a process that dies frees it. Where the folder cannot be
    written to, or its file system has no locks, nobody waits.
    """
    from filelock import FileLock

    path = Path(path)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            held.callback(lock.release)
            # Before it is freed: who waited for a file that is gone by then starts anew with the next.
            held.callback(lambda: Path(lock.lock_file).unlink(missing_ok=True))
        yield


def remove_file(path: str | Path) -> None:
    """Remove a file, if it is there.

    Raises:
        StorageError: The system refused.
    """
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "Check the folder and run the same command again.")
        raise StorageError(f"Could not replace {path}: {error.strerror or error}.", cure) from error


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; see `utf8`."""
    with whole_file(path) as temporary:
        temporary.write_text(utf8(text), encoding="utf-8")


def utf8(text: str) -> str:
    """The text with escapes for what UTF-8 cannot hold: the bytes of file names that are none."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write `value` as JSON, indented or (None) in one line, whole or not at all.

    NaN is refused: JSON has no such number.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
