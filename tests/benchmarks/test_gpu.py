"""What goes to a lent GPU machine and comes back: packs, the queue, and all of it once on the processor."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.conftest import BENCHMARKS
from pesi.errors import PesiError
from pesi.synthetic import write_synthetic

sys.path.insert(0, str(BENCHMARKS / "gpu"))

import pack
import table as tables
import train_queue
import transfer

TABLE = """
title = "Made up"
recipe = '{recipe}'
splits = ["fold0", "fold1"]
seeds = [0]
folds = "folds.csv"
fold_count = 2
set = [
    "network.name=pesi_lite0", "picture.size=64", "picture.source_size=72", "batch_size=8", "epochs={epochs}", "ema=0.5"
]
[variants.none]
set = ["network.attention=none", "weights=float16"]
"""
QUEUE = """
[[rows]]
table = "made/first.toml"
only = ["none-s0-fold0"]
data = "synthetic"
seconds = 1e-3
networks = true
[[rows]]
table = "made/second.toml"
data = "synthetic"
pretrained = "made/first/none-s0-fold0"
seconds = 1e-3
[[rows]]
table = "made/first.toml"
data = "synthetic"
seconds = 1e9
"""


def packing(folder: Path, *, data: list[Path], **more: object) -> Namespace:
    settings = {"name": "first", "data": data, "weights": [], "network": [], "wheels": None, "side": 0, "quality": 90}
    settings |= {"masks": False, "part_mb": 0.002, "out": folder / "parts", "work": folder / "work"}
    return Namespace(**(settings | more))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
    for number, picture in enumerate(noise):
        cv2.imwrite(str(folder / "images" / f"I_{number}.jpg"), picture)
    cv2.imwrite(str(folder / "masks" / "I_0_segmentation.png"), noise[0, :, :, 0])
    (folder / "labels.csv").write_text("image_id,diagnosis\nI_0,MEL\nI_1,NV\n")
    return folder


def test_parts_come_in_any_order_and_make_what_was_packed(tmp_path: Path, data: Path) -> None:
    weights = tmp_path / "here" / "w.safetensors"
    weights.write_bytes(os.urandom(9000))  # longer than a part
    with zipfile.ZipFile(tmp_path / "here" / "made-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made/__init__.py", "VALUE = 7\n")
        wheel.writestr("made-1.dist-info/METADATA", "Name: made\nVersion: 1\n")
    parts = transfer.pack(packing(tmp_path, data=[data], weights=[weights], wheels=tmp_path / "here"))
    assert len(parts) > 3
    assert all(part.stat().st_size < 2200 for part in parts)
    root, arriving = tmp_path / "root", tmp_path / "arriving"
    for number, part in enumerate(reversed(parts)):
        shutil.rmtree(arriving, ignore_errors=True)
        arriving.mkdir()
        shutil.copy(part, arriving)
        last = number == len(parts) - 1
        assert transfer.install(arriving, root) == (
            ["first: unpacked"] if last else [f"first: {number + 1} of {len(parts)} parts"]
        )
        assert (root / "data").is_dir() == last
    assert transfer.install(arriving, root) == ["first: here"]
    there = {path.relative_to(root / "data" / "set"): path.read_bytes() for path in root.rglob("data/set/**/*.*")}
    here = {path.relative_to(data): path.read_bytes() for path in data.rglob("*.*") if "masks" not in path.parts}
    assert there == here
    assert (root / "weights" / "w.safetensors").read_bytes() == weights.read_bytes()
    code = (
        "import made; from importlib.metadata import version; print(made.VALUE, version('made'), version('pesi-cnn'))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(root / "site")}, capture_output=True, text=True
    )
    assert done.stdout.split()[:2] == ["7", "1"], done.stderr


def test_a_damaged_part_is_told(tmp_path: Path, data: Path) -> None:
    parts = transfer.pack(packing(tmp_path, data=[data]))
    content = bytearray(parts[1].read_bytes())
    content[-1] ^= 1
    parts[1].write_bytes(content)
    with pytest.raises(transfer.TransferError, match="do not make what was packed"):
        transfer.install(tmp_path / "parts", tmp_path / "root")
    assert not (tmp_path / "root" / "data").exists()


def test_pictures_are_made_smaller_and_small_ones_stay(data: Path) -> None:
    files = dict(transfer.data_files(data, side=40, quality=90, masks=True))
    picture = cv2.imdecode(np.frombuffer(files["data/set/images/I_0.jpg"], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (30, 40, 3)
    assert files["data/set/masks/I_0_segmentation.png"] == (data / "masks" / "I_0_segmentation.png").read_bytes()
    same = dict(transfer.data_files(data, side=80, quality=90, masks=False))
    assert same["data/set/images/I_1.jpg"] == (data / "images" / "I_1.jpg").read_bytes()


def test_a_set_without_tables_takes_those_beside_it(data: Path) -> None:
    beside = data.with_name("isic2017")
    beside.mkdir()
    (data / "labels.csv").rename(beside / "labels.csv")
    files = dict(transfer.data_files(data, side=0, quality=90, masks=False))
    assert sorted(files) == ["data/isic2017/labels.csv", "data/set/images/I_0.jpg", "data/set/images/I_1.jpg"]


def test_the_shipped_queue_names_rows_data_and_networks_that_there_are() -> None:
    jobs = train_queue.read_queue(BENCHMARKS / "gpu" / "queue.toml", BENCHMARKS)
    names = [job.name for job in jobs]
    for job in jobs:
        assert job.entry.data in ("ham10000", "isic2017_level", "isic2017_512")
        if job.entry.pretrained and not job.entry.pretrained.endswith(".safetensors"):
            assert names.index(job.entry.pretrained) < names.index(job.name)
            other = next(each for each in jobs if each.name == job.entry.pretrained)
            regions = [each.table.recipe(each.row).picture.regions for each in (job, other)]
            assert regions[0] == regions[1]
            assert other.entry.networks


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[rows]]", "[[row]]", "no queue"),
        ("seconds", "second", "seconds"),
        ("none-s0-fold0", "nine-*", "No row matches"),
    ],
)
def test_a_bad_queue_names_its_mistake(tmp_path: Path, table: tables.Table, old: str, new: str, message: str) -> None:
    path = tmp_path / "queue.toml"
    path.write_text(QUEUE.replace("made/first.toml", "made/table.toml").replace(old, new))
    with pytest.raises(PesiError, match=message):
        train_queue.read_queue(path, tmp_path)


def test_archives_stay_small_and_what_has_no_room_waits(
    tmp_path: Path, table: tables.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_queue, "MOST_BYTES", 250_000)
    monkeypatch.setattr(train_queue, "MOST_TOGETHER", 600_000)
    work, entry = tmp_path / "work", train_queue.Entry(table="t", data="d", seconds=1, networks=True)
    jobs = [train_queue.Job(entry, table, row, done=True) for row in table.rows()[:7]]
    for job in jobs:
        for name, size in (("bundle/model.safetensors", 100_000), ("result.json", 10), ("checkpoints/last.ckpt", 10)):
            path = work / job.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        for ending in (".csv", "-test.csv", ".json"):
            path = table.rows_folder / f"{job.row.name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(100))
    brought: list[str] = []
    for call in ("one", "two", "three"):
        results = train_queue.Results(tmp_path / call, tmp_path / "noted")
        (tmp_path / call).mkdir()
        for job in jobs:
            results.add(job, work, b"")
        files = sorted((tmp_path / call).iterdir())
        assert all(path.stat().st_size <= 250_000 for path in files)
        assert sum(path.stat().st_size for path in files) <= 600_000
        for path in files:
            with zipfile.ZipFile(path) as archive:
                brought += [name for name in archive.namelist() if name.endswith((".safetensors", ".json"))]
        if call == "one":
            assert sum(results.waits(job, work) for job in jobs) == 2
    assert len(brought) == len(set(brought)) == 7 * 3
    assert not any(results.waits(job, work) for job in jobs)


def test_a_row_is_begun_where_it_can_be_finished(tmp_path: Path, table: tables.Table) -> None:
    (tmp_path / "data" / "here").mkdir(parents=True)
    rows = {row.name: row for row in table.rows()}

    def job(name: str, seconds: float, **entry: str) -> train_queue.Job:
        wanted = train_queue.Entry.model_validate({"table": "t", "data": "here", "seconds": seconds} | entry)
        return train_queue.Job(wanted, table, rows[name])

    first, other, long = job("none-s0-fold0", 40), job("none-s0-fold1", 40), job("spatial-s0-fold0", 4000)
    elsewhere = job("sigmoid-s0-fold0", 1, data="there")
    after = job("sigmoid-s0-fold1", 1, pretrained="made/table/none-s0-fold0")
    jobs = [first, long, elsewhere, after, other]
    shop = train_queue.Shop(jobs, Namespace(root=tmp_path), time.monotonic() + 1000)
    assert list(shop.startable()) == [first, other]
    assert (shop.lacks(elsewhere), shop.lacks(after)) == ("there", "made/table/none-s0-fold0")
    network = tmp_path / "runs" / "made" / "table" / "none-s0-fold0" / "bundle" / "model.safetensors"
    network.parent.mkdir(parents=True)
    network.touch()
    first.done, shop.measured[(table.name, "none")], shop.guessed = True, 1200.0, (40.0, 8.0)
    assert list(shop.startable()) == [long, after]  # guesses were five times too long, `none` takes too long
    assert (shop.expected(other), shop.expected(long)) == (1200, 800)
    long.failed = True
    assert list(shop.startable()) == [after]


def test_what_cannot_be_taken_home_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "rows.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rows/made/gone/none-s0-fold0.csv", "image_id\n")
    with pytest.raises(transfer.TransferError, match="holds rows of made/gone"):
        transfer.unpack([archive], tables=tmp_path, work=tmp_path)
    archive.write_bytes(archive.read_bytes()[:-8])
    with pytest.raises(transfer.TransferError, match="cannot be read"):
        transfer.unpack([archive], tables=tmp_path, work=tmp_path)


def test_a_part_has_room_beside_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("tracked", 3_000_000), ("new", 2_000_000), ("left", 1_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / ".gitignore").write_text("left\n")
    for command in (["init", "-q"], ["add", "tracked", ".gitignore"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(transfer, "REPOSITORY", tmp_path)
    assert transfer.part_size() == transfer.TREE - transfer.SPARE - 5_000_005
    monkeypatch.setattr(transfer, "TREE", 6_000_000)
    with pytest.raises(transfer.TransferError, match="The repository's own files"):
        transfer.part_size()


def machine(tmp_path: Path) -> Path:
    """A fresh folder with only what travels: the sources, the benchmarks, a made-up table, and a pack, installed."""
    there = tmp_path / "there"
    shutil.copytree(BENCHMARKS.parent / "src", there / "src", ignore=shutil.ignore_patterns("__pycache__", "isic2017"))
    shutil.copytree(BENCHMARKS, there / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "rows", "isic2017"))
    for root in (there / "benchmarks", tmp_path / "home"):
        (root / "made").mkdir(parents=True)
        for name, epochs in (("first", 1), ("second", 1000)):
            recipe = BENCHMARKS / "attention" / "pesi18-128.recipe.toml"
            (root / "made" / f"{name}.toml").write_text(TABLE.format(recipe=recipe, epochs=epochs))
    (there / "queue.toml").write_text(QUEUE)
    data = write_synthetic(tmp_path / "synthetic", train=20, val=12, test=4, size=96)
    transfer.pack(packing(there, data=[data], part_mb=1))
    assert transfer.install(there / "parts", there / "root") == ["first: unpacked"]
    shutil.rmtree(data)
    return there


def start(there: Path, *more: str) -> subprocess.Popen[str]:
    path = f"{there / 'src'}{os.pathsep}{there / 'root' / 'site'}"
    command = [sys.executable, str(there / "benchmarks" / "gpu" / "train_queue.py"), "--root", str(there / "root")]
    command += ["--queue", str(there / "queue.toml"), "--out", str(there / "out"), "--workers", "0", *more]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_there_and_back_with_a_row_that_is_cut(tmp_path: Path) -> None:
    there = machine(tmp_path)
    process = start(there, "--seconds", "1000", "--parallel", "2")
    second = there / "root" / "runs" / "made" / "second"
    try:
        until = time.monotonic() + 240
        while not list(second.glob("*/log.csv")) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)  # it waits for the first's network, and has done an epoch now
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, told
    assert told.count("stopped after") >= 1
    assert "1 of 4 rows are done." in told  # one that would take too long was not begun
    assert "made/first/none-s0-fold1" not in told
    begun = json.loads(next(second.glob("*/pretrained.json")).read_text())
    network = there / "root" / "runs" / "made" / "first" / "none-s0-fold0" / "bundle" / "model.safetensors"
    assert begun["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()

    home, work = tmp_path / "home", tmp_path / "work"
    brought = transfer.unpack(sorted((there / "out").iterdir()), tables=home, work=work)
    assert len(brought) == 2
    assert (work / "made" / "first" / "none-s0-fold0" / "bundle" / "model.safetensors").read_bytes() == (
        network.read_bytes()
    )
    shutil.rmtree(there / "benchmarks")
    table = tables.load_table(home / "made" / "first.toml")
    assert pack.pack(table).startswith("made/first: 1 rows; 1 new")
    (row,) = pack.read_rows(table).values()
    assert row.content["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
    assert len(row.predictions["held_out"]) == 16
    assert len(row.predictions["test"]) == 4
    again = transfer.unpack([there / "out" / "rows.zip"], tables=home, work=work)
    assert len(again) == 1
    kept = table.rows_folder / "none-s0-fold0.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"finished": "2001-01-01T00:00:00+00:00"}))
    assert "is here already" in transfer.unpack([there / "out" / "rows.zip"], tables=home, work=work)[0]
