"""What comes with the package: small enough, freely licensed, usable without a name."""

from __future__ import annotations

import numpy as np
import pytest

import pesi
from pesi.data.synthetic.dataset import write_synthetic
from pesi.predict.classifier import shipped_bundles
from pesi.predict.segmenter import shipped_segmenter, shipped_segmenter_folder


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
    prediction = pesi.load(device="cpu").predict(path)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.triage in {"excise", "refer", "follow up", "reassure"}
    assert prediction.bundle_id.startswith("isic2017")


def test_the_shipped_segmenter_finds_a_dark_spot_and_no_lesion_on_blank_skin():
    folder = shipped_segmenter_folder()
    assert folder is not None
    assert (folder / "model.safetensors").stat().st_size < 15e6
    segmenter = shipped_segmenter(device="cpu")
    y, x = np.mgrid[:240, :320]
    skin = np.random.default_rng(0).normal((215, 175, 155), 4, (240, 320, 3))
    spot = ((y - 120) / 50) ** 2 + ((x - 160) / 60) ** 2 < 1
    picture = np.where(spot[..., None], skin * 0.45, skin)
    found = segmenter.segment(np.clip(picture, 0, 255).astype(np.uint8))
    assert found.found
    overlap = (found.mask & spot).sum() / (found.mask | spot).sum()
    assert overlap > 0.7
