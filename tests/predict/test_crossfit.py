"""Decisions cross-fitted: no image has a say in its own answer, sets keep what they promise, all by hand again."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pesi.bundle.config import BundleConfig, MemberConfig, NetworkConfig, PreprocessConfig, task_config
from pesi.decide.novelty import fit_novelty
from pesi.errors import DataError
from pesi.predict import fitting
from pesi.predict.crossfit import FoldDecisions, calibrated_members, fit_on_folds
from pesi.predict.fitting import fit_decisions, id_list
from pesi.predict.members import Outputs
from pesi.taxonomy import TASKS

FOLDS = 4
GREY = (0.5, 0.5, 0.5)


def bundle(ids: list[str], folds: np.ndarray, members: int = 1) -> BundleConfig:
    """A bundle of that many networks a fold; there are no weights to it."""
    preprocess = PreprocessConfig(source_size=64, size=64, geometry="squeeze", mean=GREY, std=GREY)
    network = NetworkConfig(name="pesi14", num_classes=3, options={})
    return BundleConfig(
        name="simulated",
        members=tuple(
            MemberConfig(network=network, preprocess=preprocess, fold=fold)
            for fold in range(FOLDS)
            for _ in range(members)
        ),
        folds=tuple(id_list([i for i, f in zip(ids, folds, strict=True) if f == fold]) for fold in range(FOLDS)),
        task=task_config(TASKS["isic2017"], "multiclass"),
    )


class Simulated:
    """Exchangeable images: class by chance, logits around it, features of which some are odd."""

    def __init__(self, seed: int, count: int = 240) -> None:
        rng = np.random.default_rng(seed)
        self.classes = rng.choice(3, count, p=(0.3, 0.3, 0.4))
        self.folds = rng.permutation(np.arange(count) % FOLDS)
        logits = rng.normal(0, 1.5, (count, 2, 3))  # two views
        logits += 2.0 * np.eye(3)[self.classes][:, None]
        features = rng.normal(0, 1, (count, 1, 6)) * rng.choice((1, 3), (count, 1, 1), p=(0.9, 0.1))
        self.outputs = Outputs(logits.astype(np.float32), features.astype(np.float32), self.folds[:, None])
        self.ids = [f"image {index}" for index in range(count)]
        self.novelty = [fit_novelty(rng.normal(0, 1, (50, 6)).astype(np.float32)) for _ in range(FOLDS)]
        self.config = bundle(self.ids, self.folds)

    def fit(self, classes: np.ndarray | None = None, **options: object) -> FoldDecisions:
        given = self.classes if classes is None else classes
        options = {"novelty": self.novelty} | options
        return fit_on_folds(self.config, self.outputs, given, self.ids, self.folds, on="simulated images", **options)


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return Simulated(0)


@pytest.fixture(scope="module")
def fitted(simulated: Simulated) -> FoldDecisions:
    return simulated.fit()


def test_no_image_has_a_say_in_its_own_fold_s_answers(simulated, fitted):
    own = simulated.folds == 2
    changed = np.where(own, (simulated.classes + 1) % 3, simulated.classes)
    other = simulated.fit(changed).crossed
    crossed = fitted.crossed
    assert (other.probabilities[own] == crossed.probabilities[own]).all()
    assert (other.triage[own] == crossed.triage[own]).all()
    assert all((other.sets[wanted][own] == inside[own]).all() for wanted, inside in crossed.sets.items())
    assert (other.probabilities[~own] != crossed.probabilities[~own]).any()  # the others' are set by it
    assert any((other.sets[wanted][~own] != inside[~own]).any() for wanted, inside in crossed.sets.items())
    # Nor has its picture: what is odd in a fold sets the threshold for the others alone.
    features = np.where(own[:, None, None], 100 * simulated.outputs.features, simulated.outputs.features)
    odd = Simulated(0)
    odd.outputs = simulated.outputs._replace(features=features)
    found = odd.fit()
    assert found.decisions.config.novelty.threshold > fitted.decisions.config.novelty.threshold
    assert found.crossed.strange[own].all()


def test_each_fold_is_decided_by_what_fit_decisions_sets_on_the_others(simulated, fitted):
    crossed = fitted.crossed
    for fold in range(FOLDS):
        own = simulated.folds == fold
        decided = fit_decisions(
            simulated.config,
            simulated.outputs.take(~own),
            simulated.classes[~own],
            [image_id for image_id, held in zip(simulated.ids, own, strict=True) if not held],
            on="the others",
            novelty=simulated.novelty,
        ).config
        logits = simulated.outputs.logits[own].astype(np.float64)
        probabilities = softmax(logits / decided.temperature.value, axis=2).mean(axis=1)
        np.testing.assert_allclose(crossed.probabilities[own], probabilities, atol=1e-9)
        malignant = probabilities[:, 0]
        levels = [max((t for t in decided.triage if p >= t.at_least), key=lambda t: t.at_least) for p in malignant]
        assert list(crossed.triage[own]) == [level.level for level in levels]
        for sets in decided.conformal:
            inside = 1 - probabilities <= np.array(sets.quantiles)
            assert (crossed.sets[f"{sets.coverage:.2f}"][own] == inside).all()
        assert decided.fitted_on.count == (~own).sum()
    assert set(crossed.sets) == {"0.90", "0.95"}
    assert len(set(crossed.triage)) > 1


def test_the_bundle_itself_is_set_on_all(simulated, fitted):
    config = fitted.decisions.config
    expected = fit_decisions(
        simulated.config,
        simulated.outputs,
        simulated.classes,
        simulated.ids,
        on="simulated images",
        novelty=simulated.novelty,
    ).config
    assert config == expected
    # The temperature is the one with the least log loss, found by scipy.
    logits = simulated.outputs.logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        mean = softmax(logits / math.exp(log_temperature), axis=2).mean(axis=1)
        return -float(np.log(mean[np.arange(len(mean)), simulated.classes]).mean())

    assert config.temperature.value == pytest.approx(math.exp(minimize_scalar(loss).x), rel=1e-2)
    assert config.triage[-1].at_least <= 0


def test_sets_hold_the_truth_as_often_as_they_promise(monkeypatch):
    """Over many draws of exchangeable images: at least the wanted share of each class, at most 1 / (n + 1) more."""
    monkeypatch.setattr(fitting, "operating_points", lambda *_, **__: [])  # whose bootstrap takes most of the time
    draws, held = 100, {"0.90": [], "0.95": []}
    for seed in range(draws):
        drawn = Simulated(1000 + seed, count=200)
        crossed = drawn.fit(novelty=()).crossed
        for wanted, inside in crossed.sets.items():
            true = inside[np.arange(200), drawn.classes]
            held[wanted].append([true[drawn.classes == index].mean() for index in range(3)])
    fewest = 200 * 3 / 4 * 0.3 * 0.75  # images of a class that set its quantile, well below the usual number
    for wanted, shares in held.items():
        mean, error = np.mean(shares, axis=0), np.std(shares, axis=0, ddof=1) / math.sqrt(draws)
        assert error.max() < 0.012
        assert (mean > float(wanted) - 3.5 * error).all(), (wanted, mean)
        assert (mean < float(wanted) + 1 / (fewest + 1) + 3.5 * error).all(), (wanted, mean)


def test_images_apart_are_measured_and_set_nothing(simulated):
    apart = np.arange(len(simulated.ids)) % 6 == 0
    found = simulated.fit(apart=apart)
    other = simulated.fit(np.where(apart, (simulated.classes + 1) % 3, simulated.classes), apart=apart)
    assert (found.crossed.probabilities == other.crossed.probabilities).all()
    assert found.decisions.config.model_copy(update={"fitted_on": None}) == other.decisions.config.model_copy(
        update={"fitted_on": None}
    )
    assert found.decisions.config.fitted_on.count == (~apart).sum()
    assert (found.crossed.probabilities[apart] > 0).all()


def test_one_fold_is_none(simulated):
    with pytest.raises(DataError, match="one fold"):
        fit_on_folds(
            simulated.config, simulated.outputs, simulated.classes, simulated.ids, simulated.folds * 0, on="images"
        )


def test_each_network_is_calibrated_by_itself():
    """Two networks a fold of two views each, too sure of themselves by a factor of their own."""
    rng = np.random.default_rng(3)
    count, too_sure = 400, np.array([1.0, 2.0] * FOLDS) * np.repeat([0.5, 1, 1.5, 2], 2)
    folds = np.arange(count) % FOLDS
    members = np.stack([2 * folds, 2 * folds + 1], axis=1)
    logits = rng.normal(0, 1.5, (count, 4, 3))
    truth = np.array([rng.choice(3, p=p) for p in softmax(logits, axis=2).mean(axis=1)])
    sure = (logits * np.repeat(too_sure[members], 2, axis=1)[:, :, None]).astype(np.float32)
    ids = [str(index) for index in range(count)]
    outputs = Outputs(sure, np.zeros((count, 2, 4), np.float32), members)
    config, found = calibrated_members(bundle(ids, folds, members=2), outputs, truth)
    for index, member in enumerate(config.members):
        rows, places = np.nonzero(members == index)
        views = np.stack([sure[row, 2 * place : 2 * place + 2] for row, place in zip(rows, places, strict=True)])

        def loss(log_temperature: float, views=views, rows=rows) -> float:
            log = log_softmax(views.astype(np.float64) / math.exp(log_temperature), axis=2)
            return -float(np.log(np.exp(log).mean(axis=1))[np.arange(len(rows)), truth[rows]].mean())

        best = minimize_scalar(loss, bounds=(-3, 4), method="bounded").x
        assert member.temperature.value == pytest.approx(math.exp(best), rel=2e-2)
        own = np.stack([found.logits[row, 2 * place : 2 * place + 2] for row, place in zip(rows, places, strict=True)])
        np.testing.assert_allclose(own, views / member.temperature.value, rtol=1e-5)
        assert member.fold == index // 2

    # The labels of images that set nothing do not matter; those of any others do.
    apart = np.arange(len(truth)) % 5 == 0
    wrong = np.where(apart, (truth + 1) % 3, truth)
    alike, other = (
        [
            m.temperature.value
            for m in calibrated_members(bundle(ids, folds, members=2), outputs, labels, **how)[0].members
        ]
        for labels, how in ((wrong, {"apart": apart}), (wrong, {}))
    )
    kept, _ = calibrated_members(bundle(ids, folds, members=2), outputs, truth, apart=apart)
    assert alike == [m.temperature.value for m in kept.members]
    assert alike != other
