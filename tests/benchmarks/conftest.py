"""The benchmark scripts are no package: they are put on the path; and tables with made-up results."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pesi.datasets.records import record_table

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from pack import write_row  # noqa: E402
from table import Table, load_table  # noqa: E402

TABLE = """
title = "Made up"
recipe = "recipe.toml"
splits = ["fold0", "fold1"]
seeds = [0, 1, 2]
[variants.none]
set = ["network.attention=none"]
[variants.spatial]
set = ["network.attention=spatial", "optimizer.alpha_lr_scale=20"]
[variants.sigmoid]
set = ["network.attention=sigmoid"]
"""
NAMES = ("melanoma", "seborrheic_keratosis", "nevus")


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A table of 3 variants, 3 seeds and 2 folds."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "recipe.toml").write_text('name = "made"\n[network]\nname = "pesi14"\n')
    (folder / "table.toml").write_text(TABLE)
    return load_table(folder / "table.toml")


@pytest.fixture
def records() -> pd.DataFrame:
    """90 labelled images, 60 to train and 30 to validate, and 8 test images without labels."""
    rows = [
        {
            "image_id": f"I_{i:03d}",
            "path": f"{i}.jpg",
            "diagnosis": ("MEL", "SK", "NV")[i % 3] if i < 90 else None,
            "split": "train" if i < 60 else "val" if i < 90 else "test",
            "source": "made",
        }
        for i in range(98)
    ]
    return record_table(rows)


@pytest.fixture
def fabricate(table: Table, records: pd.DataFrame) -> Callable[..., None]:
    """Writes made-up results: fold 0 holds the even images out, fold 1 the odd ones."""

    def write(variant: str, seed: int, split: str, *, skill: float = 1.0, epochs: int = 2) -> None:
        row = next(r for r in table.rows() if (r.variant, r.seed, r.split) == (variant, seed, split))
        rng = np.random.default_rng([seed, len(variant), int(split[-1])])
        pool = records[records["diagnosis"].notna()].iloc[int(split[-1]) :: 2]
        predictions = {}
        for name, part in (("held_out", pool), ("test", records[records["split"] == "test"])):
            truth = part["diagnosis"].map({"MEL": 0, "SK": 1, "NV": 2}).fillna(0).astype(int).to_numpy()
            z = rng.normal(size=(len(part), 3)) + skill * np.eye(3)[truth]
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            frame = pd.DataFrame(p, columns=list(NAMES))
            frame.insert(0, "image_id", part["image_id"].to_numpy())
            predictions[name] = frame
        blocks = () if variant == "none" else ("layer1.0", "layer1.1", "layer2.0")
        log = [
            {"epoch": float(e)}
            | {f"alpha/{b}": 0.001 * (e + 1) * (n + 1) for n, b in enumerate(blocks)}
            | {f"energy/{b}": 1e-5 * (e + 1) * (n + 1) for n, b in enumerate(blocks)}
            for e in range(epochs)
        ]
        content = {
            "row": row.name,
            "table": table.name,
            "recipe": table.recipe(row).resolved().model_dump(mode="json"),
            "pretrained": {"file": "weights.safetensors", "sha256": "ab" * 32},
            "seconds": 10.0 + len(variant),
            "cpu_seconds": 10.0 + len(variant),
            "processor": "A processor",
            "device": "cpu",
            "threads": 1,
            "torch": "2.0",
            "folds_sha256": "cd" * 32,
            "share": row.settings.share,
            "relatives": row.settings.relatives,
            "splits": {"train": {"count": int(40 * row.settings.share)}},
            "log": log,
        }
        write_row(table, content, predictions)

    return write
