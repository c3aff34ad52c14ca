"""The audit's image quality: what the gate says of these images, and where it closes on degraded copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pesi.errors import ImageError
from pesi.evaluate import figures
from pesi.evaluate.answer_change import single_view_probabilities
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.images.quality import QualityConfig, judge_quality
from pesi.images.quality_measures import QualityMeasures, measure_quality
from pesi.images.transforms import Image, resize
from pesi.predict.classifier import Classifier
from pesi.stats.intervals import bootstrap, percentile_interval, share_interval
from pesi.stats.metrics import auc, curve
from pesi.verdict import Verdict

Floats = NDArray[np.float64]

_LEAST = 5  # images with and without each class, below which no AUC is given

# What a bad camera, hand or network connection does, by growing strength.
DEGRADATIONS: dict[str, tuple[str, tuple[float, ...], Callable[[Image, float], Image]]] = {
    "blur": (
        "standard deviation, pixels at a side of 256",
        (1, 1.5, 2, 3),
        lambda image, sigma: np.asarray(cv2.GaussianBlur(image, (0, 0), sigma * image.shape[0] / 256), np.uint8),
    ),
    "darker": ("share of the light", (0.6, 0.4, 0.2), lambda image, gain: scaled(image, gain)),
    "brighter": ("times the light", (1.4, 1.8, 2.5), lambda image, gain: scaled(image, gain)),
    "smaller": ("side, pixels", (128, 64, 48, 32), lambda image, side: resize(image, int(side), int(side))),
    "JPEG": ("quality of 100", (30, 10, 5), lambda image, quality: jpeg(image, int(quality))),
}


def scaled(image: Image, gain: float) -> Image:
    """Values times a gain, clipped."""
    return np.asarray(np.clip(image.astype(np.float32) * gain, 0, 255).round(), np.uint8)


def jpeg(image: Image, quality: int) -> Image:
    """Encoded as JPEG and decoded again."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1], np.uint8)


def quality_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """Verdicts on the images as they are, and on degraded copies with the AUC of those that pass."""
    config = classifier.config.quality
    verdicts, from_squares = _verdicts_as_they_are(data, classifier, progress)
    rows = _degraded(data.take(data.sample(options.stress_images, options.seed)), classifier, config, options, progress)
    worst = np.array([_worst(verdict) for verdict in verdicts])
    checks, shares = _by_check(verdicts, data.groups)
    values = {
        "images": len(data),
        "from_squares": from_squares,
        "refused": _share_of(worst == "refuse", data.groups),
        "warned": _share_of(worst == "warn", data.groups),
        "checks": checks,
        "degraded": rows,
        "limits": config.model_dump(),
    }
    shown = {
        "refused": int((worst == "refuse").sum()),
        "warned": int((worst == "warn").sum()),
        "shares": shares,
        "units": {name: unit for name, (unit, _, _) in DEGRADATIONS.items()},
    }
    return Section("quality", data, options, values, {"degraded": _figure(rows)}, shown=shown)


def _verdicts_as_they_are(
    data: AuditData, classifier: Classifier, progress: Progress
) -> tuple[list[tuple[Verdict, ...]], int]:
    """What the classifier's own gate says of each file, and of how many it had to judge the audit's square instead.

    In a square the blocks of compression are scaled away, and what is not square is squeezed, which changes sharpness.
    """
    verdicts, from_squares = [], 0
    for done, (image, path) in enumerate(zip(data.images, data.records["path"], strict=True), 1):
        try:
            reading = classifier.read(str(path))
        except ImageError:  # decoded squares are kept, and may outlive their files
            reading = classifier.read(np.asarray(image))
            from_squares += 1
        verdicts.append(reading.verdicts)
        progress(f"judging the quality of {data.name}", done, len(data))
    return verdicts, from_squares


def _degraded(
    data: AuditData, classifier: Classifier, config: QualityConfig, options: AuditOptions, progress: Progress
) -> list[dict[str, Any]]:
    """For each degradation and strength: shares refused and warned, AUC of those that pass, and its fall."""
    steps = [(name, strength) for name, (_, strengths, _) in DEGRADATIONS.items() for strength in strengths]
    plain = _probabilities(classifier, [np.asarray(image) for image in data.images], data.made_fold)
    rows = []
    for done, (name, strength) in enumerate(steps, 1):
        copies = [DEGRADATIONS[name][2](np.asarray(image), strength) for image in data.images]
        levels = np.array([_worst(judge_quality(_measured(copy, name, data), config=config)) for copy in copies])
        poor = _probabilities(classifier, copies, data.made_fold)
        passed = levels != "refuse"
        rows.append(
            {
                "degradation": name,
                "strength": float(strength),
                "images": len(data),
                "refused": _share_of(~passed, data.groups),
                "warned": _share_of(levels == "warn", data.groups),
                "all": _areas(data, classifier, poor, plain, np.ones(len(data), bool), options),
                "passed": _areas(data, classifier, poor, plain, passed, options),
            }
        )
        progress("degrading images for the quality gate", done, len(steps))
    return rows


def _measured(copy: Image, name: str, data: AuditData) -> QualityMeasures:
    """A copy's measures; only where size is what is degraded does the audit's square stand for the file."""
    measures = measure_quality(copy)
    return measures if name == "smaller" else measures._replace(short_side=10**6)


def _probabilities(classifier: Classifier, images: list[Image], made_fold: NDArray[np.int64]) -> Floats:
    """Of one view of each region, calibrated as the bundle does it, (N, K)."""
    return single_view_probabilities(classifier, images, made_fold)


def _areas(
    data: AuditData,
    classifier: Classifier,
    poor: Floats,
    plain: Floats,
    chosen: NDArray[np.bool_],
    options: AuditOptions,
) -> dict[str, list[float] | None]:
    """Mean AUC over the scored classes of the chosen images, degraded, and its fall; None where they are too few."""
    columns = [(data.labels(name)[chosen], classifier.config.outputs.index(name)) for name in data.task.scored_names]
    if any(min(int(labels.sum()), int((~labels).sum())) < _LEAST for labels, _ in columns):
        return {"auc": None, "fall": None}

    def statistics(weights: NDArray) -> dict[str, Floats]:
        after, before = (
            np.mean([auc(curve(labels, values[chosen, column], weights)) for labels, column in columns], axis=0)
            for values in (poor, plain)
        )
        return {"auc": after, "fall": before - after}

    points = statistics(np.ones((1, int(chosen.sum()))))
    draws = bootstrap(
        statistics,
        data.classes[chosen],
        replicates=options.replicates,
        rng=np.random.default_rng(options.seed),
        groups=None if data.groups is None else data.groups[chosen],
    )
    return {name: [float(points[name][0]), *percentile_interval(draws[name])] for name in points}


def _worst(verdicts: tuple[Verdict, ...]) -> str:
    levels = {verdict.level for verdict in verdicts}
    return next(level for level in ("refuse", "warn", "ok") if level in levels)


def _by_check(
    verdicts: list[tuple[Verdict, ...]], groups: NDArray | None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, list[float]]]]:
    """Of each check what it says of the images: counts, and shares with their intervals."""
    found, shares = {}, {}
    for name in dict.fromkeys(verdict.check for each in verdicts for verdict in each):
        own = [(index, verdict) for index, each in enumerate(verdicts) for verdict in each if verdict.check == name]
        said = np.array([verdict.level for _, verdict in own])
        found[name] = {
            "measured": len(own),
            **{level: int((said == level).sum()) for level in ("ok", "warn", "refuse")},
            "median": float(np.median([verdict.value for _, verdict in own])),
        }
        drawn_by = None if groups is None else groups[[index for index, _ in own]]
        shares[name] = {level: _share_of(said == level, drawn_by) for level in ("warn", "refuse")}
    return found, shares


def _share_of(happened: NDArray[np.bool_], groups: NDArray | None) -> list[float]:
    """A share of images with its interval."""
    return [float(happened.mean()), *share_interval(happened, groups)]


def _figure(rows: list[dict[str, Any]]) -> str:
    figure, axes = figures.new_axes(5.4, 3.8)
    for index, name in enumerate(DEGRADATIONS):
        own = [row for row in rows if row["degradation"] == name]
        colour = figures.COLOURS[index]
        steps = np.arange(1, len(own) + 1)
        axes.plot(
            steps, [row["refused"][0] for row in own], "-" + "osD^v"[index % 5], color=colour, markersize=4, label=name
        )
        areas = [np.nan if row["passed"]["auc"] is None else row["passed"]["auc"][0] for row in own]
        axes.plot(steps, areas, "--" + "osD^v"[index % 5], color=colour, markersize=3, linewidth=1)
    most = max((len(strengths) for _, strengths, _ in DEGRADATIONS.values()), default=1)
    axes.set(xlabel="strength, step", ylabel="share refused (solid), AUC (dashed)", ylim=(-0.02, 1.02))
    axes.set_xticks(range(1, most + 1))
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figures.svg_text(figure)
