"""Trains the rows of a table that have no result yet, one at a time, each in a process of its own.

    python benchmarks/run.py benchmarks/attention/pesi18.toml --data DIR --pretrained FILE

A row that was cut goes on after its last finished epoch. Several of these may work on one table at a time, on one
machine and with the same --work: each takes the next row that nobody has. `pack.py` packs what is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from pack import finished
from table import Table, chosen, load_table

from pesi.errors import PesiError

HERE = Path(__file__).resolve().parent
BUSY = 3  # exit status of a row that another process has
MOST_FAILURES = 3  # in a row; then it is not the rows' fault


@contextmanager
def claim(work: Path, *names: str) -> Iterator[bool]:
    """Claim rows by files that the system locks; it lets go of them when the process ends, however it ends.

    Args:
        work: Folder of the table's run folders.
        names: The rows.

    Yields:
        Whether they are ours; False: another living process has one.
    """
    work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        ours = True
        try:
            for name in sorted(names):
                locks.enter_context(FileLock(work / f"{name}.claim", blocking=False))
        except Timeout:
            ours = False
        yield ours


def run_table(table: Table, options: argparse.Namespace) -> int:
    """Train the chosen rows of a table, each in a process that gets the same command line and the row's name.

    Returns:
        How many failed.
    """
    rows = chosen(table.rows(), options.only)
    begun = failed = in_a_row = 0
    times: list[float] = []

    def done() -> str:
        return f"[{sum(row.name in there for row in rows)}/{len(rows)} done"

    for row in rows:
        there = finished(table)
        with claim(_work(table, options), row.name) as free:
            pass
        if row.name in there or not free:
            continue
        if begun == options.limit:
            break
        left = sum(row.name not in there for row in rows)
        span = f", about {_span(left * sum(times) / len(times))} to go" if times else ""
        print(f"{done()}{span}] {table.name}: {row.name} ...", flush=True)
        started = time.perf_counter()
        status = _start(row.name, options.threads)
        if status == BUSY:
            continue
        begun += 1
        if status == 0:
            times.append(time.perf_counter() - started)
            in_a_row = 0
        else:
            failed, in_a_row = failed + 1, in_a_row + 1
            print(f"{row.name} failed (exit status {status}); it will go on when this is run again.", flush=True)
            if in_a_row == MOST_FAILURES:
                raise PesiError(f"{in_a_row} rows in a row failed.", "See what they said above; then run this again.")
    there = finished(table)
    print(f"{done()}] {table.name}. To pack what is done: python benchmarks/pack.py {table.path}")
    return failed


def _work(table: Table, options: argparse.Namespace) -> Path:
    return Path(options.work) / table.name


def _start(name: str, threads: int) -> int:
    """Exit status of the process that trains the row."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([sys.executable, *sys.argv, "--row", name], env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _train(name: str, table: Table, options: argparse.Namespace) -> int:
    """Train a row in this process.

    Returns:
        The exit status.
    """
    from train_row import network_row, train_row

    from pesi.machine import keep_memory

    keep_memory()
    warnings.filterwarnings("ignore", message=".*logging interval.*")  # a short epoch is no mistake here
    work = _work(table, options)
    row = chosen(table.rows(), [name])[0]
    with claim(work, *{name, network_row(table, row).name}) as ours:
        if not ours:
            return BUSY
        if name not in finished(table):
            kept = ("data", "pretrained", "threads", "workers", "keep_bundles")
            print(train_row(table, row, work=work, **{key: getattr(options, key) for key in kept}), flush=True)
    return 0


def _span(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument(
        "--pretrained", help='weights to start from, a file or "imagenet"; default: what the recipe says'
    )
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "benchmarks", help="for the run folders")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help='rows by name, such as "none-s0-*"')
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="loader processes a row (for a GPU)")
    parser.add_argument("--limit", type=int, metavar="N", help="begin at most N rows")
    parser.add_argument("--keep-bundles", action="store_true", help="keep the trained networks in the run folders")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # train this one, in this process
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for path in (options.data, None if options.pretrained == "imagenet" else options.pretrained):
            if path is not None and not Path(path).exists():
                raise PesiError(f"There is no {path}.", "Check the path.")
        table = load_table(options.table)
        if options.row:
            return _train(options.row, table, options)
        return 1 if run_table(table, options) else 0
    except PesiError as error:
        print(f"{options.row}: {error}" if options.row else error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not options.row:
            print("Stopped; run the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
