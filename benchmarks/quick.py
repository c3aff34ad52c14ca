"""Every benchmark script once, on a small synthetic set: shows that they work, and nothing else.

    python benchmarks/quick.py [--out runs/benchmark-quick]

The folder is emptied first. Takes one to two minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from results import all_tables
from table import load_table

from pesi.errors import PesiError
from pesi.synthetic import write_synthetic

HERE = Path(__file__).resolve().parent
RECIPE = HERE / "attention" / "pesi18-128.recipe.toml"

_TINY = """
recipe = {recipe}
seeds = [0]
folds = "folds.csv"
fold_count = 2
set = ["network.name=pesi14", "picture.size=64", "picture.source_size=72", "batch_size=8", "epochs=1", "ema=0.5"]
"""

FORMS = """
title = "Smoke: forms of the attention"
splits = ["fold0", "fold1"]
{tiny}
[variants.none]
set = ["network.attention=none"]
[variants.spatial]
set = ["network.attention=spatial", "network.alpha=1e-3"]
[variants.one-view]
set = ["network.attention=none", "views=single"]
network_of = "none"
"""

MORE = """
title = "Smoke: a table that refers to another, unfinished"
reference = "forms.toml"
splits = ["fold0", "fold1"]
{tiny}
[variants.temperature-2]
set = ["network.attention=spatial-mean1", "network.alpha=0.1", "network.temperature=2.0"]
"""


def run(*arguments: str | Path) -> None:
    """Run one of the scripts.

    Raises:
        PesiError: It failed.
    """
    command = [sys.executable, str(HERE / arguments[0]), *map(str, arguments[1:])]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode:
        raise PesiError(f"{arguments[0]} ended with status {done.returncode}.", "See what it said above.")


def quick(out: Path) -> Path:
    """Run everything into `out`.

    Returns:
        The results page.
    """
    for path in all_tables():
        load_table(path)
    shutil.rmtree(out, ignore_errors=True)
    data = write_synthetic(out / "synthetic", train=30, val=18, test=6, size=96)
    tables = out / "smoke"
    tables.mkdir()
    tiny = _TINY.format(recipe=f"'{RECIPE}'")
    (tables / "forms.toml").write_text(FORMS.format(tiny=tiny), encoding="utf-8")
    (tables / "more.toml").write_text(MORE.format(tiny=tiny), encoding="utf-8")
    work = out / "work"
    run("run.py", tables / "forms.toml", "--data", data, "--work", work, "--keep-bundles")
    run("run.py", tables / "more.toml", "--data", data, "--work", work, "--only", "*-fold0", "--limit", "1")
    run("pack.py", tables / "forms.toml", tables / "more.toml")
    shutil.rmtree(tables / "forms" / "rows")  # packed
    page = out / "results.md"
    run(
        *("results.py", "--data", data, "--tables", tables / "forms.toml", tables / "more.toml"),
        *("--out", page, "--predictions", out / "predictions", "--replicates", "200"),
    )
    bundles = [work / "smoke" / "forms" / f"{name}-s0-fold0" / "bundle" for name in ("none", "spatial")]
    held_out = ("--held-out", tables / "forms.toml", "none-s0-fold0")
    run("robustness.py", "pair", *bundles, "--data", data, *held_out, "--also", data, "--replicates", "200")
    run("robustness.py", "copies", "--data", data, "--other", data, "--replicates", "200")
    for what in ("attention", "depthwise", "prediction"):
        run("speed/parts.py", what, "--batch", "1", "--repeats", "1", "--images", "2", "--width", "320")
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "benchmark-quick")
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        page = quick(options.out)
    except PesiError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Every benchmark script works; {time.perf_counter() - started:.0f} s. The page (of a smoke test): {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
