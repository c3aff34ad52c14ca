"""The model card of an audited bundle: what it is for, what it was made of, what was measured, what it cannot do."""

from __future__ import annotations

from pesi.bundle.card import card_header, made_with
from pesi.bundle.config import BundleConfig
from pesi.evaluate.audit.checklists import answered_checklists
from pesi.evaluate.audit.run import Audit


def audit_card(config: BundleConfig, audit: Audit) -> str:
    """A bundle's `README.md` with the evidence of an audit; the header is the one that the Hugging Face hub reads.

    Args:
        config: The bundle's configuration.
        audit: What was measured with it.
    """
    lines = [*card_header(config), *_intended_use(config)]
    lines += ["## Data and licence", "", *made_with(config), ""]
    if config.licence:
        lines += [config.licence, ""]
    lines += [
        "## Results",
        "",
        f"Measured by `pesi audit` ({audit.options.replicates} bootstrap resamples, seed {audit.options.seed}); 95 % "
        "intervals in brackets. Every value with how it was measured: `audit.json`.",
        "",
    ]
    for part in audit.sets:
        flag = "; calibration and thresholds were set on them, what is fitted is measured by cross-fitting"
        lines += [f"### {part.name}, {part.images} images{flag if part.fitted_on else ''}", ""]
        lines += [
            f"- **{section.title}{'' if section.title.endswith('?') else '.'}** {section.summary}"
            for section in part.sections
        ]
        lines.append("")
    lines += ["## Claimed and measured", "", "| claimed | measured here |", "|---|---|"]
    lines += [f"| {claim.claim} | {claim.measured} |" for claim in audit.claims]
    lines += ["", *_limits(config)]
    for checklist in answered_checklists(audit.section_keys):
        done = sum(answer.answered for answer in checklist.answers)
        lines += [
            f"## {checklist.name}",
            "",
            f"{done} of {len(checklist.answers)} items answered. {checklist.source}; items in our own words.",
            "",
            "| item | topic | answered | where, or why not |",
            "|---|---|---|---|",
        ]
        for answer in checklist.answers:
            yes = "yes" if answer.answered else "no"
            lines.append(f"| {answer.number} | {answer.topic} | {yes} | {answer.where} |")
        lines.append("")
    return "\n".join(lines)


def _intended_use(config: BundleConfig) -> list[str]:
    names = ", ".join(name.replace("_", " ") for name in config.outputs)
    return [
        "## Intended use",
        "",
        f"Research on dermoscopy images of one skin lesion each. It tells these classes apart and no others: {names}. "
        "Anything else, such as a carcinoma where the classes hold none, gets one of these names too.",
        "",
        "As a second reader beside a clinician trained in dermoscopy, never the only one, never to rule out melanoma. "
        "**Not a medical device**: no regulator has seen it, no study with clinicians or patients was made.",
        "",
        "Input: a dermoscopy image, JPEG, PNG or TIFF. Output: calibrated probabilities, a prediction set, a triage "
        "level with its reason, or no result with its reason.",
        "",
    ]


def _limits(config: BundleConfig) -> list[str]:
    sources = ", ".join(config.provenance.get("sources", ())) or "its training data"
    return [
        "## Limits",
        "",
        f"- Learned from {sources}: lesions that specialist centres found worth a photograph. In a screening the "
        "disease is rarer, and more calls are false.",
        "- Dark skin, children, mucosa, nails, palms and soles are rare or absent in these images.",
        "- It sees one image: no history, no change over time, no touch, no other lesions of the patient.",
        "- Artefacts can move its answer: see the stress tests.",
        "- Where the images on which its calibration was set are few, so is the certainty of every threshold.",
        "",
    ]
