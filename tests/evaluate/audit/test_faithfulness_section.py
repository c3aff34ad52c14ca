"""The faithfulness section: intervals and differences of made measurements, verdicts, and a whole section."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap

from evaluate.audit.made_up import every_plot_is_told, tables
from pesi.evaluate.audit.data import AuditData, AuditOptions
from pesi.evaluate.audit.faithfulness import curves_figure, faithfulness_section, faithfulness_values
from pesi.explain.faithfulness import CENTRE, RANDOM, SCATTERED, Faithfulness
from pesi.taxonomy import TASKS


def made(count=40, steps=4, *, masks=True):
    """Map "good" falls early and rises early in every image; "bad" is the random map over again."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(-0.05, 0.05, (count, 1, steps + 1))
    even = np.linspace(1, 0, steps + 1) + noise
    early = np.append(1, np.zeros(steps)) + noise
    deletion = np.concatenate([early, even, even, even, even + rng.normal(0, 0.01, even.shape)], axis=1)
    return Faithfulness(
        maps=("good", "bad", RANDOM, SCATTERED, CENTRE),
        classes=("nevus",) * count,
        fractions=np.linspace(0, 1, steps + 1),
        deletion=deletion,
        insertion=1 - deletion,
        pointing=rng.integers(0, 2, (count, 5)).astype(float) if masks else None,
        inside=rng.random((count, 5)) if masks else None,
        area=np.full(count, 0.25) if masks else None,
    )


def test_differences_are_paired_and_have_intervals():
    result = made()
    values = faithfulness_values(result, replicates=2000, seed=0)
    assert json.loads(json.dumps(values, allow_nan=False))["images"] == 40
    good, bad = values["maps"]["good"], values["maps"]["bad"]
    # Areas by the trapezium rule: 1/8 of the early curve, 1/2 of the even one; the noise is shared and cancels.
    assert good["deletion"]["against_random"]["difference"] == pytest.approx(1 / 8 - 1 / 2)
    assert good["deletion"]["against_random"]["ci"] == pytest.approx([-3 / 8, -3 / 8])
    assert good["deletion"]["against_random"]["shown"]
    assert good["insertion"]["against_random"]["difference"] == pytest.approx(3 / 8)
    assert bad["deletion"]["against_random"]["difference"] == 0
    assert not bad["deletion"]["against_random"]["shown"]
    assert "against_random" not in values["maps"][RANDOM]["deletion"]
    area = result.deletion_area[:, 0]
    expected = bootstrap((area,), np.mean, method="percentile", n_resamples=2000, random_state=1).confidence_interval
    assert good["deletion"]["value"] == pytest.approx(area.mean())
    assert good["deletion"]["ci"] == pytest.approx([expected.low, expected.high], abs=0.002)
    assert good["inside"]["value"] == pytest.approx(result.inside[:, 0].mean())
    assert values["lesion_area"] == 0.25


def test_without_masks_only_the_curves_are_measured():
    values = faithfulness_values(made(masks=False), replicates=50, seed=0)
    assert set(values["maps"]["good"]) == {"deletion", "insertion"}
    assert values["lesion_area"] is None


def test_the_curves_figure_is_a_drawing():
    assert ElementTree.fromstring(curves_figure(made())).tag.endswith("svg")


@pytest.mark.parametrize("masks", [True, False])
def test_a_whole_section(classifier, spots, masks):
    rows = spots[spots["split"] == "val"].reset_index(drop=True)
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in rows["path"]])
    lesions = np.stack([np.asarray(Image.open(path)) > 127 for path in rows["mask_path"]])
    count = len(rows)
    data = AuditData(
        "spots val",
        rows,
        TASKS["isic2017"],
        np.array([("MEL", "SK", "NV").index(d) for d in rows["diagnosis"]]),
        images,
        lesions if masks else np.zeros_like(lesions),
        np.full(count, masks),
        np.zeros((count, 1, 3)),
        np.zeros((count, 4), np.float32),
        np.full((count, 3), 1 / 3),
        np.full(count, -1),
    )
    seen = []
    section = faithfulness_section(
        data,
        classifier,
        options=AuditOptions(replicates=50, stress_images=3),
        progress=lambda *step: seen.append(step),
        steps=2,
    )
    assert section.values["images"] == 3
    assert section.values["steps"] == 2
    assert seen[-1][1:] == (3, 3)
    json.dumps(section.values, allow_nan=False)
    assert len(section.values["maps"]) == 8
    assert len(tables(section)[0].columns) == (5 if masks else 3)
    assert ("no lesion masks" in section.summary) != masks
    every_plot_is_told(section)
    caption, png = section.pictures[0]
    assert "every map" in caption
    assert Image.open(io.BytesIO(png)).size[0] > 900
