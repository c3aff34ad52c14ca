"""The tutorial runs as it stands, on drawn images and the shipped bundle, to a hub on the loopback and back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loopback_hub import TOKEN, LoopbackHub

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.py"


@pytest.mark.slow
def test_it_runs(tmp_path):
    server = LoopbackHub()
    environment = os.environ | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
        "PESI_TUTORIAL_REPO": "clinic/tutorial",
    }
    done = subprocess.run(
        [sys.executable, str(TUTORIAL)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    server.close()
    assert done.returncode == 0, done.stderr
    for said in ("5 images: ", "1 refused", "Grad-CAM (1, 1, ", "equal predictions from the hub; licence: Apache-2.0"):
        assert said in done.stdout
    (repository,) = server.repositories.values()
    assert repository.private
    weights = {path.name: path.read_bytes() for path in (tmp_path / "my-bundle").glob("model-*.safetensors")}
    assert len(weights) == 10
    assert weights.items() <= repository.commits[-1][1].items()
    assert Image.open(tmp_path / "explained.png").size[0] > 300
    page = (tmp_path / "gallery.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert "notes" in page


def test_its_cells_are_cells():
    """Every cell begins as editors know it, and cells of prose hold nothing else."""
    cells = TUTORIAL.read_text(encoding="utf-8").replace("\n# %%", "\n\0").split("\0")[1:]
    assert len(cells) > 14
    for cell in cells:
        head, *lines = cell.rstrip().split("\n")
        if head.strip() == "[markdown]":
            assert all(line.startswith("#") or not line for line in lines), cell
        else:
            assert head == "", cell
            compile("\n".join(lines), "cell", "exec")
