"""Writes ISIC 2017 with one geometry and one sharpness, from its two sets of copies.

    python benchmarks/best_copies.py ../shared/data/isic2017 ../shared/data/isic2017_512 --out isic2017_level

`isic2017_512` keeps the aspect but lacks 300 images, most of the seborrheic keratoses; `isic2017` has all of them,
squeezed to 256 x 256. Mixed as they are, sharpness and geometry would tell the label. So every picture becomes what a
squeezed copy can give: the central square of the picture, 256 px high, with as many columns as the squeezed copy has
for it, stretched to 256 x 256, as JPEG of one quality. What aspect a picture has is found by registering its two
copies; one that has no sharper copy takes that of most of its nearest neighbours by number, which come from the same
camera. Masks likewise; labels and the other files are copied. The folder is read like the data set itself.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pesi.errors import PesiError
from pesi.files import whole_file, write_text

SIDE, QUALITY = 256, 92
ASPECTS = (1.0, 1.2, 4 / 3, 1.4, 1.5, 1.6, 16 / 9)
NEIGHBOURS = 9
SPLITS = ("train", "val", "test")

Picture = NDArray[np.uint8]


def centre_of(squeezed: Picture, aspect: float, *, nearest: bool = False) -> Picture:
    """The central square of a squeezed picture (S, S[, 3]) whose width is `aspect` times its height, (S, S[, 3])."""
    side = squeezed.shape[0]
    width = side / aspect
    ratio, start = width / side, (side - width) / 2
    matrix = np.array([[ratio, 0, start + ratio / 2 - 0.5], [0, 1, 0]], np.float32)
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_CUBIC
    flags = how | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(squeezed, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def levelled(square: Picture, aspect: float) -> Picture:
    """A sharper central square with the columns that a squeezed copy has for it, as (SIDE, SIDE, 3)."""
    columns = max(1, round(SIDE / aspect))
    small = cv2.resize(square, (columns, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def aspect_of(squeezed: Picture, square: Picture) -> float:
    """The aspect whose central square of the squeezed picture is most like the other copy (normalised correlation)."""
    side = 96

    def small(picture: Picture) -> NDArray[np.float32]:
        grey = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), (side, side), interpolation=cv2.INTER_AREA)
        values = grey.astype(np.float32)
        return np.asarray((values - values.mean()) / (values.std() + 1e-3))

    wanted = small(square)
    return max(ASPECTS, key=lambda aspect: float((small(centre_of(squeezed, aspect)) * wanted).mean()))


def aspects(squeezed: Path, sharper: Path) -> dict[str, tuple[float, bool]]:
    """Image id -> aspect and whether it was found on its own two copies."""
    files = sorted(path for split in SPLITS for path in (squeezed / "images" / split).glob("*.jpg"))
    if not files:
        raise PesiError(
            f"{squeezed} has no images/train, val and test.", "Give the folder of ISIC 2017's small copies."
        )
    known: dict[str, float] = {}
    for path in tqdm(files, unit="image", desc="aspects", disable=not sys.stderr.isatty()):
        other = sharper / path.relative_to(squeezed)
        if other.is_file():
            known[path.stem] = aspect_of(_read(path), _read(other))
    if not known:
        raise PesiError(f"{sharper} has none of the images.", "Give the folder of ISIC 2017's 512 px copies.")
    numbers = np.array([int(name.partition("_")[2]) for name in known])
    values = list(known.values())
    result = {}
    for path in files:
        own = known.get(path.stem)
        if own is None:
            nearest = np.argsort(np.abs(numbers - int(path.stem.partition("_")[2])), kind="stable")[:NEIGHBOURS]
            own = Counter(values[i] for i in nearest).most_common(1)[0][0]
        result[path.stem] = own, path.stem in known
    return result


def write_level(squeezed: Path, sharper: Path, out: Path) -> None:
    """Write the folder; what is there already stays.

    Raises:
        PesiError: A folder has no such images.
        StorageError: The system refused to write.
    """
    found = aspects(squeezed, sharper)
    for split in SPLITS:
        for path in tqdm(
            sorted((squeezed / "images" / split).glob("*.jpg")),
            unit="image",
            desc=split,
            disable=not sys.stderr.isatty(),
        ):
            aspect, paired = found[path.stem]
            source = sharper if paired else squeezed
            picture = _read(source / path.relative_to(squeezed))
            level = levelled(picture, aspect) if paired else centre_of(picture, aspect)
            _write(out / path.relative_to(squeezed), level, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            name = Path("masks") / f"{path.stem}_segmentation.png"
            if (source / name).is_file():
                mask = _read(source / name, cv2.IMREAD_GRAYSCALE)
                small = np.asarray(cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)
                _write(out / name, small if paired else centre_of(mask, aspect, nearest=True), [])
    for path in sorted(squeezed.iterdir()):
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image_id", "aspect", "paired"])
    rows.writerows([name, f"{aspect:.3f}", int(paired)] for name, (aspect, paired) in sorted(found.items()))
    write_text(out / "aspects.csv", table.getvalue())


def _read(path: Path, how: int = cv2.IMREAD_COLOR) -> Picture:
    picture = cv2.imread(str(path), how)
    if picture is None:
        raise PesiError(f"{path} cannot be read.", "Copy the data set again.")
    return np.asarray(picture, np.uint8)


def _write(path: Path, picture: Picture, options: list[int]) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, picture, options)
    if not done:
        raise PesiError(f"{path} cannot be encoded.", "Check the picture.")
    with whole_file(path) as temporary:
        temporary.write_bytes(data.tobytes())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squeezed", type=Path, help="Folder of the 256 px copies, all images.")
    parser.add_argument("sharper", type=Path, help="Folder of the 512 px copies, most images.")
    parser.add_argument("--out", type=Path, required=True, help="Where the data set is written.")
    options = parser.parse_args()
    try:
        write_level(options.squeezed, options.sharper, options.out)
    except PesiError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
