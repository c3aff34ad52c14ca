"""What the method's description claims, beside what was measured with the bundle at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pesi.evaluate.audit.data import AuditData
from pesi.evaluate.audit.section import Section, block, plain
from pesi.evaluate.report import environment
from pesi.explain.faithfulness import ATTENTION
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import share_interval

_ENERGY_IMAGES = 16  # the energy hardly differs between images


@dataclass(frozen=True)
class Claim:
    """One claim of the description, and what was found, with intervals, or why it was not measured."""

    claim: str
    measured: str


def claims(classifier: Classifier, data: AuditData, sections: Sequence[Section]) -> tuple[Claim, ...]:
    """The claims in the order of the description; `templates/audit/claims.html.j2` holds the words.

    Args:
        classifier: What was audited.
        data: The images that the sections are about.
        sections: What was measured on them.
    """
    values = {section.key: section.values for section in sections}
    scores = values.get("performance", {"mean_auc": None})
    found = {
        "score": None if scores["mean_auc"] is None else scores,
        "alike": _alike(classifier, data) if "multiclass" in scores else None,
        "parameters": _parameters(classifier),
        "learned": _learned(classifier, data),
        "focus": _focus(values.get("faithfulness")),
    }
    template = environment().get_template("audit/claims.html.j2")
    texts = {name: plain(block(template, name, found)) for name in template.blocks}
    names = [name.removesuffix("_claim") for name in texts if name.endswith("_claim")]
    return tuple(Claim(texts[f"{name}_claim"], texts[f"{name}_measured"]) for name in names)


def _alike(classifier: Classifier, data: AuditData) -> dict[str, Any] | None:
    """How many melanomas have another class as the most probable one."""
    outputs = classifier.config.outputs
    if "melanoma" not in outputs:
        return None
    melanomas = data.labels("melanoma")
    if not melanomas.any():
        return {"melanomas": 0}
    missed = data.probabilities[melanomas].argmax(1) != outputs.index("melanoma")
    interval = share_interval(missed, None if data.groups is None else data.groups[melanomas])
    return {"melanomas": len(missed), "missed": int(missed.sum()), "share": [float(missed.mean()), *interval]}


def _parameters(classifier: Classifier) -> dict[str, int]:
    network = classifier.config.network
    without = create_model(
        network.name, num_classes=network.num_classes, **(dict(network.options) | {"attention": "none"})
    )
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in (classifier.network, without))
    blocks, networks = len(classifier.network.alphas()), len(classifier.networks)
    return {"with": ours, "without": theirs, "blocks": blocks, "networks": networks}


def _learned(classifier: Classifier, data: AuditData) -> dict[str, Any] | None:
    looking = [member.network.alphas() for member in classifier.looking_at()]
    alphas = [float(alpha.detach().abs().mean()) for own in looking for alpha in own.values()]
    if not alphas:
        return None
    energies: dict[str, list[float]] = {}
    for image in data.images[:_ENERGY_IMAGES]:
        for name, energy in classifier.look(image).maps.energy.items():
            if name in looking[0]:  # the other blocks have no attention
                energies.setdefault(name, []).append(float(energy[0]))
    return {
        "start": classifier.config.network.options.get("alpha", 0.001),
        "alphas": alphas,
        "energies": [float(np.mean(energy)) for energy in energies.values()],
        "images": min(len(data), _ENERGY_IMAGES),
    }


def _focus(faith: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if faith is None or ATTENTION not in faith["maps"]:
        return None
    return {"map": faith["maps"][ATTENTION], "lesion_area": faith["lesion_area"], "images": faith["images"]}
