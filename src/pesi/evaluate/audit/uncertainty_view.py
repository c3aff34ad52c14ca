"""The tables and figures of the audit's section on uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.conformal import SetCoverage
from pesi.evaluate import figures
from pesi.evaluate.audit.section import Plot, Table, figure_text
from pesi.stats.selective import REFERENCE, MeasureResult, Rest, risk_at, risk_band, risk_coverage

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_GRID = np.linspace(0.1, 1.0, 91)  # the error of fewer than a tenth of the images tells nothing


@dataclass(frozen=True)
class Question:
    """A decision whose errors are measured.

    Attributes:
        key: In `values`.
        title: What is decided, in words.
        wrong: Which images are decided wrongly, (N,).
        measures: Confidences to put the wrong ones last, name -> (N,), `REFERENCE` among them.
    """

    key: str
    title: str
    wrong: Bools
    measures: Mapping[str, Floats]


def words(name: str) -> str:
    """A name as a reader wants it."""
    return name.replace("_", " ")


def coverage_tables(coverages: Mapping[str, SetCoverage], by: str) -> list[Table]:
    """Coverage of each class, and sizes of the sets; wanted coverage (as text) -> what was measured, `by` what."""
    if not coverages:
        return []
    rows = []
    for key, c in coverages.items():
        entries = {"all": c.overall, **c.classes}
        for name, proportion in entries.items():
            wanted = float(key)
            rows.append(
                (
                    f"{wanted:.0%}",
                    words(name),
                    f"{proportion.successes} / {proportion.trials}",
                    figure_text(proportion.share, proportion.interval),
                    proportion.against(wanted) if proportion.trials else "not measured",
                )
            )
    sizes = [
        (
            f"{float(key):.0%}",
            f"{c.mean_size:.2f}",
            *(figure_text(p.share, p.interval) for p in (c.singletons, c.certain_and_right, c.empty)),
        )
        for key, c in coverages.items()
    ]
    return [
        Table(
            f"How often the prediction set held the true diagnosis, {by}.",
            ("wanted", "images of", "held / images", "share (95 % interval)", "against the wanted"),
            tuple(rows),
        ),
        Table(
            f"How much the prediction sets told, {by}.",
            ("wanted", "mean size", "one diagnosis", "of these right", "empty"),
            tuple(sizes),
        ),
    ]


def entropy_table(entropies: Mapping[str, Any]) -> Table:
    """The parts of the entropy of right and wrong answers."""
    columns = ("total", "expected", "mutual_information")
    return Table(
        "Entropy of the answers, as shares of the largest possible: in total, shared by every view, and what the views "
        "disagree about.",
        ("answers", "images", "total", "shared by the views", "disagreement of the views"),
        tuple(
            (group, str(entry["images"]), *(figure_text(entry[name], entry[f"{name}_ci"], 4) for name in columns))
            for group, entry in entropies.items()
        ),
    )


def measure_table(question: Question, results: Mapping[str, MeasureResult]) -> Table:
    """AURC of each measure of confidence, and its difference to the reference."""
    return Table(
        f"How well each measure of confidence puts the wrong answers last, where {question.title}: AURC, lower is "
        "better, and its difference to that of the maximum probability on the same images.",
        ("confidence", "AURC", "excess over the best possible", "difference", "verdict"),
        tuple(
            (
                words(name),
                figure_text(r.aurc.value, r.aurc.interval, 4),
                figure_text(r.excess.value, r.excess.interval, 4),
                "" if name == REFERENCE else figure_text(r.difference.value, r.difference.interval, 4),
                "compared with" if name == REFERENCE else r.verdict,
            )
            for name, r in results.items()
        ),
    )


def rest_table(rests: Mapping[str, Sequence[Rest]], images: int) -> Table:
    """Rates among the answered images at each share without a result."""
    rows = []
    for name, parts in rests.items():
        for rest in parts:
            change = (
                "" if not rest.withheld or not rest.change else figure_text(rest.change.value, rest.change.interval)
            )
            rate = figure_text(rest.rate.value, rest.rate.interval) if rest.rate else "not measured"
            rows.append((name, f"{rest.withheld:.0%}", f"{rest.of:.0f}", rate, change))
    return Table(
        "What is left when the images of the lowest maximum probability (where said, those nearest the threshold) get "
        f'no result, of {images} images; rows "of all" count those without a result as seen by a doctor.',
        ("rate among the answered", "no result", "images it is of", "rate", "change"),
        tuple(rows),
    )


def coverage_plot(coverages: Mapping[str, SetCoverage]) -> Plot:
    """Measured coverage of each class against the wanted."""
    figure, axes = figures.new_axes(5.4, 3.8)
    groups = ["all", *next(iter(coverages.values())).classes]
    for index, (key, c) in enumerate(coverages.items()):
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        axes.axhline(float(key), color=colour, linestyle=figures.STYLES[1], linewidth=0.9)
        for place, proportion in enumerate((c.overall, *c.classes.values())):
            if proportion.share is None:
                continue
            low, high = proportion.interval
            x = place + 0.16 * (index - (len(coverages) - 1) / 2)
            axes.errorbar(
                x, proportion.share, yerr=[[proportion.share - low], [high - proportion.share]], fmt="os"[index % 2],
                color=colour, capsize=3, label=f"{float(key):.0%} wanted" if not place else None,
            )  # fmt: skip
    axes.set_xticks(range(len(groups)), [name.replace("_", "\n") for name in groups])
    axes.set(ylabel="sets that hold the true diagnosis", ylim=(None, 1.01), title="Coverage of the prediction sets")
    axes.legend(loc="lower right", frameon=False)
    return Plot(
        figures.svg_text(figure),
        "Points with 95 % intervals are measured, dashed lines are wanted; a line within its intervals is as promised.",
        "Whichever disease a patient has, the list of possible diagnoses should hold it as often as it says.",
    )


def risk_plot(question: Question, strata: NDArray, *, replicates: int, seed: int) -> Plot:
    """Risk-coverage curves, the reference's with its band."""
    figure, axes = figures.new_axes(5.4, 4.6)
    value, low, high = risk_band(
        question.wrong,
        question.measures[REFERENCE],
        _GRID,
        strata,
        replicates=min(replicates, 500),
        seed=seed,
    )
    axes.fill_between(_GRID, low, high, color=figures.COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(_GRID, value, figures.STYLES[0], color=figures.COLOURS[0], label=words(REFERENCE))
    others = [name for name in question.measures if name not in (REFERENCE, "margin", "negative_spread")]
    for index, name in enumerate(others, start=1):
        risk = risk_at(risk_coverage(question.wrong, question.measures[name]), _GRID)[0]
        style, colour = figures.STYLES[index % 4], figures.COLOURS[index % len(figures.COLOURS)]
        axes.plot(_GRID, risk, style, color=colour, linewidth=1.2, label=words(name))
    best = risk_at(risk_coverage(question.wrong, -question.wrong.astype(np.float64)), _GRID)[0]
    axes.plot(_GRID, best, color="#888888", linewidth=0.8, label="every error last")
    axes.axhline(float(question.wrong.mean()), color="#888888", linestyle=":", linewidth=0.8)
    axes.set(xlabel="share of the images answered", ylabel="error of the answers", xlim=(0.1, 1), ylim=(0, None))
    axes.set_title(question.title.capitalize(), fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return Plot(
        figures.svg_text(figure),
        "From right to left ever more of the least sure images get no result; the band holds 95 % of the resamples of "
        "the maximum probability's curve, the dotted line is the error when everything is answered.",
        "The lower the curve on the left, the more a patient can rely on an answer that the network calls sure.",
    )
