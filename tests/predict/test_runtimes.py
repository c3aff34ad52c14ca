"""Runtimes: each gives what PyTorch gives, graphs are kept whole, and what cannot be had is said."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import write_several
from pesi.errors import PesiError
from pesi.explain.maps import explain
from pesi.predict.classifier import Classifier
from pesi.predict.runtimes import graphs as graphs_file
from pesi.predict.runtimes import runtime as runtime_choice
from pesi.predict.runtimes.runtime import installed
from pesi.predict.runtimes.session import GraphSession, Program, Session
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


@pytest.fixture
def one_graph(several_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Session]:
    """Opens the graph of one of the networks, in a cache that holds nothing else."""
    needs("openvino")
    monkeypatch.setenv("PESI_CACHE", str(tmp_path))

    def opened() -> Session:
        return Classifier.load(several_folder, device="cpu", runtime="openvino")._networks.session((0,))

    return opened


def test_a_graph_that_is_damaged_or_another_s_is_built_again(
    one_graph: Callable[[], Session],
    several: Classifier,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    expected = several._networks.session((0,)).run(picture)["logits"]
    caplog.set_level(logging.INFO, "pesi")
    one_graph()
    (file,) = (tmp_path / "graphs").iterdir()
    whole = file.read_bytes()
    assert sum("building" in message for message in caplog.messages) == 1
    caplog.clear()
    one_graph()
    assert not caplog.messages, "what is kept is used"

    header = json.loads(whole[len(graphs_file._MAGIC) :].split(b"\n")[0])
    foreign = json.dumps(header | {"program": "0" * 64}).encode()
    spoilt = (
        whole[: len(whole) // 2],  # cut short
        whole[:-1] + bytes([whole[-1] ^ 1]),  # a bit turned
        b"",
        b"something else\n" * 1000,
        whole.replace(json.dumps(header).encode(), foreign),
    )
    for content in spoilt:
        file.write_bytes(content)
        caplog.clear()
        np.testing.assert_allclose(one_graph().run(picture)["logits"], expected, atol=1e-4)
        assert sum("building" in message for message in caplog.messages) == 1
        assert len(list((tmp_path / "graphs").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_said(
    one_graph: Callable[[], Session], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "graphs").write_text("in the way")
    assert one_graph().run(np.zeros((1, 64, 64, 3), np.uint8))["logits"].shape == (1, 1, 3)
    assert any("not kept" in message for message in caplog.messages)


def test_auto_takes_no_graph_that_changes_answers(
    several_folder: Path, several: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PESI_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime_choice, "build", _wrong)
    auto = Classifier.load(several_folder, device="cpu", runtime="auto")
    assert auto.run_by == "eager float32"


def _wrong(name: str, program: Program, header: dict[str, object], path: Path) -> Session:
    told = {**header, "outputs": {"logits": [1]}, "measured": {"probability": 0.002, "on": "made up"}}
    return GraphSession(lambda pictures: [np.zeros((len(pictures), 1), np.float32)], told)


def test_what_cannot_be_had_is_said(several_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(problem: str, **asked: str) -> str:
        with pytest.raises(PesiError, match=problem) as caught:
            Classifier.load(several_folder, **{"device": "cpu", **asked})
        return caught.value.cure

    assert "openvino" in refused("Unknown runtime 'openvin'", runtime="openvin")
    assert "bfloat16" in refused("Unknown precision 'bf16'", precision="bf16")
    assert "--device cpu" in refused("on the CPU alone", runtime="onnx", device="cuda")
    assert "float32" in refused("onnx has no bfloat16", runtime="onnx", precision="bfloat16")
    monkeypatch.setattr(runtime_choice, "installed", lambda name: False)
    assert "pip install pesi-cnn[onnx]" in refused("onnx is not installed", runtime="onnx")
    assert "pip install openvino" in refused("openvino is not installed", runtime="openvino")


@pytest.mark.slow
def test_a_kept_graph_answers_without_torch(several_folder: Path, spots: pd.DataFrame, kept: Path) -> None:
    """PyTorch takes seconds to import: once graphs are there, nothing on the way to an answer may ask for it."""
    needs("openvino")
    said = "import sys, pesi; print(pesi.load(sys.argv[1], runtime='openvino').predict(sys.argv[2]).runtime)"
    heavy = (
        "; print(*sorted({'torch', 'scipy', 'jinja2', 'pandas', 'sklearn', 'matplotlib', 'pyarrow'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", said + heavy, str(several_folder), spots["path"].iloc[0]]
    for _ in range(2):  # the first may build
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["openvino float32", ""]


def test_compiled_it_gives_what_pytorch_gives(
    several_folder: Path, several: Classifier, spots: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded whole, for any number of pictures; the code is not made, for that takes minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    other = Classifier.load(several_folder, device="cpu", runtime="compile")
    pictures = [several.squares(path)[0][:64, :64] for path in spots["path"][:3]]
    expected, found = several._networks.answers((0,), pictures), other._networks.answers((0,), pictures)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
    alone = other._networks.answers((0,), pictures[:1])
    np.testing.assert_allclose(alone[0], expected[0][:1], atol=1e-4)
    assert other._networks.session((0,)).runtime == "compile"
