"""Unpack archives of images: each file once, verified, and nothing that an archive should not hold."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pesi.errors import DataError, StorageError

_CHUNK = 1 << 20
_MAX_FILES = 200_000
_MAX_RATIO = 20  # of images and masks, which are compressed already; a zip bomb has 1000 and more
_SMALL = 1 << 20  # bytes that any archive may unpack to


def unpack_archive(
    archive: Path, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, int]:
    """Unpack into `folder`; a leading folder of that name inside the archive is left out.

    Everything is checked before the first byte is written. Each file is written under a temporary name and renamed,
    and files that are there already with the right length and CRC-32 are left, so that an interrupted run goes on.

    Args:
        archive: The zip archive.
        folder: Where its files go; made if missing.
        progress: Called with (bytes done, bytes in all) after each file.

    Returns:
        Size in bytes of each file, by its path below `folder` ("/" between folders).

    Raises:
        DataError: No zip archive, damaged or encrypted, paths that leave the folder, links, or a zip bomb.
        StorageError: Not enough space, or the disk refused to write.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened, archive, folder.name)
            total = sum(info.file_size for info in members.values())
            folder.mkdir(parents=True, exist_ok=True)
            free = free_space(folder)
            if total > free + _present(folder, members):
                raise StorageError(
                    f"{archive.name} unpacks to {total / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB free.",
                    "Free some space, then run the same command again.",
                )
            done = 0
            for name, info in members.items():
                _unpack_file(opened, info, folder / name)
                done += info.file_size
                if progress is not None:
                    progress(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{archive} is no zip archive or damaged: {error}.", "Delete it and download it again."
        ) from error
    except OSError as error:
        raise StorageError(
            f"Could not unpack {archive} into {folder}: {error.strerror or error}.",
            "Check space and permissions, then run the same command again.",
        ) from error
    return {name: info.file_size for name, info in members.items()}


def _members(opened: zipfile.ZipFile, archive: Path, folder: str) -> dict[str, zipfile.ZipInfo]:
    """The files to write, by their path below the folder."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        path = PurePosixPath(info.filename)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename:
            raise _hostile(archive, f"the path {info.filename!r} leaves the folder")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _hostile(archive, f"{info.filename!r} is a link or a device")
        if info.flag_bits & 0x1:
            raise _hostile(archive, f"{info.filename!r} is encrypted")
        if info.is_dir() or path.parts[:1] == ("__MACOSX",) or path.name == ".DS_Store":
            continue
        inside = PurePosixPath(*path.parts[1:]) if path.parts[0] == folder and len(path.parts) > 1 else path
        if str(inside) in members:
            raise _hostile(archive, f"{info.filename!r} stands in it twice")
        members[str(inside)] = info
    if not members:
        raise _hostile(archive, "it is empty")
    if len(members) > _MAX_FILES:
        raise _hostile(archive, f"it holds {len(members)} files")
    total = sum(info.file_size for info in members.values())
    if total > _MAX_RATIO * archive.stat().st_size + _SMALL:
        raise _hostile(archive, f"it would unpack to {total} bytes, a zip bomb")
    return members


def _hostile(archive: Path, reason: str) -> DataError:
    return DataError(f"{archive} was not unpacked: {reason}.", "This is not the official file: delete it.")


def _present(folder: Path, members: dict[str, zipfile.ZipInfo]) -> int:
    """Bytes of files that are there already."""
    return sum(path.stat().st_size for name in members if (path := folder / name).is_file())


def _unpack_file(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    if _same(target, info):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    try:
        # zipfile stops at the declared size and checks the CRC-32 at the end.
        with opened.open(info) as source, temporary.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
        if temporary.stat().st_size != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename!r} is shorter than declared")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _same(target: Path, info: zipfile.ZipInfo) -> bool:
    if not target.is_file() or target.is_symlink() or target.stat().st_size != info.file_size:
        return False
    crc = 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == info.CRC


def free_space(folder: Path) -> int:
    """Bytes that may still be written where a folder is, or will be."""
    return shutil.disk_usage(folder).free
