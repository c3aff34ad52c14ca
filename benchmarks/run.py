"""Trains the rows of a table that have no result yet, one at a time, each in a process of its own.

    python benchmarks/run.py benchmarks/attention/pesi18.toml --data DIR --pretrained FILE

A row that was cut goes on after its last finished epoch. Several of these may work on one table at a time, on one
machine and with the same --work: each takes the next row that nobody has.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from locks import claimed
from rows import Table, chosen, load_table

from pesi.errors import PesiError

HERE = Path(__file__).resolve().parent
BUSY = 3  # train_row's exit status where another process has the row
MOST_FAILURES = 3  # in a row; then it is not the rows' fault


def run_table(table: Table, options: argparse.Namespace) -> int:
    """Train the chosen rows of a table.

    Returns:
        How many failed.
    """
    rows = chosen(table.rows(), options.only)
    work = options.work / table.path.parent.name / table.path.stem
    begun = failed = in_a_row = 0
    times: list[float] = []
    for row in rows:
        if options.limit is not None and begun >= options.limit:
            break
        if table.files(row).finished or claimed(work / f"{row.name}.claim"):
            continue
        done = sum(table.files(other).finished for other in rows)
        left = f", about {_span((len(rows) - done) * sum(times) / len(times))} to go" if times else ""
        print(f"[{done}/{len(rows)} done{left}] {table.name}: {row.name} ...", flush=True)
        started = time.perf_counter()
        status = _train(row.name, table, work, options)
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
    done = sum(table.files(row).finished for row in rows)
    print(f"[{done}/{len(rows)} done] {table.name}: results in {table.path.parent.name}/{table.path.stem}/rows")
    return failed


def _train(name: str, table: Table, work: Path, options: argparse.Namespace) -> int:
    """Exit status of the process that trains the row."""
    command = [sys.executable, str(HERE / "train_row.py"), name, str(table.path)]
    command += ["--data", str(options.data), "--work", str(work)]
    command += ["--threads", str(options.threads), "--workers", str(options.workers)]
    command += ["--pretrained", options.pretrained] if options.pretrained else []
    command += ["--keep-bundles"] if options.keep_bundles else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


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
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        for path in (options.data, None if options.pretrained == "imagenet" else options.pretrained):
            if path is not None and not Path(path).exists():
                raise PesiError(f"There is no {path}.", "Check the path.")
        return 1 if run_table(load_table(options.table), options) else 0
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
