"""What two splits of a record table share: patients, lesions, files, near-duplicate images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pesi.datasets.records import SPLITS


@dataclass(frozen=True)
class Shared:
    """A patient, lesion or file with images in more than one split.

    Args:
        key: The patient's or lesion's id, or the file's path.
        splits: The splits that it is in.
        images: Ids of its images there.
    """

    key: str
    splits: tuple[str, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class CrossingPair:
    """Two near-duplicate images in different splits."""

    image_a: str
    image_b: str
    split_a: str
    split_b: str


@dataclass(frozen=True)
class LeakReport:
    """The overlaps between the splits.

    Args:
        images: Number of images by split.
        with_patient: How many of them have a patient id; without ids, no overlap can be seen.
        with_lesion: How many of them have a lesion id.
        patients: Patients in more than one split.
        lesions: Lesions in more than one split.
        paths: Image files in more than one split.
        pairs: Near-duplicate pairs across splits; None: near-duplicates were not looked for.
    """

    images: dict[str, int]
    with_patient: int
    with_lesion: int
    patients: tuple[Shared, ...]
    lesions: tuple[Shared, ...]
    paths: tuple[Shared, ...]
    pairs: tuple[CrossingPair, ...] | None

    @property
    def leaks(self) -> bool:
        """Whether any overlap was found."""
        return bool(self.patients or self.lesions or self.paths or self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON, with the numbers beside the lists."""
        counts = {
            name: None if found is None else len(found)
            for name, found in (
                ("patients", self.patients),
                ("lesions", self.lesions),
                ("paths", self.paths),
                ("pairs", self.pairs),
            )
        }
        return {"leaks": self.leaks, "counts": counts, **asdict(self)}

    def to_text(self, *, limit: int = 10) -> str:
        """The report in plain words, with at most `limit` examples of each kind."""
        total = sum(self.images.values())
        lines = ["Images: " + ", ".join(f"{split} {count}" for split, count in self.images.items())]
        for name, found, known in (
            ("patients", self.patients, self.with_patient),
            ("lesions", self.lesions, self.with_lesion),
            ("files", self.paths, total),
        ):
            note = f" ({known} of {total} images have an id)" if known < total else ""
            lines.append(f"Shared {name}: {len(found)}{note}")
            lines += [f"  {item.key} in {', '.join(item.splits)}: {', '.join(item.images)}" for item in found[:limit]]
            lines += _rest(found, limit)
        if self.pairs is None:
            lines.append("Near-duplicate pairs across splits: not looked for")
        else:
            lines.append(f"Near-duplicate pairs across splits: {len(self.pairs)}")
            lines += [f"  {p.image_a} ({p.split_a}) and {p.image_b} ({p.split_b})" for p in self.pairs[:limit]]
            lines += _rest(self.pairs, limit)
        return "\n".join(lines)


def leak_report(records: pd.DataFrame, pairs: pd.DataFrame | None = None) -> LeakReport:
    """Look for what the splits of a record table share; images without a split play no part.

    Args:
        records: A record table.
        pairs: Near-duplicates (`pesi.datasets.duplicates.near_duplicates`): columns image_a, image_b.
    """
    rows = records[records["split"].notna()]
    split_of = dict(zip(rows["image_id"], rows["split"], strict=True))
    crossing = None
    if pairs is not None:
        ends = [(str(a), str(b)) for a, b in zip(pairs["image_a"], pairs["image_b"], strict=True)]
        crossing = tuple(
            CrossingPair(a, b, split_of[a], split_of[b])
            for a, b in ends
            if a in split_of and b in split_of and split_of[a] != split_of[b]
        )
    return LeakReport(
        images={split: int((rows["split"] == split).sum()) for split in SPLITS if (rows["split"] == split).any()},
        with_patient=int(rows["patient_id"].notna().sum()),
        with_lesion=int(rows["lesion_id"].notna().sum()),
        patients=_shared(rows, rows["patient_id"]),
        lesions=_shared(rows, rows["lesion_id"]),
        paths=_shared(rows, rows["path"].map(lambda path: str(Path(path).resolve()))),
        pairs=crossing,
    )


def _shared(rows: pd.DataFrame, keys: pd.Series) -> tuple[Shared, ...]:
    splits = rows["split"].groupby(keys).nunique()
    crossing = keys.isin(splits.index[splits > 1])
    found = []
    for key, own in rows[crossing].groupby(keys[crossing], sort=True):
        names = tuple(split for split in SPLITS if (own["split"] == split).any())
        found.append(Shared(str(key), names, tuple(sorted(own["image_id"]))))
    return tuple(found)


def _rest(found: Sequence[object], limit: int) -> list[str]:
    return [f"  ... and {len(found) - limit} more"] if len(found) > limit else []
