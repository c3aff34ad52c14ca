"""What comes with the package: small enough, freely licensed, usable without a name."""

from __future__ import annotations

import pytest

import pesi
from pesi.bundle.installed import shipped_bundles
from pesi.synthetic.dataset import write_synthetic


def test_the_shipped_classifier_is_the_default():
    folder = shipped_bundles()["isic2017"]
    assert (folder / "model.safetensors").stat().st_size < 25e6
    classifier = pesi.load()
    assert classifier.config == pesi.load("isic2017").config
    config = classifier.config
    assert config.measured is not None
    assert "Apache-2.0" in config.licence
    assert "Apache-2.0" in (folder / "README.md").read_text()
    assert config.provenance["pretrained"]["file"].startswith("efficientnet-lite")
    assert {level.level for level in config.triage} == {"excise", "refer", "follow up", "reassure"}


def test_it_predicts_a_picture(tmp_path):
    folder = write_synthetic(tmp_path / "syn", train=3, val=0, test=0, size=300, workers=1)
    path = next(folder.rglob("*.jpg"))
    # A drawn lesion is no photograph, and the novelty check may say so.
    prediction = pesi.load(device="cpu").predict(path, gates=False)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.triage in {"excise", "refer", "follow up", "reassure"}
    assert prediction.bundle_id.startswith("isic2017")
