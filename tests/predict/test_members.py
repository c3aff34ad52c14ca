"""A bundle of several networks: the mean of what each says; for images of its folds, of those that did not see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from conftest import FOLDS, write_several
from pesi.bundle.config import TemperatureConfig
from pesi.decide.novelty import novelty_score
from pesi.errors import BundleError
from pesi.images.transforms import normalise, to_tensor
from pesi.predict.classifier import Classifier
from pesi.predict.ensemble import Ensemble
from pesi.predict.similar import build_reference


@pytest.fixture(scope="module", params=["multiclass", "multilabel"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """One of each head."""
    return Classifier.load(write_several(tmp_path_factory.mktemp("either") / "b", request.param), device="cpu")


def alone(classifier: Classifier, index: int) -> Classifier:
    """One of its networks as a bundle of one network, calibrated by both temperatures at once."""
    config, member = classifier.config, classifier.config.members[index]
    plain = member.model_copy(update={"fold": None, "temperature": TemperatureConfig(), "vector": None})
    both = TemperatureConfig(value=member.temperature.value * config.temperature.value)
    changed = {"members": (plain,), "folds": (), "novelty": None, "temperature": both, "vector": member.vector}
    return Classifier(config.model_copy(update=changed), classifier.networks[index], device="cpu")


def mean_of(classifiers: list[Classifier], path: str, **options) -> dict[str, float]:
    answers = [each.predict(path, gates=False, **options).probabilities for each in classifiers]
    return {name: float(np.mean([answer[name] for answer in answers])) for name in answers[0]}


@pytest.mark.parametrize("views", [None, "single"])
def test_its_answer_is_the_mean_of_its_networks_own(either: Classifier, spots: pd.DataFrame, views: str | None) -> None:
    each = [alone(either, index) for index in range(4)]
    paths = list(spots["path"].iloc[[0, 10, 30]])
    for path, found in zip(paths, either.predict_many(paths, gates=False, views=views), strict=True):
        own = [one.predict(path, gates=False, views=views).probabilities for one in each]
        assert min(np.std([answer[name] for answer in own]) for name in own[0]) > 0.01  # they are not of one mind
        assert found.probabilities == pytest.approx(mean_of(each, path, views=views), abs=1e-6)
        assert found.uncertainty.samples == (16 if views is None else 4)


def test_disagreement_is_between_networks_and_views(several: Classifier, spots: pd.DataFrame) -> None:
    path = spots["path"].iloc[3]
    samples = []
    for index in range(4):
        one = alone(several, index)
        logits = one.logits([one.squares(path)])[0].astype(float)
        vector = several.config.members[index].vector
        logits = logits if vector is None else logits * vector.weight + vector.bias
        samples.append(softmax(logits / one.config.temperature.value, axis=1))
    stacked = np.concatenate(samples)
    expected = (entropy(stacked.mean(0)) - entropy(stacked, axis=1).mean()) / np.log(3)
    found = several.predict(path, gates=False).uncertainty
    assert found.mutual_information == pytest.approx(expected, abs=1e-6)
    # The networks disagree about more than flips of one picture.
    assert found.mutual_information > max(
        alone(several, i).predict(path).uncertainty.mutual_information for i in (0, 1)
    )


def test_images_of_a_fold_are_answered_by_the_networks_that_have_not_seen_them(
    several: Classifier, spots: pd.DataFrame
) -> None:
    each = [alone(several, index) for index in range(4)]
    rows = spots[spots["image_id"].isin([FOLDS[0][0], FOLDS[1][0], FOLDS[0][5], "val_003"])]
    own = {FOLDS[0][0]: (0, 2), FOLDS[0][5]: (0, 2), FOLDS[1][0]: (1, 3), "val_003": (0, 1, 2, 3)}
    ids, paths = list(rows["image_id"]), list(rows["path"])
    options = {"image_ids": ids, "gates": False, "batch_size": 3}
    held_out = list(several.predict_many(paths, held_out=True, **options))
    by_all = list(several.predict_many(paths, **options))
    for image_id, path, found, usual in zip(ids, paths, held_out, by_all, strict=True):
        chosen = [each[index] for index in own[image_id]]
        assert found.probabilities == pytest.approx(mean_of(chosen, path), abs=1e-6)
        assert usual.probabilities == pytest.approx(mean_of(each, path), abs=1e-6)
        assert (found.probabilities == pytest.approx(usual.probabilities, abs=1e-4)) == (len(chosen) == 4)


def test_a_batch_of_images_of_several_folds(several: Classifier, spots: pd.DataFrame) -> None:
    squares = [several.squares(path) for path in spots["path"].iloc[:3]]
    mixed = several.outputs(squares, folds=[0, None, 1])
    assert mixed.members.tolist() == [[0, 2, 0, 2], [0, 1, 2, 3], [1, 3, 1, 3]]
    assert mixed.logits.shape == (3, 16, 3)
    by_all = several.outputs(squares)
    for row, members in enumerate(mixed.members):
        for place, member in enumerate(members):
            np.testing.assert_allclose(
                mixed.logits[row, 4 * place : 4 * place + 4], by_all.logits[row, 4 * member : 4 * member + 4], atol=1e-4
            )
            np.testing.assert_allclose(mixed.features[row, place], by_all.features[row, member], atol=1e-4)
    assert several.outputs([]).logits.shape == (0, 16, 3)


def test_a_folds_classifier_is_its_networks_alone(several: Classifier, spots: pd.DataFrame) -> None:
    path = spots["path"].iloc[0]
    one = several.of_fold(1)
    assert several.of_fold(None) is several
    assert several.of_fold(1) is one
    assert one.networks == (several.networks[1], several.networks[3])
    expected = mean_of([alone(several, 1), alone(several, 3)], path)
    assert one.predict(path, gates=False).probabilities == pytest.approx(expected, abs=1e-6)
    assert one.regions[0].key == several.regions[0].key


def test_moved_to_a_device_it_says_the_same(several_folder: Path, spots: pd.DataFrame) -> None:
    classifier, path = Classifier.load(several_folder, device="cpu"), spots["path"].iloc[0]
    before, fold = classifier.predict(path), classifier.of_fold(0)
    assert classifier.to("cpu") is classifier
    assert classifier.predict(path).probabilities == before.probabilities
    assert classifier.of_fold(0) is not fold
    assert len(classifier.members) == 4


def test_logits_of_each_network_by_hand(several: Classifier, spots: pd.DataFrame) -> None:
    """The pictures of a region go to the networks that look at it, each with its mean and standard deviation."""
    pictures = np.stack([several.squares(path)[0][:64, :64] for path in spots["path"].iloc[:2]])
    x = normalise(torch.stack([to_tensor(picture) for picture in pictures]), (0.5, 0.5, 0.5), (0.25, 0.3, 0.35))
    with torch.inference_mode():
        expected = np.stack(
            [several.networks[i](x).numpy() / several.config.members[i].temperature.value for i in (0, 1)], axis=1
        )
    np.testing.assert_allclose(several.picture_logits(pictures), expected, atol=1e-4)
    assert [member.regions for member in several.looking_at(1)] == [(1,), (1,)]
    assert several.region_names == ("image", "lesion")
    with pytest.raises(ValueError, match="No network looks at region 2"):
        several.looking_at(2)


def test_what_is_new_is_told_by_the_networks_that_know(several: Classifier, spots: pd.DataFrame) -> None:
    squares = [several.squares(path) for path in spots["path"].iloc[:3]]
    outputs = several.outputs(squares, folds=[0, None, 1])
    features = [alone(several, index).outputs(squares).features[:, 0] for index in (0, 1)]
    first, second = (novelty_score(features[index], several.novelty[index]) for index in (0, 1))
    expected = [first[0], (first[1] + second[1]) / 2, second[2]]
    np.testing.assert_allclose(several.novelty_scores(outputs), expected, rtol=1e-4)
    assert several.novelty[2:] == (None, None)
    (verdict,) = (v for v in several.predict(spots["path"].iloc[1]).verdicts if v.check == "novelty")
    assert verdict.value == pytest.approx(expected[1], rel=1e-4)


def test_similar_cases_are_told_by_all_networks_alike(several: Classifier, spots: pd.DataFrame, tmp_path: Path) -> None:
    rows = spots.iloc[:6].reset_index(drop=True)
    reference = build_reference(several, rows, tmp_path)
    for number, path in enumerate(rows["path"]):
        each = []
        for index in range(4):
            one = alone(several, index)
            own = one.outputs([one.squares(path)]).features[0, 0].astype(float)
            each.append(own / np.linalg.norm(own))
        mean = np.mean(each, axis=0)
        np.testing.assert_allclose(reference.features[number], mean / np.linalg.norm(mean), atol=2e-3)
        assert reference.similar_to(several, path, k=1)[0].image_id == rows["image_id"][number]


def test_in_an_ensemble_it_is_one_member(several: Classifier, classifier: Classifier, spots: pd.DataFrame) -> None:
    """However many networks a bundle has, on the command line each bundle counts the same."""
    path = spots["path"].iloc[4]
    (found,) = Ensemble([several, classifier]).predict_many([path])
    assert found.probabilities == pytest.approx(mean_of([several, classifier], path), abs=1e-5)


def test_only_a_bundle_of_one_network_can_look_at_something_else(several: Classifier) -> None:
    with pytest.raises(BundleError, match="several-multiclass has 4 networks"):
        several.config.with_preprocess(several.config.preprocess)
