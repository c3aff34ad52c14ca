"""Bundles: what is written is what is read, and every kind of damage names itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import pesi
from pesi.bundle.card import keep_measured
from pesi.bundle.config import load_bundle, read_config, save_bundle
from pesi.bundle.files import FORMAT_VERSION, Measured
from pesi.decide.novelty import novelty_score
from pesi.errors import BundleError
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load


@pytest.fixture
def copy(tmp_path, tiny_run):
    return shutil.copytree(tiny_run / "bundle", tmp_path / "bundle")


def test_round_trip(tmp_path, classifier):
    known = classifier.novelty
    config = save_bundle(tmp_path / "again", classifier.config, [classifier.network], card="# card", novelty=known)
    again, (network,), (novelty,) = load_bundle(tmp_path / "again")
    assert again == config == classifier.config
    for name, value in classifier.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    files = ["README.md", "config.json", "model.safetensors", "novelty.safetensors"]
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == files
    score = novelty_score(np.ones((1, 2048), np.float32), novelty)
    assert score == pytest.approx(novelty_score(np.ones((1, 2048), np.float32), known[0]))


def test_half_precision_weights_load(tmp_path, classifier):
    network = pesi.create_model("pesi14", num_classes=3, **classifier.config.network.options)
    network.load_state_dict(classifier.network.state_dict())
    save_bundle(tmp_path / "half", classifier.config, [network.half()], card="")
    assert Classifier.load(tmp_path / "half", device="cpu").network.conv1.weight.dtype == torch.float32


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("version", "cure"), [(FORMAT_VERSION + 1, "Upgrade pesi-cnn"), (0, "Train the bundle again"), (None, "again")]
)
def test_another_version(copy, version, cure):
    edit(copy, format_version=version)
    with pytest.raises(BundleError, match=f"version {version}") as caught:
        read_config(copy)
    assert cure in caught.value.cure


def test_damage(copy, tmp_path):
    with pytest.raises(BundleError, match=r"has no config\.json"):
        read_config(tmp_path)
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"not the file that config\.json names"):
        load_bundle(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"no model\.safetensors"):
        load_bundle(copy)
    edit(copy, views=3)
    with pytest.raises(BundleError, match="views"):
        read_config(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        read_config(copy)


def test_another_network_does_not_fit(copy):
    (member,) = json.loads((copy / "config.json").read_text())["members"]
    edit(copy, members=[member | {"network": member["network"] | {"name": "pesi18"}}])
    with pytest.raises(BundleError, match="do not fit"):
        load_bundle(copy)
    edit(copy, members=[member | {"network": member["network"] | {"name": "pesi99"}}])
    with pytest.raises(BundleError, match="do not fit"):
        load_bundle(copy)


def test_a_bundle_that_is_not_there_says_what_to_do(tiny_run):
    assert load(tiny_run / "bundle").config.task.name == "isic2017"
    with pytest.raises(BundleError, match="no folder no-such-bundle, and no bundle of this name"):
        load("no-such-bundle")


def test_what_was_measured_is_kept_beside_the_same_weights(copy):
    before, weights = read_config(copy), (copy / "model.safetensors").read_bytes()
    kept = keep_measured(copy, Measured(on="a made-up set", images=7, scores={"mean AUC": (0.9, 0.8, 0.95)}))
    assert read_config(copy) == kept
    assert kept.bundle_id == before.bundle_id
    assert (copy / "model.safetensors").read_bytes() == weights
    card = (copy / "README.md").read_text()
    assert "On 7 images: a made-up set." in card
    assert "- mean AUC 0.900 (95 % interval 0.800 to 0.950)" in card


def test_a_segmenters_bundle_is_no_classifier(copy):
    edit(copy, kind="segmenter")
    with pytest.raises(BundleError, match="no classifier's bundle"):
        load(copy)
