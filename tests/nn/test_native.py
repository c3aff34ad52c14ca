"""The compiled kernels: where they come from, and that without them all is as before; their values: test_fused.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pesi.errors import PesiError
from pesi.nn.attention import attend
from pesi.nn.fused import Branch, implementation, kernels_for
from pesi.nn.kernels import TorchKernels
from pesi.nn.native import NativeKernels, compiled, native_kernels


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("PESI_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    native_kernels.cache_clear()
    yield
    native_kernels.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def chosen() -> type:
    x = torch.zeros(1, 2, 3, 3)
    return type(kernels_for(Branch(x), Branch(x)))


def test_it_is_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", script(tmp_path / "counting", f'echo >> {tmp_path}/calls\nexec cc "$@"'))
    assert compiled() == compiled()
    assert (tmp_path / "calls").read_text() == "\n"
    assert chosen() is NativeKernels


@pytest.mark.parametrize(
    "text",
    [
        "echo broken >&2; exit 1",
        "exit 0",
        'for last; do [ "$before" = -o ] && echo no library > $last; before=$last; done',
    ],
)
def test_a_compiler_that_fails(monkeypatch, tmp_path, text):
    monkeypatch.setenv("CC", script(tmp_path / "failing", text))
    assert chosen() is TorchKernels
    with implementation("native"), pytest.raises((OSError, subprocess.CalledProcessError, PesiError)):
        chosen()


def test_no_compiler_and_no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(FileNotFoundError, match="no-such-compiler is not there"):
        compiled()
    assert chosen() is TorchKernels
    monkeypatch.delenv("CC")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PESI_CACHE", str(tmp_path / "file"))
    native_kernels.cache_clear()
    assert chosen() is TorchKernels


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_every_number_of_threads_gives_the_same(memory_format):
    torch.manual_seed(0)
    o, s = (torch.randn(2, 200, 9, 5).contiguous(memory_format=memory_format).requires_grad_() for _ in range(2))
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 3, 7):
            torch.set_num_threads(number)
            with implementation("native"):
                y = attend(o, s, torch.tensor([0.5]), "spatial")
            results.append((y, *torch.autograd.grad(y.square().sum(), [o, s])))
    finally:
        torch.set_num_threads(threads)
    for each in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, results[0], strict=True))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="where the system lists a process's threads")
def test_no_threads_beside_those_of_torch():
    program = """
import os, sys, torch
from pesi.nn.attention import attend
from pesi.nn.fused import implementation
torch.set_num_threads(int(sys.argv[1]))
x = torch.rand(8, 64, 32, 32)
torch.exp(x)  # torch's own threads are there now
before = len(os.listdir("/proc/self/task"))
with implementation("native"):
    attend(x, x, torch.tensor([0.5]), "spatial")
assert len(os.listdir("/proc/self/task")) == before, (before, os.listdir("/proc/self/task"))
"""
    for threads in ("1", "3"):
        done = subprocess.run([sys.executable, "-c", program, threads], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
