"""How long things take: the attention's training step, a depthwise convolution's, the parts of a prediction.

    python benchmarks/speed/parts.py attention|depthwise|prediction [--batch 16] [--repeats 5] [--images 16]

Prints a Markdown table of milliseconds, medians, on one thread (prediction: --threads). *attention*: forward and
backward of a block's tail, plain, naive and fused, float32, channels_last. *depthwise*: forward and backward of the
depthwise convolutions of EfficientNet-Lite0 at 128 px that are strided or 5 x 5, and of one that is neither, bfloat16,
torch's own and `pesi.nn.depthwise`. *prediction*: an image of synthetic JPEG files by the classifier that ships, one at
a time, and all at once, with memory kept as `pesi predict` keeps it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import pesi
from pesi.machine import keep_memory
from pesi.nn.attention import attend
from pesi.nn.depthwise import depthwise_conv2d
from pesi.synthetic.image import draw_parameters, render

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from page import markdown

# channels, side, kernel, stride
CONVOLUTIONS = ((144, 32, 3, 1), (96, 64, 3, 2), (144, 32, 5, 2), (240, 16, 5, 1), (672, 8, 5, 2), (1152, 4, 5, 1))


def milliseconds(work: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Median time of an item, after one that does not count."""
    times = []
    for item in (items[0], *items):
        started = time.perf_counter()
        work(item)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def step(function: Callable[..., Tensor], inputs: Sequence[Tensor], repeats: int) -> float:
    """Of one forward and backward pass."""
    grad = torch.randn_like(function(*inputs))
    return milliseconds(
        lambda _: torch.autograd.grad(function(*inputs), inputs, grad, allow_unused=True), range(repeats)
    )


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A picture of noise that asks for a gradient, channels last."""
    return torch.randn(shape).to(memory_format=torch.channels_last).to(dtype).requires_grad_()


def plain(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    return torch.relu(o + s)


def naive(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    m = torch.softmax(o.flatten(2), dim=2).view(o.shape)
    return torch.relu(s + o + alpha * m * s)


def fused(o: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    return attend(o, s, alpha, "spatial")


def attention(options: argparse.Namespace) -> Iterator[list[str]]:
    yield ["block output", "plain", "naive", "fused"]
    for channels, side in ((256, 56), (512, 28), (1024, 14), (2048, 7)):
        o, s = (drawn(options.batch, channels, side, side) for _ in range(2))
        inputs = (o, s, torch.full((1,), 0.1, requires_grad=True))
        times = [step(form, inputs, options.repeats) for form in (plain, naive, fused)]
        yield [f"{channels} x {side} x {side}", *(f"{value:.1f}" for value in times)]


def depthwise(options: argparse.Namespace) -> Iterator[list[str]]:
    yield ["depthwise convolution", "torch", "pesi"]
    for channels, side, kernel, stride in CONVOLUTIONS:
        x = drawn(options.batch, channels, side, side, dtype=torch.bfloat16)
        weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
        forms = (
            lambda x, w: F.conv2d(x, w.bfloat16(), None, stride, kernel // 2, 1, channels),  # noqa: B023
            lambda x, w: depthwise_conv2d(x, w, stride, kernel // 2),  # noqa: B023
        )
        times = [step(form, (x, weight), options.repeats) for form in forms]
        what = f"{channels} x {side} x {side}, {kernel} x {kernel}, stride {stride}"
        yield [what, *(f"{value:.1f}" for value in times)]


def write_images(folder: Path, count: int, width: int) -> list[Path]:
    """Synthetic lesions as JPEG files, 4 : 3."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        image = render(draw_parameters(rng, ("MEL", "SK", "NV")[number % 3]), size=256).image
        paths.append(folder / f"{number:03d}.jpg")
        large = cv2.resize(image, (width, width * 3 // 4), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    return paths


def prediction(options: argparse.Namespace) -> Iterator[list[str]]:
    started = time.perf_counter()
    classifier = pesi.load()
    loading = time.perf_counter() - started
    yield [f"{classifier.config.bundle_id}, {options.threads} thread(s); loaded in {loading:.1f} s", "ms an image"]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), options.images, options.width)
        squares = [classifier.squares(path) for path in paths]
        started = time.perf_counter()
        for _ in classifier.predict_many(paths):
            pass
        together = 1000 * (time.perf_counter() - started) / len(paths)
        rows = {
            "decoding, quality, the lesion": milliseconds(classifier.read, paths),
            "the network, all views": milliseconds(lambda square: classifier.outputs([square]), squares),
            "the whole prediction": milliseconds(classifier.predict, paths),
        }
        yield from ([part, f"{value:.0f}"] for part, value in rows.items())
        yield ["the whole prediction, many at once", f"{together:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attention", "depthwise", "prediction"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=1022, help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    table = {"attention": attention, "depthwise": depthwise, "prediction": prediction}[options.what]
    head, *rows = table(options)
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
