"""The tables of docs/speed.md, from what `measure.py` has written.

    python benchmarks/speed/report.py [--price 0.04]

Writes each table into its place in the page, between `<!-- speed: NAME -->` and `<!-- end -->`; the text around them is
written by hand. `--price` is what an hour of one core costs, in any currency.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from page import markdown
from paired import ROOT, TABLE, Figure, read_table

from pesi.files import write_text

PAGE = ROOT / "docs" / "speed.md"
MILLIONS = 10_000_000
_PLACE = re.compile(r"(<!-- speed: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)
_SMALL = {"s": ("ms", 1e3), "bytes": ("MB", 1e-6), "operations/s": ("G/s", 1e-9), "bytes/s": ("GB/s", 1e-9)}


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def value(figure: Figure) -> str:
    """A figure with its spread and unit."""
    unit, scale = _SMALL.get(figure.unit, (figure.unit, 1.0))
    one, low, high = (number(each * scale) for each in (figure.value, figure.low, figure.high))
    return f"{one} {unit}" if low == high else f"{one} ({low} to {high}) {unit}"


def times(figure: Figure) -> str:
    """How many times as fast as what it was compared with."""
    if figure.ratio is None or figure.ratio_low is None or figure.ratio_high is None:
        return ""
    low, high = number(figure.ratio_low), number(figure.ratio_high)
    return number(figure.ratio) if low == high else f"{number(figure.ratio)} ({low} to {high})"


def cost(figure: Figure) -> str:
    """How much more than what it was compared with it takes."""
    if figure.ratio is None or figure.ratio_low is None or figure.ratio_high is None:
        return ""
    each = [f"{100 * (1 / ratio - 1):+.0f}" for ratio in (figure.ratio, figure.ratio_high, figure.ratio_low)]
    return f"{each[0]} % ({each[1]} to {each[2]})" if each[1] != each[2] else f"{each[0]} %"


def share(figure: Figure) -> str:
    """Of what the machine can do."""
    return "" if figure.limit is None else f"{figure.limit:.2f}"


Column = tuple[str, Callable[[Figure], str]]
WHAT: Sequence[Column] = (("network", lambda one: one.what), ("form", lambda one: one.form))
RUN: Sequence[Column] = (("runtime", lambda one: f"{one.runtime} {one.precision}"),)


def table(figures: Iterable[Figure], *columns: Column) -> str:
    """A row a figure."""
    return markdown([name for name, _ in columns], [[cell(one) for _, cell in columns] for one in figures])


def machine(figures: Sequence[Figure]) -> str:
    """Where it was measured, and when what else ran."""
    rows = {(one.processor, one.instructions, one.torch, str(one.threads)): [] for one in figures}  # type: ignore[var-annotated]
    for one in figures:
        rows[one.processor, one.instructions, one.torch, str(one.threads)].append(one)
    return markdown(
        ("processor", "instruction sets", "torch", "threads", "load a core before", "commits"),
        [
            [*where, f"{max(one.load for one in own):.2f}", ", ".join(sorted({one.commit[:10] for one in own}))]
            for where, own in rows.items()
        ],
    )


def archive(figures: Sequence[Figure], price: float) -> str:
    """What 10 million images take, by the largest folder that was measured."""
    rows = []
    for form in dict.fromkeys(one.form for one in figures if one.section == "folder"):
        own = [one for one in figures if (one.section, one.form) == ("folder", form)]
        most = max(one.images for one in own)
        found = {one.unit: one.value for one in own if one.images == most}
        hours = MILLIONS / found["images/s"] / 3600
        core_hours = MILLIONS * found["processor s/image"] / 3600
        many = [f"{number(hours / machines)} h" for machines in (1, 10, 100)]
        rows.append([form, number(found["images/s"]), *many, number(core_hours), number(core_hours * price)])
    head = ["classifier", "images/s", "1 machine", "10", "100", "core hours", f"at {price:g} a core hour"]
    return markdown(head, rows)


def tables(figures: Sequence[Figure], price: float) -> dict[str, str]:
    """Each table of the page by its name."""

    def of(*sections: str) -> list[Figure]:
        return [one for one in figures if one.section in sections]

    def speed(section: str) -> str:
        return table(of(section), *WHAT, *RUN, ("images/s", value), ("times eager", times), ("of the limit", share))

    attention = [one for one in of("batch attention", "single attention", "training") if one.against]
    what: Column = ("what", lambda one: one.what)
    form: Column = ("classifier", lambda one: one.form)
    return {
        "machine": machine(figures),
        "limits": table(of("limits"), what, ("precision", lambda one: one.precision), ("at most", value)),
        "batch": speed("batch"),
        "single": speed("single"),
        "image": table(of("image"), form, *RUN, ("median (lower quartile to 95th percentile)", value)),
        "cold": table(of("cold"), what, form, *RUN, ("from start to end", value)),
        "decode": table(of("decode"), what, ("", value), ("times OpenCV", times)),
        "training": table(of("training"), *WHAT, *RUN, ("batch", lambda one: str(one.images)), ("", value)),
        "attention": table(
            attention,
            ("what", lambda one: "memory, training" if one.unit == "bytes" else one.section),
            *WHAT,
            *RUN,
            ("more than the plain network", cost),
        ),
        "folder": table(of("folder"), what, form, ("", value), ("of the limit", share)),
        "before": table(of("before"), what, form, ("images/s", value), ("times as fast", times)),
        "archive": archive(figures, price),
    }


def filled(page: str, found: dict[str, str]) -> str:
    """The page with its tables.

    Raises:
        KeyError: It has a place for a table that there is not.
    """
    return _PLACE.sub(lambda place: f"{place[1]}{found[place[2]]}\n{place[3]}", page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--price", type=float, default=0.04, help="of an hour of one core")
    options = parser.parse_args()
    found = tables(read_table(options.table), options.price)
    write_text(options.page, filled(options.page.read_text(encoding="utf-8"), found))


if __name__ == "__main__":
    main()
