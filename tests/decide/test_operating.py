"""Thresholds and triage against known answers, and the rule as configuration."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import norm

from pesi.bundle.config import BundleConfig, read_config
from pesi.bundle.installed import bundle_folder
from pesi.decide.operating import Threshold, expected_rates, operating_points, threshold_at
from pesi.decide.triage import TriageLevel, TriageRule, fit_triage, read_triage_rule, rule_of, triage_of
from pesi.errors import RecipeError


def lesions(count, rng, *, share=0.2, apart=0.3):
    labels = rng.random(count) < share
    return labels, np.clip(rng.normal(0.3 + apart * labels, 0.2), 0, 1)


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.95, 1.0])
def test_threshold_reaches_the_sensitivity_and_no_more(wanted):
    labels, scores = lesions(300, np.random.default_rng(2))
    found = threshold_at("sensitivity", wanted, labels, scores, class_name="melanoma", on="validation")
    called = scores >= found.value
    assert called[labels].mean() == pytest.approx(found.sensitivity)
    assert (~called[~labels]).mean() == pytest.approx(found.specificity)
    assert found.sensitivity >= wanted
    higher = scores[scores > found.value].min()
    assert (scores >= higher)[labels].mean() < wanted
    with pytest.raises(ValueError, match="with and without"):
        threshold_at("sensitivity", wanted, np.ones(3, bool), np.ones(3), class_name="x", on="")


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95])
def test_threshold_reaches_the_specificity_and_no_more(wanted):
    labels, scores = lesions(300, np.random.default_rng(2))
    found = threshold_at("specificity", wanted, labels, scores, class_name="melanoma", on="validation")
    called = scores >= found.value
    assert (~called[~labels]).mean() == pytest.approx(found.specificity)
    assert found.specificity >= wanted
    lower = scores[scores < found.value].max()
    assert (scores < lower)[~labels].mean() < wanted


def test_a_specificity_that_nothing_reaches_calls_nothing():
    labels, scores = np.array([True, False, True, False]), np.array([0.1, 0.9, 0.2, 0.9])
    found = threshold_at("specificity", 0.9, labels, scores, class_name="x", on="")
    assert not (scores >= found.value).any()
    assert found.specificity == 1
    assert np.isfinite(found.value)


def brute_force_rates(criterion, wanted, labels, scores, rng, replicates):
    """The same bootstrap, image by image: choose on the resample with `threshold_at`, measure on the rest."""
    rates = []
    for _ in range(replicates):
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels == kind), (labels == kind).sum()) for kind in (1, 0)])
        left = np.setdiff1d(np.arange(len(labels)), drawn)
        value = threshold_at(criterion, wanted, labels[drawn], scores[drawn], class_name="", on="").value
        called = scores[left] >= value
        rates.append((called[labels[left]].mean(), (~called[~labels[left]]).mean()))
    return np.quantile(rates, [0.025, 0.975], axis=0).T


@pytest.mark.parametrize(("criterion", "wanted"), [("sensitivity", 0.9), ("specificity", 0.9)])
def test_expected_rates_are_those_of_choosing_and_measuring_one_by_one(criterion, wanted):
    rng = np.random.default_rng(8)
    labels, scores = lesions(200, rng, share=0.3)
    scores = np.round(scores, 2)  # with ties
    found = expected_rates(criterion, wanted, labels, scores, rng=np.random.default_rng(1), replicates=4000)
    expected = brute_force_rates(criterion, wanted, labels, scores, np.random.default_rng(2), 1500)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_on_many_images_the_expected_rates_close_in_on_the_truth():
    """Normal scores one deviation apart: at sensitivity 0.90 the specificity is Phi(1 - 1.2816)."""
    rng = np.random.default_rng(9)
    labels = np.arange(20_000) < 10_000
    scores = rng.normal(labels * 1.0, 1)
    sensitivity, specificity = expected_rates(
        "sensitivity", 0.9, labels, scores, rng=np.random.default_rng(0), replicates=200
    )
    assert sensitivity[0] < 0.90 < sensitivity[1]
    assert specificity[0] < norm.cdf(1 - norm.ppf(0.9)) < specificity[1]
    assert specificity[1] - specificity[0] < 0.06


def test_operating_points_say_what_to_expect_only_where_asked():
    rng = np.random.default_rng(3)
    labels, scores = lesions(120, rng)
    plain = operating_points(labels, scores, class_name="melanoma", on="validation")
    assert [point.name for point in plain] == [
        "sensitivity_0.80",
        "sensitivity_0.90",
        "sensitivity_0.95",
        "specificity_0.90",
        "specificity_0.95",
    ]
    assert all(point.sensitivity_interval is None for point in plain)
    points = operating_points(labels, scores, class_name="melanoma", on="validation", rng=rng)
    for point, before in zip(points, plain, strict=True):
        assert point.value == before.value
        low, high = point.sensitivity_interval
        assert 0 <= low < high <= 1
        assert Threshold.model_validate_json(point.model_dump_json()) == point
    assert operating_points(np.zeros(5, bool), np.zeros(5), class_name="x", on="") == ()


def test_one_positive_is_never_left_out():
    labels = np.arange(10) == 9
    sensitivity, specificity = expected_rates(
        "sensitivity", 0.9, labels, np.linspace(0, 1, 10), rng=np.random.default_rng(0), replicates=50
    )
    assert sensitivity is None
    assert specificity == pytest.approx(wilson(3, 3))  # of nine, a third is left out


def test_triage_levels_keep_their_promise_and_count_their_evidence():
    rng = np.random.default_rng(3)
    malignant = rng.random(1000) < 0.2
    scores = np.clip(rng.normal(0.3 + 0.4 * malignant, 0.15), 0, 1)
    levels = fit_triage(TriageRule(), malignant, scores, on="validation")
    at = {level.level: level.at_least for level in levels}
    assert (scores[~malignant] < at["excise"]).mean() >= 0.95
    assert (scores[malignant] >= at["refer"]).mean() >= 0.90
    assert (scores[malignant] >= at["follow up"]).mean() >= 0.98
    assert at["no level reached"] == 0
    assert (levels[-1].promise, levels[-1].promised) == ("nothing", None)
    assert "promises nothing" in levels[-1].how
    assert sorted(at.values(), reverse=True) == list(at.values())
    assert sum(level.images for level in levels) == 1000
    assert sum(level.malignant for level in levels) == malignant.sum()
    refer = levels[1]
    inside = (scores < at["excise"]) & (scores >= at["refer"])
    assert (refer.images, refer.malignant) == (inside.sum(), malignant[inside].sum())
    assert refer.malignant_interval[0] < malignant[inside].mean() < refer.malignant_interval[1]
    assert refer.promise == "at most 10 % of the malignant lesions below it, with 90 % confidence"
    assert levels[0].promise == "at most 5 % of the benign lesions at it or above, with 90 % confidence"
    assert refer.how.startswith(refer.promise)
    cost = (scores[~malignant] < at["refer"]).mean()
    assert f"{malignant.sum()} of them, validation; specificity {cost:.2f}, " in refer.how
    reached = triage_of(levels, scores)
    assert (reached == 1).sum() == refer.images
    assert fit_triage(TriageRule(), np.zeros(5, bool), np.zeros(5), on="") == ()
    assert TriageLevel.model_validate_json(refer.model_dump_json()) == refer
    assert rule_of(levels) == TriageRule()


def test_where_every_malignant_lesion_stands_above_the_benign_the_levels_still_fall():
    malignant = np.arange(100) >= 80
    levels = fit_triage(TriageRule(), malignant, np.linspace(0, 1, 100), on="")
    at = [level.at_least for level in levels]
    assert at == sorted(at, reverse=True)
    assert levels[1].images == 0
    assert levels[1].malignant_share is None
    assert levels[-1].malignant == 0


def write_rule(folder, text):
    path = folder / "triage.toml"
    path.write_text(text)
    return path


GOOD = """
[[level]]
name = "urgent"
criterion = "specificity"
value = 0.9
[[level]]
name = "see again"
criterion = "sensitivity"
value = 0.95
[[level]]
name = "nothing"
criterion = "rest"
"""


def test_a_rule_is_read_from_toml(tmp_path):
    rule = read_triage_rule(write_rule(tmp_path, GOOD))
    assert [(step.name, step.criterion, step.value) for step in rule.levels] == [
        ("urgent", "specificity", 0.9),
        ("see again", "sensitivity", 0.95),
        ("nothing", "rest", None),
    ]


def test_a_rule_says_how_sure_its_promises_are(tmp_path):
    """Nothing said: 0.9, so that old files still read; one for all, or one of a level's own."""
    plain = read_triage_rule(write_rule(tmp_path, GOOD))
    assert [step.confidence for step in plain.levels] == [0.9, 0.9, None]
    common = read_triage_rule(write_rule(tmp_path, "confidence = 0.8" + GOOD))
    assert [step.confidence for step in common.levels] == [0.8, 0.8, None]
    own = GOOD.replace("value = 0.9\n", "value = 0.9\nconfidence = 0.99\n")
    mixed = read_triage_rule(write_rule(tmp_path, "confidence = 0.8" + own))
    assert [step.confidence for step in mixed.levels] == [0.99, 0.8, None]
    malignant, scores = lesions(400, np.random.default_rng(0))
    assert rule_of(fit_triage(mixed, malignant, scores, on="")) == mixed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("see again", "urgent"), "'urgent' stands twice"),
        (('"rest"', '"sensitivity"\nvalue = 0.99'), "only the last, has the criterion 'rest'"),
        (("0.95", "1.5"), r"level 2 value: .*less than 1"),
        (("0.95", "0"), r"level 2 value: .*greater than 0"),
        (("value = 0.95", ""), "'see again' needs a value"),
        (('"rest"', '"rest"\nvalue = 0.5'), "'nothing' takes the rest"),
        (('"rest"', '"rest"\nconfidence = 0.5'), "'nothing' takes the rest"),
        (("value = 0.95", "value = 0.95\nconfidence = 1"), r"level 2 confidence: .*less than 1"),
        (
            ('[[level]]\nname = "urgent"', 'confidence = 0\n[[level]]\nname = "urgent"'),
            r"level 1 confidence: .*greater than 0",
        ),
        (('"specificity"', '"accuracy"'), r"level 1 criterion: .*'specificity', 'sensitivity' or 'rest'"),
        (('"urgent"', '"urgent"\ncolour = "red"'), r"level 1 colour: .*not permitted"),
        (("name", "title"), "level 1 name"),
        (("[[level]]", "[[step]]"), "unknown key 'step'"),
        (('"urgent"', '"urgent'), "not valid TOML"),
    ],
)
def test_a_mistake_in_a_rule_names_itself(tmp_path, change, message):
    path = write_rule(tmp_path, GOOD.replace(*change))
    with pytest.raises(RecipeError, match=message) as caught:
        read_triage_rule(path)
    assert "[[level]]" in caught.value.cure
    assert "triage.toml" in caught.value.problem


def test_a_rule_that_is_not_there_or_is_empty(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        read_triage_rule(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="two or more levels"):
        read_triage_rule(write_rule(tmp_path, ""))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([("a", "sensitivity", 0.9), ("b", "specificity", 0.9), ("c", "rest", None)], "put it before 'a'"),
        ([("a", "sensitivity", 0.9), ("b", "sensitivity", 0.8), ("c", "rest", None)], "'b' needs a higher"),
        ([("a", "sensitivity", 0.9), ("b", "sensitivity", 0.9), ("c", "rest", None)], "'b' needs a higher"),
        ([("a", "specificity", 0.9), ("b", "specificity", 0.95), ("c", "rest", None)], "'b' needs a lower"),
    ],
)
def test_an_order_in_which_a_promise_could_not_hold_is_refused(levels, message):
    steps = [{"name": name, "criterion": criterion, "value": value} for name, criterion, value in levels]
    with pytest.raises(ValidationError, match=message):
        TriageRule.model_validate({"levels": steps})


def test_bundles_before_this_still_load(tmp_path):
    """Format version 1 as first shipped: no vector scaling, no intervals, no evidence."""
    values = json.loads((bundle_folder() / "config.json").read_text())
    values.pop("vector", None)
    values["thresholds"] = [
        {"name": "sensitivity_0.80", "class_name": "melanoma", "value": 0.1, "sensitivity": 0.8, "specificity": 0.7,
         "how": ""}
    ]  # fmt: skip
    values["triage"] = old = [
        {"level": "excise", "at_least": 0.3, "how": "as it was"},
        {"level": "reassure", "at_least": 0.0, "how": ""},
    ]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = read_config(tmp_path)
    assert config.vector is None
    assert config.thresholds[0].sensitivity_interval is None
    assert rule_of(config.triage) is None
    assert [(level.how, level.promise) for level in config.triage] == [("as it was", "nothing"), ("", "nothing")]
    written = json.loads(config.model_dump_json())["triage"]
    assert [{key: level[key] for key in old[0]} for level in written] == old
    assert BundleConfig.model_validate_json(config.model_dump_json()) == config


def test_a_rate_that_no_resample_moves_still_has_an_interval():
    """Six positives far above all negatives: every resample finds all, which six cannot prove."""
    labels = np.arange(60) < 6
    scores = np.where(labels, 0.9, 0.1) + np.linspace(0, 0.05, 60)
    sensitivity, specificity = expected_rates(
        "sensitivity", 0.5, labels, scores, rng=np.random.default_rng(0), replicates=200
    )
    assert sensitivity[0] < 0.9
    assert specificity == pytest.approx(wilson(20, 20), abs=1e-9)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's interval, from its own formula."""
    z, p = 1.959963984540054, successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return centre - half, min(1.0, centre + half)


def test_a_bundle_set_for_rates_without_a_confidence_keeps_its_text_and_its_id():
    """As bundles were before levels promised anything: their `answer_id` rests on these very words."""
    values = {
        "level": "refer",
        "at_least": 0.084,
        "how": "highest threshold with sensitivity >= 0.90 on validation: 30 with and 120 without",
        "criterion": "sensitivity",
        "wanted": 0.9,
        "images": 46,
        "share": 0.3,
        "malignant": 11,
        "malignant_share": 0.2391304347826087,
        "malignant_interval": [0.14, 0.38],
    }
    level = TriageLevel.model_validate(values)
    assert json.loads(level.model_dump_json()) == values
    assert list(json.loads(level.model_dump_json())) == list(values)
    assert level.promise == "at most 10 % of the malignant lesions below it, without a stated confidence"
    last = TriageLevel(level="reassure", at_least=0.0, how="below every other level", criterion="rest")
    assert rule_of((level, last)).levels[0].confidence == 0.9
