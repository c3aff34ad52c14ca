"""What a notebook shows of predictions, as a browser sees it: whole, escaped, and nothing fetched."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pesi.predict.prediction import Refusal
from pesi.predict.predictions import Predictions
from pesi.verdict import Verdict

EVIL = "<script>alert(1)</script>&\"'"


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def prediction(classifier, spots):
    return classifier.predict(spots["path"].iloc[0])


def test_a_prediction_shows_everything_that_matters(prediction):
    warned = replace(prediction, verdicts=(Verdict("hair", "warn", 1, 0, "Much hair."),))
    page = Page(warned._repr_html_())
    assert page.tags.count("img") == 1
    for part in (prediction.image_id, prediction.triage, prediction.triage_reason, prediction.bundle_id, "Much hair."):
        assert part in page.text
    for name, value in prediction.probabilities.items():
        assert name.replace("_", " ") in page.text
        assert f"{value:.3f}" in page.text
        assert ("style", f"width: {100 * value:.1f}%") in page.attributes
    assert "at 90 % coverage: " + " or ".join(prediction.sets["0.90"]).replace("_", " ") in page.text


def test_no_result_and_refusals_give_the_reason_and_no_numbers(classifier):
    dark = classifier.predict(np.zeros((100, 100, 3), np.uint8))
    page = Page(dark._repr_html_())
    assert dark.no_result in page.text
    assert "melanoma" not in page.text
    assert "img" in page.tags
    page = Page(Refusal("mole", None, "It is a text file.", "Give an image.")._repr_html_())
    assert "Refused. It is a text file." in page.text
    assert "Give an image." in page.text
    assert "img" not in page.tags


def test_names_and_reasons_are_escaped_and_nothing_is_fetched(prediction):
    evil = replace(
        prediction,
        image_id=EVIL,
        triage=EVIL,
        triage_reason=EVIL,
        sets={"0.90": (EVIL,)},
        probabilities={EVIL: 1.0},
        verdicts=(Verdict("a", "warn", 1, 0, EVIL),),
    )
    for thing in (evil, replace(evil, no_result=EVIL), Refusal(EVIL, EVIL, EVIL, EVIL), Predictions([evil])):
        html = thing._repr_html_()
        page = Page(html)
        assert "script" not in page.tags
        assert EVIL in page.text
        assert all(value.startswith("data:") for name, value in page.attributes if name in ("src", "href"))
        assert "url(" not in html


def test_many_are_shown_in_part_and_stay_small(prediction):
    many = Predictions([replace(prediction, image_id=f"n{number}") for number in range(500)])
    page = Page(many._repr_html_())
    assert "500 images: 500 answered, 0 without a result, 0 refused; the first 24 of them" in page.text
    assert page.tags.count("img") == 24
    assert len(many._repr_html_()) < 500_000


def test_a_file_that_is_gone_has_no_picture(prediction):
    assert "img" not in Page(replace(prediction, path="gone.png")._repr_html_()).tags
