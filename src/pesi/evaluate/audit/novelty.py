"""The audit's novelty: are pictures that are no dermoscopy refused, and how much dermoscopy is refused with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pesi.decide.novelty import NoveltyStatistics, energy, novelty_score
from pesi.evaluate import figures
from pesi.evaluate.audit.data import AuditData, AuditOptions, Progress, silent
from pesi.evaluate.audit.section import Plot, Section, Table, figure_text
from pesi.evaluate.outliers import Families, outliers
from pesi.predict.classifier import Classifier
from pesi.stats.separation import NoveltyResult, novelty_result

Floats = NDArray[np.float64]

_TITLE = "Novelty: is what is no dermoscopy refused"
_MEANING = (
    "A photograph of something else, sent by mistake, should get no probability of melanoma; and a patient whose "
    "picture is refused needs another picture, or a doctor without this help."
)
_PICTURES = 4  # of each family of outliers


def novelty_section(
    data: AuditData, classifier: Classifier, *, options: AuditOptions, progress: Progress = silent
) -> Section:
    """How the bundle's novelty score and threshold tell these images from pictures that are no dermoscopy."""
    statistics = getattr(classifier, "novelty", None)
    config = getattr(classifier.config, "novelty", None)
    if statistics is None or config is None:
        return Section(
            key="novelty",
            title=_TITLE,
            summary="Not available: this bundle holds no novelty statistics, so nothing is refused for being strange.",
            meaning=_MEANING,
            method="Train the bundle again with this version, which fits them.",
            values={"available": False, "images": len(data)},
        )
    families = outliers(_PICTURES, rng=np.random.default_rng(options.seed))
    return section_of_novelty(
        data,
        classifier,
        statistics,
        threshold=config.threshold,
        how=config.how,
        families=families,
        options=options,
        progress=progress,
    )


def section_of_novelty(
    data: AuditData,
    classifier: Classifier,
    statistics: NoveltyStatistics,
    *,
    threshold: float,
    how: str,
    families: Families,
    options: AuditOptions,
    progress: Progress = silent,
) -> Section:
    """The section from given statistics.

    Args:
        data: Dermoscopy images.
        classifier: Gives the outliers' features.
        statistics: Of its training images.
        threshold: Above it a picture is refused.
        how: How the threshold was set.
        families: Outliers: family -> pictures.
        options: Replicates and seed.
        progress: Told what is done.
    """
    strange, strange_energy = _scores(classifier, statistics, families, progress)
    own = novelty_score(data.features, statistics)
    rng = np.random.default_rng(options.seed)
    result = novelty_result(own, strange, threshold, replicates=options.replicates, rng=rng)
    by_energy = novelty_result(energy(data.logits), strange_energy, np.inf, replicates=options.replicates, rng=rng)
    return Section(
        key="novelty",
        title=_TITLE,
        summary=_summary(data, result, sum(map(len, families.values()))),
        meaning=_MEANING,
        method=(
            "The score is the distance of an image's pooled features from the training images' (a probabilistic "
            "principal component analysis, Tipping and Bishop 1999, of features raised to a small power). Threshold "
            f"{threshold:.3f}: {how}. The outliers are drawn pictures and, where they are installed, photographs of "
            "scikit-image, scikit-learn and matplotlib with crops of them; one source picture is a family, each family "
            "counts once, and intervals resample families and dermoscopy images (percentile bootstrap). The "
            "kinds of pictures here had a say in choosing the score, its power and its rank, so the AUROC flatters; "
            "benchmarks/novelty/compare_novelty.py measures on kinds that had none. Energy (Liu et al. 2020) is given "
            "beside it: its AUROC is "
            f"{figure_text(by_energy.auroc, by_energy.auroc_interval)}."
        ),
        values={
            "available": True,
            "images": len(data),
            "fitted_on": data.fitted_on,
            "threshold": threshold,
            "auroc": [result.auroc, *result.auroc_interval],
            "auroc_energy": [by_energy.auroc, *by_energy.auroc_interval],
            "refused_outliers": [result.refused, *result.refused_interval],
            "false_refusal": [result.false_refusal, *result.false_refusal_interval],
            "families": {
                name: {
                    "pictures": family.count,
                    "auroc": [family.auroc, *family.auroc_interval],
                    "refused": [family.refused, *family.refused_interval],
                }
                for name, family in result.families.items()
            },
            "score_quantiles": {str(q): float(np.quantile(own, q)) for q in (0.05, 0.5, 0.95, 0.99)},
        },
        tables=(_table(result),),
        plots=(
            Plot(
                _figure(own, np.concatenate(list(strange.values())), threshold),
                "How strange the classifier finds each picture; to the right of the dashed line it gives no result.",
                f"Of 100 patients with a proper dermoscopy image, about {100 * result.false_refusal:.0f} would be "
                "asked for another one.",
            ),
        ),
    )


def _scores(
    classifier: Classifier, statistics: NoveltyStatistics, families: Families, progress: Progress
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Novelty and energy of each family's pictures."""
    novelty, energies = {}, {}
    for done, (name, pictures) in enumerate(families.items(), 1):
        out = classifier.outputs([classifier.squares(picture) for picture in pictures])
        novelty[name], energies[name] = novelty_score(out.features, statistics), energy(out.logits)
        progress("predicting what is no dermoscopy", done, len(families))
    return novelty, energies


def _summary(data: AuditData, result: NoveltyResult, pictures: int) -> str:
    own = " The threshold was set on these images, so the share refused of them flatters." if data.fitted_on else ""
    return (
        f"Pictures that are no dermoscopy ({pictures} of {len(result.families)} kinds) are told from {data.name} "
        f"({result.images} images) with an AUROC of {figure_text(result.auroc, result.auroc_interval)}; "
        f"{figure_text(result.refused, result.refused_interval, 2)} of them are refused, and "
        f"{figure_text(result.false_refusal, result.false_refusal_interval)} of the dermoscopy images.{own}"
    )


def _table(result: NoveltyResult) -> Table:
    return Table(
        "Each kind of picture that is no dermoscopy; with so few pictures a kind, the intervals are rough.",
        ("kind", "pictures", "AUROC (95 % interval)", "refused (95 % interval)"),
        tuple(
            (
                name,
                str(family.count),
                figure_text(family.auroc, family.auroc_interval),
                figure_text(family.refused, family.refused_interval, 2),
            )
            for name, family in result.families.items()
        ),
    )


def _figure(own: Floats, strange: Floats, threshold: float) -> str:
    figure, axes = figures.new_axes(5.4, 3.4)
    top = float(max(np.quantile(strange, 0.98), own.max(), threshold) * 1.02)
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
    axes.axvline(threshold, color="#000000", linestyle="--", linewidth=1, label="threshold")
    axes.set(xlabel="novelty score (1: the training images' mean)", ylabel="share", title="Novelty")
    axes.legend(frameon=False)
    return figures.svg_text(figure)
