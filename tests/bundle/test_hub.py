"""Bundles to the hub and back, over HTTP on the loopback: what is sent, what is fetched, what is refused."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from loopback_hub import TOKEN, LoopbackHub, Repository
from pesi.bundle import hub as hub_room
from pesi.bundle.hub import FILES, HubName, hub_name
from pesi.bundle.installed import named_bundle, pretrained_folder
from pesi.errors import BundleError
from pesi.predict.classifier import Classifier
from pesi.predict.loading import load
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter

NAME = "clinic/moles"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, an empty cache for what is fetched, and the way by plain HTTP."""
    import huggingface_hub.constants as settings

    found = LoopbackHub()
    template = "{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(settings, "ENDPOINT", found.endpoint)
    monkeypatch.setattr(settings, "HUGGINGFACE_CO_URL_TEMPLATE", f"{found.endpoint}/{template}")
    monkeypatch.setattr(settings, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(settings, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(settings, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub_room._say_licence.cache_clear()
    yield found
    found.close()


@pytest.fixture
def published(server, tiny_run) -> Repository:
    """The tiny run's bundle on the hub, with files of other kinds beside it."""
    repository = server.repositories[NAME] = Repository()
    files = {path.name: path.read_bytes() for path in (tiny_run / "bundle").iterdir() if path.is_file()}
    repository.commit(files | {"pytorch_model.bin": pickle.dumps(print), "evil.py": b"raise SystemExit"})
    return repository


def test_there_and_back_gives_equal_predictions(server, classifier, spots):
    address = classifier.push_to_hub(NAME, private=True, endpoint=server.endpoint, token=TOKEN)
    repository = server.repositories[NAME]
    sha, files = repository.commits[-1]
    assert address == f"{server.endpoint}/{NAME}/commit/{sha}"
    assert repository.private
    assert set(files) <= {*FILES, ".gitattributes"}
    assert json.loads(files["config.json"])["weights_sha256"] == classifier.config.weights_sha256
    again = Classifier.from_pretrained(NAME, revision=sha, device="cpu", endpoint=server.endpoint, token=TOKEN)
    assert again.config == classifier.config
    path = spots["path"].iloc[0]
    assert again.predict(path) == classifier.predict(path)
    with pytest.raises(BundleError, match="or it is private"):
        Classifier.from_pretrained(NAME, endpoint=server.endpoint)
    with pytest.raises(BundleError, match="The hub did not do what was asked"):
        classifier.push_to_hub("clinic/other", endpoint=server.endpoint, token="hf_wrong")


def test_only_the_bundle_is_fetched_and_only_once(server, published):
    folder = named_bundle(f"hf://{NAME}")
    assert {path.name for path in folder.iterdir()} == set(server.fetched())
    assert set(server.fetched()) <= set(FILES)
    assert load(f"hf://{NAME}", device="cpu").folder == folder
    assert len(server.fetched()) == len(set(server.fetched()))


def test_several_networks_there_and_back_and_offline(server, several, several_folder, spots, monkeypatch, tmp_path):
    import huggingface_hub.constants as settings

    several.push_to_hub(NAME, endpoint=server.endpoint, token=TOKEN)
    repository = server.repositories[NAME]
    names = {path.name for path in several_folder.iterdir()}
    assert {f"model-{index}.safetensors" for index in range(4)} < names
    assert names <= set(repository.commits[-1][1]) <= {*names, ".gitattributes"}
    # What is no network of the bundle stays on the hub, whatever it is called.
    others = ("other-model-0.safetensors", "model-0.pt", "model-x.safetensors", "model-1/0.safetensors")
    repository.commit({"model.bin": pickle.dumps(print), **dict.fromkeys(others, b"1")})
    again = Classifier.from_pretrained(NAME, device="cpu", endpoint=server.endpoint, token=TOKEN)
    assert set(server.fetched()) == names
    path = spots["path"].iloc[0]
    assert again.predict(path) == several.predict(path)
    whole = sum(len((several_folder / name).read_bytes()) for name in names)
    with pytest.raises(BundleError, match=f"has {whole:,} bytes, over the limit"):
        Classifier.from_pretrained(NAME, max_bytes=whole - 1, endpoint=server.endpoint, token=TOKEN)
    asked = len(server.requests)
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)
    offline = load(f"hf://{NAME}", device="cpu")
    assert (offline.config, len(server.requests)) == (again.config, asked)
    assert offline.predict(path) == several.predict(path)
    for link in offline.folder.glob("model-2.safetensors"):
        link.unlink()
    with pytest.raises(BundleError, match="was not fetched before"):
        load(f"hf://{NAME}", device="cpu")


def test_networks_of_an_earlier_commit_are_not_fetched(server, published):
    """A repository that once held more networks still has their files."""
    published.commit({"model-7.safetensors": b"of an earlier commit"})
    assert load(f"hf://{NAME}", device="cpu").folder is not None
    assert "model-7.safetensors" not in server.fetched()


def test_one_damaged_network_of_several_is_seen(server, several_folder):
    repository = server.repositories[NAME] = Repository()
    files = {path.name: path.read_bytes() for path in several_folder.iterdir()}
    repository.commit(files | {"model-3.safetensors": files["model-2.safetensors"]})
    with pytest.raises(BundleError, match=r"model-3\.safetensors is not the file that config\.json names"):
        load(f"hf://{NAME}")
    repository.commits.clear()
    repository.commit({name: data for name, data in files.items() if name != "model-1.safetensors"})
    with pytest.raises(BundleError, match=r"has no model-1\.safetensors"):
        load(f"hf://{NAME}")


def test_a_revision_can_be_pinned(server, published, tiny_run):
    old = published.commits[0][0]
    config = json.loads((tiny_run / "bundle" / "config.json").read_text()) | {"name": "renamed"}
    new = published.commit({"config.json": json.dumps(config).encode()})
    published.refs["v1"] = old
    for revision, name in (("v1", "pesi50"), (old, "pesi50"), (new, "renamed"), ("main", "renamed"), (None, "renamed")):
        assert Classifier.from_pretrained(NAME, revision=revision, device="cpu").config.name == name
        pinned = f"hf://{NAME}" + (f"@{revision}" if revision else "")
        assert load(pinned, device="cpu").config.name == name
    with pytest.raises(BundleError, match="no such revision"):
        load(f"hf://{NAME}@v2")
    with pytest.raises(BundleError, match="are two"):
        pretrained_folder(f"hf://{NAME}@v1", revision="main")


def test_size_is_limited_by_the_listing_before_anything_is_fetched(server, published):
    whole = sum(len(data) for file, data in published.commits[-1][1].items() if file in FILES)
    with pytest.raises(BundleError, match=f"has {whole:,} bytes, over the limit of {whole - 1:,}"):
        Classifier.from_pretrained(NAME, max_bytes=whole - 1)
    server.listed_size["model.safetensors"] = 1 << 40
    with pytest.raises(BundleError, match="over the limit"):
        load(f"hf://{NAME}")
    assert server.fetched() == []
    server.listed_size.clear()
    assert Classifier.from_pretrained(NAME, max_bytes=whole, device="cpu").folder is not None


def test_offline_takes_what_was_fetched_and_says_what_was_not(server, published, monkeypatch):
    import huggingface_hub.constants as settings

    online = load(f"hf://{NAME}", device="cpu")
    asked = len(server.requests)
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)
    assert load(f"hf://{NAME}", device="cpu").config == online.config
    with pytest.raises(BundleError, match=r"hf://clinic/none was not fetched before.*HF_HUB_OFFLINE"):
        load("hf://clinic/none")
    assert len(server.requests) == asked


def test_what_the_hub_lacks_is_told(server, published, classifier, monkeypatch):
    server.repositories["clinic/empty"] = Repository()
    server.repositories["clinic/empty"].commit({"README.md": b"# Nothing"})
    with pytest.raises(BundleError, match=r"no bundle: it has no config\.json"):
        load("hf://clinic/empty")
    with pytest.raises(BundleError, match="There is no hf://clinic/none on the hub"):
        load("hf://clinic/none")
    with pytest.raises(BundleError, match="The hub did not do what was asked") as caught:
        Classifier.from_pretrained(NAME, endpoint="http://127.0.0.1:9")
    assert "HF_ENDPOINT" in caught.value.cure
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BundleError, match="not installed") as caught:
        load(f"hf://{NAME}")
    assert caught.value.cure == "pip install pesi-cnn[hub]"
    with pytest.raises(BundleError, match="not installed"):
        classifier.push_to_hub(NAME)


def test_damaged_weights_are_seen(server, published):
    published.commit({"model.safetensors": b"other bytes"})
    with pytest.raises(BundleError, match=r"is not the file that config\.json names"):
        load(f"hf://{NAME}")


@pytest.mark.parametrize("name", ["hf://", "hf://moles", "hf://a/b/c", "hf://a/b@", "hf://a b/c"])
def test_names_that_name_nothing(name):
    with pytest.raises(BundleError, match="names no bundle on the hub") as caught:
        named_bundle(name)
    assert "hf://OWNER/NAME@REVISION" in caught.value.cure


def test_names():
    assert hub_name("hf://a/b") == hub_name(Path("hf://a/b")) == HubName("a", None)._replace(repo_id="a/b")
    assert hub_name("hf://a/b@v1.0") == HubName("a/b", "v1.0")
    assert hub_name("runs/bundle") is None
    with pytest.raises(BundleError, match="not on the hub, so it has no revision"):
        pretrained_folder("isic2017", revision="main")


def test_the_licence_is_on_the_object_and_logged_once(server, classifier, published, caplog):
    card = "---\nlicense: other\nlicense_name: clinic-only\nlibrary_name: pesi-cnn\n---\n\n# Moles\n"
    published.commit({"README.md": card.encode()})
    with caplog.at_level(logging.INFO, logger="pesi"):
        found = [load(f"hf://{NAME}", device="cpu") for _ in range(2)]
    assert found[0].licence == "clinic-only"
    assert [record.getMessage().split(": ")[-1] for record in caplog.records] == ["licence clinic-only"]
    assert load(device="cpu").licence.startswith("Apache-2.0")
    assert classifier.licence == ""


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("Apache-2.0: trained on this and that", {"license": "apache-2.0"}),
        ("Our own: ask us", {"license": "other", "license_name": "our-own"}),
        ("", {}),
    ],
)
def test_cards_are_as_the_hub_wants_them(classifier, server, tmp_path, licence, expected):
    """Read by the hub's own library; the loopback hub checks the licence's name when it is sent."""
    from huggingface_hub import ModelCard

    classifier.config = classifier.config.model_copy(update={"licence": licence})
    classifier.save_pretrained(tmp_path / "bundle")
    data = ModelCard.load(tmp_path / "bundle" / "README.md").data.to_dict()
    assert {name: value for name, value in data.items() if name.startswith("license")} == expected
    assert data["library_name"] == "pesi-cnn"
    assert data["pipeline_tag"] == "image-classification"
    assert "dermoscopy" in data["tags"]
    assert classifier.push_to_hub(NAME, token=TOKEN).startswith(server.endpoint)
    assert "README.md" in server.repositories[NAME].commits[-1][1]


def test_the_shipped_bundles_are_saved_as_they_are(tmp_path):
    for name, opened in (("classifier", load(device="cpu")), ("segmenter", shipped_segmenter(device="cpu"))):
        opened.save_pretrained(tmp_path / name)
        assert opened.folder is not None
        for path in opened.folder.iterdir():
            saved = (tmp_path / name / path.name).read_bytes()
            if path.name == "config.json":  # perhaps of an older format, and with what is left at its default
                assert type(opened.config).read(tmp_path / name) == type(opened.config).read(opened.folder)
            else:
                assert saved == path.read_bytes(), path
    again = LesionSegmenter.from_pretrained(tmp_path / "segmenter", device="cpu")
    assert again.bundle_id == shipped_segmenter(device="cpu").bundle_id


def test_a_trained_network_is_saved_as_it_is_now(classifier, tmp_path, spots):
    before = classifier.config.weights_sha256
    classifier.network.fc.bias.data += 1 / 3
    classifier.save_pretrained(tmp_path)
    again = Classifier.load(tmp_path, device="cpu")
    assert again.config.weights_sha256 != before
    path = spots["path"].iloc[0]
    assert again.predict(path).probabilities == classifier.predict(path).probabilities


@pytest.mark.slow
def test_the_command_takes_a_hub_name_and_prints_the_licence(server, published, spots, tmp_path):
    published.commit({"README.md": b"---\nlicense: cc-by-4.0\n---\n# Moles\n"})
    environment = os.environ | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pesi", "predict", spots["path"].iloc[0], "--no-gates", "--bundle", f"hf://{NAME}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train_000: melanoma")
    assert done.stderr.count("licence cc-by-4.0") == 1
    command[-1] = "hf://clinic/none"
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert "There is no hf://clinic/none on the hub" in done.stderr
    assert "Traceback" not in done.stderr
