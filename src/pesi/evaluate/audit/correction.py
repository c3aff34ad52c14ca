"""The audit's corrections: hair removal and colour constancy on and off at prediction time."""

from __future__ import annotations

import numpy as np

from pesi.evaluate.answer_change import AnswerChange, compare_answers, single_view_probabilities
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
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
            single_view_probabilities(with_corrections(classifier, corrections), data.images, data.made_fold)
            for corrections in (off, (*off, name))
        ]
        rng = np.random.default_rng([options.seed, number])
        results[name] = compare_answers(
            classifier, data.classes, *answers, replicates=options.replicates, rng=rng, groups=data.groups
        )
    progress(f"corrections on {data.name}", len(CORRECTIONS), len(CORRECTIONS))
    values = {
        "images": len(data),
        "views": "single",
        "trained_with": list(trained_with),
        "corrections": {name: change.to_dict() for name, change in results.items()},
    }
    with_ = " and ".join(_WORDS[name] for name in trained_with)
    shown = {"names": _WORDS, "trained": f"with {with_}" if with_ else "without either"}
    return Section("correction", data, options, values, shown=shown)


def with_corrections(classifier: Classifier, corrections: tuple[CorrectionName, ...]) -> Classifier:
    """The same networks behind other corrections."""
    config, update = classifier.config, {"corrections": corrections}
    members = tuple(
        member.model_copy(update={"preprocess": member.preprocess.model_copy(update=update)})
        for member in config.members
    )
    changed = config.model_copy(update={"members": members})
    return Classifier(changed, classifier.networks, device=str(classifier.device))
