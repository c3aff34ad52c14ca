"""An ensemble is the mean of its members' own answers, whatever their network, size and views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

import pesi
from pesi.bundle.config import MemberConfig, NetworkConfig, TemperatureConfig, task_config
from pesi.decide.uncertainty import uncertainty_of
from pesi.errors import BundleError, ImageError
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier
from pesi.predict.ensemble import Ensemble
from pesi.predict.prediction import Prediction, Refusal
from pesi.synthetic.dataset import write_synthetic
from pesi.taxonomy import TASKS


@pytest.fixture(scope="module")
def member() -> Classifier:
    return pesi.load(device="cpu")


@pytest.fixture(scope="module")
def other(member: Classifier) -> Classifier:
    """Another network, size, views and temperature."""
    config = member.config
    changed = config.model_copy(
        update={
            "name": "other",
            "members": (
                MemberConfig(
                    network=NetworkConfig(name="pesi14", num_classes=3, options={}),
                    preprocess=config.preprocess.model_copy(update={"size": 64, "source_size": 72}),
                ),
            ),
            "views": "single",
            "temperature": TemperatureConfig(value=0.2),
        }
    )
    return Classifier(changed, create_model("pesi14", num_classes=3), device="cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = write_synthetic(tmp_path_factory.mktemp("e") / "s", train=3, val=0, test=0, size=200, workers=1)
    return sorted(folder.rglob("*.jpg"))


def test_it_is_the_mean_of_its_members(member, other, paths):
    ensemble = Ensemble([member, other])
    for path, found in zip(paths, ensemble.predict_many(paths, batch_size=2), strict=True):
        alone = [m.predict(path) for m in (member, other)]
        for name, value in found.probabilities.items():
            assert value == pytest.approx(np.mean([p.probabilities[name] for p in alone]), abs=1e-5)
        assert found.malignant == pytest.approx(np.mean([p.malignant for p in alone]), abs=1e-5)
        assert found.image_id == path.stem
        assert found.triage is None
        assert member.config.bundle_id in found.bundle_id
        assert other.config.bundle_id in found.bundle_id


def test_views_of_all_members_and_their_weights(member, other, paths):
    ensemble = Ensemble([member, other])
    answer = ensemble.view_probabilities(paths[0])
    assert answer.probabilities.shape == (21, 3)  # two flips of ten networks, and one
    np.testing.assert_array_equal(answer.members, [0] * 20 + [1])
    np.testing.assert_allclose(answer.weights, [1 / 40] * 20 + [1 / 2])
    np.testing.assert_allclose(answer.probabilities.sum(1), 1)
    expected = (answer.probabilities[:20].mean(0) + answer.probabilities[20:].mean(0)) / 2
    np.testing.assert_allclose(answer.mean, expected)
    assert uncertainty_of(answer.probabilities, ensemble.outputs, ensemble.head, answer.weights).samples == 21
    assert len(ensemble.view_probabilities(paths[0], "single").members) == 11


def test_each_view_is_calibrated_by_its_own_bundle(other):
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(other.view_probabilities(logits), softmax(logits / 0.2, axis=2), atol=1e-5)


def test_a_bad_file_is_refused_and_the_rest_is_done(member, other, paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    ensemble = Ensemble([member, other])
    done: list[int] = []
    results = list(ensemble.predict_many([paths[0], bad, paths[1]], image_ids="abc", progress=done.append))
    assert [type(r) for r in results] == [Prediction, Refusal, Prediction]
    assert [r.image_id for r in results] == ["a", "b", "c"]
    assert done == [3]
    assert [type(r) for r in ensemble.predict_many([bad])] == [Refusal]
    with pytest.raises(ImageError):
        ensemble.view_probabilities(bad)
    with pytest.raises(ValueError, match="2 image ids"):
        list(ensemble.predict_many(paths[:1], image_ids="ab"))


def test_members_must_answer_the_same_question(member):
    with pytest.raises(BundleError, match="Name at least two"):
        Ensemble([member])
    seven = member.config.model_copy(update={"name": "seven", "task": task_config(TASKS["ham10000"], "multiclass")})
    with pytest.raises(BundleError, match=r"seven@.* have different outputs: .*\n.*same task"):
        Ensemble([member, Classifier(seven, member.network, device="cpu")])
    heads = member.config.model_copy(update={"task": task_config(TASKS["isic2017"], "multilabel")})
    with pytest.raises(BundleError, match="different heads"):
        Ensemble([member, Classifier(heads, member.network, device="cpu")])
