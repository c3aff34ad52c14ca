"""The gate that ships: made for this segmenter, what it passes and refuses, and bundles that are damaged or foreign."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage

import pesi
from pesi.bundle.gate import load_gate
from pesi.bundle.installed import GATE, shipped_bundle
from pesi.errors import BundleError
from pesi.evaluate.outliers import drawn_outliers
from pesi.images.quality import quality_verdicts
from pesi.nn.segmenter import described
from pesi.predict import gate as gates
from pesi.predict.gate import shipped_gate
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter
from pesi.synthetic.image import draw_lesion

pytestmark = pytest.mark.usefixtures("real_gate")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the gate that ships."""
    shipped = shipped_bundle(GATE)
    assert shipped is not None
    return Path(shutil.copytree(shipped, tmp_path / "gate"))


def refused_of(images: list[np.ndarray]) -> float:
    segmenter = shipped_segmenter(device="cpu")
    features = np.stack([segmenter.segment(image).features for image in images])
    return float(shipped_gate(segmenter).refused(features).mean())


def test_features_are_moments_and_correlations_of_the_maps() -> None:
    import torch

    levels = [torch.rand(2, channels, 6, 5, generator=torch.manual_seed(channels)) for channels in (3, 4, 2, 5)]
    found = described(levels).numpy()
    assert found.shape == (2, 2 * (3 + 4 + 2 + 5) + 3 + 6 + 1)
    flat = [level[1].flatten(1).numpy() for level in levels]
    moments = np.concatenate([part for x in flat for part in (x.mean(1), x.std(1))])
    textures = np.concatenate([np.corrcoef(x)[np.triu_indices(len(x), 1)] for x in flat[:3]])
    assert found[1] == pytest.approx(np.concatenate([moments, textures]), abs=0.02)
    assert found[1, : len(moments)] == pytest.approx(moments, abs=1e-5)


def test_drawn_lesions_pass_and_what_is_drawn_else_is_refused() -> None:
    lesions = [draw_lesion(np.random.default_rng(n), ("MEL", "NV", "SK")[n % 3]).image for n in range(9)]
    assert refused_of(lesions) == 0
    others = drawn_outliers(2, rng=np.random.default_rng(5))
    assert refused_of([picture for name in ("page of text", "noise", "screen") for picture in others[name]]) == 1


def test_a_prediction_is_refused_with_reason_and_cure_unless_the_gates_are_left_out() -> None:
    classifier = pesi.load(device="cpu")
    page = drawn_outliers(1, rng=np.random.default_rng(5))["page of text"][0]
    found = classifier.predict(page)
    levels = {verdict.check: verdict.level for verdict in found.verdicts}
    assert levels["dermoscopy"] == "refuse"
    assert "no dermoscopy image" in found.no_result
    assert "through a dermoscope" in found.no_result
    assert found.triage is None
    assert classifier.predict(page, gates=False).no_result == ""


def test_one_pass_serves_mask_and_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = shipped_segmenter(device="cpu")
    passes: list[int] = []
    real = LesionSegmenter.outputs
    monkeypatch.setattr(LesionSegmenter, "outputs", lambda self, squares: (passes.append(1), real(self, squares))[1])
    image = draw_lesion(np.random.default_rng(99), "NV").image
    segmenter.find(image)
    features = segmenter.segment(image).features
    assert len(passes) == 1
    assert features.shape == load_gate(shipped_bundle(GATE) or "")[1].weights.shape


def test_a_damaged_or_foreign_bundle_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"segmenter": "other@0"}))
    monkeypatch.setattr(gates, "shipped_bundle", lambda name: folder)
    gates._loaded.cache_clear()
    with pytest.raises(BundleError, match="made for the segmenter other@0"):
        shipped_gate(shipped_segmenter(device="cpu"))
    gates._loaded.cache_clear()
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match="not the file that"):
        load_gate(folder)
    weights.unlink()
    with pytest.raises(BundleError, match="has no"):
        load_gate(folder)
    with pytest.raises(BundleError, match="no gate's bundle"):
        load_gate(shipped_bundle("isic2017") or "")


@pytest.mark.slow
def test_real_photographs_are_refused_and_real_dermoscopy_passes(shared: Path) -> None:
    """Of the pictures that it learned from; `benchmarks/novelty/gate.py` measures on others."""
    folder = shared / "data" / "not_dermoscopy"
    files = pd.read_csv(folder / "labels.csv")["file"][::4]
    assert refused_of([np.array(PillowImage.open(folder / file).convert("RGB")) for file in files]) >= 0.95
    for source in ("ham10000/images", "isic2017/images/val"):
        paths = sorted((shared / "data" / source).glob("*.jpg"))
        images = [np.array(PillowImage.open(path)) for path in paths[:: len(paths) // 75]]
        poor = [any(v.level == "refuse" for v in quality_verdicts(image)) for image in images]
        assert refused_of(images) + np.mean(poor) <= 0.08, source
