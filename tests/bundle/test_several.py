"""Bundles of several networks on disk: what is written is what is read, what does not fit together is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from conftest import FOLDS, SEVERAL
from pesi.bundle.card import model_card
from pesi.bundle.config import load_bundle, read_config, save_bundle
from pesi.bundle.files import FORMAT_VERSION
from pesi.bundle.seen import fold_indices, seen_images
from pesi.cli.app import app
from pesi.datasets.splits import id_hash
from pesi.errors import BundleError
from pesi.nn.models import create_model
from pesi.predict.classifier import Classifier

WEIGHTS = [f"model-{index}.safetensors" for index in range(4)]


@pytest.fixture
def copy(tmp_path: Path, several_folder: Path) -> Path:
    return shutil.copytree(several_folder, tmp_path / "copy")


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    path = folder / "config.json"
    stated = json.loads(path.read_text())
    change(stated)
    path.write_text(json.dumps(stated))
    return folder


def test_every_network_has_its_file_and_the_config_its_hash(several_folder: Path) -> None:
    files = ["README.md", "config.json", *WEIGHTS, "novelty.safetensors"]
    assert sorted(path.name for path in several_folder.iterdir()) == sorted(files)
    stated = json.loads((several_folder / "config.json").read_text())
    assert stated["format_version"] == FORMAT_VERSION == 2
    digests = [hashlib.sha256((several_folder / name).read_bytes()).hexdigest() for name in WEIGHTS]
    assert [(member["weights"], member["weights_sha256"]) for member in stated["members"]] == [
        *zip(WEIGHTS, digests, strict=True)
    ]
    assert stated["weights_sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_saved_again_it_has_the_same_bytes(several: Classifier, several_folder: Path, tmp_path: Path) -> None:
    several.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        p.name for p in several_folder.iterdir()
    )
    for path in several_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_network_that_was_changed_has_another_id(several_folder: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(several_folder, device="cpu")
    with torch.no_grad():
        classifier.networks[2].fc.bias.zero_()
    classifier.save_pretrained(tmp_path / "other")
    before, after = read_config(several_folder), read_config(tmp_path / "other")
    assert before.bundle_id != after.bundle_id
    same = [a.weights_sha256 == b.weights_sha256 for a, b in zip(before.members, after.members, strict=True)]
    assert same == [True, True, False, True]
    assert torch.equal(load_bundle(tmp_path / "other").networks[2].fc.bias, classifier.networks[2].fc.bias)


def test_which_images_it_has_seen(several: Classifier) -> None:
    config = several.config
    assert fold_indices(config, [FOLDS[0][0], "val_000", FOLDS[1][3]]) == [0, None, 1]
    assert seen_images(config, [*FOLDS[0], "val_000"]) == (0, len(FOLDS[0]), 0, 0, True)
    assert seen_images(config, ["val_000"]) == (0, 0, 0, 0, True)
    # Provenance that names the whole list of training images changes nothing: no network has seen all of them.
    every = [*FOLDS[0], *FOLDS[1]]
    lists = {"train": {"count": len(every), "sha256": id_hash(every)}}
    told = config.model_copy(update={"provenance": {"splits": lists}})
    assert seen_images(told, every)[:2] == (0, len(every))
    assert seen_images(told, every[:7])[:2] == (0, 7)


def member(number: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda stated: stated["members"][number].update(values)


def fed(number: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda stated: stated["members"][number]["preprocess"].update(values)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (fed(1, source_size=80), "differ in source_size: 72 and 80"),
        (fed(3, geometry="pad"), "differ in geometry: squeeze and pad"),
        (fed(2, regions=["image", "lesion"]), "differ in number of regions: 1 and 2"),
        (fed(2, corrections=["hair_removal"]), "differ in corrections"),
        (member(1, fold=2), "of fold 2, there are 2"),
        (member(1, fold=-1), "members.1.fold"),
        (member(0, fold=1), "every fold have as many members"),
        (member(0, fold=None), "every member must be of a fold"),
        (lambda stated: stated["members"].pop(), "every fold have as many members"),
        (lambda stated: stated["members"].clear(), "members"),
        (lambda stated: stated["folds"].clear(), "of fold 0, there are 0"),
        (lambda stated: stated["members"][2]["network"].update(num_classes=5), "5 outputs, the task 3"),
        (member(1, weights="../model-1.safetensors"), "members.1.weights"),
        (member(1, weights="/etc/passwd"), "members.1.weights"),
        (member(1, weights="model-1.safetensors\n"), "members.1.weights"),
        (member(1, weights="folder/model.safetensors"), "members.1.weights"),
    ],
)
def test_members_that_do_not_fit_together(copy: Path, change: Callable[[dict[str, Any]], object], problem: str) -> None:
    with pytest.raises(BundleError, match=problem):
        read_config(edited(copy, change))


def test_damaged_weights_name_their_file(copy: Path) -> None:
    path = copy / "model-1.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"model-1\.safetensors is not the file that config\.json names"):
        Classifier.load(copy)
    path.unlink()
    with pytest.raises(BundleError, match=r"has no model-1\.safetensors"):
        Classifier.load(copy)


def test_swapped_weights_are_seen(copy: Path) -> None:
    first, second = (copy / name for name in WEIGHTS[:2])
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(BundleError, match=r"model-0\.safetensors is not the file"):
        Classifier.load(copy)


def test_networks_of_other_features_do_not_go_together(several: Classifier, tmp_path: Path) -> None:
    config = several.config
    members = list(config.members)
    members[3] = members[3].model_copy(update={"network": members[3].network.model_copy(update={"name": "pesi18"})})
    networks = [*several.networks[:3], create_model("pesi18", num_classes=3, **members[3].network.options)]
    changed = config.model_copy(update={"members": tuple(members), "novelty": None})
    save_bundle(tmp_path / "mixed", changed, networks, card="# Mixed")
    with pytest.raises(BundleError, match="different numbers of features"):
        load_bundle(tmp_path / "mixed")


@pytest.fixture
def old(tmp_path: Path, tiny_run: Path) -> Path:
    """The tiny run's bundle as format 1 had it."""
    folder = shutil.copytree(tiny_run / "bundle", tmp_path / "old")
    stated = json.loads((folder / "config.json").read_text())
    (only,) = stated.pop("members")
    assert only["weights"] == "model.safetensors"
    del stated["folds"]
    stated |= {"format_version": 1, "network": only["network"], "preprocess": only["preprocess"]}
    (folder / "config.json").write_text(json.dumps(stated))
    return folder


def test_format_1_opens_and_is_written_as_this_format(
    old: Path, classifier: Classifier, spots: pd.DataFrame, tmp_path: Path
) -> None:
    opened, path = Classifier.load(old, device="cpu"), spots["path"].iloc[0]
    assert opened.config == classifier.config
    assert opened.predict(path) == classifier.predict(path)
    opened.save_pretrained(tmp_path / "new")
    stated = json.loads((tmp_path / "new" / "config.json").read_text())
    assert stated["format_version"] == 2
    assert "network" not in stated
    assert (tmp_path / "new" / "model.safetensors").read_bytes() == (old / "model.safetensors").read_bytes()
    assert Classifier.load(tmp_path / "new", device="cpu").predict(path) == classifier.predict(path)


def test_what_the_card_and_the_summary_say(several: Classifier) -> None:
    config = several.config
    card = model_card(config)
    segmenter = config.members[2].preprocess.segmenter
    for text in (
        "The mean of 4 networks, pesi_lite0 with `spatial` attention, for the task `isic2017`",
        "- 2 networks look at: the whole image; 4 views each",
        f"- 2 networks look at: the lesion, found by {segmenter}; 4 views each",
        "- 2 folds, ",
        "each network learned from all but one",
    ):
        assert text in card, text
    assert "4 networks (pesi_lite0), 64 and 72 px, looks at the image and lesion" in config.summary
    assert config.summary in repr(several)
    assert len({each.fold for each in config.members}) == len({fold for fold, *_ in SEVERAL}) == len(config.folds)


def test_predict_on_the_command_line(
    several: Classifier, several_folder: Path, spots: pd.DataFrame, tmp_path: Path
) -> None:
    path, out = spots["path"].iloc[2], tmp_path / "out.csv"
    done = CliRunner().invoke(app, ["predict", path, "--bundle", str(several_folder), "--no-gates", "--out", str(out)])
    assert done.exit_code == 0, done.output
    row = pd.read_csv(out).iloc[0]
    for name, value in several.predict(path, gates=False).probabilities.items():
        assert row[name] == pytest.approx(value, abs=1e-5)
