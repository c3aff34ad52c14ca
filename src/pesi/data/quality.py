"""The image-quality gate: blur, exposure, size, compression, and whether the lesion is whole; each verdict says why.

Everything is measured on a copy of a stated side, so that a 256 px thumbnail and a 6000 px photograph of the same thing
get the same answer.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pesi.data.masks import Mask
from pesi.data.transforms import Image, resize
from pesi.data.verdict import Verdict, VerdictLevel
from pesi.errors import ImageError

SIDE = 256  # pixels of the shorter side of the copy that is measured

_MEAN_TO_SD = (
    float(np.sqrt(np.pi / 2)) / 6
)  # from the mean absolute response of Immerkaer's mask to a noise's deviation
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_FINE_GAIN = (1 + 1 / 4 - 8 / 10) / (4 * np.pi)  # variance of white noise of 1 in G(1) - G(2); a quarter in G(2) - G(4)
_DARK = 25.0  # of 255: what is darker in a smoothed picture lies outside of the dermoscope's field
_BLOCKS_UP_TO = 4 * SIDE  # pixels of the shorter side: beyond, a block of 8 is below 2 in the copy
_FIELD = 0.8  # share of the sides of the ellipse in which exposure is measured: dark corners lie outside


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


class QualityMeasures(NamedTuple):
    """What is measured in one image.

    Attributes:
        short_side: Pixels of the shorter side, as the image came.
        sharpness: See `sharpness`.
        brightness: Mean luminance in the middle ellipse, 0..1.
        burnt: Share of pixels in the middle ellipse with every channel at 250 or more of 255.
        blocks: See `blockiness`.
        lesion_area: Share of the picture that the lesion covers; None where no mask was given.
        cut_share: See `cut_share`; None where no mask was given or it is empty.
    """

    short_side: int
    sharpness: float
    brightness: float
    burnt: float
    blocks: float
    lesion_area: float | None
    cut_share: float | None


def measured_copy(image: Image) -> Image:
    """The image (H, W, 3) with its shorter side brought to `SIDE` pixels, its shape kept."""
    height, width = image.shape[:2]
    scale = SIDE / min(height, width)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def sharpness(copy: Image) -> float:
    """How much fine detail a picture has for its coarser detail; about 0.8 for a sharp one, 0.5 for a blurred one.

    The ratio of the deviations of two bands of the luminance, G(1) - G(2) over G(2) - G(4) (G(s): Gaussian of s pixels
    at a short side of 256). A ratio does not change with contrast. White noise is estimated (Immerkaer, Computer Vision
    and Image Understanding 64(2), 1996, in the quietest fifth of the picture's parts) and taken off both, so that a
    noisy picture does not pass for a sharp one. Pixels outside of the dermoscope's field are left out.

    Args:
        copy: Of `measured_copy`.

    Returns:
        0 where there is no detail at all.
    """
    gray = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY).astype(np.float32)
    smooth = {sigma: cv2.GaussianBlur(gray, (0, 0), sigma) for sigma in (1, 2, 4)}
    lit = cv2.erode((smooth[2] > _DARK).astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
    if lit.mean() < 0.05:
        lit[:] = True
    response = cv2.blur(np.abs(cv2.filter2D(gray, -1, _IMMERKAER)), (32, 32))[16::32, 16::32]
    noise = _MEAN_TO_SD * float(np.quantile(response, 0.2))
    fine, coarse = (
        float(np.mean((smooth[a] - smooth[b])[lit] ** 2)) - gain * noise**2
        for a, b, gain in ((1, 2, _FINE_GAIN), (2, 4, _FINE_GAIN / 4))
    )
    return float(np.sqrt(max(fine, 0) / coarse)) if coarse > 1e-6 else 0.0


def blockiness(image: Image) -> float:
    """How much stronger the steps at JPEG's 8-pixel grid are than elsewhere: 1 without blocks, 3 at quality 10.

    Seen only in files as they were compressed: once a picture has been scaled, its blocks lie elsewhere. In large files
    blocks vanish when they are scaled to what a network sees, and the answer is 1.
    """
    if min(image.shape[:2]) > _BLOCKS_UP_TO or min(image.shape[:2]) < 16:
        return 1.0
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    ratios = []
    for rows in (gray, gray.T):
        steps = np.abs(np.diff(rows, axis=1)).mean(0)
        grid = np.arange(len(steps)) % 8 == 7
        ratios.append((steps[grid].mean() + 0.5) / (steps[~grid].mean() + 0.5))
    return float(np.mean(ratios))


def cut_share(mask: Mask) -> float | None:
    """Share of a lesion's outline (H, W) that lies on the picture's edge, 0..1; None where there is no lesion."""
    if not mask.any():
        return None
    framed = np.pad(mask, 1)
    # Sides of pixels between lesion and not; those to the added frame are cut by the picture's edge.
    inner = int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
    every = int((framed[1:] != framed[:-1]).sum() + (framed[:, 1:] != framed[:, :-1]).sum())
    return (every - inner) / every


def measure_quality(image: Image, *, mask: Mask | None = None) -> QualityMeasures:
    """Measure one image.

    Args:
        image: uint8 sRGB, (H, W, 3), any size.
        mask: The lesion's, (H, W) or any other size of the same shape; empty where none was found, None where nobody
            looked.

    Raises:
        ImageError: The array is none of that kind.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ImageError(
            f"An image array must be uint8 of shape (H, W, 3), not {image.dtype} {image.shape}.",
            "Convert it to 8-bit RGB.",
        )
    copy = measured_copy(image)
    field = _ellipse(copy.shape[0], copy.shape[1])
    gray = cv2.cvtColor(copy, cv2.COLOR_RGB2GRAY)
    return QualityMeasures(
        min(image.shape[:2]),
        sharpness(copy),
        float(gray[field].mean()) / 255,
        float((copy.min(axis=2)[field] >= 250).mean()),
        blockiness(image),
        None if mask is None else float(mask.mean()),
        None if mask is None else cut_share(mask),
    )


def _ellipse(height: int, width: int) -> NDArray[np.bool_]:
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(
        ((y - (height - 1) / 2) / (_FIELD * height / 2)) ** 2 + ((x - (width - 1) / 2) / (_FIELD * width / 2)) ** 2 <= 1
    )


def quality_verdicts(
    image: Image, *, mask: Mask | None = None, not_found: str = "", config: QualityConfig | None = None
) -> tuple[Verdict, ...]:
    """Judge one image.

    Args:
        image: uint8 sRGB, (H, W, 3), any size.
        mask: The lesion's (H, W); empty where none was found (`LesionMask.found`), None where nobody looked.
        not_found: Why none was found (`LesionMask.reason`).
        config: The limits; default those of this version.

    Returns:
        A verdict for each check, also where all is well: short_side, sharpness, dark, bright, burnt, blocks, and with
        a mask lesion_area and cut_share.

    Raises:
        ImageError: The array is no image.
    """
    return judge_quality(measure_quality(image, mask=mask), not_found=not_found, config=config)


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
