"""The image-quality gate: blur, light, resolution, the lesion there and whole; each verdict says why."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pesi.images.masks import Mask
from pesi.images.quality_measures import QualityMeasures, measure_quality
from pesi.images.transforms import Image
from pesi.verdict import Verdict, VerdictLevel


class Limit(BaseModel):
    """Where a check warns and where it refuses; None: never.

    Attributes:
        warn, refuse: In the check's own unit.
        how: How they were set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    warn: float | None
    refuse: float | None
    how: str


_SAMPLE = "700 training images of ISIC 2017 and 500 of HAM10000, one a lesion, at 256 px"


class QualityConfig(BaseModel):
    """The limits of the quality gate, each with how it was set (`benchmarks/novelty/quality_limits.py` measures them).

    Attributes:
        short_side: Least pixels of the shorter side.
        sharpness: Least `sharpness`.
        dark: Least brightness.
        bright: Greatest brightness.
        burnt: Greatest share of burnt-out pixels.
        blocks: Greatest `blockiness`.
        lesion_area: Least share of the picture that the lesion covers.
        cut_share: Greatest share of the lesion's outline that lies on the picture's edge.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    short_side: Limit = Limit(
        warn=160,
        refuse=64,
        how="warned below what the shipped classifier looks at; at 48 px its AUC on ISIC 2017 val falls by 0.11",
    )
    sharpness: Limit = Limit(
        warn=0.62, refuse=0.55, how=f"1.8 % and 0.4 % of {_SAMPLE} lie below; blurred by 2 px, 99 % do"
    )
    dark: Limit = Limit(
        warn=0.34,
        refuse=0.25,
        how=f"1.7 % and 0.3 % of {_SAMPLE} lie below; at 0.4 of the light the shipped classifier's AUC falls by 0.22",
    )
    bright: Limit = Limit(warn=0.87, refuse=0.92, how=f"0.8 % and none of {_SAMPLE} lie above")
    burnt: Limit = Limit(warn=0.02, refuse=0.25, how=f"0.2 % and none of {_SAMPLE} lie above")
    blocks: Limit = Limit(
        warn=1.95,
        refuse=2.4,
        how=f"none of {_SAMPLE} lies above 1.95; at JPEG quality 10 all do, and AUC falls by 0.14",
    )
    lesion_area: Limit = Limit(
        warn=0.007,
        refuse=None,
        how=f"0.7 % of {_SAMPLE} lie below; never refused, as it may be the segmenter that fails",
    )
    cut_share: Limit = Limit(
        warn=0.25, refuse=None, how=f"2 % of {_SAMPLE} lie above; never refused, as large lesions fill the picture"
    )


def quality_verdicts(
    image: Image,
    *,
    mask: Mask | None = None,
    not_found: str = "",
    config: QualityConfig | None = None,
    short_side: int | None = None,
) -> tuple[Verdict, ...]:
    """Judge one image.

    Args:
        image: uint8 sRGB, (H, W, 3), any size.
        mask: The lesion's (H, W); empty where none was found (`LesionMask.found`), None where nobody looked.
        not_found: Why none was found (`LesionMask.reason`).
        config: The limits; default those of this version.
        short_side: Of the file, where the image is a reduced copy of it; default the image's.

    Returns:
        A verdict for each check, also where all is well: short_side, sharpness, dark, bright, burnt, blocks, and with
        a mask lesion_area and cut_share.

    Raises:
        ImageError: The array is no image.
    """
    return judge_quality(measure_quality(image, mask=mask, short_side=short_side), not_found=not_found, config=config)


def judge_quality(
    measures: QualityMeasures, *, not_found: str = "", config: QualityConfig | None = None
) -> tuple[Verdict, ...]:
    """The verdicts of `quality_verdicts` on what was measured before."""
    config = config or QualityConfig()
    m = measures
    verdicts = [
        _at_least(
            "short_side",
            m.short_side,
            config.short_side,
            finding=f"the shorter side has {m.short_side} pixels",
            unit="{:.0f}",
            cure="Send the original file, not a thumbnail.",
        ),
        _at_least(
            "sharpness",
            m.sharpness,
            config.sharpness,
            finding=f"the picture is blurred (sharpness {m.sharpness:.2f})",
            unit="{:.2f}",
            cure="Focus on the lesion, hold the dermoscope still, and take it again.",
        ),
        _at_least(
            "dark",
            m.brightness,
            config.dark,
            finding=f"the picture is too dark (brightness {m.brightness:.0%})",
            unit="{:.0%}",
            cure="Check the dermoscope's light, and take it again with more exposure.",
        ),
        _at_most(
            "bright",
            m.brightness,
            config.bright,
            finding=f"the picture is too bright (brightness {m.brightness:.0%})",
            unit="{:.0%}",
            cure="Take it again with less exposure.",
        ),
        _at_most(
            "burnt",
            m.burnt,
            config.burnt,
            finding=f"{m.burnt:.1%} of the picture is burnt out to white",
            unit="{:.0%}",
            cure="Take it again with less exposure, and avoid reflections.",
        ),
        _at_most(
            "blocks",
            m.blocks,
            config.blocks,
            finding=f"compression has cut the picture into blocks (blockiness {m.blocks:.1f})",
            unit="{:.2f}",
            cure="Send the original file, or save it with a JPEG quality of 80 or more.",
        ),
    ]
    if m.lesion_area is not None:
        none = f"no lesion was found ({not_found})" if not_found else "no lesion was found"
        verdicts.append(
            _at_least(
                "lesion_area",
                m.lesion_area,
                config.lesion_area,
                finding=f"the lesion covers {m.lesion_area:.1%} of the picture" if m.lesion_area else none,
                unit="{:.1%}",
                cure="Bring the lesion to the middle and go closer.",
            )
        )
    if m.cut_share is not None:
        verdicts.append(
            _at_most(
                "cut_share",
                m.cut_share,
                config.cut_share,
                finding=f"the picture's edge cuts {m.cut_share:.0%} of the lesion's outline",
                unit="{:.0%}",
                cure="Take it again with the whole lesion and some skin around it in view.",
            )
        )
    return tuple(verdicts)


def _at_least(check: str, value: float, limit: Limit, *, finding: str, unit: str, cure: str) -> Verdict:
    return _verdict(check, value, limit, -1, finding, unit, cure)


def _at_most(check: str, value: float, limit: Limit, *, finding: str, unit: str, cure: str) -> Verdict:
    return _verdict(check, value, limit, 1, finding, unit, cure)


def _verdict(check: str, value: float, limit: Limit, sign: int, finding: str, unit: str, cure: str) -> Verdict:
    """`sign` 1: the value must not lie above the limits; -1: not below."""
    bound = "at most" if sign > 0 else "at least"
    level: VerdictLevel
    for level, edge in (("refuse", limit.refuse), ("warn", limit.warn)):
        if edge is not None and sign * (value - edge) > 0:
            which = "needed" if level == "refuse" else "wanted"
            text = f"{finding}; {bound} {unit.format(edge)} is {which}. {cure}"
            return Verdict(check, level, float(value), edge, text[0].upper() + text[1:])
    edges = [edge for edge in (limit.warn, limit.refuse) if edge is not None]
    if not edges:
        return Verdict(check, "ok", float(value), float("nan"), "Not limited.")
    return Verdict(
        check, "ok", float(value), edges[0], f"{unit.format(value)}; {bound} {unit.format(edges[0])} is wanted."
    )
