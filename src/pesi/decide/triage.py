"""Triage: a rule of ordered levels, which is configuration, and its thresholds set on validation data."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator

from pesi.decide.operating import Floats, Interval, threshold_at
from pesi.errors import RecipeError
from pesi.stats.intervals import share_interval

Criterion = Literal["specificity", "sensitivity", "rest"]


class TriageLevel(BaseModel, extra="forbid", frozen=True):
    """A triage answer for malignant probability >= `at_least`; levels are tried from the first to the last.

    Attributes:
        criterion, wanted: What the level promises, as in its rule's step.
        images, share: How many of the images that it was set on came to this level, and their share.
        malignant, malignant_share, malignant_interval: How many of those are malignant, their share among them, and
            Wilson's 95 % interval of it.
    """

    level: str
    at_least: float
    how: str
    criterion: Criterion | None = None
    wanted: float | None = None
    images: int | None = None
    share: float | None = None
    malignant: int | None = None
    malignant_share: float | None = None
    malignant_interval: Interval | None = None

    @property
    def promise(self) -> str:
        """The criterion in words, such as "specificity >= 0.95"."""
        return f"{self.criterion} >= {self.wanted:.2f}" if self.wanted is not None else "everything else"


class TriageStep(BaseModel, extra="forbid", frozen=True):
    """One level of a triage rule, and what sets its threshold.

    Attributes:
        name: What the clinician reads, such as "refer".
        criterion: `specificity`: at least that share of the benign lesions stays below; `sensitivity`: at least that
            share of the malignant lesions comes to this level or a more urgent one; `rest`: everything else.
        value: The wanted share, above 0 and below 1; none for `rest`.
    """

    name: str = Field(min_length=1)
    criterion: Criterion
    value: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _value_where_due(self) -> TriageStep:
        if self.criterion == "rest" and self.value is not None:
            raise ValueError(f"level {self.name!r} takes the rest, so it has no value")
        if self.criterion != "rest" and self.value is None:
            raise ValueError(f"level {self.name!r} needs a value: the {self.criterion} wanted, between 0 and 1")
        return self


class TriageRule(BaseModel, extra="forbid", frozen=True):
    """Levels from the most to the least urgent: first those by specificity, then by sensitivity, last the rest.

    In that order, specificities falling and sensitivities rising, every level keeps its promise and the thresholds
    fall from level to level.
    """

    levels: tuple[TriageStep, ...] = (
        TriageStep(name="excise", criterion="specificity", value=0.95),
        TriageStep(name="refer", criterion="sensitivity", value=0.90),
        TriageStep(name="follow up", criterion="sensitivity", value=0.98),
        TriageStep(name="reassure", criterion="rest"),
    )

    @model_validator(mode="after")
    def _ordered(self) -> TriageRule:
        names = [step.name for step in self.levels]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"level {twice[0]!r} stands twice; each needs a name of its own")
        rests = [step.name for step in self.levels if step.criterion == "rest"]
        if len(self.levels) < 2 or len(rests) != 1 or self.levels[-1].criterion != "rest":
            raise ValueError("a rule has two or more levels; the last, and only the last, has the criterion 'rest'")
        for before, after in zip(self.levels[:-2], self.levels[1:-1], strict=True):
            if before.criterion == "sensitivity" and after.criterion == "specificity":
                raise ValueError(f"level {after.name!r} is set by specificity: put it before {before.name!r}")
            if before.criterion == after.criterion:
                rising = float(after.value or 0) > float(before.value or 0)
                if rising != (after.criterion == "sensitivity"):
                    wanted = "a higher" if after.criterion == "sensitivity" else "a lower"
                    raise ValueError(f"level {after.name!r} needs {wanted} {after.criterion} than {before.name!r}")
        return self


def read_triage_rule(path: str | Path) -> TriageRule:
    """A triage rule from a TOML file: a `[[level]]` each, with `name`, `criterion` and `value`.

    Raises:
        RecipeError: It cannot be read, is not TOML, or is no rule; the message names the level and the field.
    """
    cure = 'Write a [[level]] each, most urgent first: name = "excise", criterion = "specificity", value = 0.95.'
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be read: {error.strerror}.", "Give a TOML file with a triage rule."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.", cure) from error
    if unknown := sorted(set(values) - {"level"}):
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}; a triage rule has only levels.", cure)
    levels = values.get("level", [])
    try:
        return TriageRule.model_validate({"levels": levels})
    except ValidationError as error:
        mistake = error.errors()[0]
        place = [str(part + 1) if isinstance(part, int) else str(part) for part in mistake["loc"][1:]]
        message = mistake["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{path}: {' '.join(['level', *place]) + ': ' if place else ''}{message}.", cure) from error


def rule_of(levels: tuple[TriageLevel, ...]) -> TriageRule | None:
    """The rule that a bundle's levels were set by; None where they do not say (bundles before this was kept)."""
    steps = [
        TriageStep(name=level.level, criterion=level.criterion, value=level.wanted)
        for level in levels
        if level.criterion is not None
    ]
    return TriageRule(levels=tuple(steps)) if levels and len(steps) == len(levels) else None


def triage_of(levels: tuple[TriageLevel, ...], scores: Floats) -> NDArray[np.int64]:
    """Index of the level that each malignant probability comes to, (N,)."""
    reached = scores[:, None] >= np.array([level.at_least for level in levels])
    return np.asarray(np.argmax(reached, axis=1), np.int64)


def fit_triage(
    rule: TriageRule, malignant: NDArray[np.bool_], scores: Floats, *, on: str, groups: NDArray | None = None
) -> tuple[TriageLevel, ...]:
    """The rule's thresholds, set on validation data, with what came to each level there.

    A level by specificity is raised to the first level by sensitivity where it lies below it, so thresholds never rise
    from level to level and every promise holds on these images.

    Args:
        rule: The levels wanted.
        malignant: The truth, (N,).
        scores: Malignant probability, (N,).
        on: What the data were, for the record.
        groups: Group of each image, (N,), for the intervals.

    Returns:
        Levels from the most to the least urgent, the last at 0; none where no image or every image is malignant.
    """
    if malignant.all() or not malignant.any():
        return ()
    found: list[TriageLevel] = []
    below = 0.0
    for step in reversed(rule.levels):
        if step.criterion == "rest" or step.value is None:
            level = TriageLevel(level=step.name, at_least=0.0, how="below every other level", criterion="rest")
        else:
            point = threshold_at(step.criterion, step.value, malignant, scores, class_name="malignant", on=on)
            below = max(below, point.value)
            level = TriageLevel(
                level=step.name, at_least=below, how=point.how, criterion=step.criterion, wanted=step.value
            )
        found.insert(0, level)
    levels = tuple(found)
    reached = triage_of(levels, scores)
    return tuple(level.model_copy(update=_evidence(malignant, reached == i, groups)) for i, level in enumerate(levels))


def _evidence(malignant: NDArray[np.bool_], inside: NDArray[np.bool_], groups: NDArray | None) -> dict[str, object]:
    """What came to a level: the images `inside`, (N,)."""
    images, bad = int(inside.sum()), int(malignant[inside].sum())
    evidence: dict[str, object] = {"images": images, "share": images / len(inside), "malignant": bad}
    if images:
        interval = share_interval(malignant[inside], None if groups is None else groups[inside])
        evidence |= {"malignant_share": bad / images, "malignant_interval": interval}
    return evidence
