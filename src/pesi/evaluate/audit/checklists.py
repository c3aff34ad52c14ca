"""Where the items of CLEAR Derm and TRIPOD+AI are answered, for the audit that is at hand."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Answer:
    """One item of a checklist.

    Attributes:
        number, topic: The item.
        answered: Whether it is.
        where: Where, or why it is not.
    """

    number: str
    topic: str
    answered: bool
    where: str


@dataclass(frozen=True)
class Checklist:
    """A reporting checklist with its answers."""

    name: str
    source: str
    answers: tuple[Answer, ...]


def answered_checklists(section_keys: Collection[str]) -> tuple[Checklist, ...]:
    """The checklists for an audit that holds these sections.

    Args:
        section_keys: Keys of the sections that are there; an item that needs another one counts as open.
    """
    text = files("pesi.evaluate.audit").joinpath("checklists.toml").read_text(encoding="utf-8")
    checklists = []
    for checklist in tomllib.loads(text)["checklists"]:
        answers = []
        for item in checklist["items"]:
            absent = [key for key in item.get("sections", ()) if key not in section_keys]
            if "open" in item:
                answers.append(Answer(item["number"], item["topic"], False, item["open"]))
            elif absent:
                where = f"not in this audit: section {', '.join(absent)}"
                answers.append(Answer(item["number"], item["topic"], False, where))
            else:
                sections = "".join(f"section {key}; " for key in item.get("sections", ()))
                answers.append(Answer(item["number"], item["topic"], True, sections + item["where"]))
        checklists.append(Checklist(checklist["name"], checklist["source"], tuple(answers)))
    return tuple(checklists)
