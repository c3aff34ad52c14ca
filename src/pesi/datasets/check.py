"""Read every image of a record table once, and tell all that is wrong with the data before a network learns from it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pesi.datasets.labels import senseless_labels
from pesi.datasets.readers.reading import Fault, Reading
from pesi.datasets.records import SPLITS
from pesi.errors import DataError, ImageError
from pesi.images.decode import decode_image, decode_mask, image_size

NO_SPLIT = "(no split)"
NO_DIAGNOSIS = "(no diagnosis)"
_SHOWN = 20  # entries of each list in the text; the dictionary has them all


@dataclass(frozen=True)
class Copies:
    """Images with the same pixels.

    Args:
        image_ids: Their ids, in the table's order.
        diagnoses: The known diagnoses among them; more than one means that at least one image is mislabelled.
        splits: The splits that they are in; more than one means that a test set is not independent.
        same_bytes: Whether the files agree byte by byte too.
    """

    image_ids: tuple[str, ...]
    diagnoses: tuple[str, ...]
    splits: tuple[str, ...]
    same_bytes: bool


@dataclass(frozen=True)
class CheckReport:
    """What a record table's files are like.

    Args:
        images: Rows of the table.
        readable: Images that could be decoded.
        counts: Images by split and diagnosis, whether readable or not.
        sizes: Upright images by (width, height), readable ones only.
        missing: Files that do not exist.
        unreadable: Image files that exist and are refused, and folders that may not be read, with the reason.
        duplicates: Groups of different files with the same pixels.
        mislabelled: The groups among them with more than one diagnosis.
        labelled_twice: Ids or files that stand in more than one row.
        masks: Masks that are missing, unreadable, empty or of another size than their image.
        masks_read: Masks that the table names for readable images.
        labels: Why a classifier could not learn from the diagnoses, a sentence each.
        remarks: What else the user should know of the files.
    """

    images: int
    readable: int
    counts: dict[str, dict[str, int]]
    sizes: dict[tuple[int, int], int]
    missing: tuple[Fault, ...]
    unreadable: tuple[Fault, ...]
    duplicates: tuple[Copies, ...]
    mislabelled: tuple[Copies, ...]
    labelled_twice: tuple[Fault, ...]
    masks: tuple[Fault, ...]
    masks_read: int
    labels: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if every image is there, readable, once, with one label of sense, and every mask fits its image."""
        files = self.missing or self.unreadable or self.duplicates or self.labelled_twice or self.masks
        return not (files or self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The whole report in JSON's types."""
        sizes = [{"width": width, "height": height, "images": count} for (width, height), count in self.sizes.items()]
        return {"ok": self.ok} | asdict(self) | {"sizes": sizes}

    def to_text(self) -> str:
        """The report for people: counts, sizes, then each kind of fault with its first entries."""
        lines = [f"{self.images} images, {self.readable} readable", "", *_count_table(self.counts)]
        if self.sizes:
            lines += ["", *_size_lines(self.sizes)]
        if self.masks_read:
            lines += ["", f"{self.masks_read} masks read"]
        if self.remarks:
            lines += ["", *self.remarks]
        faults: tuple[tuple[str, Sequence[Fault]], ...] = (
            ("files are missing", self.missing),
            ("files or folders are unreadable", self.unreadable),
            ("rows repeat an image", self.labelled_twice),
            ("masks do not fit", self.masks),
        )
        for title, found in faults:
            if found:
                lines += ["", f"{len(found)} {title}:", *_shown(f"{f.image_id}: {f.reason}" for f in found)]
        if self.mislabelled:
            lines += ["", f"{len(self.mislabelled)} groups of equal images have different diagnoses:"]
            lines += _shown(map(_copies_text, self.mislabelled))
        if self.duplicates:
            lines += ["", f"{len(self.duplicates)} groups of images have the same pixels:"]
            lines += _shown(map(_copies_text, self.duplicates))
        if self.labels:
            lines += ["", "A classifier cannot learn from diagnoses like these:", *_shown(self.labels)]
        lines += ["", "Everything is in order." if self.ok else "The data are not in order: see above."]
        return "\n".join(lines)


def check_records(
    records: pd.DataFrame,
    *,
    reading: Reading | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Decode every image and mask of a record table and report what is wrong.

    Equal images are found by the SHA-256 of their decoded sRGB pixels, so that a copy under another name, in another
    lossless format or with other metadata counts as one; re-compressed or resized copies are `near_duplicates`' task.

    Args:
        records: A record table.
        reading: What else was found when it was read (`pesi.datasets.readers.survey_dataset`).
        workers: Images decoded at the same time, in threads (decoding and hashing release Python's lock).
        progress: Called with (images done, images in all) after each image.

    Raises:
        DataError: The table has no rows, or `workers` is below one.
    """
    if records.empty:
        raise DataError("The record table has no images.", "Check the data set's folder.")
    if workers < 1:
        raise DataError(f"{workers} workers cannot read anything.", "Give at least 1.")
    rows = [
        _Row(str(image_id), str(path), _text(diagnosis), _text(split), _text(mask))
        for image_id, path, diagnosis, split, mask in zip(
            *(records[c] for c in ("image_id", "path", "diagnosis", "split", "mask_path")), strict=True
        )
    ]
    found: list[_Found] = []
    with ThreadPoolExecutor(max_workers=workers) as pool:
        for one in pool.map(_read, rows):
            found.append(one)
            if progress is not None:
                progress(len(found), len(rows))
    duplicates = _copies(rows, found)
    reading = reading or Reading()
    sizes = Counter(one.size for one in found if one.size is not None)
    return CheckReport(
        images=len(rows),
        readable=sum(one.size is not None for one in found),
        counts=_counts(rows),
        sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        missing=(*reading.missing, *(one.missing for one in found if one.missing is not None)),
        unreadable=(*reading.unreadable, *(one.unreadable for one in found if one.unreadable is not None)),
        duplicates=duplicates,
        mislabelled=tuple(copies for copies in duplicates if len(copies.diagnoses) > 1),
        labelled_twice=_labelled_twice(rows),
        masks=tuple(one.mask for one in found if one.mask is not None),
        masks_read=sum(row.mask is not None and one.size is not None for row, one in zip(rows, found, strict=True)),
        labels=tuple(senseless_labels(records)),
        remarks=tuple(reading.remarks),
    )


@dataclass(frozen=True)
class _Row:
    image_id: str
    path: str
    diagnosis: str | None
    split: str | None
    mask: str | None


@dataclass(frozen=True)
class _Found:
    """What reading one row's files told."""

    size: tuple[int, int] | None = None
    pixels: bytes = b""
    file: bytes = b""
    missing: Fault | None = None
    unreadable: Fault | None = None
    mask: Fault | None = None


def _text(value: object) -> str | None:
    return None if value is None or value is pd.NA or value != value else str(value)


def _read(row: _Row) -> _Found:
    path = Path(row.path)
    try:
        if not path.exists():
            return _Found(missing=Fault(row.image_id, row.path, f"{row.path} does not exist."))
        # The decoder refuses folders, pipes and oversized files before anything of them is read.
        pixels = decode_image(path)
        width, height = image_size(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except ImageError as error:
        return _Found(unreadable=Fault(row.image_id, row.path, error.problem))
    except OSError as error:
        reason = f"{row.path} cannot be read: {error.strerror or error}."
        return _Found(unreadable=Fault(row.image_id, row.path, reason))
    content = hashlib.sha256(f"{width}x{height}".encode())
    content.update(pixels.data)
    return _Found((width, height), content.digest(), digest, mask=_mask_fault(row, width, height))


def _mask_fault(row: _Row, width: int, height: int) -> Fault | None:
    if row.mask is None:
        return None
    try:
        mask = decode_mask(row.mask)
    except ImageError as error:
        return Fault(row.image_id, row.mask, error.problem)
    if mask.shape != (height, width):
        reason = f"{row.mask} is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height}."
        return Fault(row.image_id, row.mask, reason)
    return None if mask.any() else Fault(row.image_id, row.mask, f"{row.mask} is empty (all background).")


def _counts(rows: Sequence[_Row]) -> dict[str, dict[str, int]]:
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counted[row.split or NO_SPLIT][row.diagnosis or NO_DIAGNOSIS] += 1
    order = [split for split in (*SPLITS, NO_SPLIT) if split in counted]
    order += sorted(set(counted) - set(order))
    return {split: dict(sorted(counted[split].items())) for split in order}


def _copies(rows: Sequence[_Row], found: Sequence[_Found]) -> tuple[Copies, ...]:
    """Groups of the same pixels in different files; a file that stands in two rows is `labelled_twice`."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, one in enumerate(found):
        if one.size is not None:
            groups[one.pixels].append(index)
    return tuple(
        Copies(
            tuple(rows[i].image_id for i in group),
            tuple(sorted({d for i in group if (d := rows[i].diagnosis) is not None})),
            tuple(s for s in SPLITS if any(rows[i].split == s for i in group)),
            len({found[i].file for i in group}) == 1,
        )
        for group in groups.values()
        if len({_resolved(rows[i].path) for i in group}) > 1
    )


def _labelled_twice(rows: Sequence[_Row]) -> tuple[Fault, ...]:
    first_id: dict[str, int] = {}
    first_file: dict[str, int] = {}
    faults = []
    for number, row in enumerate(rows, start=1):
        before = first_id.setdefault(row.image_id, number)
        what = "id"
        if before == number:
            before, what = first_file.setdefault(_resolved(row.path), number), "file"
        if before != number:
            labels = f"{rows[before - 1].diagnosis or 'none'} and {row.diagnosis or 'none'}"
            reason = f"rows {before} and {number} have the same {what}; diagnoses {labels}."
            faults.append(Fault(row.image_id, row.path, reason))
    return tuple(faults)


def _resolved(path: str) -> str:
    return str(Path(path).resolve())


def _copies_text(copies: Copies) -> str:
    parts = [" = ".join(copies.image_ids)]
    if copies.diagnoses:
        parts.append("/".join(copies.diagnoses))
    if copies.splits:
        parts.append(("across " if len(copies.splits) > 1 else "in ") + ", ".join(copies.splits))
    return "; ".join(parts)


def _shown(entries: Iterable[str]) -> list[str]:
    lines = [f"  {entry}" for entry in entries]
    rest = len(lines) - _SHOWN
    return lines if rest <= 0 else [*lines[:_SHOWN], f"  ... and {rest} more"]


def _count_table(counts: dict[str, dict[str, int]]) -> list[str]:
    names = sorted({name for row in counts.values() for name in row}, key=lambda name: (name == NO_DIAGNOSIS, name))
    table = [["", *names, "all"]]
    table += [[split, *(str(row.get(n, 0)) for n in names), str(sum(row.values()))] for split, row in counts.items()]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in table
    ]


def _size_lines(sizes: dict[tuple[int, int], int]) -> list[str]:
    """Least, middle and greatest side lengths, and the most frequent sizes."""
    number = list(sizes.values())
    lines = []
    for side, name in enumerate(("width", "height")):
        values = np.repeat([size[side] for size in sizes], number)
        lines.append(f"{name}: {values.min()} to {values.max()} px, median {np.median(values):g}")
    most = ", ".join(f"{w} x {h} ({n})" for (w, h), n in list(sizes.items())[:5])
    more = f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
    return [*lines, f"sizes: {most}{more}"]
