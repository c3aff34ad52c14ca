"""A synthetic data set on disk, laid out like ISIC 2017 so that the same reader takes it."""

from __future__ import annotations

import csv
import multiprocessing
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pesi.errors import DataError, StorageError
from pesi.synthetic.artefacts import RATES
from pesi.synthetic.image import SMALLEST, draw_lesion
from pesi.synthetic.noise import Mask

GROUND_TRUTH: dict[str, str] = {
    "train": "ISIC-2017_Training_Part3_GroundTruth.csv",
    "val": "ISIC-2017_Validation_Part3_GroundTruth.csv",
    "test": "ISIC-2017_Test_v2_Part3_GroundTruth.csv",
}
"""Name of each split's ground-truth file, as the challenge spelt it."""

COMMENT = "synthetic dermoscopy image drawn by pesi; not a photograph, not for clinical use"
_DIAGNOSES = ("NV", "MEL", "SK")
_IMAGE_DESCRIPTION = 0x010E  # EXIF tag
_JPEG_QUALITY = 92

_README = """SYNTHETIC DATA - NOT FOR CLINICAL USE

Every picture here was drawn by a program (pesi.synthetic). None is a photograph, none shows a patient. The set
exists to test software and to show it at work. Nothing measured on it says anything about real skin lesions, and
nothing trained on it may be used on patients.

Layout: as ISIC 2017, part 3.
  images/SPLIT/SYN_*.jpg                       the pictures; each says "synthetic" in its comment and EXIF
  ISIC-2017_*_Part3_GroundTruth.csv            the diagnoses (neither column 1: nevus)
  masks/SYN_*_segmentation.png                 the lesion, 0 or 255
  criteria/SYN_*_CRITERION.png                 where each dermoscopic criterion was drawn (only those present)
  artefacts.csv                                hair, ruler, ... drawn without regard to the diagnosis
  metadata.csv                                 split, skin tone (Fitzpatrick 1 to 6), diagnosis; no patients, so no age

Drawn with: train={train} val={val} test={test} size={size} seed={seed}
The same numbers and the same versions of pesi, NumPy, OpenCV and Pillow give the same bytes.
"""


@dataclass(frozen=True)
class _Job:
    """One image to be written; all that a worker needs to know."""

    root: Path
    split: str
    index: int
    diagnosis: str
    size: int
    seed: int

    @property
    def image_id(self) -> str:
        return f"SYN_{self.index:07d}"


@dataclass(frozen=True)
class _Written:
    """What the tables need to know about a written image."""

    job: _Job
    skin_tone: int
    artefacts: tuple[str, ...]


def balanced_diagnoses(count: int, rng: np.random.Generator) -> list[str]:
    """`count` diagnoses, a third each (what doesn't divide goes to NV, then MEL), shuffled."""
    return [str(d) for d in rng.permutation([_DIAGNOSES[i % len(_DIAGNOSES)] for i in range(count)])]


def _save_mask(path: Path, mask: Mask) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path, compress_level=3)


def _write_image(job: _Job) -> _Written:
    """Draw one image, seeded by the set's seed and its own index, and write it with its masks."""
    rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=(job.index,)))
    drawn = draw_lesion(rng, job.diagnosis, size=job.size)
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = COMMENT
    Image.fromarray(drawn.image).save(
        job.root / "images" / job.split / f"{job.image_id}.jpg", quality=_JPEG_QUALITY, comment=COMMENT, exif=exif
    )
    _save_mask(job.root / "masks" / f"{job.image_id}_segmentation.png", drawn.lesion_mask)
    for name, mask in drawn.criteria.items():
        _save_mask(job.root / "criteria" / f"{job.image_id}_{name}.png", mask)
    return _Written(job, drawn.skin_tone, tuple(drawn.artefacts))


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already


def _written_images(jobs: Sequence[_Job], workers: int) -> Iterator[_Written]:
    if workers == 1:
        yield from map(_write_image, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield from pool.map(_write_image, jobs, chunksize=max(1, min(16, len(jobs) // workers)))


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_tables(root: Path, written: Sequence[_Written]) -> None:
    for split, name in GROUND_TRUTH.items():
        _write_table(
            root / name,
            ("image_id", "melanoma", "seborrheic_keratosis"),
            (
                (w.job.image_id, float(w.job.diagnosis == "MEL"), float(w.job.diagnosis == "SK"))
                for w in written
                if w.job.split == split
            ),
        )
    _write_table(
        root / "artefacts.csv",
        ("image_id", *RATES),
        ((w.job.image_id, *(int(name in w.artefacts) for name in RATES)) for w in written),
    )
    _write_table(
        root / "metadata.csv",
        ("image_id", "split", "age_approximate", "sex", "anatom_site_general", "skin_tone", "diagnosis"),
        ((w.job.image_id, w.job.split, "", "", "", w.skin_tone, w.job.diagnosis) for w in written),
    )


@contextmanager
def _whole_folder(root: Path) -> Iterator[Path]:
    """Give a temporary folder beside `root`; it takes that name only if the block succeeds."""
    temporary = root.with_name(f".{root.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(root)  # over an empty folder this is allowed
    except OSError as error:
        raise StorageError(
            f"Could not write the synthetic set {root}: {error.strerror or error}.",
            "Check that there is space and that you may write there, then run the same command again.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_synthetic(
    root: str | Path,
    *,
    train: int = 900,
    val: int = 150,
    test: int = 300,
    size: int = 256,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a synthetic data set in the layout of ISIC 2017.

    Each split holds melanoma, nevus and seborrheic keratosis in equal numbers, shuffled. Each image depends on the
    seed and its own index only, so the number of workers does not change a byte.

    Args:
        root: The set's folder; must not exist or be empty.
        train: Images in the training split.
        val: Images in the validation split.
        test: Images in the test split.
        size: Side of the pictures in pixels.
        seed: Seeds everything, 0 or more.
        workers: Processes that draw.
        progress: Called after each image with the number of images done so far.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds something already, or a number is out of range.
        StorageError: The system refused to write; nothing half-written is left.
    """
    root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow a link in the name
    counts = {"train": train, "val": val, "test": test}
    for name, value, least in (*((n, c, 0) for n, c in counts.items()), ("seed", seed, 0), ("workers", workers, 1)):
        if value < least:
            raise DataError(f"{name} is {value}.", f"Give {least} or more.")
    if size < SMALLEST:
        raise DataError(f"size is {size}.", f"Give {SMALLEST} or more.")
    if not sum(counts.values()):
        raise DataError("A synthetic set of no images was asked for.", "Give at least one of train, val and test.")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists already and is not an empty folder.", "Choose another folder, or remove it.")

    labels = np.random.default_rng(np.random.SeedSequence(seed))
    with _whole_folder(root) as folder:
        for name in ("masks", "criteria", *(f"images/{split}" for split in counts)):
            (folder / name).mkdir(parents=True)
        jobs: list[_Job] = []
        for split, count in counts.items():
            for diagnosis in balanced_diagnoses(count, labels):
                jobs.append(_Job(folder, split, len(jobs), diagnosis, size, seed))
        written: list[_Written] = []
        for image in _written_images(jobs, workers):
            written.append(image)
            if progress is not None:
                progress(len(written))
        _write_tables(folder, written)
        (folder / "README.txt").write_text(_README.format(**counts, size=size, seed=seed), encoding="utf-8")
    return root
