"""How long the classifier that ships takes an image, part by part.

    python benchmarks/prediction.py [--images 16] [--width 1022] [--threads 1]

Prints a Markdown table of milliseconds an image: medians over synthetic JPEG files, one at a time, and all at once,
with memory kept as `pesi predict` keeps it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

import pesi
from pesi.machine import keep_memory
from pesi.synthetic.image import draw_parameters, render


def write_images(folder: Path, count: int, width: int) -> list[Path]:
    """Synthetic lesions as JPEG files, 4 : 3."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        image = render(draw_parameters(rng, ("MEL", "SK", "NV")[number % 3]), size=256).image
        paths.append(folder / f"{number:03d}.jpg")
        large = cv2.resize(image, (width, width * 3 // 4), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(paths[-1]), cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    return paths


def milliseconds(work: Callable[[Path], object], paths: list[Path]) -> float:
    """Median time of a file, after one that does not count."""
    times = []
    for path in [paths[0], *paths]:
        started = time.perf_counter()
        work(path)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=1022, help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    started = time.perf_counter()
    classifier = pesi.load()
    print(
        f"{classifier.config.bundle_id}, {options.threads} thread(s); loaded in {time.perf_counter() - started:.1f} s\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), options.images, options.width)
        squares = {path: classifier.squares(path) for path in paths}
        started = time.perf_counter()
        for _ in classifier.predict_many(paths):
            pass
        together = 1000 * (time.perf_counter() - started) / len(paths)
        rows = {
            "decoding, quality, the lesion": milliseconds(classifier.read, paths),
            "the network, all views": milliseconds(lambda path: classifier.outputs([squares[path]]), paths),
            "the whole prediction": milliseconds(classifier.predict, paths),
            "the whole prediction, many at once": together,
        }
    print("| part | ms an image |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
