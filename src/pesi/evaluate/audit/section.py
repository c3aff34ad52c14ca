"""What an audit is made of: sections of measured values, tables and figures, each with what it means for a patient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of the report, its cells as text.

    Attributes:
        caption: What it shows, a sentence.
        columns: Their headings.
        rows: Cells, one tuple a row, as many as columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"Table {self.caption!r}: a row has not {len(self.columns)} cells.")


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        svg: The drawing, text as outlines (`figures.svg_text`).
        caption: How to read it, a sentence.
        meaning: What it means for a patient, a sentence.
    """

    svg: str = field(repr=False)
    caption: str
    meaning: str

    @property
    def wide(self) -> bool:
        """Whether the drawing is too wide or too tall to stand beside another one."""
        sides = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)  # points, 72 an inch
        return sides is not None and (float(sides[1]) > 430 or float(sides[2]) > 400)


@dataclass(frozen=True)
class Section:
    """One topic of an audit.

    Attributes:
        key: Its name in `audit.json`, such as "calibration".
        title: Its heading in the report.
        summary: What was found, in one or two sentences for a clinician, figures with their intervals.
        meaning: What that means for a patient, a sentence.
        method: How it was measured, with the sources.
        values: Everything measured, plain values ready for JSON.
        tables, plots: What the report shows.
        pictures: Caption and PNG bytes.
    """

    key: str
    title: str
    summary: str
    meaning: str
    method: str
    values: Mapping[str, Any]
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    pictures: tuple[tuple[str, bytes], ...] = ()

    @property
    def headline(self) -> str:
        """The summary's first sentence."""
        return re.split(r"(?<=[.?!])\s+(?=[A-Z“])", self.summary, maxsplit=1)[0]


def figure_text(value: float | None, interval: tuple[float, float] | list[float] | None = None, digits: int = 3) -> str:
    """A value with its interval, such as "0.929 (0.893 to 0.958)"; "not measured" for None."""
    if value is None:
        return "not measured"
    text = f"{value:.{digits}f}"
    return f"{text} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval is not None else text
