"""What the process uses of the machine: the kernel counts page faults, `nproc` cores, OpenMP says what it read."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pesi.machine import available_cores, stream_count, thread_count, tune_streams

SCRIPT = """
import resource
import torch
from pesi.machine import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 << 18)  # 64 MiB, given back at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_memory()
    faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by its own rules")
def test_a_large_buffer_is_mapped_once() -> None:
    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", SCRIPT.replace("{keep}", str(keep))]
        environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return int(done.stdout)

    assert faults(keep=True) < 0.5 * faults(keep=False)  # the heap may still grow once or twice


V1 = {"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "50000\n"}


def cgroup(root: Path, lines: str, files: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),  # a tenth of a core
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, 4),  # the slice above
        ("0::/host/only\n", {"cpu.max": "300000 100000\n"}, 3),  # a container that sees the host's path
        ("0::/\n", {"cpu.max": "nonsense\n"}, 64),
        ("0::/\n", {}, 64),
        ("3:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/" + name: text for name, text in V1.items()}, 3),
        ("3:cpuacct,cpu:/x\n", {"cpu/" + name: text for name, text in V1.items()}, 3),
        ("3:cpu:/x\n0::/\n", {"cpu/" + name: text.replace("150000", "-1") for name, text in V1.items()}, 64),
        ("3:cpu:/\n0::/u\n", {"unified/u/cpu.max": "500000 100000\n"}, 5),
        ("", {}, 64),
    ],
)
def test_the_control_groups_share_counts(lines, files, cores, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert available_cores(cgroup(tmp_path, lines, files)) == cores


def test_no_control_groups_at_all(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert available_cores(tmp_path) == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_affinity_counts_as_nproc_counts_it() -> None:
    """In a process bound to one core; the command's own process tells OpenMP the same."""
    code = (
        "import os, subprocess; from pesi.machine import available_cores, tune_threads\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.environ.pop('OMP_NUM_THREADS', None)\n"
        "print(subprocess.check_output(['nproc'], text=True).strip(), available_cores())\n"
        "tune_threads(); import torch; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1"] * 4


@pytest.mark.parametrize(
    ("asked", "threads"), list({"3": 3, "2,1": 2, " 4 , 2": 4, "0": 9, "x": 9, "": 9, None: 9}.items())
)
def test_threads_by_openmp_s_own_variable(asked, threads, monkeypatch) -> None:
    monkeypatch.setattr("pesi.machine.available_cores", lambda: 9)
    monkeypatch.setenv("OMP_NUM_THREADS", asked) if asked is not None else monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count() == threads


@pytest.mark.parametrize(("images", "threads", "streams"), [(1, 8, 1), (100, 8, 4), (100, 2, 2), (3, 8, 3), (0, 2, 1)])
def test_streams_by_the_images_and_the_threads(images, threads, streams, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setenv("PESI_STREAMS", "")
    assert stream_count() == 1
    monkeypatch.delenv("PESI_STREAMS")
    tune_streams(images)
    assert stream_count() == streams
    tune_streams(1)  # what is set stays
    assert stream_count() == streams


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the OpenMP of GNU")
@pytest.mark.parametrize(("given", "spins"), [({}, "0"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)])
def test_openmp_itself_says_how_it_waits(given: dict[str, str], spins: str | None) -> None:
    """libgomp prints what it took: a passive wait spins not at all. What the user has set stays."""
    code = "from pesi.machine import tune_threads; tune_threads(); import torch; print(torch.get_num_threads())"
    environment = os.environ | {"OMP_NUM_THREADS": "2,1", "OMP_DISPLAY_ENV": "VERBOSE"}
    environment.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment | given)
    assert done.stdout.strip() == "2"
    assert "OMP_NUM_THREADS = '2,1'" in done.stderr
    assert ("GOMP_SPINCOUNT = '0'" in done.stderr) == (spins == "0")


def test_a_library_s_user_keeps_the_environment() -> None:
    code = (
        "import os; before = dict(os.environ); import pesi; pesi.load\n"
        "assert not {name for name in os.environ.items() ^ before.items() if 'OMP' in name[0] or 'KMP' in name[0]}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
