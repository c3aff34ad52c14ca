"""The model card: what a bundle is, what it was made with, what was measured, what it must not be used for."""

from __future__ import annotations

from pathlib import Path

from pesi.bundle.config import BundleConfig, read_config, save_bundle
from pesi.bundle.files import CARD, CONFIG, WEIGHTS, Measured, front_matter, write_bundle
from pesi.bundle.hub import AUDIT
from pesi.decide.novelty import NoveltyStatistics
from pesi.files import write_text
from pesi.images.views import VIEWS
from pesi.nn.cnn import PesiCNN


def card_header(config: BundleConfig) -> list[str]:
    """The lines that every card begins with, the first of them for the Hugging Face hub."""
    return [
        *front_matter(pipeline="image-classification", licence=config.licence),
        "",
        f"# {config.name}",
        "",
        f"A {config.network.name} with `{config.network.options.get('attention', 'spatial')}` attention for the task "
        f"`{config.task.name}`: {', '.join(config.outputs)}.",
        "",
    ]


def made_with(config: BundleConfig) -> list[str]:
    """A list of what the bundle was made of."""
    lines = []
    if config.provenance:
        splits = ", ".join(f"{part['count']} {name} images" for name, part in config.provenance["splits"].items())
        lines += [
            f"- data: {', '.join(config.provenance['sources'])}; {splits}",
            f"- best epoch: {config.provenance['best_epoch']}",
        ]
        if weights := config.provenance.get("pretrained"):
            lines.append(f"- started from: {weights['file']}")
    regions = {"image": "the whole image", "lesion": f"the lesion, found by {config.preprocess.segmenter}"}
    looks_at = " and ".join(regions[name] for name in config.preprocess.regions)
    views = len(VIEWS[config.views])
    return [
        *lines,
        f"- looks at: {looks_at}; {views} view{'s' * (views != 1)} each",
        f"- temperature {config.temperature.value:.3f}: {config.temperature.how}",
        "- everything else, thresholds and triage with how each was set: `config.json`",
    ]


def model_card(config: BundleConfig) -> str:
    """The `README.md` of a bundle that was not audited yet."""
    lines = [
        *card_header(config),
        "**Not a medical device.** For research; a second reader at most, never the only one.",
        "",
    ]
    if config.measured is not None:
        on = f"On {config.measured.images} images: {config.measured.on}."
        lines += ["## Measured", "", on, "", config.measured.to_markdown(), ""]
    if config.licence:
        lines += ["## Licence", "", config.licence, ""]
    return "\n".join([*lines, "## Made with", "", *made_with(config), ""])


def keep_measured(folder: str | Path, measured: Measured) -> BundleConfig:
    """Write what was measured with a classifier's bundle into its config and card; the weights stay as they are."""
    config = read_config(folder).model_copy(update={"measured": measured})
    write_bundle(folder, config, (Path(folder) / WEIGHTS).read_bytes(), card=model_card(config))
    return config


def resave_bundle(
    folder: str | Path,
    config: BundleConfig,
    network: PesiCNN,
    *,
    novelty: NoveltyStatistics | None,
    opened_from: str | Path | None,
) -> BundleConfig:
    """Write a bundle that was opened: in float16 where that loses nothing, with its own card where nothing changed.

    Args:
        folder: Where it is written.
        config, network, novelty: The bundle as it is now.
        opened_from: Its folder, with its card and what an audit of it measured.

    Raises:
        StorageError: The system refused to write.
    """
    beside: dict[str, str] = {}
    before = None
    if opened_from is not None and (Path(opened_from) / CONFIG).is_file():
        before = read_config(opened_from)
        files = [path for name in (CARD, AUDIT) if (path := Path(opened_from) / name).is_file()]
        beside = {path.name: path.read_text(encoding="utf-8") for path in files}
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    half = all(bool((tensor.half().to(tensor) == tensor).all()) for tensor in tensors)
    written = save_bundle(folder, config, network, card=model_card(config), half=half, novelty=novelty)
    for name, text in (beside if written == before else {}).items():
        write_text(Path(folder) / name, text)
    return written
