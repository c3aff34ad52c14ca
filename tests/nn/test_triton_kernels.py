"""The Triton kernels against the formula in float64: on a GPU, else by Triton's own interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pesi.nn.attention import attend_normed
from pesi.nn.fused import Branch, implementation

pytest.importorskip("triton", reason="triton is not installed here: torch brings it where it has CUDA")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


RUNS = DEVICE == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
runs = pytest.mark.skipif(not RUNS, reason="without a GPU they run in a process of their own, below")


@pytest.mark.skipif(RUNS, reason="the tests below run in this process")
def test_by_the_interpreter():
    """Triton chooses its interpreter when it is imported, and torch may have imported it already."""
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not interpreter", __file__]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(arguments, cwd=root, env=os.environ | {"TRITON_INTERPRET": "1"}, stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stdout.decode()


def by_the_formula(z, a, s, b, alpha, temperature, gain, relu):
    o, s = a(z), (s if b is None else b(s))
    m = gain * torch.softmax((o / temperature).flatten(2), 2).view(o.shape)
    y = s + o + alpha.view(1, -1, 1, 1) * m * s
    return torch.relu(y) if relu else y


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("shape", "form", "relu", "per_channel"),
    [
        ((2, 5, 7, 9), "spatial", True, False),
        ((2, 70, 6, 6), "spatial-mean1", False, True),
        ((3, 4, 1, 1), "spatial", True, True),
    ],
)
def test_value_and_gradients_are_those_of_float64(dtype, projected, memory_format, shape, form, relu, per_channel):
    torch.manual_seed(0)
    z, s = (
        torch.randn(shape).to(DEVICE, dtype).contiguous(memory_format=memory_format).requires_grad_() for _ in range(2)
    )
    norms = [nn.BatchNorm2d(shape[1]).to(DEVICE), nn.BatchNorm2d(shape[1]).to(DEVICE) if projected else None]
    alpha = torch.rand(shape[1] if per_channel else 1, device=DEVICE).requires_grad_()
    grad = torch.randn(shape, device=DEVICE)
    with implementation("triton"):
        y = attend_normed(Branch(z, norms[0]), Branch(s, norms[1]), alpha, form, 0.7, relu=relu)
    parameters = [p for norm in norms if norm is not None for p in norm.parameters()]
    got = torch.autograd.grad(y, [z, s, alpha, *parameters], grad.to(dtype))

    exact = [t.detach().double().requires_grad_() for t in (z, s, alpha)]
    norms = [None if norm is None else norm.double() for norm in norms]
    gain = float(shape[2] * shape[3]) if form == "spatial-mean1" else 1.0
    wanted_y = by_the_formula(exact[0], norms[0], exact[1], norms[1], exact[2], 0.7, gain, relu)
    parameters = [p for norm in norms if norm is not None for p in norm.parameters()]
    wanted = torch.autograd.grad(wanted_y, [*exact, *parameters], grad.double())
    assert y.dtype == dtype
    rounding = 1e-4 if dtype == torch.float32 else 2**-7  # the interpreter cuts bfloat16 off
    torch.testing.assert_close(y.double(), wanted_y, rtol=rounding, atol=1e-4)
    assert y.is_contiguous(memory_format=memory_format)
    for ours, exactly in zip(got, wanted, strict=True):
        # Over one position the norm's gradient is all but 0, a difference of rounding.
        allowed = (1e-4 if dtype == torch.float32 else 2e-2) * float(exactly.norm()) + 1e-2 * float(grad.norm()) * (
            shape[2:] == (1, 1)
        )
        assert float((ours.double() - exactly).norm()) <= allowed


@runs
def test_large_values_do_not_overflow():
    o = torch.full((1, 2, 3, 3), 1e30, device=DEVICE)
    with implementation("triton"):
        y = attend_normed(Branch(o), Branch(torch.ones_like(o)), torch.tensor([9.0], device=DEVICE), "spatial")
    torch.testing.assert_close(y, o + 2)
