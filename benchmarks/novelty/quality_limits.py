"""What the quality gate measures in real dermoscopy, and how often it would warn and refuse: what its limits rest on.

    python benchmarks/novelty/quality_limits.py ../shared/data [--train 700] [--other 500]

About three minutes on one core. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from pesi.datasets.readers import read_dataset
from pesi.images.decode import decode_image
from pesi.images.quality import judge_quality
from pesi.images.quality_measures import QualityMeasures, measure_quality
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter
from pesi.stats.intervals import wilson_interval
from pesi.verdict import Verdict

SHARES = (0, 0.002, 0.005, 0.01, 0.02, 0.5, 0.98, 0.99, 0.995, 0.998, 1)


def measured(paths: list[str], segmenter: LesionSegmenter) -> list[QualityMeasures]:
    """Of each image, with the lesion that the segmenter finds."""
    found = []
    for path in paths:
        image = decode_image(path)
        lesion = segmenter.segment(image)
        found.append(measure_quality(image, mask=lesion.mask & lesion.found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--train", type=int, default=700, help="training images of ISIC 2017")
    parser.add_argument("--other", type=int, default=500, help="images of HAM10000, one a lesion")
    options = parser.parse_args()
    torch.set_num_threads(1)
    isic = read_dataset(options.data / "isic2017")
    ham = read_dataset(options.data / "ham10000").sample(frac=1, random_state=0).drop_duplicates("lesion_id")
    paths = {
        "isic2017 train": list(isic.loc[isic["split"] == "train", "path"].sample(options.train, random_state=0)),
        "isic2017 val": list(isic.loc[isic["split"] == "val", "path"]),
        "ham10000": list(ham["path"].head(options.other)),
    }
    segmenter = shipped_segmenter(device="cpu")
    sets = {name: measured(files, segmenter) for name, files in paths.items()}
    print("| images | measure | " + " | ".join(f"{share:.1%}" for share in SHARES) + " |")
    print("|---|---|" + "---|" * len(SHARES))
    for name, measures in sets.items():
        for field in QualityMeasures._fields:
            values = [getattr(m, field) for m in measures if getattr(m, field) is not None]
            quantiles = " | ".join(f"{value:.3g}" for value in np.quantile(values, SHARES))
            print(f"| {name} | {field} | {quantiles} |")
    print("\n| images | check | warned | refused |\n|---|---|---|---|")
    for name, measures in sets.items():
        verdicts = [judge_quality(m) for m in measures]
        rows: dict[str, list[str]] = {"any": [_worst(each) for each in verdicts]}
        for each in verdicts:
            for verdict in each:
                rows.setdefault(verdict.check, []).append(verdict.level)
        for check, levels in rows.items():
            cells = [_share(levels.count(level), len(levels)) for level in ("warn", "refuse")]
            print(f"| {name} | {check} | " + " | ".join(cells) + " |")


def _worst(verdicts: tuple[Verdict, ...]) -> str:
    levels = {v.level for v in verdicts}
    return next(level for level in ("refuse", "warn", "ok") if level in levels)


def _share(count: int, total: int) -> str:
    low, high = wilson_interval(count, total)
    return f"{count / total:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
