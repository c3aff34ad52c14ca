"""What a depthwise convolution's training step costs in bfloat16: torch's own, and `pesi.nn.depthwise`.

    python benchmarks/depthwise.py [--batch 32] [--repeats 5]

Prints a Markdown table of milliseconds, forward and backward, one thread, channels_last: the depthwise convolutions of
EfficientNet-Lite0 at 128 px that are strided or 5 x 5, and one that is neither.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pesi.nn.depthwise import depthwise_conv2d

# channels, side, kernel, stride
SHAPES = ((144, 32, 3, 1), (96, 64, 3, 2), (144, 32, 5, 2), (240, 16, 5, 1), (672, 8, 5, 2), (1152, 4, 5, 1))


def own(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight.bfloat16(), None, stride, padding, 1, x.shape[1])


def milliseconds(
    function: Callable[[Tensor, Tensor, int, int], Tensor], shape: tuple[int, ...], batch: int, repeats: int
) -> float:
    """Median time of one forward and backward pass."""
    channels, side, kernel, stride = shape
    x = torch.randn(batch, channels, side, side).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
    grad = torch.randn_like(function(x, weight, stride, kernel // 2))
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        torch.autograd.grad(function(x, weight, stride, kernel // 2), [x, weight], grad)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| depthwise convolution | torch | pesi |\n|---|---|---|")
    for shape in SHAPES:
        cells = " | ".join(
            f"{milliseconds(f, shape, options.batch, options.repeats):.1f}" for f in (own, depthwise_conv2d)
        )
        print(f"| {shape[0]} x {shape[1]} x {shape[1]}, {shape[2]} x {shape[2]}, stride {shape[3]} | {cells} |")


if __name__ == "__main__":
    main()
