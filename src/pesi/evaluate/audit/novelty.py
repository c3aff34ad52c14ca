"""The audit's novelty: which pictures are refused as no dermoscopy, which warned of as unlike what was learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pesi.decide.novelty import NoveltyConfig
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Section
from pesi.evaluate.outliers import Families, outliers
from pesi.images.transforms import Image
from pesi.predict.classifier import Classifier
from pesi.predict.gate import shipped_gate
from pesi.predict.segmenter import shipped_segmenter
from pesi.stats.logistic import logsumexp
from pesi.stats.separation import novelty_result

Floats = NDArray[np.float64]

_PICTURES = 4  # of each family of outliers


def energy(logits: NDArray) -> Floats:
    """Energy of images' logits (N, V, K), averaged over the views, (N,): higher is stranger (Liu et al., NeurIPS 2020).

    A second number, and no gate: on three classes it hardly tells a cat from a naevus (benchmarks/novelty).
    """
    return np.asarray(-logsumexp(logits.astype(np.float64), axis=2).mean(axis=1))


def novelty_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """How the gate and the bundle's novelty score tell these images from pictures that are no dermoscopy."""
    config = classifier.config.novelty
    if data.novelty is None or config is None:
        return Section("novelty", data, options, {"available": False, "images": len(data)})
    families = outliers(_PICTURES, rng=np.random.default_rng(options.seed))
    return section_of_novelty(data, classifier, config, families=families, options=options, progress=progress)


def section_of_novelty(
    data: AuditData,
    classifier: Classifier,
    config: NoveltyConfig,
    *,
    families: Families,
    options: AuditOptions,
    progress: Progress = silent,
) -> Section:
    """The section for given limits.

    Args:
        data: Dermoscopy images, with their scores.
        classifier: Gives those of the outliers.
        config: With the scores above which a picture is warned of and refused.
        families: Outliers: family -> pictures.
        options: Replicates and seed.
        progress: Told what is done.
    """
    assert data.novelty is not None
    strange, strange_energy = _scores(classifier, families, progress)
    own, device = data.novelty, str(classifier.device)
    rng = np.random.default_rng(options.seed)
    drawing: Any = {"replicates": options.replicates, "rng": rng, "groups": data.groups}
    result = novelty_result(own, strange, config.threshold, **drawing)
    by_energy = novelty_result(energy(data.logits), strange_energy, np.inf, **drawing)
    no_dermoscopy = {name: _no_dermoscopy(pictures, device) for name, pictures in families.items()}
    refusals = {name: np.maximum(gated, strange[name] > config.far_out) for name, gated in no_dermoscopy.items()}
    refused = novelty_result(
        np.maximum(_no_dermoscopy(data.images, device), own > config.far_out), refusals, 0.5, **drawing
    )
    values = {
        "available": True,
        "images": len(data),
        "fitted_on": data.fitted_on,
        "threshold": config.threshold,
        "far_out": config.far_out,
        "auroc": [result.auroc, *result.auroc_interval],
        "auroc_energy": [by_energy.auroc, *by_energy.auroc_interval],
        "warned_outliers": [result.refused, *result.refused_interval],
        "false_warning": [result.false_refusal, *result.false_refusal_interval],
        "refused_outliers": [refused.refused, *refused.refused_interval],
        "false_refusal": [refused.false_refusal, *refused.false_refusal_interval],
        "families": {
            name: {
                "pictures": family.count,
                "auroc": [family.auroc, *family.auroc_interval],
                "warned": [family.refused, *family.refused_interval],
                "refused": [refused.families[name].refused, *refused.families[name].refused_interval],
            }
            for name, family in result.families.items()
        },
        "score_quantiles": {str(q): float(np.quantile(own, q)) for q in (0.05, 0.5, 0.95, 0.99)},
    }
    plots = {"scores": _figure(own, np.concatenate(list(strange.values())), config)}
    return Section("novelty", data, options, values, plots, shown={"how": config.how})


def _no_dermoscopy(images: Sequence[Image] | NDArray[np.uint8], device: str) -> Floats:
    """1 for each image that the gate for dermoscopy refuses, else 0, (N,)."""
    segmenter = shipped_segmenter(device=device)
    features = np.stack([segmenter.segment(np.asarray(image)).features for image in images])
    return shipped_gate(segmenter).refused(features).astype(np.float64)


def _scores(
    classifier: Classifier, families: Families, progress: Progress
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Novelty and energy of each family's pictures."""
    novelty, energies = {}, {}
    for done, (name, pictures) in enumerate(families.items(), 1):
        out = classifier.outputs([classifier.squares(picture) for picture in pictures])
        scores = classifier.novelty_scores(out)
        assert scores is not None
        novelty[name], energies[name] = scores, energy(out.logits)
        progress("predicting what is no dermoscopy", done, len(families))
    return novelty, energies


def _figure(own: Floats, strange: Floats, config: NoveltyConfig) -> str:
    figure, axes = figures.new_axes(5.4, 3.4)
    top = float(max(np.quantile(strange, 0.98), own.max(), config.far_out) * 1.02)
    edges = np.linspace(min(own.min(), strange.min()) * 0.98, top, 41)
    for values, colour, label, hatch in (
        (own, figures.COLOURS[0], "dermoscopy", None),
        (strange, figures.COLOURS[1], "no dermoscopy", "///"),
    ):
        axes.hist(
            np.minimum(values, top),
            edges.tolist(),
            weights=np.full(len(values), 1 / len(values)),
            color=colour,
            alpha=0.6,
            label=label,
            hatch=hatch,
            edgecolor="white",
        )
    axes.axvline(config.threshold, color="#000000", linestyle=":", linewidth=1, label="warned of")
    axes.axvline(config.far_out, color="#000000", linestyle="--", linewidth=1, label="refused")
    axes.set(xlabel="novelty score (1: the training images' mean)", ylabel="share", title="Novelty")
    axes.legend(frameon=False)
    return figures.svg_text(figure)
