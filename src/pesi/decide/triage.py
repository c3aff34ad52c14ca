"""Triage: a rule of ordered levels, which is configuration, and the thresholds that keep what each level promises."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from pesi.decide.operating import Floats, Interval
from pesi.decide.promises import (
    OTHER,
    Bools,
    Promise,
    failures,
    fewest_lesions,
    percent,
    promise_words,
    promised_threshold,
)
from pesi.errors import RecipeError
from pesi.stats.intervals import exact_interval, share_interval

LevelCriterion = Literal["specificity", "sensitivity", "rest"]

CONFIDENCE = 0.9  # of a promise, where a rule does not say


class TriageLevel(BaseModel, extra="forbid", frozen=True):
    """A triage answer for malignant probability >= `at_least`; levels are tried from the first to the last.

    Attributes:
        criterion, wanted: What the level is to promise, as in its rule's step.
        promised: What it does promise; None for the last level, and in bundles from before there were promises.
        images, share: How many of the images that it was set on came to this level, and their share.
        malignant, malignant_share, malignant_interval: How many of those are malignant, their share among them, and
            Wilson's 95 % interval of it.
    """

    level: str
    at_least: float
    how: str
    criterion: LevelCriterion | None = None
    wanted: float | None = None
    promised: Promise | None = None
    images: int | None = None
    share: float | None = None
    malignant: int | None = None
    malignant_share: float | None = None
    malignant_interval: Interval | None = None

    @model_serializer(mode="wrap")
    def _as_before_there_were_promises(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a promise not a word of one: `BundleConfig.answer_id` of an old bundle stays what it was."""
        values: dict[str, Any] = write(self)
        return {key: value for key, value in values.items() if key != "promised" or value is not None}

    @property
    def rate(self) -> float | None:
        """What it promises of its criterion; in an old bundle what it was set for; None for the last level."""
        return self.wanted if self.promised is None else self.promised.rate

    @property
    def confidence(self) -> float | None:
        """With which it promises that; None in an old bundle."""
        return None if self.promised is None else self.promised.confidence

    @property
    def promise(self) -> str:
        """What it promises, in words, such as "at most 2 % of the malignant lesions below it, with 90 % confidence"."""
        if self.criterion is None or self.criterion == "rest" or self.rate is None:
            return "nothing"
        return promise_words(self.criterion, self.rate, self.confidence)


class TriageStep(BaseModel, extra="forbid", frozen=True):
    """One level of a triage rule, and what sets its threshold.

    Attributes:
        name: What the clinician reads, such as "refer".
        criterion: `specificity`: at least that share of the benign lesions stays below; `sensitivity`: at least that
            share of the malignant lesions comes to this level or a more urgent one; `rest`: everything else, of which
            nothing is promised.
        value: The wanted share, above 0 and below 1; none for `rest`.
        confidence: That the promise holds, above 0 and below 1; none for `rest`.
    """

    name: str = Field(min_length=1)
    criterion: LevelCriterion
    value: Annotated[float, Field(gt=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_confidence(cls, values: Any) -> Any:
        due = isinstance(values, dict) and values.get("criterion") != "rest" and values.get("confidence") is None
        return values | {"confidence": CONFIDENCE} if due else values

    @model_validator(mode="after")
    def _value_where_due(self) -> TriageStep:
        if self.criterion == "rest" and (self.value is not None or self.confidence is not None):
            raise ValueError(f"level {self.name!r} takes the rest and promises nothing: no value, no confidence")
        if self.criterion != "rest" and self.value is None:
            raise ValueError(f"level {self.name!r} needs a value: the {self.criterion} wanted, between 0 and 1")
        return self


class TriageRule(BaseModel, extra="forbid", frozen=True):
    """Levels from the most to the least urgent: first those by specificity, then by sensitivity, last the rest.

    In that order, specificities falling and sensitivities rising, every level can keep its promise while the thresholds
    fall from level to level. Each promise is made by itself: that several hold at once has a confidence of at least 1
    less what each lacks (three of 0.9: 0.7).
    """

    levels: tuple[TriageStep, ...] = (
        TriageStep(name="excise", criterion="specificity", value=0.95),
        TriageStep(name="refer", criterion="sensitivity", value=0.90),
        TriageStep(name="follow up", criterion="sensitivity", value=0.98),
        TriageStep(name="no level reached", criterion="rest"),
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
    """A triage rule from a TOML file: a `[[level]]` each, with `name`, `criterion`, `value` and maybe `confidence`.

    A `confidence` above all levels is that of each level that has none of its own.

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
    if unknown := sorted(set(values) - {"level", "confidence"}):
        raise RecipeError(f"{path}: unknown key {unknown[0]!r}; a triage rule has levels and a confidence.", cure)
    levels = values.get("level", [])
    for level in levels if "confidence" in values and isinstance(levels, list) else ():
        if isinstance(level, dict) and level.get("criterion") != "rest":
            level.setdefault("confidence", values["confidence"])
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
        TriageStep(name=level.level, criterion=level.criterion, value=level.wanted, confidence=level.confidence)
        for level in levels
        if level.criterion is not None
    ]
    return TriageRule(levels=tuple(steps)) if levels and len(steps) == len(levels) else None


def triage_of(levels: tuple[TriageLevel, ...], scores: Floats) -> NDArray[np.int64]:
    """Index of the level that each malignant probability comes to, (N,)."""
    reached = scores[:, None] >= np.array([level.at_least for level in levels])
    return np.asarray(np.argmax(reached, axis=1), np.int64)


def triaged(score: float | None, levels: tuple[TriageLevel, ...]) -> tuple[str | None, str]:
    """The level of a malignant probability, and why; None where there is none."""
    if score is None or not levels:
        return None, "this bundle has no triage rule"
    level = next(level for level in levels if score >= level.at_least)
    return level.level, f"malignant probability {score:.3f} >= {level.at_least:.3f} ({level.how})"


def fit_triage(
    rule: TriageRule, malignant: Bools, scores: Floats, *, on: str, groups: NDArray | None = None
) -> tuple[TriageLevel, ...]:
    """The rule's thresholds, each with what it promises and what came to its level on the images that set it.

    Where a confidence of its own sets a sensitivity's threshold above that of a level before it, it is lowered to it;
    one by specificity below that of the level after it is raised: both keep their promise all the more. Where lesions
    are too few for what is wanted, the level promises the most that they can, and `how` says so.

    Args:
        rule: The levels wanted.
        malignant: The truth, (N,).
        scores: Malignant probability, (N,), by a network that did not train on these images.
        on: What the data were, for the record.
        groups: Patient or lesion of each image, (N,), which counts as one (`pesi.decide.promises`).

    Returns:
        Levels from the most to the least urgent, the last at 0; none where no image or every image is malignant.
    """
    if malignant.all() or not malignant.any():
        return ()
    steps = [
        (step.name, step.criterion, step.value, step.confidence)
        for step in rule.levels
        if step.criterion != "rest" and step.value is not None and step.confidence is not None
    ]
    data = malignant, scores, groups
    thresholds, rates = zip(*(promised_threshold(*step[1:], *data) for step in steps), strict=True)
    at, first = np.array(thresholds), sum(step[1] == "specificity" for step in steps)
    at[first:] = np.minimum.accumulate(at[first:])
    at = np.maximum.accumulate(at[::-1])[::-1]
    found, once = [], "" if groups is None else ", images of one patient or lesion counted once"
    for (name, criterion, wanted, confidence), threshold, rate in zip(steps, at.tolist(), rates, strict=True):
        failed, lesions = failures(criterion, threshold, *data)
        other, others = failures(OTHER[criterion], threshold, *data)
        cost, (low, high) = 1 - other / others, exact_interval(others - other, others)
        how = promise_words(criterion, rate, confidence)
        if rate < wanted:
            how += f" ({percent(1 - wanted)} would take at least {fewest_lesions(1 - wanted, confidence)} of them)"
        how += f"; set on {lesions} of them, {on}{once}; {OTHER[criterion]} {cost:.2f}, {low:.2f} to {high:.2f}"
        promise = Promise(
            rate=rate, confidence=confidence, failed=failed, lesions=lesions, cost=cost, cost_interval=(low, high)
        )
        found.append(
            TriageLevel(level=name, at_least=threshold, how=how, criterion=criterion, wanted=wanted, promised=promise)
        )
    rest = "below every other level; promises nothing"
    levels = (*found, TriageLevel(level=rule.levels[-1].name, at_least=0.0, how=rest, criterion="rest"))
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
