"""Reports from templates: how these are read and write numbers; self-contained HTML pages, no script, no request."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pesi.evaluate import figures
from pesi.evaluate.evaluation import Evaluation
from pesi.files import write_text
from pesi.stats.reliability import reliability_diagram


@cache
def environment() -> Environment:
    """Where the templates are, with the filters that write numbers; macros of `parts.html.j2` are known in all."""
    pages = Environment(
        loader=PackageLoader("pesi.evaluate"),
        autoescape=lambda name: name is None or ".html" in name,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # The plots are matplotlib's own, all text as outlines: safe to set in as they are.
    pages.filters |= {"drawing": Markup, "wide": is_wide, "base64": lambda data: base64.b64encode(data).decode()}
    pages.filters |= {"words": words, "figure": figure_text, "signed": signed_text, "percent": percent_text}
    parts = pages.get_template("parts.html.j2").module
    pages.globals |= {name: getattr(parts, name) for name in ("table", "row", "plot", "decided", "found")}
    return pages


def words(name: str) -> str:
    """A name as one reads it."""
    return name.replace("_", " ")


def with_interval(value: Any, interval: Sequence[Any] | None = None) -> tuple[Any, Any, Any]:
    """Value, low and high end: of a number, of the three in a row, or of a mapping with `ci`, or `low` and `high`."""
    if isinstance(value, Mapping):
        low, high = value["ci"] if "ci" in value else (value["low"], value["high"])
        return next(value[key] for key in ("value", "share", "difference") if key in value), low, high
    if isinstance(value, Sequence):
        return value[0], value[1], value[2]
    return (value, *interval) if interval is not None else (value, None, None)


def figure_text(value: Any, interval: Sequence[Any] | None = None, digits: int = 3) -> str:
    """A value with its interval (`with_interval`), such as "0.929 (0.893 to 0.958)"; "not measured" for None."""
    value, low, high = with_interval(value, interval)
    if value is None:
        return "not measured"
    upper = "no limit" if high is None else f"{high:.{digits}f}"
    return f"{value:.{digits}f}" + (f" ({low:.{digits}f} to {upper})" if low is not None else "")


def signed_text(value: Any, interval: Sequence[Any] | None = None) -> str:
    """A difference with its interval, such as "+0.012 (-0.003 to +0.027)"; "not measured" for None."""
    value, low, high = with_interval(value, interval)
    return "not measured" if value is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def percent_text(value: Any, digits: int = 0) -> str:
    """A share in percent: a number such as "12%"; with its interval "12%, 9% to 16%"."""
    value, low, high = with_interval(value)
    text = f"{value:.{digits}%}"
    return text if low is None else f"{text}, {low:.{digits}%} to {high:.{digits}%}"


def is_wide(svg: str) -> bool:
    """Whether a drawing is too wide or too tall to stand beside another one."""
    sides = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)  # points, 72 an inch
    return sides is not None and (float(sides[1]) > 430 or float(sides[2]) > 400)


def write_report(
    evaluation: Evaluation,
    path: str | Path,
    *,
    title: str,
    provenance: Mapping[str, Any],
    pictures: Sequence[tuple[str, bytes]] = (),
    attention: Mapping[str, Any] | None = None,
) -> None:
    """Write an evaluation as a web page.

    Args:
        evaluation: What to report.
        path: The .html file.
        title: The page's title.
        provenance: Name -> value, shown as a table: which bundle, which images, how predicted.
        pictures: Caption and PNG bytes.
        attention: Shares of attention inside the lesion (`summarise_attention`), where there were masks.
    """
    plots = {}
    if evaluation.bands:
        plots = {
            "roc": figures.roc_figure(evaluation),
            "precision": figures.precision_figure(evaluation),
            "reliability": figures.reliability_figure(_reliability(evaluation)),
            "histogram": figures.histogram_figure(evaluation),
        }
    if "multiclass" in evaluation.scores:
        plots["confusion"] = figures.confusion_figure(evaluation)
    text = environment().get_template("report.html.j2").render(
        title=title,
        scores=evaluation.scores,
        provenance=provenance,
        attention=attention,
        plots=plots,
        pictures=pictures,
    )  # fmt: skip
    write_text(path, text)


def _reliability(evaluation: Evaluation, bins: int = 8) -> dict[str, Any]:
    """Class -> its reliability diagram."""
    data, task = evaluation.aligned, evaluation.task
    return {
        name: reliability_diagram(data.column(name), data.task_labels(task, name), bins, groups=data.groups)
        for name in evaluation.bands
    }
