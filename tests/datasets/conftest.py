"""Where the real data sets lie: `PESI_DATA`, or `../shared/data` beside the project."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Gives the folder of a data set by its name; skips the test where it is absent."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("PESI_DATA") or beside)

    def folder(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real data: {root / name} is not there (set PESI_DATA)")
        return root / name

    return folder
