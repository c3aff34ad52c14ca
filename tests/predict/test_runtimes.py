"""Runtimes: each gives what PyTorch gives, graphs are kept whole, and what cannot be had is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import write_several
from pesi.explain.maps import explain
from pesi.predict.classifier import Classifier
from pesi.predict.runtimes.runtime import installed
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter_folder

GRAPHS = ("openvino", "onnx")
# Runtime, precision, and the most by which a probability may differ from that of PyTorch in float32.
WAYS = [
    ("openvino", "float32", 1e-4),
    ("onnx", "float32", 1e-4),
    ("openvino", "bfloat16", 0.03),
    ("eager", "bfloat16", 0.03),
]


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that lasts, so that each graph is built once."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def several_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of networks with few blocks, whose graphs are quickly built."""
    return write_several(tmp_path_factory.mktemp("several") / "pesi14", network_name="pesi14")


@pytest.fixture(scope="session")
def several(several_folder: Path) -> Classifier:
    return Classifier.load(several_folder, device="cpu")


@pytest.fixture
def kept(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PESI_CACHE", str(graphs))
    return graphs / "graphs"


def needs(runtime: str) -> None:
    if not installed(runtime):
        pytest.skip(f"needs {runtime}")


@pytest.mark.parametrize("runtime, precision, tolerance", WAYS)
def test_every_runtime_gives_what_pytorch_gives(
    runtime: str,
    precision: str,
    tolerance: float,
    several: Classifier,
    several_folder: Path,
    spots: pd.DataFrame,
    kept: Path,
) -> None:
    needs(runtime)
    other = Classifier.load(several_folder, device="cpu", runtime=runtime, precision=precision)
    squares = [several.squares(path) for path in spots["path"][:3]]
    expected, found = several.outputs(squares, "single"), other.outputs(squares, "single")
    assert other.run_by == f"{runtime} {precision}"
    change = np.abs(other.view_probabilities(found.logits) - several.view_probabilities(expected.logits)).max()
    assert change < tolerance
    if precision == "float32":
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        np.testing.assert_allclose(found.features, expected.features, rtol=1e-3, atol=1e-4)
    else:
        assert change > 0, "nothing was computed in that precision"
    np.testing.assert_array_equal(found.members, expected.members)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_maps_come_out_of_every_runtime(
    runtime: str, several: Classifier, several_folder: Path, spots: pd.DataFrame, kept: Path
) -> None:
    needs(runtime)
    other = Classifier.load(several_folder, device="cpu", runtime=runtime)
    for region in (0, 1):
        a, b = (each.look(spots["path"].iloc[1], region=region).maps for each in (several, other))
        assert list(a.attention) == list(b.attention)
        assert list(a.energy) == list(b.energy)
        np.testing.assert_allclose(b.logits, a.logits, atol=1e-4)
        np.testing.assert_allclose(b.features, a.features, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(b.cam, a.cam, rtol=1e-3, atol=1e-5)
        for name, values in a.attention.items():
            np.testing.assert_allclose(b.attention[name], values, rtol=1e-3, atol=1e-7)
        for name, values in a.energy.items():
            np.testing.assert_allclose(b.energy[name], values, rtol=1e-3, atol=1e-6)
    explained = explain(other, spots["path"].iloc[1])
    np.testing.assert_allclose(explained.blended, explain(several, spots["path"].iloc[1]).blended, atol=1e-6)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_the_segmenter_runs_in_every_runtime(runtime: str, spots: pd.DataFrame, kept: Path) -> None:
    needs(runtime)
    folder = shipped_segmenter_folder()
    assert folder is not None
    a, b = (LesionSegmenter.load(folder, device="cpu", runtime=name) for name in ("eager", runtime))
    one, other = a.segment(spots["path"].iloc[0]), b.segment(spots["path"].iloc[0])
    np.testing.assert_allclose(other.probability, one.probability, atol=1e-4)
    np.testing.assert_allclose(other.features, one.features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("runtime", GRAPHS)
def test_images_of_a_fold_are_answered_by_its_networks(
    runtime: str, several: Classifier, several_folder: Path, spots: pd.DataFrame, kept: Path
) -> None:
    needs(runtime)
    other = Classifier.load(several_folder, device="cpu", runtime=runtime)
    squares, folds = [several.squares(path) for path in spots["path"][:2]], [1, None]
    expected, found = several.outputs(squares, "single", folds), other.outputs(squares, "single", folds)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
    np.testing.assert_array_equal(found.members, expected.members)
    assert other.outputs([]).logits.shape == several.outputs([]).logits.shape
    assert other.outputs([]).features.shape == several.outputs([]).features.shape
