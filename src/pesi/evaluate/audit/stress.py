"""The audit's stress tests: artefacts pasted and removed, the lesion hidden, the picture taken otherwise."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pesi.evaluate import figures
from pesi.evaluate.answer_change import AnswerChange, Estimate, call_threshold
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
from pesi.evaluate.stress import MassShift, StressResult, stress_test
from pesi.images.perturb import PERTURBATIONS, Group, Perturbation
from pesi.predict.classifier import Classifier

_GROUPS: dict[Group, str] = {
    "paste": "artefact pasted",
    "remove": "artefact removed",
    "lesion": "lesion or background hidden",
    "capture": "taken otherwise",
    "geometry": "turned or scaled",
}
_FEW = 30  # changed images, below which a line is said to rest on few
_CELL = 128  # side of a picture in the contact sheet, pixels
_HIDING = ("lesion replaced by skin", "lesion blackened", "lesion's box blackened")


def stress_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Stress tests on at most `options.stress_images` images, drawn stratified by class.

    Args:
        data: The images; masks are used where there are any.
        classifier: What is tested.
        options: How many images and resamples, the seed.
        progress: Told what is done.
    """
    chosen = data.take(data.sample(options.stress_images, options.seed))
    results = stress_test(
        classifier,
        chosen.images,
        chosen.classes,
        masks=chosen.masks,
        has_mask=chosen.has_mask,
        seed=options.seed,
        replicates=options.replicates,
        progress=progress,
    )
    threshold = call_threshold(classifier)
    called = f"{_words(threshold.class_name)} probability {threshold.value:.3f} ({threshold.name})" if threshold else ""
    tables = (_change_table(results, bool(threshold)), _hidden_table(results), _mass_table(results))
    plots = (
        _forest(
            results,
            "AUC, changed minus unchanged",
            lambda answers: answers.auc["mean"].change if "mean" in answers.auc else None,
            "Each line is one change of the same pictures: how the mean AUC moves, with its 95 % interval; left of the "
            "dashed line the network tells diagnoses apart less well.",
            "Where the interval lies left of zero, a patient whose picture looks so gets a less reliable answer.",
        ),
        _forest(
            results,
            "share whose answer changes",
            lambda answers: answers.class_flips,
            "Each line is one change of the same pictures: how many get another answer (Wilson's 95 % interval).",
            "A patient photographed twice should be told the same twice; these are the shares who would not be.",
        ),
    )
    picture = _contact_sheet(chosen, options.seed)
    return Section(
        key="stress",
        title="Stress tests",
        summary=_summary(results, len(chosen)),
        meaning="A ruler, a hair or another lamp says nothing about the disease: an answer that follows them can "
        "mislead a patient's doctor, and an answer that needs no lesion was not read from it.",
        method=f"{len(chosen)} images of {chosen.name} (at most {options.stress_images}, drawn stratified by class; "
        f"{int(chosen.has_mask.sum())} with a lesion mask) are changed and predicted again from one view each, and "
        "compared with the same view unchanged, image by image. Artefacts are drawn beside the lesion, hair and "
        "bubbles across it. Marks are removed by being other than skin, so moles and vessels beside the lesion go with "
        "them, and pale marks stay; hair removal takes ruler lines with it. Lesions are hidden by their masks with a "
        "margin of 4 % of the side; the size of what was hidden can still be guessed, least so behind a box (Bissoto "
        "et al., CVPR Workshops 2019). Intervals: stratified bootstrap, the same resamples before and after, "
        f"{options.replicates} of them; Wilson's for shares. None is corrected for the many comparisons: of "
        f"{len(results)} lines one or two leave zero by chance."
        + (f" A call is a {called}, which was set on the averaged views." if called else ""),
        values={
            "images": len(chosen),
            "views": "single",
            "call_threshold": threshold.value if threshold else None,
            "perturbations": {result.perturbation.name: result.to_dict() for result in results},
        },
        tables=tuple(table for table in tables if table is not None),
        plots=tuple(plot for plot in plots if plot is not None),
        pictures=((("One image unchanged and under every change; gray: cannot be made of it."), picture),),
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(estimate: Estimate | None, digits: int = 3) -> str:
    return "not measured" if estimate is None else figure_text(estimate.value, estimate.interval, digits)


def _signed(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _summary(results: Sequence[StressResult], count: int) -> str:
    """What was worst, and whether the network can do without the lesion."""
    parts = []
    lowered = [
        (change, result)
        for result in results
        if result.perturbation.group != "lesion" and (change := _mean_change(result)) is not None and change.high < 0
    ]
    few = any("mean" in result.answers.auc and result.answers.auc["mean"].few for result in results if result.answers)
    if few:
        parts.append(f"The {count} images are too few of a class to show what lowers the mean AUC.")
    elif lowered:
        change, worst = min(lowered, key=lambda pair: pair[0].value)
        parts.append(
            f"On {count} images, {len(lowered)} changes that leave the lesion to be seen lower the mean AUC; most does "
            f"“{worst.perturbation.name}”: by {-change.value:.3f} ({-change.high:.3f} to {-change.low:.3f})."
        )
    else:
        parts.append(f"On {count} images, no change that leaves the lesion to be seen is shown to lower the mean AUC.")
    pasted = [r for r in results if r.perturbation.group == "paste" and r.answers is not None]
    if pasted:
        most = max(pasted, key=lambda r: r.answers.class_flips.value if r.answers else 0.0)
        if most.answers is not None:
            parts.append(
                f"Of the pasted artefacts, “{most.perturbation.name}” changes most answers: the "
                f"{most.answers.answer} in {_text(most.answers.class_flips)} of the images."
            )
    hidden = {r.perturbation.name: r.answers for r in results if r.perturbation.name in _HIDING and r.answers}
    above = [(name, answers) for name, answers in hidden.items() if "mean" in answers.auc]
    if above:
        told = "; ".join(f"{name}: {_text(answers.auc['mean'].after)}" for name, answers in above)
        reads = any(answers.auc["mean"].after.low > 0.5 for _, answers in above)
        parts.append(
            f"With the lesion hidden the mean AUC is {told}; a network that reads only the lesion gives 0.5. "
            + (
                "The images are too few of a class to tell what it reads."
                if few
                else "So it also reads the surroundings, or the size of what is hidden."
                if reads
                else "It is not shown to read the surroundings."
            )
        )
    return " ".join(parts)


def _mean_change(result: StressResult) -> Estimate | None:
    if result.answers is None or "mean" not in result.answers.auc:
        return None
    return result.answers.auc["mean"].change


def _change_table(results: Sequence[StressResult], calls: bool) -> Table:
    names = [name for result in results if result.answers for name in result.answers.auc]
    scored = [name for name in dict.fromkeys(names) if name != "mean"]
    columns = ["change", "images", "mean AUC", *(f"AUC {_words(name)}" for name in scored), "other diagnosis"]
    columns += [*(["other call"] if calls else []), "malignant probability"]
    rows = []
    for result in results:
        answers = result.answers
        cells = [result.perturbation.name, _count(result)]
        changes = [answers.auc.get(name) if answers else None for name in ("mean", *scored)]
        cells += [_signed(change.change if change else None) for change in changes]
        cells.append(_text(answers.class_flips if answers else None))
        if calls:
            cells.append(_text(answers.call_flips if answers else None))
        cells.append(_signed(answers.malignant_shift if answers else None))
        rows.append(tuple(cells))
    return Table(
        "Every change: images that it could be made of, difference of the AUC, share of the images that get another "
        "answer (the most probable diagnosis, or for several at a time those called at 0.5) and another call, and mean "
        "difference of the malignant probability (95 % intervals).",
        tuple(columns),
        tuple(rows),
    )


def _count(result: StressResult) -> str:
    notes = [f"{result.without_mask} without mask"] if result.without_mask else []
    notes += [f"{result.nothing_to_change} nothing to change or no room"] if result.nothing_to_change else []
    notes += ["few"] if result.images < _FEW else []
    return f"{result.images}" + (f" ({', '.join(notes)})" if notes else "")


def _hidden_table(results: Sequence[StressResult]) -> Table | None:
    """AUC with the lesion or the background hidden, against 0.5."""
    rows = []
    for result in results:
        if result.perturbation.group != "lesion" or result.answers is None:
            continue
        for name, change in result.answers.auc.items():
            after = change.after
            verdict = "above 0.5" if after.low > 0.5 else "below 0.5" if after.high < 0.5 else "0.5 within the interval"
            cells = (result.perturbation.name, _words(name), _text(change.before), _text(after), verdict)
            rows.append(cells)
    if not rows:
        return None
    return Table(
        "What is still told apart with the lesion or its surroundings hidden; 0.5 is chance.",
        ("hidden", "AUC of", "unchanged", "changed", "against chance"),
        tuple(rows),
    )


def _mass_table(results: Sequence[StressResult]) -> Table | None:
    """Where the maps look once an artefact is there."""

    def cells(mass: MassShift | None) -> tuple[str, str]:
        return ("not measured",) * 2 if mass is None else (f"{mass.before:.3f}", _signed(mass.shift))

    rows = [
        (r.perturbation.name, f"{r.cam_mass.area:.3f}", *cells(r.cam_mass), *cells(r.attention_mass))
        for r in results
        if r.cam_mass is not None
    ]
    if not rows:
        return None
    return Table(
        "Share of the class activation map and of the Pesi attention on a pasted artefact: before, and the difference "
        "that the artefact makes (95 % interval); an even map puts the artefact's share of the area there.",
        ("artefact", "its area", "activation before", "difference", "attention before", "difference"),
        tuple(rows),
    )


def _forest(
    results: Sequence[StressResult],
    label: str,
    value: Callable[[AnswerChange], Estimate | None],
    caption: str,
    meaning: str,
) -> Plot | None:
    """One line a change: its estimate and interval, coloured and marked by group."""
    lines = [(r.perturbation, e) for r in results if r.answers is not None and (e := value(r.answers)) is not None]
    if not lines:
        return None
    figure, axes = figures.new_axes(7.4, 1.0 + 0.2 * len(lines))
    markers = ("o", "s", "D", "^", "v")
    for number, (group, words) in enumerate(_GROUPS.items()):
        rows = [(y, e) for y, (perturbation, e) in enumerate(lines) if perturbation.group == group]
        if not rows:
            continue
        x = [e.value for _, e in rows]
        error = [[max(e.value - e.low, 0.0) for _, e in rows], [max(e.high - e.value, 0.0) for _, e in rows]]
        axes.errorbar(
            x, [y for y, _ in rows], xerr=error, fmt=markers[number], color=figures.COLOURS[number], label=words,
            capsize=2, markersize=4, linewidth=1,
        )  # fmt: skip
    axes.axvline(0, color="#444444", linewidth=0.9, linestyle="--")
    axes.set_yticks(range(len(lines)), [perturbation.name for perturbation, _ in lines], fontsize=8)
    axes.set(xlabel=label, ylim=(len(lines) - 0.4, -0.6))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.35, -0.06), ncols=3)
    return Plot(figures.svg_text(figure), caption, meaning)


def _contact_sheet(data: AuditData, seed: int) -> bytes:
    """One image under every perturbation, as PNG: the one of which most can be made."""
    candidates = np.flatnonzero(data.has_mask)[:4] if data.has_mask.any() else np.arange(min(len(data), 1))
    sheets = [_pictures(data, int(index), seed) for index in candidates]
    pictures = max(sheets, key=lambda sheet: sum(picture is not None for _, picture in sheet))
    columns = 8
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.35 * columns, 1.55 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, picture) in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, place + 1)
        shown = np.full((_CELL, _CELL, 3), 128, np.uint8) if picture is None else picture
        axes.imshow(shown)
        axes.set_title("\n".join(textwrap.wrap(name, 20)), fontsize=6.5, pad=2)
        axes.axis("off")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _pictures(data: AuditData, index: int, seed: int) -> list[tuple[str, np.ndarray | None]]:
    image, mask = np.ascontiguousarray(data.images[index]), data.masks[index] if data.has_mask[index] else None

    def small(picture: np.ndarray) -> np.ndarray:
        return cv2.resize(picture, (_CELL, _CELL), interpolation=cv2.INTER_AREA)

    def shown(perturbation: Perturbation) -> np.ndarray | None:
        changed = perturbation.apply(image, mask, perturbation.generator(seed, index))
        return None if changed is None else small(changed.image)

    return [("unchanged", small(image)), *((each.name, shown(each)) for each in PERTURBATIONS)]
