"""How the audit shows operating points: summary, tables and decision curves of what `operating` measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pesi.decide.operating import Criterion, Interval
from pesi.evaluate import figures
from pesi.evaluate.audit.section import Plot, Table, figure_text
from pesi.stats.decision import Decision, DecisionCurve

PointKey = tuple[str, Criterion, float]  # class, criterion, how much of it is wanted
Triage = Mapping[str, list[dict[str, Any]] | None]  # how it was set -> its levels; None: too few images to set it
AT = "sensitivity_0.90"  # the bundle's threshold that a summary tells
UNSET = "too few images to set it"
FEW = 50  # images with the disease, below which a summary says that they are few


def cell(decision: Decision, name: str, digits: int = 3) -> str:
    """A value with its interval; "not defined" where there is none, and why where no threshold could be set."""
    if decision.called is None:
        return UNSET
    value, (low, high) = decision.values[name]
    if value is None:
        return "not defined"
    if low is None:
        return figure_text(value, digits=digits)
    upper = "no limit" if high is None else f"{high:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {upper})"


def plain(name: str) -> str:
    """A class's name as one reads it."""
    return name.replace("_", " ")


def summary(
    disease: str | None,
    with_it: int,
    points: Mapping[PointKey, Decision],
    shipped: Mapping[tuple[str, str, float], Decision],
    curves: Mapping[str, DecisionCurve],
    triage: Triage,
) -> str:
    """What was found, for a clinician.

    Args:
        disease: What the decisions are about.
        with_it: How many images have it.
        points, shipped, curves, triage: What was measured.
    """
    if disease is None:
        return "Nothing could be measured: these images are all of one kind."
    point = points[disease, "sensitivity", 0.90]
    aim = f"threshold set for 90 % sensitivity to {plain(disease)}"
    if point.called is None:
        text = f"What a {aim} comes to is not measured: {UNSET} on some and measure it on others."
    else:
        text = (
            f"A {aim} finds {cell(point, 'sensitivity')} of it among images that did not set it, at a specificity of "
            f"{cell(point, 'specificity')}; where 10 % of the lesions looked at have it, "
        )
        if point.values["nne@0.1"][0] is None:
            text += "how many it excises for each that has it is not defined."
        else:
            text += f"that excises {cell(point, 'nne@0.1', 1)} lesions for each that has it."
    own = [decision for (name, point_name, _), decision in shipped.items() if (name, point_name) == (disease, AT)]
    if own:
        text += (
            f" The threshold that the bundle ships with for it comes to a sensitivity of {cell(own[0], 'sensitivity')} "
            f"and a specificity of {cell(own[0], 'specificity')} here."
        )
    text += " " + _benefit(curves)
    if levels := triage.get("cross-fitted"):
        last = levels[-1]
        text += f" The triage's {last['level']!r} takes {last['images']} images, {last['malignant']} of them malignant"
        text += f" ({figure_text(last['malignant_share'], last['malignant_share_ci'])})." if last["images"] else "."
    elif "cross-fitted" in triage:
        text += f" The triage is not measured either: {UNSET}."
    if with_it < FEW:
        images = "1 image has" if with_it == 1 else f"{with_it} images have"
        text += f" Only {images} it: the intervals are wide."
    return text


def _benefit(curves: Mapping[str, DecisionCurve]) -> str:
    """Where deciding by the probability is shown to be better, at each prevalence."""
    found = []
    for label, curve in curves.items():
        among = f"{curve.prevalence:.0%} have it" + ", as here" * (label == "own")
        if curve.useful:
            low, high = max(curve.useful, key=lambda part: part[1] - part[0])
            found.append(f"{low:.1%} to {high:.1%} where {among}")
        else:
            found.append(f"no risk where {among}")
    if not any(curve.useful for curve in curves.values()):
        return "Deciding by the probability is not shown to be better than excising all or none."
    return (
        "Deciding by the probability is shown to be better than excising all or none for those who would have a lesion "
        f"out at a risk of {', of '.join(found)}."
    )


def tables(
    disease: str | None,
    points: Mapping[PointKey, Decision],
    expected: Mapping[PointKey, tuple[Interval | None, Interval | None]],
    shipped: Mapping[tuple[str, str, float], Decision],
    triage: Triage,
) -> tuple[Table, ...]:
    """Every table of the section."""
    shown = [_rates(points, expected)]
    calls = {f"{c} {w:.2f}": d for (name, c, w), d in points.items() if name == disease and d.called is not None}
    if disease is not None and calls:
        shown.append(_predictive(calls, disease))
    if shipped:
        shown.append(
            Table(
                "The thresholds that the bundle ships with, as they are, on these images.",
                ("class", "set for", "threshold", "sensitivity", "specificity"),
                tuple(
                    (
                        plain(name), plain(point), f"{value:.3f}", cell(d, "sensitivity"), cell(d, "specificity")
                    )
                    for (name, point, value), d in shipped.items()
                ),
            )
        )  # fmt: skip
    return (*shown, *(_triage(how, levels) for how, levels in triage.items() if levels is not None))


def _rates(
    points: Mapping[PointKey, Decision], expected: Mapping[PointKey, tuple[Interval | None, Interval | None]]
) -> Table:
    def span(interval: Interval | None) -> str:
        return "not measured" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"

    return Table(
        "Thresholds set on other images: what they come to here, and the range to expect of one on new images (of a "
        "set about a third as large as this).",
        ("class", "set for", "sensitivity", "specificity", "sensitivity to expect", "specificity to expect"),
        tuple(
            (
                plain(key[0]),
                f"{key[1]} {key[2]:.2f}",
                cell(decision, "sensitivity"),
                cell(decision, "specificity"),
                *(span(interval) for interval in expected[key]),
            )
            for key, decision in points.items()
        ),
    )


def _predictive(points: Mapping[str, Decision], disease: str) -> Table:
    rows = []
    for set_for, decision in points.items():
        for name in decision.values:
            if not name.startswith("ppv"):
                continue
            at = name.removeprefix("ppv")
            prevalence = f"{float(at[1:]):.0%}" if at else "of these images"
            rows.append(
                (
                    set_for,
                    prevalence,
                    cell(decision, f"ppv{at}"),
                    cell(decision, f"npv{at}"),
                    cell(decision, f"nne{at}", 1),
                )
            )
    return Table(
        f"What a call means for {plain(disease)}: the chance that a lesion called has it, that one not called has it "
        "not, and how many are excised for each that has it.",
        ("set for", "prevalence", "positive predictive value", "negative predictive value", "number needed to excise"),
        tuple(rows),
    )


def _triage(how: str, levels: list[dict[str, Any]]) -> Table:
    names = list(levels[0]["classes"])
    totals = {name: max(1, sum(level["classes"][name] for level in levels)) for name in names}
    return Table(
        f"Triage, {how}: how many images of each class come to each level, and how many there are malignant.",
        ("level", "images", *(plain(name) for name in names), "malignant share"),
        tuple(
            (
                level["level"],
                str(level["images"]),
                *(f"{level['classes'][name]} ({level['classes'][name] / totals[name]:.0%})" for name in names),
                figure_text(level["malignant_share"], level["malignant_share_ci"]) if level["images"] else "no image",
            )
            for level in levels
        ),
    )


def plots(disease: str | None, curves: Mapping[str, DecisionCurve]) -> tuple[Plot, ...]:
    """Decision curves at the images' own prevalence and at the lowest of the others."""
    if disease is None:
        return ()
    rarest = min(curves.values(), key=lambda curve: curve.prevalence)
    shown = [(curves["own"], f"{curves['own'].prevalence:.0%}, as here")]
    if rarest is not curves["own"]:
        shown.append((rarest, f"{rarest.prevalence:.0%}"))
    return tuple(
        Plot(
            _curve_figure(curve, f"Prevalence {text}"),
            f"Net benefit of excising by the probability of {plain(disease)}, with its pointwise 95 % band, against "
            "excising all and none; the threshold probability is the risk at which one would have it out.",
            "Where the curve lies above both others, a patient who would have a lesion out at that risk fares better "
            "by the classifier than without it.",
        )
        for curve, text in shown
    )


def _curve_figure(curve: DecisionCurve, title: str) -> str:
    figure, axes = figures.new_axes()
    x = curve.thresholds
    axes.fill_between(x, curve.band[0], curve.band[1], color=figures.COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(x, curve.model, figures.STYLES[0], color=figures.COLOURS[0], label="by the classifier")
    axes.plot(x, curve.excise_all, figures.STYLES[1], color=figures.COLOURS[1], label="excise all")
    axes.plot(x, 0 * x, figures.STYLES[3], color=figures.COLOURS[-1], label="excise none")
    # Beyond where excising all does as much harm as the disease could do good, there is nothing to see.
    axes.set(ylim=(-0.3 * curve.prevalence, 1.1 * curve.prevalence), xlim=(0, min(0.5, 6 * curve.prevalence)))
    axes.set(xlabel="threshold probability", ylabel="net benefit, true positives a lesion", title=title)
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return figures.svg_text(figure)
