"""What comes with the package: small enough, freely licensed, usable without a name."""

from __future__ import annotations

import json
import logging
import shutil

import pytest

import pesi
from pesi.bundle.installed import bundle_folder
from pesi.synthetic.dataset import write_synthetic


def test_the_shipped_classifier_is_the_default():
    folder = bundle_folder()
    assert sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file()) < 81e6  # all that ship
    classifier = pesi.load()
    assert classifier.config == pesi.load("isic2017").config
    config = classifier.config
    assert config.measured is not None
    assert "Apache-2.0" in config.licence
    assert "Apache-2.0" in (folder / "README.md").read_text()
    assert config.provenance["pretrained"]["file"].startswith("efficientnet-lite")
    assert [level.level for level in config.triage][:3] == ["excise", "refer", "follow up"]
    assert config.triage[-1].criterion == "rest"


def test_it_predicts_a_picture(tmp_path):
    folder = write_synthetic(tmp_path / "syn", train=3, val=0, test=0, size=300, workers=1)
    path = next(folder.rglob("*.jpg"))
    # A drawn lesion is no photograph, and the novelty check may say so.
    classifier = pesi.load(device="cpu")
    prediction = classifier.predict(path, gates=False)
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert prediction.triage in {level.level for level in classifier.config.triage}
    assert prediction.bundle_id.startswith("isic2017")


def test_a_licence_that_forbids_commercial_use_is_said_once_a_process(tmp_path, caplog):
    """On the log, as a warning: a library's user can do nothing about it in the code, but is to know."""
    mine = shutil.copytree(bundle_folder(), tmp_path / "mine")
    values = json.loads((mine / "config.json").read_text())
    values |= {"name": "said-once", "licence": "CC BY-NC 4.0: learned from HAM10000."}
    (mine / "config.json").write_text(json.dumps(values))
    with caplog.at_level(logging.WARNING, logger="pesi"):
        for folder in (mine, bundle_folder(), mine):
            pesi.load(folder, device="cpu")
        pesi.Classifier.from_pretrained(mine, device="cpu")
    (record,) = caplog.records
    said = f"said-once@{values['weights_sha256'][:12]}: its licence, CC BY-NC 4.0, forbids commercial use."
    assert (record.levelname, record.getMessage()) == ("WARNING", said)
