"""The model card: what a bundle is, what it was made with, what was measured, what it must not be used for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pesi.bundle.config import BundleConfig, MemberConfig, save_bundle
from pesi.bundle.files import CARD, CONFIG, CommonConfig, Measured, bundle_kind, front_matter, write_bundle
from pesi.bundle.hub import AUDIT
from pesi.bundle.segmenter import SegmenterConfig, SegmenterMeasured
from pesi.decide.novelty import NoveltyStatistics
from pesi.files import write_text
from pesi.images.views import VIEWS

if TYPE_CHECKING:
    from pesi.nn.cnn import PesiCNN


def card_header(config: BundleConfig) -> list[str]:
    """The lines that every classifier's card begins with, the first of them for the Hugging Face hub."""
    return [
        *front_matter(pipeline="image-classification", licence=config.licence),
        "",
        f"# {config.name}",
        "",
        f"{_networks(config)} for the task `{config.task.name}`: {', '.join(config.outputs)}.",
        "",
    ]


def made_with(config: BundleConfig) -> list[str]:
    """A list of what a classifier's bundle was made of."""
    views = len(VIEWS[config.views])
    each = f"{views} view{'s' * (views != 1)} each"
    if len(config.members) == 1:
        looks = [f"- looks at: {_looks_at(config.members[0])}; {each}"]
    else:
        counts = Counter(_looks_at(member) for member in config.members)
        looks = [f"- {count} networks look at: {what}; {each}" for what, count in counts.items()]
    if config.folds:
        looks.append(
            f"- {len(config.folds)} folds, images of a patient, lesion or near-duplicate in one: each network learned "
            "from all but one; calibration, thresholds, triage, sets and novelty were set on what the networks say of "
            "the images of the fold that they have not seen. For a new image all networks are averaged, which is "
            "sharper than the networks of one fold, so these are on the safe side."
        )
    return [
        *_trained_on(config),
        *looks,
        f"- temperature {config.temperature.value:.3f}: {config.temperature.how}",
        "- everything else, thresholds and triage with how each was set: `config.json`",
    ]


def _networks(config: BundleConfig) -> str:
    kinds = dict.fromkeys((m.network.name, m.network.options.get("attention", "spatial")) for m in config.members)
    named = " and ".join(f"{name} with `{attention}` attention" for name, attention in kinds)
    return f"A {named}" if len(config.members) == 1 else f"The mean of {len(config.members)} networks, {named},"


def _looks_at(member: MemberConfig) -> str:
    regions = {"image": "the whole image", "lesion": f"the lesion, found by {member.preprocess.segmenter}"}
    return " and ".join(regions[name] for name in member.preprocess.regions)


def _trained_on(config: CommonConfig) -> list[str]:
    """What the training was, where the bundle tells."""
    made = config.provenance
    if not made:
        return []
    splits = ", ".join(f"{part['count']} {name} images" for name, part in made["splits"].items())
    weights = made.get("pretrained")
    return [
        f"- data: {', '.join(made['sources'])}; {splits}",
        *([f"- best epoch: {made['best_epoch']}"] if "best_epoch" in made else []),
        *([f"- started from: {weights['file']}"] if weights else []),
    ]


def model_card(config: BundleConfig | SegmenterConfig) -> str:
    """The `README.md` of a bundle that was not audited yet."""
    if isinstance(config, SegmenterConfig):
        lines = segmenter_header(config)
    else:
        lines = [
            *card_header(config),
            "**Not a medical device.** For research; a second reader at most, never the only one.",
            "",
        ]
    if config.measured is not None:
        found = (
            f", a lesion found in {config.measured.found}; means over the images, as ISIC 2017 Part 1 and ISIC 2018 "
            "Task 1 define them"
            if isinstance(config.measured, SegmenterMeasured)
            else ""
        )
        on = f"On {config.measured.images} images: {config.measured.on}{found}."
        lines += ["## Measured", "", on, "", config.measured.to_markdown(), ""]
    if config.licence:
        lines += ["## Licence", "", config.licence, ""]
    made = _trained_on(config) if isinstance(config, SegmenterConfig) else made_with(config)
    return "\n".join([*lines, "## Made with", "", *made, ""])


def segmenter_header(config: SegmenterConfig) -> list[str]:
    """The same of a segmenter's card."""
    preprocess = config.preprocess
    return [
        *front_matter(pipeline="image-segmentation", licence=config.licence),
        "",
        f"# {config.name}",
        "",
        f"Finds the lesion in a dermoscopy image: a U-Net decoder on a {config.network.encoder} encoder, input "
        f"{preprocess.size} x {preprocess.size} pixels ({preprocess.geometry}). A pixel is lesion above probability "
        f"{config.threshold:g}; the largest region counts, its holes filled. A region below {config.minimum_area:.1%} "
        f"or above {config.maximum_area:.0%} of the picture is reported as no lesion found.",
        "",
        "**Not a medical device.** For research: it finds where to look, not what it is.",
        "",
    ]


def keep_measured(folder: str | Path, measured: Measured) -> BundleConfig | SegmenterConfig:
    """Write what was measured with a bundle into its config and card; the weights stay as they are."""
    kind = SegmenterConfig if bundle_kind(folder) == "segmenter" else BundleConfig
    config = kind.read(folder).model_copy(update={"measured": measured})
    write_bundle(folder, config, {}, card=model_card(config))
    return config


def resave_bundle(
    folder: str | Path,
    config: BundleConfig,
    networks: Sequence[PesiCNN],
    *,
    novelty: Sequence[NoveltyStatistics | None],
    opened_from: str | Path | None,
) -> BundleConfig:
    """Write a bundle that was opened: in float16 where that loses nothing, with its own card where nothing changed.

    Args:
        folder: Where it is written.
        config, networks, novelty: The bundle as it is now.
        opened_from: Its folder, with its card and what an audit of it measured.

    Raises:
        StorageError: The system refused to write.
    """
    beside: dict[str, str] = {}
    before = None
    if opened_from is not None and (Path(opened_from) / CONFIG).is_file():
        before = BundleConfig.read(opened_from)
        files = [path for name in (CARD, AUDIT) if (path := Path(opened_from) / name).is_file()]
        beside = {path.name: path.read_text(encoding="utf-8") for path in files}
    tensors = [t for network in networks for t in network.state_dict().values() if t.is_floating_point()]
    half = all(bool((tensor.half().to(tensor) == tensor).all()) for tensor in tensors)
    written = save_bundle(
        folder, config, networks, card=model_card(config), keep="float16" if half else "float32", novelty=novelty
    )
    for name, text in (beside if written == before else {}).items():
        write_text(Path(folder) / name, text)
    return written
