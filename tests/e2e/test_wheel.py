"""The built wheel holds everything that `pesi predict mole.jpg` needs, and asks no network for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pesi.synthetic import write_synthetic

PROJECT = Path(__file__).resolve().parents[2]

# Python runs it before anything else: whoever connects to anything ends the process.
OFFLINE = """
import socket
def refuse(*arguments): raise SystemExit("the network was asked")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(build, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("pesi_cnn-*.whl")
    assert wheel.stat().st_size < 25e6
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "sitecustomize.py").write_text(OFFLINE)
    return site


def started(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Python with the unpacked wheel; its files are no part of the measured coverage."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    environment["PYTHONPATH"] = str(site)
    command = [sys.executable, *map(str, arguments)]
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
    assert entry["triage"] in ("excise", "refer", "follow up", "reassure")
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
