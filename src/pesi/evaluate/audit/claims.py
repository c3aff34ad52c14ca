"""What the method's description claims, beside what was measured with the bundle at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pesi.evaluate.audit.data import AuditData
from pesi.evaluate.audit.section import Section, figure_text
from pesi.explain.faithfulness import ATTENTION
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import wilson_interval

_ENERGY_IMAGES = 16  # the energy hardly differs between images


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        claim: Of the description: Zhang, Xie, Xia, Shen, IEEE TMI 38(9), 2019, in our words.
        measured: What was found, with intervals, or why it was not measured.
    """

    claim: str
    measured: str


def claims(classifier: Classifier, data: AuditData, sections: Sequence[Section]) -> tuple[Claim, ...]:
    """The claims in the order of the description.

    Args:
        classifier: What was audited.
        data: The images that the sections are about.
        sections: What was measured on them.
    """
    values = {section.key: section.values for section in sections}
    return (
        Claim("It classifies the lesions of ISIC 2017 excellently: mean AUC .917 on the test images.", _score(values)),
        Claim("It copes with classes that look alike.", _alike(values)),
        Claim("The attention adds no layer: a block gains one parameter.", _parameters(classifier)),
        Claim("The attention is learned, from .001 on.", _learned(classifier, data)),
        Claim("The network adaptively focuses on the parts of the lesion that tell the classes apart.", _focus(values)),
        Claim(
            "The attention makes it better than the same network without.",
            "Not to be seen in one bundle: docs/results.md compares networks trained alike but for the attention.",
        ),
    )


def _score(values: Mapping[str, Any]) -> str:
    scores = values.get("performance")
    if scores is None or scores["mean_auc"] is None:
        return "Not measured in this audit."
    return f"Mean AUC {figure_text(scores['mean_auc'], scores['mean_auc_ci'])} on {scores['images']} images."


def _alike(values: Mapping[str, Any]) -> str:
    matrix = values.get("performance", {}).get("multiclass", {}).get("confusion_matrix")
    if matrix is None or "melanoma" not in matrix["classes"]:
        return "Not measured in this audit."
    index = matrix["classes"].index("melanoma")
    row = np.asarray(matrix["counts"])[index]
    missed, total = int(row.sum() - row[index]), int(row.sum())
    if not total:
        return "Not measured: no melanoma among the images."
    share = figure_text(missed / total, wilson_interval(missed, total), 2)
    return (
        f"Of {total} melanomas, {missed} have another class as the most probable one: {share}. That is why thresholds, "
        "not the most probable class, decide the triage."
    )


def _parameters(classifier: Classifier) -> str:
    network = classifier.config.network
    plain = create_model(
        network.name, num_classes=network.num_classes, **(dict(network.options) | {"attention": "none"})
    )
    ours, without = (sum(p.numel() for p in model.parameters()) for model in (classifier.network, plain))
    blocks = len(classifier.network.alphas())
    return f"{ours:,} parameters, {without:,} without the attention: {ours - without} more, in {blocks} blocks."


def _learned(classifier: Classifier, data: AuditData) -> str:
    alphas = {name: float(alpha.detach().abs().mean()) for name, alpha in classifier.network.alphas().items()}
    if not alphas:
        return "This bundle's network has no attention."
    energies: dict[str, list[float]] = {}
    with torch.inference_mode():
        for image in data.images[: min(len(data), _ENERGY_IMAGES)]:
            for name, energy in classifier.look(image).maps.energy.items():
                if name in alphas:  # the other blocks have no attention
                    energies.setdefault(name, []).append(float(energy[0]))
    means = [float(np.mean(energy)) for energy in energies.values()]
    start = classifier.config.network.options.get("alpha", 0.001)
    return (
        f"From {start:g}, the sizes of the {len(alphas)} alphas came to {min(alphas.values()):.4f} to "
        f"{max(alphas.values()):.4f}. The attention changes what a block adds up by {min(means):.1e} to "
        f"{max(means):.1e} of its norm (means of {min(len(data), _ENERGY_IMAGES)} images)."
    )


def _focus(values: Mapping[str, Any]) -> str:
    faith = values.get("faithfulness")
    entry = (faith or {}).get("maps", {}).get(ATTENTION)
    if faith is None or entry is None:
        return "Not measured in this audit."
    parts = []
    if "inside" in entry:
        inside = figure_text(entry["inside"]["value"], entry["inside"]["ci"], 2)
        parts.append(f"The attention has {inside} of its mass in the lesion, which covers {faith['lesion_area']:.2f}")
    for measure, more_is_better in (("deletion", False), ("insertion", True)):
        for key, what in (("against_scattered", "random pixels"), ("against_centre", "the middle of the picture")):
            if key not in entry[measure]:
                continue
            low, high = entry[measure][key]["ci"]
            shown = "not shown to be better than" if low <= 0 <= high else ""
            shown = shown or ("better than" if (low > 0) == more_is_better else "worse than")
            parts.append(f"by {measure} it is {shown} {what} ({low:+.3f} to {high:+.3f})")
    return "; ".join(parts) + f". On {faith['images']} images."
