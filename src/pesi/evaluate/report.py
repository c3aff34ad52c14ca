"""The report: one self-contained HTML page; no script, no request leaves it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pesi.evaluate import figures
from pesi.evaluate.evaluation import Evaluation
from pesi.files import write_text


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
        attention: Shares of attention inside the lesion (`localisation.summarise`), where there were masks.
    """
    plots = []
    if evaluation.bands:
        plots += [
            (
                figures.roc_figure(evaluation),
                "Each point is a threshold: how many lesions of the class are found against how many others are "
                "called by mistake. The dot is the threshold of the table; the band holds 95 % of resamples, "
                f"which draw {evaluation.scores['bootstrap']['drawn']}.",
            ),
            (
                figures.precision_figure(evaluation),
                "Of the lesions called, how many have the class, the more of them are found. The thin line is what "
                "calling at random would give.",
            ),
            (
                figures.reliability_figure(evaluation),
                "On the diagonal a probability of 30 % means 3 in 10. Points above it: the classifier says too little.",
            ),
            (
                figures.histogram_figure(evaluation),
                "The less the two overlap, the fewer lesions a threshold gets wrong.",
            ),
        ]
    if "multiclass" in evaluation.scores:
        plots.append(
            (figures.confusion_figure(evaluation), "Rows are the truth: which class is taken for which, and how often.")
        )
    environment = Environment(loader=PackageLoader("pesi.evaluate"), autoescape=True, undefined=StrictUndefined)
    environment.filters["score"] = _score
    text = environment.get_template("report.html.j2").render(
        title=title,
        scores=evaluation.scores,
        provenance=provenance,
        attention=attention,
        # The plots are ours (matplotlib's, all text as outlines): safe to set in as they are.
        plots=[(Markup(svg), caption) for svg, caption in plots],
        pictures=[(caption, base64.b64encode(png).decode()) for caption, png in pictures],
    )
    write_text(path, text)


def _score(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")
