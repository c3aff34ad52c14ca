"""Exported graphs: taken where they lie, refused where they do not fit, and honest about what they change."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from conftest import write_several
from pesi.cli.app import app
from pesi.errors import BundleError, PesiError
from pesi.evaluate.scoring import predicted_table
from pesi.predict.classifier import Classifier
from pesi.predict.export import export_graphs
from pesi.predict.runtimes.exports import GRAPHS, RECORD, read_export

pytest.importorskip("nncf", reason="NNCF makes int8 graphs")

RUNTIMES = ("openvino", "onnx")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PESI_CACHE", str(cache))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, spots: pd.DataFrame) -> Path:
    """A bundle of several networks with int8 graphs of both runtimes beside it."""
    folder = write_several(tmp_path_factory.mktemp("exported") / "bundle", network_name="pesi14")
    classifier = Classifier.load(folder, device="cpu", runtime="eager")
    squares = [classifier.squares(path) for path in spots["path"]]
    for runtime in RUNTIMES:
        export_graphs(classifier, runtime, "int8", folder / GRAPHS, squares=squares, on="spots")
    return folder


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_int8_graphs_answer_nearly_as_pytorch(runtime: str, exported: Path, spots: pd.DataFrame) -> None:
    plain = Classifier.load(exported, device="cpu", runtime="eager")
    other = Classifier.load(exported, device="cpu", runtime=runtime, precision="int8")
    assert other.run_by == f"{runtime} int8"
    squares, folds = [plain.squares(path) for path in spots["path"][22:26]], [1, None, 0, 1]
    expected, found = (each.outputs(squares, "single", folds) for each in (plain, other))
    np.testing.assert_array_equal(found.members, expected.members)
    a, b = (plain.view_probabilities(each.logits) for each in (expected, found))
    assert 0 < np.abs(a - b).max() < 0.1
    assert np.corrcoef(expected.features.ravel(), found.features.ravel())[0, 1] > 0.99
    a_maps, b_maps = (each.look(spots["path"].iloc[25]).maps for each in (plain, other))
    np.testing.assert_allclose(b_maps.cam, a_maps.cam, rtol=1e-3, atol=1e-5)


def test_convolutions_are_in_int8_and_the_attention_is_not(exported: Path) -> None:
    """By the files themselves: what a layer's inputs come from."""
    for graph in (exported / GRAPHS / "openvino-int8").glob("*.xml"):
        layers = {layer.get("id"): layer for layer in ElementTree.parse(graph).iter("layer")}
        edges: dict[str, list[str]] = {}
        for edge in ElementTree.parse(graph).iter("edge"):
            edges.setdefault(str(edge.get("to-layer")), []).append(str(edge.get("from-layer")))
        kinds: dict[str, set[str]] = {}
        for name, layer in layers.items():
            own = {str(layers[one].get("type")) for one in edges.get(str(name), [])}
            kinds.setdefault(str(layer.get("type")), set()).update(own)
        assert "FakeQuantize" in kinds["Convolution"]
        assert "FakeQuantize" not in kinds["Exp"]
    for graph in (exported / GRAPHS / "onnx-int8").glob("*.onnx"):
        nodes = onnx.load(graph).graph.node
        made_by = {output: node.op_type for node in nodes for output in node.output}
        inputs: dict[str, set[str | None]] = {}
        for node in nodes:
            inputs.setdefault(node.op_type, set()).update(made_by.get(name) for name in node.input)
        assert "DequantizeLinear" in inputs["Conv"]
        assert "DequantizeLinear" not in inputs["Exp"]


def test_what_does_not_fit_is_refused(own: Path, exported: Path, tmp_path: Path) -> None:
    def refused(folder: Path, kind: type[PesiError], problem: str) -> None:
        with pytest.raises(kind, match=problem) as caught:
            _ = Classifier.load(folder, device="cpu", runtime="openvino", precision="int8").run_by
        assert "pesi export" in caught.value.cure

    (own / GRAPHS / "openvino-int8" / RECORD).write_text("{}")
    refused(own, BundleError, "no record of exported graphs")
    shutil.rmtree(own / GRAPHS / "openvino-int8")
    refused(own, PesiError, "no int8 graphs of this bundle")
    assert Classifier.load(own, device="cpu", precision="int8", runtime="auto").run_by == "onnx int8"

    shutil.copytree(exported / GRAPHS / "openvino-int8", own / GRAPHS / "openvino-int8")
    weights = own / GRAPHS / "openvino-int8" / "networks-0.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("PESI_CACHE", str(tmp_path / "empty"))
        refused(own, BundleError, "networks-0.bin is damaged")

    config = json.loads((own / "config.json").read_text())
    for member in config["members"]:
        member["temperature"]["value"] *= 2
    (own / "config.json").write_text(json.dumps(config))
    refused(own, PesiError, "are not of")
    with pytest.raises(PesiError, match="eager has no int8"):
        Classifier.load(exported, device="cpu", runtime="eager", precision="int8")


def test_what_fails_leaves_what_was_there(own: Path, spots: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier.load(own, device="cpu", runtime="eager")
    before = {path: path.read_bytes() for path in (own / GRAPHS).rglob("*") if path.is_file()}
    with pytest.raises(PesiError, match="too few"):
        export_graphs(classifier, "openvino", "int8", own / GRAPHS, squares=[classifier.squares(spots["path"].iloc[0])])

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "nncf", None)
        with pytest.raises(PesiError, match="is not installed: nncf") as caught:
            export_graphs(
                classifier, "openvino", "int8", own / GRAPHS, squares=[classifier.squares(spots["path"].iloc[0])] * 32
            )
        assert "pesi-cnn[int8]" in caught.value.cure

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pesi.predict.export.write_record", full)
    with pytest.raises(PesiError, match="No space left"):
        export_graphs(classifier, "openvino", "float32", own / GRAPHS)
    assert {path: path.read_bytes() for path in (own / GRAPHS).rglob("*") if path.is_file()} == before


def test_the_command_records_what_it_changes(own: Path, spots: pd.DataFrame, tmp_path: Path) -> None:
    table = tmp_path / "spots.csv"
    spots.assign(image=spots["path"])[["image", "diagnosis", "split"]].to_csv(table, index=False)
    shutil.rmtree(own / GRAPHS)
    asked = ["export", str(own), "--data", str(table), "--runtime", "onnx"]
    done = CliRunner().invoke(app, [*asked, "--limit", "0"])
    assert done.exit_code == 0, done.output
    assert "--runtime onnx --precision float32" in done.stdout
    record = read_export(own / GRAPHS / "onnx-float32")
    assert record is not None
    assert record.measured is not None
    assert record.measured["largest_change"] < 1e-3
    held = spots[spots["split"] == "val"]
    assert record.measured["images"] == len(held)
    classifier = Classifier.load(own, device="cpu", runtime="onnx")
    found = predicted_table(classifier, held).set_index("image_id").loc[held["image_id"]]
    for name in classifier.task.scored_names:
        labels = [classifier.task.class_names[classifier.task.class_of(d)] == name for d in held["diagnosis"]]
        assert record.measured["scores"][f"AUC {name}"]["a"] == pytest.approx(roc_auc_score(labels, found[name]))
    done = CliRunner().invoke(app, ["export", str(own), "--precision", "int8"])
    assert done.exit_code != 0
    assert "needs images" in str(done.exception or done.output)
