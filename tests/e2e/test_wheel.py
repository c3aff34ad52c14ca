"""The built wheels hold everything that `pesi predict mole.jpg` needs, and ask no network for anything."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import pesi
from pesi.bundle.card import model_card
from pesi.bundle.config import read_config
from pesi.bundle.files import write_bundle
from pesi.predict.classifier import Classifier
from pesi.synthetic import write_synthetic

PROJECT = Path(__file__).resolve().parents[2]
RESEARCH = PROJECT / "models" / "research"

# Python runs it before anything else: whoever connects to anything ends the process.
OFFLINE = """
import socket
def refuse(*arguments): raise SystemExit("the network was asked")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


def built(project: Path, folder: Path) -> Path:
    """The project's wheel."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(PROJECT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """The wheel, unpacked as pip does."""
    assert wheel.stat().st_size < 80e6
    site = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "sitecustomize.py").write_text(OFFLINE)
    return site


def started(
    site: Path, *arguments: str | Path, program: str | Path = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Python, or another program, with the unpacked wheel; its files are no part of the measured coverage."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["PYTHONPATH"] = str(site)
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True, check=False)


def run(site: Path, *arguments: str | Path) -> str:
    done = started(site, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_predicts_and_finds_the_lesion(site: Path, tmp_path: Path) -> None:
    assert Path(run(site, "-c", "import pesi; print(pesi.__file__)").strip()).is_relative_to(site)
    image = next(Path(write_synthetic(tmp_path / "set", train=1, val=0, test=0, size=256)).rglob("*.jpg"))
    run(site, "-m", "pesi", "predict", image, "--no-gates", "--out", tmp_path / "p.json", "--overlay", tmp_path / "o")
    (entry,) = json.loads((tmp_path / "p.json").read_text())
    assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert entry["triage"] in ("excise", "refer", "follow up", "reassure", "no level reached")
    (overlay,) = (tmp_path / "o").glob("*.png")
    assert np.ptp(np.asarray(Image.open(overlay))) > 100
    run(site, "-m", "pesi", "segment", image, "--out", tmp_path / "masks")
    assert any(path.suffix == ".png" for path in (tmp_path / "masks").rglob("*"))


def test_recipes_templates_and_checklists_are_in_it(site: Path) -> None:
    assert "isic2017-lite0" in run(site, "-m", "pesi", "recipes")
    for pattern in ("*.toml", "*.j2", "*.json", "*.safetensors"):
        packed = {path.relative_to(site) for path in (site / "pesi").rglob(pattern)}
        assert packed == {path.relative_to(PROJECT / "src") for path in (PROJECT / "src" / "pesi").rglob(pattern)}


def test_the_network_would_be_noticed(site: Path) -> None:
    done = started(site, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))")
    assert "the network was asked" in done.stderr


def test_the_research_models_are_a_distribution_of_their_own(tmp_path: Path) -> None:
    """Its wheel holds what its licence asks for, wants this version of pesi-cnn, and no dependency of its own."""
    with zipfile.ZipFile(built(RESEARCH, tmp_path)) as wheel:
        names = wheel.namelist()
        (about,) = (name for name in names if name.endswith("/METADATA"))
        said = email.message_from_bytes(wheel.read(about))
        legal = wheel.read(about.replace("METADATA", "licenses/LICENSE")).decode()
        attribution = wheel.read("pesi_cnn_research_models/bundles/ATTRIBUTION.md").decode()
    assert said["License-Expression"] == "CC-BY-NC-4.0"
    assert "Attribution-NonCommercial 4.0 International" in legal
    assert "Tschandl" in attribution
    assert "180161" in str(said.get_payload())
    (needed,) = (Requirement(text) for text in said.get_all("Requires-Dist"))
    assert needed.name == "pesi-cnn"
    assert pesi.__version__ in needed.specifier
    published = {path.parent.name for path in RESEARCH.glob("src/*/bundles/*/config.json")}
    assert {Path(name).parent.name for name in names if name.endswith("/config.json")} == published


@pytest.mark.slow
def test_both_wheels_in_a_fresh_environment_without_network(wheel: Path, tiny_run: Path, tmp_path: Path) -> None:
    """A bundle's folder put into the research models is found by its name, with no other edit."""
    project = shutil.copytree(RESEARCH, tmp_path / "research")
    (bundles,) = project.glob("src/*/bundles")
    licensed = read_config(tiny_run / "bundle").model_copy(update={"licence": "CC BY-NC 4.0: learned from HAM10000."})
    tiny = shutil.copytree(tiny_run / "bundle", bundles / "ham10000")
    write_bundle(tiny, licensed, {}, card=model_card(licensed))
    research = built(project, tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel, research], check=True)
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # torch and all else, but no editable project
    offline = tmp_path / "offline"
    offline.mkdir()
    (offline / "sitecustomize.py").write_text(OFFLINE)

    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        done = started(offline, *arguments, program=python.parent / "pesi")
        assert done.returncode == 0, done.stderr
        return done

    listed = json.loads(command("bundles", "--json").stdout)
    assert all(Path(one["folder"]).is_relative_to(packages) for one in listed)
    (one,) = (one for one in listed if one["name"] == "ham10000")
    assert (one["distribution"], one["problem"]) == ("pesi-cnn-research-models", None)
    assert one["commercial_use_forbidden"]
    assert "ham10000\n  kind      classifier\n" in command("bundles").stdout
    image = next(Path(write_synthetic(tmp_path / "set", train=1, val=0, test=0, size=256)).rglob("*.jpg"))
    mole = shutil.copy(image, tmp_path / "mole.jpg")
    done = command("predict", "--bundle", "ham10000", mole, "--no-gates", "--out", tmp_path / "p.json")
    assert done.stderr.count("its licence, CC BY-NC 4.0, forbids commercial use") == 1
    (entry,) = json.loads((tmp_path / "p.json").read_text())
    expected = Classifier.load(tiny_run / "bundle", device="cpu").predict(mole, gates=False)
    assert entry["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-6)
    assert "commercial" not in command("predict", mole, "--no-gates").stderr
