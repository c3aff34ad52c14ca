"""An audit: every section measured on every set of images, and the files that come of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pesi.evaluate.audit.calibration import calibration_section
from pesi.evaluate.audit.claims import Claim, claims
from pesi.evaluate.audit.correction import correction_section
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.description import description_section
from pesi.evaluate.audit.faithfulness import faithfulness_section
from pesi.evaluate.audit.novelty import novelty_section
from pesi.evaluate.audit.operating import operating_section
from pesi.evaluate.audit.performance import performance_section
from pesi.evaluate.audit.quality import quality_section
from pesi.evaluate.audit.section import Section
from pesi.evaluate.audit.stress import stress_section
from pesi.evaluate.audit.subgroups import subgroups_section
from pesi.evaluate.audit.uncertainty import uncertainty_section
from pesi.predict.classifier import Classifier
from pesi.version import __version__

Measure = Callable[..., Section]


@dataclass(frozen=True)
class Topic:
    """A section and where it is measured.

    Attributes:
        key: The section's key.
        measure: Makes it.
        everywhere: Whether on every set of images, or on the first alone (what costs many forward passes).
    """

    key: str
    measure: Measure
    everywhere: bool


TOPICS: tuple[Topic, ...] = (
    Topic("performance", performance_section, True),
    Topic("calibration", calibration_section, True),
    Topic("operating", operating_section, True),
    Topic("uncertainty", uncertainty_section, True),
    Topic("quality", quality_section, True),
    Topic("novelty", novelty_section, True),
    Topic("subgroups", subgroups_section, True),
    Topic("stress", stress_section, False),
    Topic("correction", correction_section, False),
    Topic("faithfulness", faithfulness_section, False),
    Topic("description", description_section, False),
)


@dataclass(frozen=True)
class SetAudit:
    """The sections measured on one set of images; `grouped`: some of them are of one patient or lesion."""

    name: str
    images: int
    fitted_on: bool
    grouped: bool
    sections: tuple[Section, ...]

    @property
    def anchor(self) -> str:
        """The name as a link's target."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


@dataclass(frozen=True)
class Audit:
    """Everything that was measured with one bundle.

    Attributes:
        bundle_id: Which bundle.
        sets: The first holds all sections, the others those that are measured everywhere.
        claims: What the method's description claims, and what was measured.
        options: How it was measured.
        seconds: Section key -> seconds spent.
    """

    bundle_id: str
    sets: tuple[SetAudit, ...]
    claims: tuple[Claim, ...]
    options: AuditOptions
    seconds: dict[str, float]

    @property
    def section_keys(self) -> frozenset[str]:
        """Keys of all sections that are there."""
        return frozenset(section.key for part in self.sets for section in part.sections)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; numbers with six significant digits."""
        values: dict[str, Any] = rounded(self._values())
        return values

    def _values(self) -> dict[str, Any]:
        return {
            "bundle": self.bundle_id,
            "version": __version__,
            "options": asdict(self.options),
            "seconds": {key: round(value, 1) for key, value in self.seconds.items()},
            "sets": [
                {
                    "name": part.name,
                    "images": part.images,
                    "fitted_on": part.fitted_on,
                    "sections": {
                        section.key: {
                            "summary": section.summary,
                            "meaning": section.meaning,
                            "values": dict(section.values),
                        }
                        for section in part.sections
                    },
                }
                for part in self.sets
            ],
            "claimed_and_measured": [asdict(claim) for claim in self.claims],
        }


def rounded(value: Any) -> Any:
    """Plain values with their numbers to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def run_audit(
    classifier: Classifier,
    sets: Sequence[AuditData],
    *,
    options: AuditOptions | None = None,
    topics: Sequence[Topic] = TOPICS,
    progress: Progress = silent,
) -> Audit:
    """Measure every topic.

    Args:
        classifier: What is audited.
        sets: Labelled images (`read_audit_data`); the first is measured in full.
        options: How; default `AuditOptions()`.
        topics: What is measured.
        progress: Told what is done.
    """
    options = options or AuditOptions()
    seconds: dict[str, float] = {}
    parts = []
    for index, data in enumerate(sets):
        sections = []
        for topic in topics:
            if index and not topic.everywhere:
                continue
            started = time.perf_counter()
            sections.append(topic.measure(data, classifier, options=options, progress=progress))
            seconds[topic.key] = seconds.get(topic.key, 0.0) + time.perf_counter() - started
        parts.append(SetAudit(data.name, len(data), data.fitted_on, data.groups is not None, tuple(sections)))
    return Audit(
        classifier.config.bundle_id, tuple(parts), claims(classifier, sets[0], parts[0].sections), options, seconds
    )
