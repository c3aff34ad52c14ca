"""Things timed against each other: one after the other, again and again; and the table that keeps what came out."""

from __future__ import annotations

import csv
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pesi.errors import PesiError
from pesi.files import write_text

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).resolve().parent / "measured.csv"


class Subject(NamedTuple):
    """What is timed: a network (or whatever), in which form, by which runtime and precision."""

    what: str
    form: str = ""
    runtime: str = ""
    precision: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        section: Of the measurement.
        what, form, runtime, precision: See `Subject`.
        images: Of one measurement.
        unit: Of the value.
        value, low, high: Median and quartiles of the repeats; of `image` the third is the 95th percentile.
        repeats: How many there were.
        against: The subject that was measured alternately with it, and
        ratio, ratio_low, ratio_high: How many times as fast (or small) as that it is, median and quartiles.
        limit: Share of what the machine can do at most, 0..1.
        threads, load, processor, instructions, torch, commit: Where and with what; the load is that a core.
    """

    section: str
    what: str
    form: str
    runtime: str
    precision: str
    images: int
    unit: str
    value: float
    low: float
    high: float
    repeats: int = 1
    against: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    limit: float | None = None
    threads: int = 0
    load: float = 0.0
    processor: str = ""
    instructions: str = ""
    torch: str = ""
    commit: str = ""

    @property
    def subject(self) -> Subject:
        """What it is of."""
        return Subject(self.what, self.form, self.runtime, self.precision)


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles; of one value, three times that."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def alternating(works: Mapping[Subject, Callable[[], float]], repeats: int) -> dict[Subject, list[float]]:
    """What each work gives, `repeats` times, in rounds: whatever slows the machine for a while slows all.

    Every second round goes backwards, so that none always follows the same one.
    """
    found: dict[Subject, list[float]] = {name: [] for name in works}
    for number in range(repeats):
        for name in list(works) if number % 2 == 0 else list(works)[::-1]:
            found[name].append(works[name]())
    return found


def figures(
    section: str,
    unit: str,
    found: Mapping[Subject, Sequence[float]],
    against: Callable[[Subject], Subject | None],
    images: int = 0,
) -> Iterator[Figure]:
    """A figure of each subject, from what was found in the same rounds.

    Args:
        section: Of the measurement.
        unit: Of the values; `images/s`: they were seconds for so many images.
        found: Seconds, or bytes.
        against: With which of the others one is compared, if with any.
        images: Of one measurement.
    """
    for subject, values in found.items():
        base = against(subject)
        value = spread([images / one for one in values] if unit == "images/s" else values)
        plain = Figure(section, *subject, images, unit, *value, len(values))
        if base is None or base not in found:
            yield plain
        else:
            ratio = spread([other / one for other, one in zip(found[base], values, strict=True)])
            yield replace(plain, against=str(base), ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)


def seconds_of(work: Callable[[], object], calls: int = 1) -> float:
    """Seconds a call."""
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


class Ended(NamedTuple):
    """A process that has ended: seconds by the clock and of processors, bytes held at most with those below it."""

    seconds: float
    processor: float
    memory: int
    output: str


def process(arguments: Sequence[str | Path], *, source: Path = ROOT, threads: int = 0) -> Ended:
    """Run Python with the package of a source tree to its end.

    Args:
        arguments: After `python`.
        source: The tree.
        threads: 0: as many as the package takes by itself.

    Raises:
        PesiError: It failed; a status of 1 (some images refused) is none.
    """
    environment = os.environ | {"PYTHONPATH": str(source / "src")}
    for name in ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"):  # an installation has its bytecode
        environment.pop(name, None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command, held = [sys.executable, *map(str, arguments)], 0
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with subprocess.Popen(command, env=environment, stdout=out, stderr=err) as running:
            while True:
                try:
                    running.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    held = max(held, _held(running.pid))
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0)
        err.seek(0)
        output, errors = out.read().decode(), err.read().decode(errors="replace")
    if running.returncode not in (0, 1):
        raise PesiError(f"{' '.join(command)} ended with {running.returncode}: {errors[-2000:]}")
    worked = sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))
    return Ended(seconds, worked, held, output)


def _held(pid: int) -> int:
    """Bytes of memory that a process and those below it hold, what they share counted once (proc(5), Pss)."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(_held(int(child)) for child in children.read_text(encoding="ascii").split())
    except OSError:  # it has ended
        pass
    return total


def write_table(path: Path, figures: Sequence[Figure]) -> None:
    """Write figures as CSV; those of other sections that are there stay."""
    sections = {figure.section for figure in figures}
    together = [figure for figure in read_table(path) if figure.section not in sections] + list(figures)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Figure)], lineterminator="\n")
    writer.writeheader()
    for figure in together:
        rounded = {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(figure).items()}
        writer.writerow({k: "" if v is None else v for k, v in rounded.items()})
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[Figure]:
    """Read what `write_table` wrote; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [Figure(**{name: _READ[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]


def _number(text: str) -> float | None:
    return float(text) if text else None


_READ: dict[str, Callable[[str], Any]] = {
    field.name: {"str": str, "int": int, "float": float}.get(str(field.type), _number) for field in fields(Figure)
}
