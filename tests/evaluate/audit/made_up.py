"""Answers that no network gave, of images that do not exist."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np

from pesi.datasets.records import record_table
from pesi.evaluate.audit.data import AuditData
from pesi.taxonomy import TASKS

CODES = ("MEL", "SK", "NV")


def made_up_data(classes, logits, probabilities, *, fitted_on=False, images_a_lesion=None):
    """ISIC 2017's task; classes (N,), logits (N, V, K), probabilities (N, K); no pictures, no masks."""
    count = len(classes)
    rows = [
        {"image_id": f"i{i}", "path": f"{i}.jpg", "diagnosis": CODES[k], "split": "val", "source": "made up"}
        | ({"lesion_id": f"lesion {i // images_a_lesion}"} if images_a_lesion else {})
        for i, k in enumerate(classes)
    ]
    return AuditData(
        "made-up answers",
        record_table(rows),
        TASKS["isic2017"],
        classes,
        np.zeros((count, 1, 1, 3), np.uint8),
        np.zeros((count, 1, 1), bool),
        np.zeros(count, bool),
        logits,
        np.zeros((count, 2), np.float32),
        probabilities,
        np.full(count, -1),
        fitted_on=fitted_on,
    )


class Table(NamedTuple):
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class _Tables(HTMLParser):
    """The tables of a page, by the standard library's parser."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, list]] = []
        self.tag = ""

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.found.append({"caption": [], "rows": []})
        elif tag == "tr":
            self.found[-1]["rows"].append([])
        elif tag in ("th", "td"):
            self.found[-1]["rows"][-1].append("")
        self.tag = tag

    def handle_data(self, data):
        if self.tag in ("th", "td"):
            self.found[-1]["rows"][-1][-1] += data
        elif self.tag == "caption":
            self.found[-1]["caption"].append(data)

    def handle_endtag(self, tag):
        self.tag = ""


def tables(section) -> list[Table]:
    """The tables of an audit's section; each row has as many cells as there are columns."""
    parser = _Tables()
    parser.feed(section.tables)
    found = []
    for table in parser.found:
        columns, *rows = map(tuple, table["rows"])
        assert all(len(row) == len(columns) for row in rows)
        found.append(Table("".join(table["caption"]), columns, tuple(rows)))
    return found


def every_plot_is_told(section) -> None:
    """Each drawing is shown, with a caption and what it means for a patient."""
    shown = section.figures
    assert shown.count("<svg") == shown.count('class="patient"') == sum(map(bool, section.plots.values()))
    assert shown.count("<svg") == shown.count('role="img"')
    assert "nan" not in re.sub("<svg.*?</svg>", "", shown, flags=re.DOTALL).split()
