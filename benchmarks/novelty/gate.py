"""Makes the gate that tells whether a picture is dermoscopy at all, and measures it.

    python benchmarks/novelty/gate.py ../shared/data --features FOLDER [--write]

Features of the shipped segmenter, kept in FOLDER. Dermoscopy: ISIC 2017's training images, their sharper copies, and
isic_extra, each as it is and varied (crop, colours, sharpness, compression, artefacts), and drawn lesions. None:
not_dermoscopy, varied too, and drawn textures, pages, screens, charts, noise. What is told of pictures that the gate
learned from is told out of fold: dermoscopy by the collection (blocks of the archive's numbers, so that a fold is of
another clinic and camera), clinical photographs by the patient. Each other kind of picture is measured by a gate that
was shown none of that kind, nor what was drawn like it. HAM10000, ISIC 2017's validation and test images and the
photographs that packages bring only measure. Prints Markdown; --write makes the bundle that ships and gate.json anew.
About 20 minutes on one core, then four.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pictures import TEXTURES, Pictures, all_pictures
from safetensors.numpy import save
from sklearn.linear_model import Ridge

from pesi.bundle.files import WEIGHTS, Measured, front_matter, write_bundle
from pesi.bundle.gate import GateConfig
from pesi.bundle.seen import packed_ids
from pesi.decide.dermoscopy import DermoscopyModel, no_dermoscopy
from pesi.decide.novelty import NoveltyStatistics, fit_novelty, novelty_score
from pesi.files import write_text
from pesi.predict.segmenter import LesionSegmenter, shipped_segmenter
from pesi.stats.intervals import wilson_interval

HERE = Path(__file__).parent
BUNDLE = HERE.parents[1] / "src/pesi/bundles/dermoscopy-gate"
FOLDS, ALPHA, RANK, POWER = 5, 0.1, 256, 0.25
MOMENTS = 1024  # features that the distance is taken of: means and deviations, without correlations
# Features of the linear score: all but the deepest level's, with which more of unseen collections is refused.
LINEAR = np.r_[0:384, 1024:2200]
SHARES = (0.015, 0.01)  # of dermoscopy out of fold that each limit refuses
COLLECTIONS = (1000, 9500, 12000, 13500)  # where blocks of the archive's numbers end
NONE = ("not_dermoscopy", "drawn", "textures")  # sets of what is no dermoscopy
DRAWN = ("blank", "noise", "gradient", "page of text", "chart", "screen", "checks", "shapes", *TEXTURES)
# What was drawn like a kind is left out with it.
DRAWN_LIKE = {
    "screenshot": ("screen", "page of text", "chart"),
    "everyday": ("noise", "gradient", "checks", "shapes", "blank"),
}
# Shares of all weight, and of it what varied pictures have: with more of it for varied photographs more dermoscopy of
# unseen collections is refused, with less for varied dermoscopy more of what is varied.
REAL, DRAWN_LESIONS, CLINICAL, OTHER, DRAWN_NONE = 0.48, 0.02, 0.25, 0.15, 0.1
VARIED_DERMOSCOPY, VARIED_NONE = 0.6, 0.15

Floats = NDArray[np.float64]


def fold_of(name: str) -> int:
    """By the number of an archive's image, of others by the name's hash."""
    if name.startswith("ISIC_"):
        return int(np.searchsorted(COLLECTIONS, int(name[5:]), side="right"))
    return zlib.crc32(name.encode()) % FOLDS


class Learned(NamedTuple):
    """What the gate learns from, a row a picture.

    Attributes:
        features: (N, F).
        dermoscopy: Which are, (N,).
        kind: The data set or the kind of picture, (N,).
        weight: Before kinds are left out, (N,).
        fold: The same for all pictures of a collection or a patient, (N,).
        plain: Which are as they are, not varied, (N,).
        ids: Of the picture, or of the patient, (N,).
    """

    features: NDArray[np.float32]
    dermoscopy: NDArray[np.bool_]
    kind: NDArray[np.str_]
    weight: Floats
    fold: NDArray[np.int64]
    plain: NDArray[np.bool_]
    ids: NDArray[np.str_]


def learned(sets: dict[str, Pictures], data: Path) -> Learned:
    """The pictures that the gate learns from."""
    labels = pd.read_csv(data / "not_dermoscopy/labels.csv").set_index("file")
    parts = []
    for name in ("isic2017", "isic2017_512", "isic_extra", "drawn_lesions", "not_dermoscopy", "drawn", "textures"):
        pictures = sets[name]
        ids, kinds = pictures.ids, np.full(len(pictures.ids), name, dtype="U32")
        if name == "not_dermoscopy":
            kinds = labels["kind"].loc[list(ids)].to_numpy("U32")
            clinical = kinds == "clinical_lesion"
            ids = np.where(clinical, labels["patient_id"].loc[list(ids)].fillna("").to_numpy(str), ids)
        elif name in NONE:
            kinds = np.array([image_id.split("/")[0] for image_id in ids], dtype="U32")
        fold = np.array([fold_of(image_id) for image_id in ids])
        parts.append(
            (
                pictures.features,
                np.full(len(ids), name not in NONE),
                kinds,
                fold,
                pictures.variation == 0,
                ids,
            )
        )
    features, dermoscopy, kind, fold, plain, ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    weight = np.zeros(len(ids))
    drawn_lesions, clinical = kind == "drawn_lesions", kind == "clinical_lesion"
    shown = np.isin(kind, labels["kind"].unique())
    for chosen, share, of_varied in (
        (dermoscopy & ~drawn_lesions, REAL, VARIED_DERMOSCOPY),
        (drawn_lesions, DRAWN_LESIONS, 0.0),
        (clinical, CLINICAL, VARIED_NONE),
        (shown & ~clinical, OTHER, VARIED_NONE),
        (~dermoscopy & ~shown, DRAWN_NONE, VARIED_NONE),
    ):
        weight[chosen & plain] = share * (1 - of_varied) / (chosen & plain).sum()
        weight[chosen & ~plain] = share * of_varied / max((chosen & ~plain).sum(), 1)
    return Learned(features, dermoscopy, kind, weight, fold, plain, ids)


class Line(NamedTuple):
    """The linear score."""

    weights: Floats
    bias: float

    def scores(self, features: NDArray[np.float32]) -> Floats:
        return np.asarray(features @ self.weights + self.bias)


class Distance(NamedTuple):
    """The distance from dermoscopy."""

    scale: NDArray[np.float32]
    statistics: NoveltyStatistics

    def scores(self, features: NDArray[np.float32]) -> Floats:
        return novelty_score(features[:, :MOMENTS] / self.scale, self.statistics)


def fitted_line(known: Learned, rows: NDArray[np.bool_]) -> Line:
    """Ridge regression: logistic regression refuses four times as much of a source that it was not shown."""
    x = known.features[:, LINEAR].astype(np.float64)
    mean, deviation = (getattr(x[known.dermoscopy & rows], name)(0) for name in ("mean", "std"))
    model = Ridge(alpha=ALPHA, solver="cholesky")
    weight = known.weight[rows] / known.weight[rows].sum()
    model.fit((x[rows] - mean) / deviation, np.where(known.dermoscopy[rows], -1.0, 1.0), sample_weight=weight)
    weights = np.zeros(known.features.shape[1])
    weights[LINEAR] = model.coef_ / deviation
    return Line(weights, float(model.intercept_ - mean @ weights[LINEAR]))


def fitted_distance(known: Learned, rows: NDArray[np.bool_]) -> Distance:
    """From dermoscopy as it is, not varied."""
    plain = rows & known.dermoscopy & known.plain
    moments = known.features[plain, :MOMENTS].astype(np.float64)
    scale = ((np.abs(moments) ** POWER * np.sign(moments)).std(0) ** (1 / POWER)).astype(np.float32)
    return Distance(scale, fit_novelty((moments / scale).astype(np.float32), rank=RANK, power=POWER))


Part = TypeVar("Part", Line, Distance)


def out_of_fold(
    known: Learned, rows: NDArray[np.bool_], fit: Callable[[Learned, NDArray[np.bool_]], Part]
) -> tuple[Floats, Part]:
    """Scores of all pictures by fits to the rows of the other folds, and the fit to all rows."""
    scores = np.zeros(len(rows))
    for fold in range(FOLDS):
        out = known.fold == fold
        scores[out] = fit(known, rows & ~out).scores(known.features[out])
    return scores, fit(known, rows)


class Fit(NamedTuple):
    """Scores of every picture out of fold (N, 2), the limits set on these, and the gate of all."""

    scores: Floats
    limits: tuple[float, float]
    model: DermoscopyModel


def cross_fitted(known: Learned, distance: tuple[Floats, Distance], left_out: str = "") -> Fit:
    """The gate, and what it says out of fold; without a kind of picture and what is drawn like it."""
    rows = ~np.isin(known.kind, (left_out, *DRAWN_LIKE.get(left_out, ())))
    linear, line = out_of_fold(known, rows, fitted_line)
    scores = np.stack([linear, distance[0]], axis=1)
    real = known.plain & known.dermoscopy & (known.kind != "drawn_lesions")
    limits = [float(np.quantile(scores[real, column], 1 - share)) for column, share in enumerate(SHARES)]
    scale, statistics = distance[1]
    model = DermoscopyModel(line.weights.astype(np.float32), line.bias, scale, statistics)
    return Fit(scores, (limits[0], limits[1]), model)


def share(happened: NDArray[np.bool_]) -> dict[str, Any]:
    """A share of pictures with Wilson's 95 % interval."""
    count, total = int(happened.sum()), len(happened)
    low, high = wilson_interval(count, total)
    return {
        "pictures": total,
        "refused": count,
        "share": round(count / total, 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def measured(
    sets: dict[str, Pictures], known: Learned, distance: tuple[Floats, Distance], whole: Fit, kinds: Sequence[str]
) -> dict[str, Any]:
    """Shares refused: of each source of dermoscopy, quality refusals counted or not, and of each kind that is none."""
    found: dict[str, Any] = {"dermoscopy": {}, "no dermoscopy": {}}
    refused = no_dermoscopy(whole.scores, whole.limits)
    for name, pictures in sets.items():
        if name in NONE or name == "packaged":
            continue
        own = known.kind == name
        gate = refused[own] if own.any() else no_dermoscopy(whole.model.scores(pictures.features), whole.limits)
        plain = pictures.variation == 0
        rows = {
            "by the gate": share(gate[plain]),
            "by the gate or for quality": share((gate | pictures.poor)[plain]),
        }
        if not plain.all():
            rows["varied, by the gate"] = share(gate[~plain])
        found["dermoscopy"][name + (", out of fold" if own.any() else "")] = rows
    clinical = known.kind == "clinical_lesion"
    none = found["no dermoscopy"]
    none["clinical_lesion, patients out of fold"] = share(refused[clinical & known.plain])
    none["clinical_lesion, patients out of fold, varied"] = share(refused[clinical & ~known.plain])
    pooled = []
    for kind in kinds:
        fit = cross_fitted(known, distance, kind)
        rows = (known.kind == kind) & known.plain
        pooled.append(no_dermoscopy(fit.model.scores(known.features[rows]), fit.limits))
        none[f"{kind}, left out"] = share(pooled[-1])
    none["all but clinical_lesion, each left out in turn"] = share(np.concatenate(pooled))
    packaged = sets["packaged"]
    gate = no_dermoscopy(whole.model.scores(packaged.features), whole.limits)
    families = np.array([name.split("/")[0] for name in packaged.ids])
    none["photographs of packages and their crops, none shown"] = {
        **share(gate),
        "least refused": {str(f): round(float(gate[families == f].mean()), 2) for f in np.unique(families[~gate])},
    }
    return found


def table(found: dict[str, Any]) -> str:
    """The shares as Markdown."""
    lines = ["| pictures | | refused | of |", "|---|---|---|---|"]
    for name, rows in found["dermoscopy"].items():
        lines += [f"| {name} | {how} | {text(cell)} | {cell['pictures']} |" for how, cell in rows.items()]
    lines += [
        f"| {name} | by the gate | {text(cell)} | {cell['pictures']} |" for name, cell in found["no dermoscopy"].items()
    ]
    return "\n".join(lines)


def text(cell: dict[str, Any]) -> str:
    low, high = cell["interval"]
    return f"{cell['share']:.3f} ({low:.3f} to {high:.3f})"


def config_of(known: Learned, whole: Fit, found: dict[str, Any], segmenter: LesionSegmenter, data: Path) -> GateConfig:
    """The config of the bundle."""
    labels = pd.read_csv(data / "not_dermoscopy/labels.csv")
    real = ["isic2017", "isic2017_512", "isic_extra"]
    parts = [
        ("dermoscopy of the ISIC archive (ISIC 2017 training images, two copies of most; MSK, UDA)", real, "CC-0"),
        ("drawn lesions, textures, pages, screens, charts, noise", ["drawn_lesions", *DRAWN], "Apache-2.0"),
    ]
    learned_from = [
        f"{int((known.plain & np.isin(known.kind, kinds)).sum())} {what} ({licence})" for what, kinds, licence in parts
    ]
    for licence, rows in labels.groupby("licence"):
        what = ", ".join(f"{len(part)} {kind}" for kind, part in rows.groupby("kind"))
        learned_from.append(f"{what} ({licence})")
    derm, none = found["dermoscopy"], found["no dermoscopy"]
    cells = {
        "clinical photographs refused": none["clinical_lesion, patients out of fold"],
        "other kinds refused, each left out in turn": none["all but clinical_lesion, each left out in turn"],
        "ISIC 2017 refused, out of fold": derm["isic2017, out of fold"]["by the gate or for quality"],
        "ISIC 2017 test images refused": derm["isic2017 test"]["by the gate or for quality"],
        "HAM10000 refused": derm["ham10000"]["by the gate or for quality"],
    }
    return GateConfig(
        name="dermoscopy-gate",
        segmenter=segmenter.bundle_id,
        limits=whole.limits,
        power=POWER,
        refused_share=max(SHARES),
        how=f"{1 - SHARES[0]:.1%} and {1 - SHARES[1]:.1%} quantiles of dermoscopy of collections not learned from",
        learned_from=tuple(learned_from),
        images=whole.model.statistics.images,
        ids=packed_ids(known.ids),
        licence="Apache-2.0: the dermoscopy images are CC-0; what the others come under stands below. PAD-UFES-20: "
        "Pacheco et al., Data in Brief 32, 106221 (2020), CC BY 4.0",
        measured=Measured(
            on="patients, kinds and images that it did not learn from; quality refusals of dermoscopy count. The "
            "segmenter learned from the masks of ISIC 2017's training images",
            images=sum(cell["pictures"] for cell in cells.values()),
            scores={name: (cell["share"], *cell["interval"]) for name, cell in cells.items()},
        ),
        provenance={
            "command": "python benchmarks/novelty/gate.py DATA --features FOLDER --write",
            "alpha": ALPHA,
            "rank": RANK,
        },
    )


def write_gate(config: GateConfig, model: DermoscopyModel) -> GateConfig:
    """Write the bundle that ships with its card; gives the config as written."""
    known = model.statistics
    data: bytes = save(
        {
            "weights": model.weights,
            "bias": np.array([model.bias], np.float64),
            "scale": model.scale,
            "mean": known.mean,
            "basis": np.ascontiguousarray(known.basis),
            "variances": known.variances,
            "residual": np.array([known.residual], np.float64),
        }
    )
    config = config.model_copy(update={"weights_sha256": hashlib.sha256(data).hexdigest()})
    write_bundle(BUNDLE, config, {WEIGHTS: data}, card=gate_card(config))
    return config


def gate_card(config: GateConfig) -> str:
    """The bundle's `README.md`."""
    measured = config.measured
    return "\n".join(
        [
            *front_matter(pipeline="image-classification", licence=config.licence),
            "",
            f"# {config.name}",
            "",
            f"Tells whether a picture is dermoscopy at all, by the features of the segmenter {config.segmenter}: a "
            "linear score, and the distance from dermoscopy. A picture above either limit gets no result.",
            "",
            "**Not a medical device.** For research: it refuses pictures, and says nothing of a lesion.",
            "",
            *([] if measured is None else ["## Measured", "", measured.on, "", measured.to_markdown(), ""]),
            "## Licence",
            "",
            config.licence,
            "",
            "## Made with",
            "",
            *(f"- {part}" for part in config.learned_from),
            f"- limits {config.limits[0]:.3f} and {config.limits[1]:.3f}: {config.how}",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="the bundle that ships, and gate.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = shipped_segmenter(device="cpu")
    sets = all_pictures(options.data, segmenter, options.features)
    known = learned(sets, options.data)
    distance = out_of_fold(known, np.ones(len(known.ids), bool), fitted_distance)
    whole = cross_fitted(known, distance)
    kinds = sorted(set(known.kind) & {"blood_smear", "everyday", "histology", "screenshot"})
    found = measured(sets, known, distance, whole, kinds)
    print(table(found))
    if options.write:
        config = write_gate(config_of(known, whole, found, segmenter, options.data), whole.model)
        write_text(HERE / "gate.json", json.dumps({"bundle": config.bundle_id, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
