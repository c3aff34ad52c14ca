"""What the attention costs: one training step of a block's tail, plain, naive and fused.

    python benchmarks/attention_cost.py [--batch 16] [--repeats 5]

Prints a Markdown table of milliseconds, forward and backward, one thread, float32, channels_last.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pesi.nn.attention import attend


def plain(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    return torch.relu(o + s)


def naive(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    n, c, h, w = o.shape
    m = torch.softmax(o.flatten(2), dim=2).view(n, c, h, w)
    return torch.relu(s + o + alpha * m * s)


def fused(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    return attend(o, s, alpha, "spatial")


def milliseconds(function: Callable[[Tensor, Tensor, Tensor], Tensor], shape: tuple[int, ...], repeats: int) -> float:
    """Median time of one forward and backward pass."""
    o, s = (torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    alpha = torch.full((1,), 0.1, requires_grad=True)
    grad = torch.randn(shape).to(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.autograd.grad(function(o, s, alpha), [o, s, alpha], grad, allow_unused=True)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| block output | plain | naive | fused |\n|---|---|---|---|")
    for channels, side in ((256, 56), (512, 28), (1024, 14), (2048, 7)):
        shape = (options.batch, channels, side, side)
        cells = " | ".join(f"{milliseconds(f, shape, options.repeats):.1f}" for f in (plain, naive, fused))
        print(f"| {channels} x {side} x {side} | {cells} |")


if __name__ == "__main__":
    main()
