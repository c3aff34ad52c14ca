from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.conftest import BENCHMARKS


@pytest.mark.slow  # a minute or two
def test_every_benchmark_script_runs(tmp_path: Path) -> None:
    out = tmp_path / "quick"
    command = [sys.executable, str(BENCHMARKS / "quick.py"), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Every benchmark script works" in done.stdout
    assert "(results-tables.md)" in (out / "results.md").read_text()
    page = (out / "results-tables.md").read_text()
    assert "**Incomplete: 1 of 2 rows are finished.**" in page
    assert page.count("**not shown**") + page.count("**shown") >= 2
    assert len(list((out / "predictions").glob("*.csv"))) == 4
