"""Downloads from a server on this machine that misbehaves in each way that servers and connections do."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pesi.datasets import archives, fetch
from pesi.datasets.archives import unpack_archive
from pesi.datasets.fetch import ISIC2017, MANIFEST, OFFICIAL, RemoteFile, fetch_isic2017
from pesi.errors import DataError, PesiError, StorageError


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


IMAGES = {f"ISIC-2017_Training_Data/ISIC_000000{i}.jpg": noise(40_000, i) for i in range(3)}
ZIP = zipped(IMAGES)
CSV = b"image_id,melanoma,seborrheic_keratosis\nISIC_0000000,0,0\n"
CSV_NAME = "ISIC-2017_Training_Part3_GroundTruth.csv"
ZIP_NAME = "ISIC-2017_Training_Data.zip"


class Server:
    """What the files are, how to misbehave, and what was asked."""

    def __init__(self) -> None:
        self.files = {ZIP_NAME: ZIP, CSV_NAME: CSV}
        self.ranges = True
        self.etag = '"one"'
        self.cuts: list[int] = []  # close the connection after so many bytes of the body, an entry an answer
        self.statuses: list[int] = []  # answer with these first
        self.length = True
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.url = ""

    def table(self) -> dict[str, tuple[RemoteFile, ...]]:
        return {
            "train": tuple(
                RemoteFile(name, hashlib.md5(data).hexdigest(), len(data)) for name, data in self.files.items()
            )
        }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
            condition = self.headers.get("If-Range")
            state.asked.append((name, wanted, condition))
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            if name not in state.files:
                self.send_error(404)
                return
            data, start = state.files[name], 0
            if wanted and state.ranges and condition in (None, state.etag):
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(data):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            if state.length:
                self.send_header("Content-Length", str(len(data) - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            end = start + state.cuts.pop(0) if state.cuts else len(data)
            self.wfile.write(data[start:end])

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/2017"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def get(server: Server, root: Path, **options: object) -> Path:
    return fetch_isic2017(root, **{"parts": ["train"], "base_url": server.url, "files": server.table(), **options})


def refused(call: object, kind: type[PesiError] = DataError, *words: str) -> PesiError:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    assert caught.value.cure
    for word in words:
        assert word in str(caught.value)
    return caught.value


def complete(root: Path) -> None:
    for name, data in IMAGES.items():
        assert (root / name).read_bytes() == data
    assert (root / CSV_NAME).read_bytes() == CSV
    assert not [path for path in root.rglob("*") if ".part" in path.name]


def test_files_come_unpacked_and_a_second_run_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "deep" / "isic2017"
    assert get(server, root) == root
    complete(root)
    assert sorted(path.name for path in root.iterdir()) == [
        "ISIC-2017_Training_Data",
        CSV_NAME,
        MANIFEST,
    ]
    assert server.asked == [(ZIP_NAME, None, None), (CSV_NAME, None, None)]
    get(server, root)
    assert len(server.asked) == 2


def test_a_file_that_was_lost_since_comes_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path)
    (tmp_path / next(iter(IMAGES))).unlink()
    (tmp_path / CSV_NAME).unlink()
    get(server, tmp_path)
    complete(tmp_path)
    (tmp_path / next(iter(IMAGES))).write_bytes(b"cut")
    (tmp_path / MANIFEST).write_text("[not, json")
    get(server, tmp_path)
    complete(tmp_path)


def test_archives_are_kept_on_request(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path, keep_archives=True)
    assert (tmp_path / ZIP_NAME).read_bytes() == ZIP


def test_cut_connection_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.cuts = [50_000, 30_000]
    get(server, tmp_path)
    complete(tmp_path)
    assert server.asked[:3] == [
        (ZIP_NAME, None, None),
        (ZIP_NAME, "bytes=50000-", '"one"'),
        (ZIP_NAME, "bytes=80000-", '"one"'),
    ]


def test_later_run_goes_on_with_the_part(server: Server, tmp_path: Path) -> None:
    server.cuts = [70_000] + [0] * 10
    refused(lambda: get(server, tmp_path), DataError, "connection ended after 70000", ZIP_NAME, CSV_NAME)
    assert (tmp_path / f"{ZIP_NAME}.part").read_bytes() == ZIP[:70_000]
    server.cuts, server.asked = [], []
    get(server, tmp_path)
    complete(tmp_path)
    assert server.asked[0] == (ZIP_NAME, "bytes=70000-", '"one"')


@pytest.mark.parametrize("etag", ['W/"weak"', ""])
def test_without_a_strong_tag_the_range_alone_is_asked(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag, server.cuts = etag, [50_000]
    get(server, tmp_path)
    complete(tmp_path)
    assert server.asked[1] == (ZIP_NAME, "bytes=50000-", None)


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cuts = False, [50_000, 90_000]
    get(server, tmp_path)
    complete(tmp_path)


def test_file_that_changed_between_two_runs_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{ZIP_NAME}.part").write_bytes(b"x" * 60_000)
    (tmp_path / f"{ZIP_NAME}.part.etag").write_text('"old"')
    get(server, tmp_path)
    complete(tmp_path)


def test_part_that_is_complete_or_too_long(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{ZIP_NAME}.part").write_bytes(ZIP)
    get(server, tmp_path)
    complete(tmp_path)
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / f"{ZIP_NAME}.part").write_bytes(ZIP + b"more")
    get(server, tmp_path)
    complete(tmp_path)


def test_busy_server_is_asked_again_and_a_refusing_one_is_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 500, 429]
    get(server, tmp_path)
    complete(tmp_path)
    server.asked = []
    server.files["other.csv"] = b"x"
    table = server.table()
    del server.files["other.csv"]
    refused(lambda: get(server, tmp_path, files=table), DataError, "404", "other.csv", fetch.PAGE)
    assert len(server.asked) == 1


def test_waiting_grows_and_ends(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", waited.append)
    server.statuses = [503] * 100
    refused(lambda: get(server, tmp_path), DataError, "503")
    assert waited == [1, 2, 4, 8]


def test_wrong_checksum_deletes_the_download(server: Server, tmp_path: Path) -> None:
    table = server.table()
    server.files[ZIP_NAME] = ZIP[:-1] + b"\1"
    refused(lambda: get(server, tmp_path, files=table), DataError, "MD5", "deleted", ZIP_NAME)
    assert list(tmp_path.iterdir()) == []


def test_server_that_never_ends_is_stopped(server: Server, tmp_path: Path) -> None:
    server.length = False
    table = server.table()
    get(server, tmp_path / "a", files=table)
    complete(tmp_path / "a")
    server.files[CSV_NAME] = CSV * 100
    refused(lambda: get(server, tmp_path / "b", files=table), DataError, "more than")


def test_offline_tells_how_to_do_it_by_hand(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    words = (ZIP_NAME, CSV_NAME, fetch.PAGE, str(tmp_path), "same command")
    refused(lambda: get(server, tmp_path, base_url=url), DataError, *words)
    # ... and that way works, without any connection, and leaves the archive to its owner.
    (tmp_path / ZIP_NAME).write_bytes(ZIP)
    (tmp_path / CSV_NAME).write_bytes(CSV)
    get(server, tmp_path, base_url=url)
    complete(tmp_path)
    assert (tmp_path / ZIP_NAME).exists()
    (tmp_path / ZIP_NAME).unlink()
    get(server, tmp_path, base_url=url)


def test_damaged_file_put_there_by_hand_is_not_touched(server: Server, tmp_path: Path) -> None:
    for name in (ZIP_NAME, CSV_NAME):
        (tmp_path / name).write_bytes(b"cut")
        refused(lambda: get(server, tmp_path), DataError, name, "Delete it")
        assert (tmp_path / name).read_bytes() == b"cut"
        (tmp_path / name).write_bytes(server.files[name])


def test_progress_covers_every_byte(server: Server, tmp_path: Path) -> None:
    last: dict[str, tuple[int, int]] = {}
    server.cuts = [50_000]

    def told(what: str, done: int, total: int) -> None:
        assert done >= last.get(what, (0, 0))[0]
        last[what] = done, total

    get(server, tmp_path, progress=told)
    assert last[f"{ZIP_NAME}: downloading"] == (len(ZIP), len(ZIP))
    assert last[f"{ZIP_NAME}: verifying"] == (len(ZIP), len(ZIP))
    assert last[f"{ZIP_NAME}: unpacking"] == (120_000, 120_000)
    assert last[f"{CSV_NAME}: downloading"] == (len(CSV), len(CSV))


def test_full_disk_is_told_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 2 * len(ZIP)
    monkeypatch.setattr(fetch, "free_space", lambda folder: need - 1)
    refused(lambda: get(server, tmp_path), StorageError, "GB free")
    assert server.asked == []
    monkeypatch.setattr(fetch, "free_space", lambda folder: need + len(CSV))
    get(server, tmp_path)
    complete(tmp_path)
    monkeypatch.setattr(fetch, "free_space", lambda folder: 0)
    get(server, tmp_path)  # nothing to do needs no space


def test_space_of_the_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About 12 GB of images, and 6 for the largest archive while it is unpacked."""
    monkeypatch.setattr(fetch, "free_space", lambda folder: 12_000_000_000)
    error = refused(lambda: fetch_isic2017(tmp_path), StorageError)
    need = re.search(r"needs about ([\d.]+) GB", error.problem)
    assert need
    assert 17 < float(need[1]) < 19


def test_disk_that_fills_up_meanwhile_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: object) -> int:
            if self.tell() >= 50_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(bytes(data)[:50_000])  # type: ignore[call-overload]

    whole = Path.open
    with monkeypatch.context() as full:
        full.setattr(fetch, "_CHUNK", 50_000)
        full.setattr(Path, "open", lambda path, mode="r", **rest: (Full if mode == "ab" else whole)(path, mode, **rest))
        refused(lambda: get(server, tmp_path), StorageError, "No space", "goes on where it stopped")
    assert (tmp_path / f"{ZIP_NAME}.part").read_bytes() == ZIP[:50_000]
    server.asked = []
    get(server, tmp_path)
    complete(tmp_path)
    assert server.asked[0][1] == "bytes=50000-"


def test_part_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{ZIP_NAME}.part").mkdir()
    refused(lambda: get(server, tmp_path), StorageError, "Could not write")


def test_settings_that_cannot_be_used(server: Server, tmp_path: Path) -> None:
    refused(lambda: get(server, tmp_path, parts=["train", "dev"]), DataError, "dev")
    refused(lambda: get(server, tmp_path, parts=[]), DataError)
    for url in ("http://example.org/", "file:///etc/", "ftp://example.org"):
        refused(lambda url=url: get(server, tmp_path, base_url=url), DataError, "HTTPS")
    (tmp_path / "file").write_text("")
    refused(lambda: get(server, tmp_path / "file"), StorageError)


def test_official_table() -> None:
    assert OFFICIAL.startswith("https://")
    files = [file for part in ISIC2017.values() for file in part]
    assert list(ISIC2017) == ["train", "val", "test"]
    assert len({file.name for file in files}) == len({file.md5 for file in files}) == 9
    assert all(re.fullmatch("[0-9a-f]{32}", file.md5) for file in files)
    assert 11.2e9 < sum(file.size for file in files) < 13e9


def test_official_labels_have_the_sums_of_the_table() -> None:
    shared = Path(__file__).parents[3] / "shared" / "data" / "isic2017"
    files = [shared / file.name for part in ISIC2017.values() for file in part if file.name.endswith(".csv")]
    there = [path for path in files if path.exists()]
    if not there:
        pytest.skip("needs ../shared/data/isic2017")
    sums = {file.name: file.md5 for part in ISIC2017.values() for file in part}
    for path in there:
        assert hashlib.md5(path.read_bytes()).hexdigest() == sums[path.name]


def test_reader_finds_what_was_fetched(server: Server, tmp_path: Path) -> None:
    readers = pytest.importorskip("pesi.datasets.readers")
    if not hasattr(readers, "read_dataset"):
        pytest.skip("the readers are not there yet")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 120, 90)).save(buffer, "JPEG")
    server.files = {CSV_NAME: CSV, ZIP_NAME: zipped({"ISIC-2017_Training_Data/ISIC_0000000.jpg": buffer.getvalue()})}
    get(server, tmp_path)
    records = readers.read_dataset(tmp_path)
    assert records[["image_id", "diagnosis", "split"]].to_numpy().tolist() == [["ISIC_0000000", "NV", "train"]]


# ------------------------------------------------------------------------------------------------------------- archives


def unpacked(tmp_path: Path, data: bytes, folder: str = "data") -> dict[str, int]:
    archive = tmp_path / f"{folder}.zip"
    archive.write_bytes(data)
    return unpack_archive(archive, tmp_path / "out" / folder)


def test_archive_with_and_without_its_folder(tmp_path: Path) -> None:
    members = {"data/a.jpg": b"1", "data/deep/b.jpg": b"22", "c.jpg": b"333", "__MACOSX/data/a": b"", "data/": b""}
    assert unpacked(tmp_path, zipped(members)) == {"a.jpg": 1, "deep/b.jpg": 2, "c.jpg": 3}
    assert (tmp_path / "out/data/deep/b.jpg").read_bytes() == b"22"
    assert sorted(p.name for p in (tmp_path / "out/data").iterdir()) == ["a.jpg", "c.jpg", "deep"]


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "data/../../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:/evil.jpg", "data/../evil.jpg"]
)
def test_paths_that_leave_the_folder_write_nothing(tmp_path: Path, name: str) -> None:
    refused(lambda: unpacked(tmp_path, zipped({"data/a.jpg": b"1", name: b"2"})), DataError, "leaves the folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data.zip"]


def test_links_encryption_repeats_and_emptiness(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("data/link")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(lambda: unpacked(tmp_path, buffer.getvalue()), DataError, "link")
    secret = bytearray(zipped({"data/a": b"1"}))
    secret[secret.index(b"PK\x01\x02") + 8] |= 1
    refused(lambda: unpacked(tmp_path, bytes(secret)), DataError, "encrypted")
    refused(lambda: unpacked(tmp_path, zipped({"data/a": b"1", "a": b"2"})), DataError, "twice")
    refused(lambda: unpacked(tmp_path, zipped({})), DataError, "empty")
    assert not (tmp_path / "out").exists()


def test_zip_bomb_writes_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/zeros", bytes(20_000_000))
    assert len(buffer.getvalue()) < 30_000
    refused(lambda: unpacked(tmp_path, buffer.getvalue()), DataError, "bomb")
    assert not (tmp_path / "out").exists()


def test_archive_that_lies_about_a_size_is_bounded_by_its_word(tmp_path: Path) -> None:
    """The directory declares 100 bytes, the deflated stream holds 20 million."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/zeros", bytes(20_000_000))
    data = bytearray(buffer.getvalue())
    for magic, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(magic) + at
        assert struct.unpack_from("<I", data, place) == (20_000_000,)
        struct.pack_into("<I", data, place, 100)
    refused(lambda: unpacked(tmp_path, bytes(data)), DataError, "damaged")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["crc", "cut", "text"])
def test_damaged_archives(tmp_path: Path, damage: str) -> None:
    data = bytearray(zipped({"data/a.jpg": noise(5000)}))
    if damage == "crc":
        data[2000] ^= 1
    elif damage == "cut":
        del data[3000:]
    else:
        data = bytearray(b"<html>404</html>")
    refused(lambda: unpacked(tmp_path, bytes(data)), DataError, "damaged")


def test_interrupted_unpacking_goes_on(tmp_path: Path) -> None:
    members = {"data/a": noise(1000, 1), "data/b": noise(1000, 2), "data/c": noise(1000, 3)}
    unpacked(tmp_path, zipped(members))
    out = tmp_path / "out" / "data"
    before = (out / "a").stat().st_ino
    (out / "b").write_bytes(noise(1000, 9))  # the right length, the wrong content
    (out / "c").unlink()
    unpacked(tmp_path, zipped(members))
    assert {name: zlib.crc32((tmp_path / "out" / name).read_bytes()) for name in members} == {
        name: zlib.crc32(data) for name, data in members.items()
    }
    assert (out / "a").stat().st_ino == before


def test_unpacking_needs_its_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "free_space", lambda folder: 4999)
    refused(lambda: unpacked(tmp_path, zipped({"data/a": noise(5000)})), StorageError, "free")
    monkeypatch.setattr(archives, "free_space", lambda folder: 5000)
    unpacked(tmp_path, zipped({"data/a": noise(5000)}))
