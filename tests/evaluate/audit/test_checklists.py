"""The checklists: every item once, in order, and open where the audit does not hold its section."""

from __future__ import annotations

import re

from pesi.evaluate.audit.report import answered_checklists
from pesi.evaluate.audit.run import TOPICS

KEYS = {topic.key for topic in TOPICS}


def test_items_are_those_of_the_published_checklists():
    clear_derm, tripod = answered_checklists(KEYS)
    assert [answer["number"] for answer in clear_derm["answers"]] == [str(n) for n in range(1, 26)]
    numbers = [answer["number"] for answer in tripod["answers"]]
    assert len(numbers) == len(set(numbers))
    assert [int(re.match(r"\d+", n)[0]) for n in numbers] == sorted(int(re.match(r"\d+", n)[0]) for n in numbers)
    assert {int(re.match(r"\d+", n)[0]) for n in numbers} == set(range(1, 28))
    assert all(answer["where"] for checklist in (clear_derm, tripod) for answer in checklist["answers"])


def test_an_item_is_open_without_its_section():
    whole, part = answered_checklists(KEYS), answered_checklists(KEYS - {"subgroups"})
    for before, after in zip(whole, part, strict=True):
        lost = [
            b["number"]
            for b, a in zip(before["answers"], after["answers"], strict=True)
            if b["answered"] and not a["answered"]
        ]
        assert lost
        assert all("subgroups" in a["where"] for a in after["answers"] if a["number"] in lost)
    assert all(not a["answered"] for a in part[0]["answers"] if a["number"] == "8")  # skin tones need the groups
