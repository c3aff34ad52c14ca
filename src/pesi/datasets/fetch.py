"""Download the official ISIC 2017 files: resumed where they were cut off, verified, unpacked where the reader looks."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from pesi.datasets.archives import free_space, unpack_archive
from pesi.errors import DataError, StorageError
from pesi.files import write_json, write_text

Progress = Callable[[str, int, int], None]

OFFICIAL = "https://isic-challenge-data.s3.amazonaws.com/2017/"
PAGE = "https://challenge.isic-archive.com/data/#2017"
MANIFEST = "fetched.json"

_TRIES = 5  # in a row without a byte received
_TIMEOUT = 60.0  # seconds without an answer
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """One official file.

    Args:
        name: Its name on the server and in the root folder; a `.zip` unpacks into the folder of the same stem.
        md5: Its MD5 in hexadecimal.
        size: About how many bytes it has, for the free-space check and as a bound (no more than twice as much is
            taken from a server that does not tell the length).
    """

    name: str
    md5: str
    size: int


# The sums are those that several independent users published; those of two of the csv files were compared with the
# official files. Sizes are rounded up from the challenge's page.
ISIC2017: dict[str, tuple[RemoteFile, ...]] = {
    "train": (
        RemoteFile("ISIC-2017_Training_Data.zip", "a14a7e622c67a358797ae59abb8a0b0c", 5_850_000_000),
        RemoteFile("ISIC-2017_Training_Part1_GroundTruth.zip", "77fdbeb6fbec4139937224416b250f4c", 20_000_000),
        RemoteFile("ISIC-2017_Training_Part3_GroundTruth.csv", "0cb4add57c65c22ca1a1cb469ad1f0c5", 100_000),
    ),
    "val": (
        RemoteFile("ISIC-2017_Validation_Data.zip", "8d6419d942112f709894c0d82f6c9038", 900_000_000),
        RemoteFile("ISIC-2017_Validation_Part1_GroundTruth.zip", "64d3e68fa2deeb8a5e89aa8dec2efd44", 2_000_000),
        RemoteFile("ISIC-2017_Validation_Part3_GroundTruth.csv", "8d4826a76adcd8fb928ca52a23ebae4c", 100_000),
    ),
    "test": (
        RemoteFile("ISIC-2017_Test_v2_Data.zip", "5f6a0b5e1f2972bd1f5ea02680489f09", 5_450_000_000),
        RemoteFile("ISIC-2017_Test_v2_Part1_GroundTruth.zip", "b1742de6bd257faca3b2b21a4aa3b781", 10_000_000),
        RemoteFile("ISIC-2017_Test_v2_Part3_GroundTruth.csv", "9e957b72a0c4f9e0d924889fd03b36ed", 100_000),
    ),
}


def fetch_isic2017(
    root: str | Path,
    *,
    parts: Sequence[str] = ("train", "val", "test"),
    base_url: str = OFFICIAL,
    files: Mapping[str, Sequence[RemoteFile]] = ISIC2017,
    keep_archives: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Bring the official ISIC 2017 images, lesion masks (Part 1) and labels (Part 3) into a folder.

    Safe to run again: what is there and verified is skipped, a download goes on where it was cut off (`NAME.part`).
    Archives that were put there by hand are verified, unpacked and kept; those downloaded are deleted once unpacked.
    `fetched.json` remembers what each archive held.

    The MD5 sums guard against damage, not against forgery: MD5 collisions can be made. Against forgery there is only
    the server's certificate (HTTPS), so redirections away from HTTPS are refused.

    Args:
        root: The data set's folder; made if missing.
        parts: Which of "train", "val" and "test".
        base_url: Where the files lie; HTTPS, or a mirror on this machine (http://127.0.0.1, http://localhost).
        files: The files of each part.
        keep_archives: Keep downloaded archives too (twice the space).
        progress: Called with (what is being done, bytes done, bytes in all); 0 in all where the server does not tell.

    Returns:
        `root`.

    Raises:
        DataError: The server cannot be reached or has no such file, a checksum or an archive is wrong. The cure tells
            how to do it by hand.
        StorageError: Not enough free space, or the disk refused to write.
    """
    root = Path(root)
    unknown = [part for part in parts if part not in files]
    if unknown or not parts:
        raise DataError(f"Unknown part {', '.join(unknown) or '(none)'}.", f"Choose among: {', '.join(files)}.")
    _check_url(base_url)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
    report = progress or (lambda what, done, total: None)
    wanted = [file for part in files if part in parts for file in files[part]]
    wanted = [file for file in wanted if not _is_done(root, file, report)]
    _check_space(root, wanted, keep_archives)
    for index, file in enumerate(wanted):
        target = root / file.name
        by_hand = target.exists()
        if by_hand:
            if _md5(target, report) != file.md5:
                raise DataError(
                    f"{target} is damaged or another version: its MD5 is not {file.md5}.",
                    "Delete it, then run the same command again.",
                )
        else:
            _download(base_url, file, root, report, missing=wanted[index:])
        if target.suffix == ".zip":
            sizes = unpack_archive(target, root / target.stem, progress=partial(report, f"{file.name}: unpacking"))
            write_json(root / MANIFEST, {**_manifest(root), file.name: {"md5": file.md5, "files": sizes}})
            if not by_hand and not keep_archives:
                target.unlink()
    return root


def _check_url(base_url: str) -> None:
    url = urllib.parse.urlsplit(base_url)
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in ("127.0.0.1", "localhost", "::1")):
        raise DataError(f"{base_url} is not HTTPS.", "Give an address that begins with https://.")


def _manifest(root: Path) -> dict[str, Any]:
    try:
        held = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # what is not remembered is verified again
    return held if isinstance(held, dict) else {}


def _is_done(root: Path, file: RemoteFile, report: Progress) -> bool:
    """Whether a csv is there and right, or every file that the right archive held is there with its size."""
    target = root / file.name
    if target.suffix != ".zip":
        return target.is_file() and _md5(target, report) == file.md5
    entry = _manifest(root).get(file.name)
    if not isinstance(entry, dict) or entry.get("md5") != file.md5 or not isinstance(entry.get("files"), dict):
        return False
    folder = root / target.stem
    try:
        return all((folder / name).stat().st_size == size for name, size in entry["files"].items())
    except OSError:
        return False


def _check_space(root: Path, wanted: Sequence[RemoteFile], keep_archives: bool) -> None:
    """Images hardly compress: an archive needs its size again when unpacked, and for a while both are there."""
    here = {file.name: _size(root / file.name) or _size(root / f"{file.name}.part") for file in wanted}
    download = sum(max(file.size - here[file.name], 0) for file in wanted)
    archives = [file for file in wanted if file.name.endswith(".zip")]
    unpacked = sum(max(file.size - _folder_size(root / Path(file.name).stem), 0) for file in archives)
    if not keep_archives:
        download = min(download, max((file.size for file in archives), default=download))
    need = download + unpacked
    free = free_space(root)
    if need > free:
        raise StorageError(
            f"{root} has {free / 1e9:.1f} GB free; downloading and unpacking needs about {need / 1e9:.1f} GB.",
            "Free some space, choose another folder, or fetch one part at a time (--part val is the smallest).",
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _folder_size(folder: Path) -> int:
    return sum(_size(path) for path in folder.rglob("*"))


def _md5(path: Path, report: Progress) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    total, done = _size(path), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                report(f"{path.name.removesuffix('.part')}: verifying", done, total)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check its permissions.") from error
    return digest.hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "Choose another folder or change its permissions."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            cure = "Free some space, then run the same command again: it goes on where it stopped."
        raise StorageError(f"Could not write {path}: {error.strerror or error}.", cure) from error


class _Cut(Exception):
    """The connection failed or ended early; trying again may help."""


def _download(base_url: str, file: RemoteFile, root: Path, report: Progress, *, missing: Sequence[RemoteFile]) -> None:
    """Download to `NAME.part`, verify, rename."""
    part = root / f"{file.name}.part"
    url = urllib.parse.urljoin(base_url if base_url.endswith("/") else f"{base_url}/", file.name)
    failures = 0
    while True:
        before = _size(part)
        try:
            _receive(url, file, part, report)
            break
        except _Cut as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= _TRIES:
                raise DataError(f"{url} could not be downloaded: {error}.", _by_hand(root, missing)) from error
            time.sleep(2.0 ** (failures - 1))
        except urllib.error.HTTPError as error:
            raise DataError(
                f"{url} could not be downloaded: the server answered {error.code} {error.reason}.",
                _by_hand(root, missing),
            ) from error
    md5 = _md5(part, report)
    _tag(part).unlink(missing_ok=True)
    if md5 != file.md5:
        size = _size(part)
        part.unlink()
        raise DataError(
            f"{url} came damaged or has changed: {size} bytes with MD5 {md5} instead of {file.md5}. It was deleted.",
            "Run the same command again. If that does not help:\n" + _by_hand(root, missing),
        )
    with _writing(root):
        part.replace(root / file.name)


def _by_hand(root: Path, missing: Sequence[RemoteFile]) -> str:
    names = "\n".join(f"       {file.name}" for file in missing)
    return (
        "Check the connection and run the same command again: it goes on where it stopped. Or by hand:\n"
        f"     1. open {PAGE} on a machine with a connection and download\n{names}\n"
        f"     2. put them, packed as they are, into {root.resolve()}\n"
        "     3. run the same command again: it verifies and unpacks them."
    )


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


class _StayOnHttps(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(req.full_url).scheme == "https" and not newurl.lower().startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"a redirection away from HTTPS, to {newurl}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(url: str, file: RemoteFile, part: Path, report: Progress) -> None:
    """One request: the rest of the file from where `part` ends, or all of it where the server sends all.

    RFC 9110: `If-Range` with the entity tag of the first part's answer makes a server whose file has changed since
    answer 200 and the whole; so does a server that knows no ranges.
    """
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "pesi-cnn", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _tag(part).is_file():
            request.add_header("If-Range", _tag(part).read_text(encoding="utf-8"))
    try:
        with urllib.request.build_opener(_StayOnHttps).open(request, timeout=_TIMEOUT) as answer:
            start, total = _extent(answer, have)
            if start not in (0, have):
                raise _Cut(f"the server sent bytes from {start} when asked for {have}")
            tag = answer.headers.get("ETag", "")
            if start == 0:
                with _writing(part):
                    part.unlink(missing_ok=True)
                _tag(part).unlink(missing_ok=True)
                if tag.startswith('"'):  # weak tags (W/) may not stand in If-Range
                    write_text(_tag(part), tag)
            _append(answer, part, start, total, file, report)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # there is nothing behind `have`
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink(missing_ok=True)
            raise _Cut("the part kept from before does not belong to this file") from error
        if error.code >= 500 or error.code in (408, 429):
            raise _Cut(f"the server answered {error.code} {error.reason}") from error
        raise
    except urllib.error.URLError as error:
        raise _Cut(str(getattr(error.reason, "strerror", None) or error.reason)) from error
    except (http.client.HTTPException, OSError) as error:
        raise _Cut(str(error) or type(error).__name__) from error


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """Where the answer's bytes begin in the file, and how long the file is (0: not told)."""
    if answer.status == 206:
        unit, _, rest = answer.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        start = span.partition("-")[0]
        if unit != "bytes" or not start.isdigit():
            raise _Cut("the server sent a part without telling which")
        return int(start), int(total) if total.isdigit() else 0
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else 0


def _append(
    answer: http.client.HTTPResponse, part: Path, start: int, total: int, file: RemoteFile, report: Progress
) -> None:
    done = start
    bound = total or 2 * file.size
    with _writing(part), part.open("ab") as out:
        while True:
            try:
                chunk = answer.read(_CHUNK)
            except (http.client.HTTPException, OSError) as error:
                raise _Cut(str(error) or type(error).__name__) from error
            if not chunk:
                break
            if done + len(chunk) > bound:
                raise DataError(f"The server sends more than {bound} bytes for {file.name}.", "Check the address.")
            out.write(chunk)
            done += len(chunk)
            report(f"{file.name}: downloading", done, total)
    if total and done < total:
        raise _Cut(f"the connection ended after {done} of {total} bytes")
