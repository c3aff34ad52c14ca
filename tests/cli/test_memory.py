"""Freed memory is kept: the kernel's own count of page faults says whether buffers are mapped anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from pesi.cli.memory import keep_memory

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
