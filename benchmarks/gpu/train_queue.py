"""Trains the rows of a queue on a lent machine, several at once, for so many seconds, and packs what is finished.

    PYTHONPATH=src:/tmp/pesi/site python benchmarks/gpu/train_queue.py --root /tmp/pesi --out $OUT --seconds 470

Without `--out` it only trains, to be left running in a session of its own while calls with `--seconds 0 --out $OUT`
bring home what is finished.

Each row is trained by `run.py` in a process of its own. Whenever one is free, the first row of the queue that is not
done, whose data and starting weights are here, and that can be finished in the time left is begun: how long a row takes
is what others of its variant took, or the queue's guess times what the guesses were off so far. As soon as a row is
done it is packed: what is in the folder of results is whole at any time. When the time is over, or on SIGTERM, rows
that are not done are stopped. Run again on the same machine, it goes on, and packs what had no room before.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pack import finished  # noqa: E402
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError  # noqa: E402
from table import Row, Table, chosen, load_table  # noqa: E402

from pesi.errors import PesiError  # noqa: E402
from pesi.files import whole_file, write_text  # noqa: E402

ROWS = "rows.zip"
NETWORK_FILES = 7  # networks-1.zip and so on; with the rows', eight files may come back
MOST_BYTES, MOST_TOGETHER = 15_000_000, 60_000_000
STOPPING = 10.0  # seconds that a stopped row has to end by itself
MOST_FAILURES = 4  # before any row is done; then it is not the rows' fault
SMOKE = """
title = "Smoke: whether the machine trains, and how fast"
recipe = '{recipe}'
splits = ["fold0"]
seeds = [0]
folds = "folds.csv"
fold_count = 2
set = ["select=last", "epochs=3", "picture.size=192", "precision=auto", "augmentation.artefacts=0.5"]
[variants.whole]
set = ["predict_regions=[]"]
[variants.lesion]
set = ['picture.regions=["lesion"]', "predict_regions=[]"]
"""
_MODEL = Path("bundle") / "model.safetensors"
_LEFT_OUT = ("checkpoints", "tensorboard", "records.csv")  # of a run folder


class Entry(BaseModel):
    """Rows that are wanted.

    Attributes:
        table: Their table, under benchmarks/.
        only: Patterns of rows; none: all.
        data: The data set's folder in `data/` of the root.
        pretrained: Weights to start from: "" what the recipe says; a file in `weights/`; or `TABLE/ROW`, whose network
            is taken, once it is trained.
        seconds: What a row takes there, several at once: a guess, until a row of its variant has been measured.
        networks: Whether the trained networks come back; predictions always do.
        workers: Loader processes a row; 0: what the command line says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: str
    data: str
    only: tuple[str, ...] = ()
    pretrained: str = ""
    seconds: float = Field(gt=0)
    networks: bool = False
    workers: int = Field(default=0, ge=0)


@dataclass(eq=False)
class Job:
    """A row of the queue: where its weights come from, and how it stands."""

    entry: Entry
    table: Table
    row: Row
    done: bool = False
    failed: bool = False
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0

    @property
    def name(self) -> str:
        """TABLE/ROW, also the run folder's path."""
        return f"{self.table.name}/{self.row.name}"


def read_queue(path: Path, tables: Path) -> list[Job]:
    """The queue's rows in order; one that stands twice counts where it stands first.

    Raises:
        PesiError: The file or a table is at fault.
    """
    try:
        entries = TypeAdapter(list[Entry]).validate_python(tomllib.loads(path.read_text(encoding="utf-8"))["rows"])
    except (OSError, tomllib.TOMLDecodeError, KeyError, ValidationError) as error:
        raise PesiError(f"{path} is no queue: {error}.", "Write [[rows]] as benchmarks/gpu/queue.toml does.") from error
    jobs: dict[str, Job] = {}
    for entry in entries:
        table = load_table(tables / entry.table)
        there = finished(table)
        for row in chosen(table.rows(), entry.only):
            job = Job(entry, table, row, row.name in there)
            jobs.setdefault(job.name, job)
    return list(jobs.values())


def smoke_queue(root: Path) -> list[Job]:
    """Two short rows on synthetic images, which are made where they are not there yet."""
    from pesi.synthetic import write_synthetic

    if not (root / "data" / "synthetic").is_dir():
        write_synthetic(root / "data" / "synthetic", train=220, val=40, test=8, size=256)
    recipe = HERE.parents[1] / "src" / "pesi" / "train" / "recipes" / "isic2017-lite0.toml"
    write_text(root / "smoke" / "rows.toml", SMOKE.format(recipe=recipe))
    write_text(root / "smoke" / "queue.toml", '[[rows]]\ntable = "smoke/rows.toml"\ndata = "synthetic"\nseconds = 1\n')
    return read_queue(root / "smoke" / "queue.toml", root)


@dataclass
class Results:
    """The archives of finished rows; each is whole on disk after every addition.

    Attributes:
        out: Where they are; None: nowhere, another process packs.
        noted: A file on the machine that names what is in archives that came home, or are about to.
    """

    out: Path | None
    noted: Path

    def add(self, job: Job, work: Path, commit: bytes) -> None:
        """Pack a finished row: its predictions, and its network where that is wanted and there is room."""
        if self.out is None:
            return
        rows = job.table.rows_folder
        files = [rows / f"{job.row.name}{ending}" for ending in (".csv", "-test.csv", ".json")]
        members = [(f"rows/{job.table.name}/{path.name}", path) for path in files if path.is_file()]
        if members and self._new(job.name):  # there are none of a row that was made elsewhere
            self._into(self.out / ROWS, members, commit)
            self._note(job.name)
        if self.waits(job, work):
            run = work / job.name
            found = sorted(p for p in run.rglob("*") if p.is_file() and p.relative_to(run).parts[0] not in _LEFT_OUT)
            members = [(f"runs/{job.name}/{path.relative_to(run).as_posix()}", path) for path in found]
            archives = [self.out / f"networks-{number}.zip" for number in range(1, NETWORK_FILES + 1)]
            if any(self._into(archive, members, commit) for archive in archives):
                self._note(f"{job.name} network")

    def waits(self, job: Job, work: Path) -> bool:
        """Whether the row's network is wanted, was trained here, and is in no archive yet."""
        here = job.done and (work / job.name / "result.json").is_file() and (work / job.name / _MODEL).is_file()
        return job.entry.networks and here and self._new(f"{job.name} network")

    def _new(self, what: str) -> bool:
        return not self.noted.is_file() or what not in self.noted.read_text(encoding="utf-8").splitlines()

    def _note(self, what: str) -> None:
        before = self.noted.read_text(encoding="utf-8") if self.noted.is_file() else ""
        write_text(self.noted, f"{before}{what}\n")

    def _into(self, path: Path, members: list[tuple[str, Path]], commit: bytes) -> bool:
        """Add to an archive, where that keeps it and all of them small enough."""
        before = path.read_bytes() if path.is_file() else b""
        others = sum(file.stat().st_size for file in path.parent.glob("*.zip")) - len(before)
        buffer = io.BytesIO(before)
        with zipfile.ZipFile(buffer, "a") as archive:
            if not before:
                archive.writestr("commit.txt", commit)
            for name, file in members:
                dense = file.suffix == ".safetensors"  # gains nothing
                archive.write(file, name, zipfile.ZIP_STORED if dense else zipfile.ZIP_DEFLATED)
        data = buffer.getvalue()
        if len(data) > MOST_BYTES or others + len(data) > MOST_TOGETHER:
            return False
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
        return True


@dataclass
class Shop:
    """The machine while it works through a queue.

    Attributes:
        jobs: In order.
        options: The command line.
        end: When rows must be done, by `time.monotonic`.
        measured: Seconds of finished rows by table and variant, the longest.
        guessed: What the queue says of finished rows, and what they took, seconds of all together.
        stopped: The signal that stops it; 0 none.
    """

    jobs: list[Job]
    options: argparse.Namespace
    end: float
    measured: dict[tuple[str, str], float] = field(default_factory=dict)
    guessed: tuple[float, float] = (0.0, 0.0)
    stopped: int = 0

    @property
    def work(self) -> Path:
        """Of the run folders."""
        return Path(self.options.root) / "runs"

    def expected(self, job: Job) -> float:
        """Seconds that a row will take."""
        guess, took = self.guessed
        known = self.measured.get((job.table.name, job.row.variant))
        return known if known is not None else job.entry.seconds * (took / guess if guess else 1.0)

    def running(self) -> list[Job]:
        """The rows that are being trained."""
        return [job for job in self.jobs if job.process is not None]

    def lacks(self, job: Job) -> str:
        """What a row needs that is not here; "" nothing."""
        needed = {job.entry.data: Path(self.options.root) / "data" / job.entry.data}
        weights = self.weights(job)
        if weights is not None:
            needed[job.entry.pretrained] = weights
        return ", ".join(name for name, path in needed.items() if not path.exists())

    def weights(self, job: Job) -> Path | None:
        """The file that a row starts from; None: what the recipe says."""
        name = job.entry.pretrained
        if not name:
            return None
        if name.endswith((".safetensors", ".pth")):
            return Path(self.options.root) / "weights" / name
        return self.work / name / _MODEL

    def startable(self) -> Iterator[Job]:
        """Rows that can be begun and finished, in order."""
        for job in self.jobs:
            if not (job.done or job.failed or job.process or self.lacks(job)) and self.expected(job) <= self.left():
                yield job

    def start(self, job: Job) -> None:
        """Begin a row, or go on with it."""
        options, weights = self.options, self.weights(job)
        command = [sys.executable, str(HERE.parent / "run.py"), str(job.table.path), "--row", job.row.name]
        command += ["--data", str(options.root / "data" / job.entry.data), "--work", str(self.work), "--keep-bundles"]
        command += ["--threads", str(options.threads), "--workers", str(job.entry.workers or options.workers)]
        command += ["--pretrained", str(weights)] if weights is not None else []
        # cuBLAS repeats itself only with this; a run asks for what can be repeated.
        more = {"OMP_NUM_THREADS": str(options.threads), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        log = self.log(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            job.process = subprocess.Popen(command, env={**os.environ, **more}, stdout=file, stderr=file)
        job.began = time.monotonic()
        print(f"{self.left():5.0f} s left: {job.name}, about {self.expected(job):.0f} s", flush=True)

    def reap(self, results: Results, commit: bytes) -> None:
        """Take in the rows that have ended."""
        for job in self.running():
            assert job.process is not None
            status = job.process.poll()
            if status is None:
                continue
            job.process, spent = None, time.monotonic() - job.began
            job.done = job.row.name in finished(job.table)
            if not job.done:
                job.failed = True
                told = self.log(job).read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
                print(f"{job.name} failed (exit status {status}) after {spent:.0f} s:", *told, sep="\n  ", flush=True)
                continue
            key = (job.table.name, job.row.variant)
            self.measured[key] = max(spent, self.measured.get(key, 0.0))
            self.guessed = self.guessed[0] + job.entry.seconds, self.guessed[1] + spent
            results.add(job, self.work, commit)
            last = self.log(job).read_text(encoding="utf-8", errors="replace").splitlines()[-1]
            print(f"{self.left():5.0f} s left: done in {spent:.0f} s: {last}", flush=True)

    def stop(self) -> None:
        """Stop the rows that are not done."""
        for job in self.running():
            assert job.process is not None
            job.process.terminate()
            print(f"{job.name} stopped after {time.monotonic() - job.began:.0f} s", flush=True)
        until = time.monotonic() + STOPPING
        for job in self.running():
            assert job.process is not None
            try:
                job.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            job.process = None

    def log(self, job: Job) -> Path:
        """Where a row's process says what it says."""
        return Path(self.options.root) / "logs" / f"{job.name}.log"

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()


def train_queue(shop: Shop, results: Results, commit: bytes) -> None:
    """Work until the time is over, a signal comes, or nothing is left that can be done."""
    for job in shop.jobs:  # of an earlier call on this machine
        if job.done:
            results.add(job, shop.work, commit)
    while not shop.stopped and shop.left() > 0:
        shop.reap(results, commit)
        if sum(job.failed for job in shop.jobs) >= MOST_FAILURES and not shop.measured:
            break
        for job in shop.startable():
            if len(shop.running()) >= shop.options.parallel:
                break
            shop.start(job)
        if not shop.running():
            break
        time.sleep(0.2)
    shop.stop()
    print(f"{sum(job.done for job in shop.jobs)} of {len(shop.jobs)} rows are done.")
    told = {
        "not here": sorted({what for job in shop.jobs if not job.done and (what := shop.lacks(job))}),
        "networks that wait for a next call": [job.name for job in shop.jobs if results.waits(job, shop.work)],
    }
    for what, names in told.items():
        if names:
            print(f"{what}: {', '.join(names)}")


def main() -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=HERE / "queue.toml")
    parser.add_argument("--tables", type=Path, default=HERE.parent, help="folder of the tables' folders")
    parser.add_argument("--root", type=Path, default=Path("/tmp/pesi"), help="what transfer.py installed")
    parser.add_argument("--out", type=Path, help="for the archives of results; default: none, only train")
    parser.add_argument("--seconds", type=float, default=480, help="in all; 0: only pack what waits")
    parser.add_argument("--reserve", type=float, default=15, help="of these, to stop and end in")
    parser.add_argument("--parallel", type=int, default=5, help="rows at once")
    parser.add_argument("--workers", type=int, default=2, help="loader processes a row")
    parser.add_argument("--threads", type=int, default=1, help="of a row's own process")
    parser.add_argument("--smoke", action="store_true", help="two short rows on synthetic images instead of the queue")
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    try:
        jobs = smoke_queue(options.root) if options.smoke else read_queue(options.queue, options.tables)
        shop = Shop(jobs, options, began + options.seconds - options.reserve)
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2

    def stop(number: int, frame: FrameType | None) -> None:
        shop.stopped = number

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    commit = options.root / "commit.txt"
    results = Results(options.out, options.root / "brought.txt")
    train_queue(shop, results, commit.read_bytes() if commit.is_file() else b"")
    return 128 + shop.stopped if shop.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
