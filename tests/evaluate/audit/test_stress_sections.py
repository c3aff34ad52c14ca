"""The audit's sections on stress tests and corrections, on the tiny classifier."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from evaluate.audit.made_up import every_plot_is_told, tables
from pesi.decide.calibration import calibrated_probabilities
from pesi.evaluate.answer_change import single_view_probabilities
from pesi.evaluate.audit.correction import correction_section, with_corrections
from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.audit.stress import stress_section
from pesi.images.correction import CORRECTIONS, shades_of_gray
from pesi.images.masks import LESION_ABOVE, read_mask_square
from pesi.images.perturb import PERTURBATIONS
from pesi.images.regions import WholeImage, read_region

OPTIONS = AuditOptions(replicates=40, stress_images=9)


@pytest.fixture
def data(classifier, spots) -> AuditData:
    """The validation spots, predicted."""
    config = classifier.config
    preprocess = config.preprocess
    val = spots[spots["split"] == "val"].reset_index(drop=True)
    whole = WholeImage(preprocess.source_size, preprocess.geometry)
    images = np.stack([read_region(path, whole) for path in val["path"]])
    masks = np.stack(
        [
            read_mask_square(mask, path, preprocess.source_size, preprocess.geometry) > LESION_ABOVE
            for mask, path in zip(val["mask_path"], val["path"], strict=True)
        ]
    )
    out = classifier.outputs([classifier.squares(image) for image in images])
    logits = out.logits.astype(np.float64)
    return AuditData(
        "spots val",
        val,
        classifier.task,
        np.array([classifier.task.class_of(code) for code in val["diagnosis"]], np.int64),
        images,
        masks,
        np.arange(len(val)) > 1,
        logits,
        out.mean_features,
        calibrated_probabilities(logits, config.task.head, config.temperature),
        np.full(len(val), -1),
    )


def test_stress_section(data, classifier):
    calls = []
    section = stress_section(data, classifier, options=OPTIONS, progress=lambda *call: calls.append(call))
    assert section.key == "stress"
    json.dumps(dict(section.values), allow_nan=False)
    assert set(section.values["perturbations"]) == {each.name for each in PERTURBATIONS}
    assert section.values["images"] == 9
    assert len(tables(section)[0].rows) == len(PERTURBATIONS)
    assert {row[0] for row in tables(section)[1].rows} <= {
        each.name for each in PERTURBATIONS if each.group == "lesion"
    }
    assert {row[0] for row in tables(section)[2].rows} <= {each.name for each in PERTURBATIONS if each.group == "paste"}
    every_plot_is_told(section)
    for svg in section.plots.values():
        ElementTree.fromstring(svg)
    ((caption, png),) = section.pictures
    assert caption
    assert Image.open(io.BytesIO(png)).size[0] > 500
    assert calls[-1] == ("stress tests", len(PERTURBATIONS), len(PERTURBATIONS))
    assert "0.5" in section.summary


def test_stress_section_without_any_mask(data, classifier):
    bare = AuditData(**{**vars(data), "masks": np.zeros_like(data.masks), "has_mask": np.zeros(len(data), bool)})
    section = stress_section(bare, classifier, options=OPTIONS)
    black = section.values["perturbations"]["lesion blackened"]
    assert black["images"] == 0
    assert black["without_mask"] == 9
    assert black["answers"] is None
    assert section.values["perturbations"]["ruler pasted"]["images"] == 9


def test_correction_section(data, classifier):
    section = correction_section(data, classifier, options=OPTIONS)
    json.dumps(dict(section.values), allow_nan=False)
    assert set(section.values["corrections"]) == set(CORRECTIONS)
    assert section.values["trained_with"] == []
    assert "without either" in section.summary
    assert {row[0] for row in tables(section)[0].rows} == {"hair removal", "colour constancy"}
    # The spots have no hairs: nothing changes.
    assert section.values["corrections"]["hair_removal"]["class_flips"]["count"] == 0


def test_a_correction_trained_with_is_switched_off(data, classifier):
    corrected = with_corrections(classifier, ("shades_of_gray",))
    section = correction_section(data, corrected, options=OPTIONS)
    plain = correction_section(data, classifier, options=OPTIONS)
    assert section.values["trained_with"] == ["shades_of_gray"]
    assert "with colour constancy" in section.summary
    one, other = (s.values["corrections"]["shades_of_gray"]["malignant_shift"]["value"] for s in (section, plain))
    assert one == pytest.approx(other, abs=1e-6)


def test_with_corrections_corrects_what_the_network_sees(data, classifier):
    expected = single_view_probabilities(classifier, [shades_of_gray(image) for image in data.images])
    found = single_view_probabilities(with_corrections(classifier, ("shades_of_gray",)), data.images)
    assert found == pytest.approx(expected, abs=1e-6)
