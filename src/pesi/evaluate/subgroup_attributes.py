"""How the images of a record table fall into groups: by person, skin tone, lesion size, artefact, source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pesi.images.skin_tone import SKIN_TONES, SkinTone

MISSING = "missing"
AGE_BANDS: tuple[tuple[str, float], ...] = (("under 30", 0), ("30 to 49", 30), ("50 to 69", 50), ("70 and over", 70))
LESION_SIZES: tuple[str, ...] = ("small third", "middle third", "large third")


@dataclass(frozen=True)
class Attribute:
    """A way of dividing the images into groups.

    Attributes:
        name: Such as "age".
        groups: The groups that occur, in their order; `MISSING`, if any, is the last.
        members: Index of each image's group, (N,).
    """

    name: str
    groups: tuple[str, ...]
    members: NDArray[np.int64]


def attribute_of(name: str, values: Iterable[object], order: Sequence[str] = ()) -> Attribute:
    """Group images by a value of each, None or NaN being the group `MISSING`.

    Args:
        name: The attribute's name.
        values: One an image.
        order: Order of the groups; those not named follow by name.
    """
    texts = [MISSING if value is None or value != value else str(value) for value in values]
    found = set(texts)
    groups = [group for group in order if group in found]
    groups += sorted(found - set(groups) - {MISSING}) + [MISSING] * (MISSING in found)
    place = {group: index for index, group in enumerate(groups)}
    return Attribute(name, tuple(groups), np.array([place[text] for text in texts], np.int64))


def attributes_of(
    records: pd.DataFrame,
    *,
    tones: Sequence[SkinTone | None] | None = None,
    artefacts: pd.DataFrame | None = None,
    lesion_areas: Sequence[float | None] | None = None,
) -> tuple[Attribute, ...]:
    """Every attribute by which the images fall into at least two groups.

    Args:
        records: Record table, N rows: sex, age, site, source.
        tones: Skin tone of each image, (N,); None: not known.
        artefacts: As `datasets.artefact_labels.artefact_table` gives it, N rows.
        lesion_areas: Share of the picture that the lesion covers, (N,); divided into thirds.
    """
    found = [
        attribute_of("sex", records["sex"]),
        attribute_of("age", (_age_band(age) for age in records["age"]), [name for name, _ in AGE_BANDS]),
        attribute_of("site", records["site"]),
    ]
    if tones is not None:
        groups = (tone.group if tone is not None else None for tone in tones)
        found.append(attribute_of("skin tone", groups, [name for name, _ in SKIN_TONES]))
    if lesion_areas is not None:
        found.append(attribute_of("lesion size", _thirds(lesion_areas), LESION_SIZES))
    if artefacts is not None:
        for name in artefacts.columns:
            words = ({True: "present", False: "absent"}.get(value) for value in artefacts[name])
            found.append(attribute_of(str(name).replace("_", " "), words, ("absent", "present")))
    found.append(attribute_of("source", records["source"]))
    return tuple(attribute for attribute in found if len(attribute.groups) > 1)


def _age_band(age: float) -> str | None:
    return None if math.isnan(age) else next(name for name, least in reversed(AGE_BANDS) if age >= least)


def _thirds(areas: Sequence[float | None]) -> list[str | None]:
    known = [area for area in areas if area is not None]
    limits = np.quantile(known, [1 / 3, 2 / 3]) if known else np.zeros(2)
    return [None if area is None else LESION_SIZES[int(np.searchsorted(limits, area))] for area in areas]
