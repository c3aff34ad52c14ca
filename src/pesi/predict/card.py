"""The model card: what a bundle is, what it was made with, what was measured, what it must not be used for."""

from __future__ import annotations

from typing import Any

from pesi.predict.bundle import BundleConfig


def model_card(config: BundleConfig, scores: dict[str, Any] | None = None) -> str:
    """A bundle's `README.md`, with the header that the Hugging Face hub reads.

    Args:
        config: The bundle's configuration.
        scores: An evaluation on the validation images (`Evaluation.to_dict()`), or None before there is one.
    """
    lines = [
        "---",
        "library_name: pesi-cnn",
        "pipeline_tag: image-classification",
        "tags: [dermoscopy, skin-lesion]",
        "---",
        "",
        f"# {config.name}",
        "",
        f"A {config.network.name} with `{config.network.options.get('attention', 'spatial')}` attention for the task "
        f"`{config.task.name}`: {', '.join(config.outputs)}.",
        "",
        "**Not a medical device.** For research; a second reader at most, never the only one.",
        "",
    ]
    if scores is not None:
        lines += [
            "## Measured on the validation images",
            "",
            f"{scores['images']} images. They also chose the epoch, the temperature and the thresholds, so these "
            "figures flatter the classifier.",
            "",
            f"- mean AUC {_with_interval(scores['mean_auc'], scores['mean_auc_ci'])}",
            *(
                f"- AUC {name} {_with_interval(task['auc'], task['auc_ci'])}; {task['positives']} images with it"
                for name, task in scores["tasks"].items()
            ),
            "",
        ]
    if config.licence:
        lines += ["## Licence", "", config.licence, ""]
    lines += ["## Made with", ""]
    if config.provenance:
        splits = ", ".join(f"{part['count']} {name} images" for name, part in config.provenance["splits"].items())
        lines += [
            f"- data: {', '.join(config.provenance['sources'])}; {splits}",
            f"- best epoch: {config.provenance['best_epoch']}",
        ]
        if weights := config.provenance.get("pretrained"):
            lines.append(f"- started from: {weights['file']}")
    lines += [
        f"- temperature {config.temperature.value:.3f}: {config.temperature.how}",
        "- everything else, thresholds and triage with how each was set: `config.json`",
        "",
    ]
    return "\n".join(lines)


def _with_interval(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return "not measured"
    return f"{value:.3f} (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
