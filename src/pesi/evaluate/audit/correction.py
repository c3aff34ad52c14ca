"""The audit's corrections: hair removal and colour constancy on and off at prediction time."""

from __future__ import annotations

import numpy as np

from pesi.evaluate.answer_change import AnswerChange, compare_answers, single_view_probabilities
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section, Table, figure_text
from pesi.images.correction import CORRECTIONS, CorrectionName
from pesi.predict.classifier import Classifier

_WORDS: dict[CorrectionName, str] = {"hair_removal": "hair removal", "shades_of_gray": "colour constancy"}


def correction_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Each correction on and off at prediction time, everything else as the bundle has it.

    Args:
        data: The images, all of them.
        classifier: What is measured; its network was trained with the corrections of its own bundle only.
        options: Resamples and seed.
        progress: Told what is done.
    """
    trained_with = classifier.config.preprocess.corrections
    results: dict[CorrectionName, AnswerChange] = {}
    for number, name in enumerate(CORRECTIONS):
        progress(f"corrections on {data.name}", number, len(CORRECTIONS))
        off = tuple(each for each in trained_with if each != name)
        answers = [
            single_view_probabilities(with_corrections(classifier, corrections), data.images)
            for corrections in (off, (*off, name))
        ]
        rng = np.random.default_rng([options.seed, number])
        results[name] = compare_answers(classifier, data.classes, *answers, replicates=options.replicates, rng=rng)
    progress(f"corrections on {data.name}", len(CORRECTIONS), len(CORRECTIONS))
    with_ = " and ".join(_WORDS[name] for name in trained_with)
    return Section(
        key="correction",
        title="Hair removal and colour constancy",
        summary=_summary(results, len(data), with_),
        meaning="A correction is worth its cost only if patients get a better answer with it; one that merely changes "
        "answers is a risk.",
        method=f"Each of the {len(data)} images of {data.name} is predicted from one view with the correction off and "
        "on, and compared image by image. Hair removal after DullRazor (Lee et al. 1997) with inpainting; colour "
        "constancy by shades of gray (Finlayson and Trezzi 2004, Minkowski norm 6; for dermoscopy Barata et al. "
        f"2015), mean luminance kept. The network was trained {'with ' + with_ if with_ else 'without either'}, so "
        "this tells what switching them does to this network, not what training with them would give. Intervals: "
        f"stratified paired bootstrap, {options.replicates} resamples; Wilson's for shares.",
        values={
            "images": len(data),
            "views": "single",
            "trained_with": list(trained_with),
            "corrections": {name: change.to_dict() for name, change in results.items()},
        },
        tables=(_table(results),),
    )


def with_corrections(classifier: Classifier, corrections: tuple[CorrectionName, ...]) -> Classifier:
    """The same network behind other corrections."""
    preprocess = classifier.config.preprocess.model_copy(update={"corrections": corrections})
    config = classifier.config.model_copy(update={"preprocess": preprocess})
    return Classifier(config, classifier.network, device=str(classifier.device))


def _summary(results: dict[CorrectionName, AnswerChange], count: int, trained_with: str) -> str:
    parts = []
    for name, answers in results.items():
        text = f"{_WORDS[name].capitalize()} changes the {answers.answer} of {answers.class_flips.count} of "
        text += f"{count} images"
        if "mean" in answers.auc:
            change = answers.auc["mean"].change
            verdict = (
                "better with it" if change.low > 0 else "worse with it" if change.high < 0 else "no difference is shown"
            )
            if answers.auc["mean"].few:
                verdict = "too few images of a class to tell"
            text += f"; mean AUC {change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f}): {verdict}"
        parts.append(text + ".")
    parts.append(f"The network was trained {'with ' + trained_with if trained_with else 'without either'}.")
    return " ".join(parts)


def _table(results: dict[CorrectionName, AnswerChange]) -> Table:
    rows = []
    for name, answers in results.items():
        for class_name, change in answers.auc.items():
            rows.append(
                (
                    _WORDS[name],
                    class_name.replace("_", " "),
                    figure_text(change.before.value, change.before.interval),
                    figure_text(change.after.value, change.after.interval),
                    f"{change.change.value:+.3f} ({change.change.low:+.3f} to {change.change.high:+.3f})",
                    figure_text(answers.class_flips.value, answers.class_flips.interval),
                    "not measured"
                    if answers.call_flips is None
                    else figure_text(answers.call_flips.value, answers.call_flips.interval),
                )
            )
    return Table(
        "Each correction off and on: AUC, its paired difference, and the share of images with another most probable "
        "diagnosis and another call (95 % intervals).",
        ("correction", "AUC of", "off", "on", "difference", "other diagnosis", "other call"),
        tuple(rows),
    )
