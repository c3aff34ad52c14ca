"""Standard output and error that are full, closed or no longer read: what the operating system lets through is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pesi.version import __version__

FULL = Path("/dev/full")
PESI = f"{sys.executable} -m pesi"
ENVIRONMENT = os.environ | {"NO_COLOR": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def shell(command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, timeout=300)


@pytest.mark.parametrize("verb", ["recipes", "--help"])
@pytest.mark.parametrize(
    ("stream", "reason"), [("> /dev/full", "No space left on device"), (">&-", "closed"), (">&- <&-", "closed")]
)
def test_lost_output_is_told_in_one_sentence(verb: str, stream: str, reason: str) -> None:
    done = shell(f"{PESI} {verb} {stream}")
    assert done.returncode == 2
    problem, cure = done.stderr.splitlines()
    assert problem.startswith("pesi: Could not write to standard output")
    assert reason in problem
    assert cure.startswith("  -> ")


@pytest.mark.parametrize("verb", ["recipes", "--help"])
def test_a_reader_that_has_enough_ends_it_quietly(verb: str) -> None:
    """The pipe is closed before a word is written: `yes` ends by SIGPIPE there, which a shell calls 141."""
    for command in (f"{PESI} {verb}", "yes"):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            done = subprocess.run(
                ["sh", "-c", f"{command}; exit $?"], stdout=pipe, stderr=subprocess.PIPE, env=ENVIRONMENT, check=False
            )
        assert done.returncode == 141
    done = subprocess.run(["sh", "-c", f"{PESI} {verb} | head -1"], capture_output=True, env=ENVIRONMENT, check=False)
    assert done.stderr == b""


@pytest.mark.parametrize("stream", ["2>&-", "2> /dev/full", "2>&- <&-"])
def test_messages_that_are_lost_stop_nothing(stream: str) -> None:
    done = shell(f"{PESI} --version {stream}")
    assert (done.returncode, done.stdout) == (0, f"pesi-cnn {__version__}\n")


@pytest.mark.parametrize("stream", ["2>&-", "2> /dev/full"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [("predict gone.jpg", "There is no gone.jpg"), ("frobnicate", "No such command")],
)
def test_a_mistake_is_told_where_it_can_be(stream: str, arguments: str, message: str, tmp_path: Path) -> None:
    done = shell(f"{PESI} {arguments} {stream}", tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("streams", ["> /dev/full 2>&1", ">&- 2>&-", ">&- 2> /dev/full <&-"])
def test_with_nowhere_to_speak_the_status_tells(streams: str) -> None:
    done = shell(f"{PESI} recipes {streams}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.slow
def test_predictions(tiny_run: Path, spots: pd.DataFrame, tmp_path: Path) -> None:
    """A file that is written while standard output is closed is whole; printed results are not lost unseen."""
    predict = f"{PESI} predict {spots['path'].iloc[0]} --bundle {tiny_run / 'bundle'}"
    done = shell(f"{predict} --out p.csv >&-; echo status $? >&2", tmp_path)
    assert "status 0" in done.stderr
    assert len(pd.read_csv(tmp_path / "p.csv")) == 1
    done = shell(f"{predict} > /dev/full; echo status $? >&2", tmp_path)
    assert "status 2" in done.stderr
    assert "Could not write to standard output" in done.stderr
    assert "Traceback" not in done.stderr
