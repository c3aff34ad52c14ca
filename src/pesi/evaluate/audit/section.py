"""What an audit is made of: sections of measured values and drawings; what is said of them is in a template each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.report import environment


def block(template: Template, name: str, context: Mapping[str, Any]) -> Markup:
    """One block of a template."""
    return Markup("".join(template.blocks[name](template.new_context(dict(context)))))


def plain(markup: Markup) -> str:
    """The text of a block, in one line."""
    return markup.striptags()


@dataclass(frozen=True)
class Section:
    """One topic of an audit.

    `templates/audit/KEY.html.j2` holds its words: the blocks title, summary (what was found, for a clinician), meaning
    (for a patient), method (with the sources), tables and figures.

    Attributes:
        key: Its name in `audit.json`, such as "calibration", and its template's.
        data: The images.
        options: How it was measured.
        values: Everything measured, plain values ready for JSON; `v` in the template.
        plots: Name -> drawing, SVG with its text as outlines (`figures.svg_text`).
        pictures: Caption and PNG bytes.
        shown: What the template needs besides.
    """

    key: str
    data: AuditData = field(repr=False)
    options: AuditOptions
    values: Mapping[str, Any]
    plots: Mapping[str, str] = field(default_factory=dict, repr=False)
    pictures: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    shown: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def _block(self, name: str) -> Markup:
        context = {"v": self.values, "data": self.data, "options": self.options, "plots": self.plots} | dict(self.shown)
        return block(environment().get_template(f"audit/{self.key}.html.j2"), name, context)

    @property
    def title(self) -> str:
        """Its heading in the report."""
        return plain(self._block("title"))

    @property
    def summary(self) -> str:
        """What was found, in one or two sentences for a clinician, figures with their intervals."""
        return plain(self._block("summary"))

    @property
    def headline(self) -> str:
        """The summary's first sentence."""
        return re.split(r"(?<=[.?!])\s+(?=[A-Z“])", self.summary, maxsplit=1)[0]

    @property
    def meaning(self) -> str:
        """What that means for a patient, a sentence."""
        return plain(self._block("meaning"))

    @property
    def method(self) -> str:
        """How it was measured, with the sources."""
        return plain(self._block("method"))

    @property
    def tables(self) -> Markup:
        """The tables, HTML."""
        return self._block("tables")

    @property
    def figures(self) -> Markup:
        """The plots with their captions, HTML."""
        return self._block("figures")
