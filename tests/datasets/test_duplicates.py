"""Near-duplicates: every way of copying a photograph is found, other pictures of the same kind are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pesi.datasets.duplicates import clusters, near_duplicates
from pesi.datasets.readers import read_dataset
from pesi.datasets.records import record_table
from pesi.datasets.splits import leak_report
from pesi.errors import DataError, ImageError


def picture(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """A dark blob in the middle of skin, with texture at several scales: alike but for the texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    texture = sum(
        amplitude * cv2.resize(rng.normal(size=(cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
        for cells, amplitude in ((6, 14), (14, 14), (30, 14), (60, 8))
    )
    blob = 80 / (1 + np.exp(12 * (np.hypot(1.2 * x, y) - 0.55)))
    gray = 190 - blob + texture
    return np.clip(np.stack([gray, gray - 40, gray - 60], axis=-1), 0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda p: p,
    "rotated by 90 degrees": lambda p: np.rot90(p),
    "rotated by 180 degrees": lambda p: np.rot90(p, 2),
    "rotated by 270 degrees": lambda p: np.rot90(p, 3),
    "flipped": lambda p: p[:, ::-1],
    "flipped upside down": lambda p: p[::-1],
    "transposed": lambda p: p.swapaxes(0, 1),
    "transposed along the other diagonal": lambda p: np.rot90(p, 2).swapaxes(0, 1),
    "half the size": lambda p: cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "squeezed to a square": lambda p: cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA),
    "brighter": lambda p: np.clip(p * 1.1 + 12, 0, 255).astype(np.uint8),
    "darker and flatter": lambda p: (p * 0.7 + 10).astype(np.uint8),
    "recoloured": lambda p: np.clip(p * [0.8, 1.1, 1.3], 0, 255).astype(np.uint8),
    "cropped": lambda p: p[3:-6, 10:-2],
}


def saved(path: Path, image: np.ndarray, quality: int = 90) -> Path:
    Image.fromarray(np.ascontiguousarray(image)).save(path, quality=quality)
    return path


def table(paths: list[Path]) -> pd.DataFrame:
    return record_table({"image_id": path.stem, "path": str(path), "source": "test"} for path in paths)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    paths = [saved(tmp_path / f"im{seed}.jpg", picture(seed)) for seed in range(6)]
    paths.insert(2, saved(tmp_path / "copy.jpg", COPIES[name](picture(4)), quality=60))
    found = near_duplicates(table(paths))
    assert list(zip(found["image_a"], found["image_b"], strict=True)) == [("copy", "im4")]


def test_equal_files_have_distance_zero(tmp_path: Path) -> None:
    found = near_duplicates(table([saved(tmp_path / f"{name}.png", picture(1)) for name in "ab"]))
    assert found["distance"].tolist() == pytest.approx([0.0], abs=1e-5)


def test_alike_pictures_are_candidates_but_no_pairs(tmp_path: Path) -> None:
    """The hash alone is not enough: pHash sees these as near as real copies."""
    base = picture(0).astype(float)
    broad = cv2.GaussianBlur(base, (0, 0), 12)
    paths = []
    for seed in range(5):  # the same coarse shape with another texture
        fine = picture(seed).astype(float)
        image = np.clip(broad + fine - cv2.GaussianBlur(fine, (0, 0), 12), 0, 255).astype(np.uint8)
        paths.append(saved(tmp_path / f"im{seed}.jpg", image))
    hashes = [imagehash.phash(Image.open(path)) for path in paths]
    assert min(a - b for i, a in enumerate(hashes) for b in hashes[:i]) <= 10
    assert near_duplicates(table(paths)).empty


def test_between_two_sets_only_pairs_of_one_image_of_each_are_found(tmp_path: Path) -> None:
    ours = [saved(tmp_path / f"ours{seed}.jpg", picture(seed)) for seed in (0, 1, 2)]
    ours.append(saved(tmp_path / "again.jpg", picture(2)))  # a pair within the first set
    theirs = [saved(tmp_path / f"theirs{seed}.jpg", picture(seed)) for seed in (7, 8)]
    theirs.append(saved(tmp_path / "theirs7_too.jpg", picture(7)))  # and one within the second
    theirs += [
        saved(tmp_path / f"theirs{seed}.jpg", COPIES[name](picture(seed)))
        for seed, name in ((1, "rotated by 90 degrees"), (2, "transposed"))
    ]
    seen: list[int] = []
    found = near_duplicates(table(ours), against=table(theirs), progress=seen.append)
    pairs = set(zip(found["image_a"], found["image_b"], strict=True))
    assert pairs == {("ours1", "theirs1"), ("ours2", "theirs2"), ("again", "theirs2")}
    assert seen[-1] == 4 + 5


def test_flat_pictures_are_no_pairs(tmp_path: Path) -> None:
    flat = np.full((40, 40, 3), 128, dtype=np.uint8)
    found = near_duplicates(table([saved(tmp_path / f"{name}.png", flat) for name in "ab"]))
    assert found.empty
    assert list(found.columns) == ["image_a", "image_b", "distance"]


def test_progress_counts_the_images(tmp_path: Path) -> None:
    seen: list[int] = []
    near_duplicates(table([saved(tmp_path / f"{seed}.jpg", picture(seed)) for seed in range(3)]), progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan")])
def test_bad_thresholds_are_refused(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(DataError, match="threshold"):
        near_duplicates(table([saved(tmp_path / "a.jpg", picture(0))]), threshold=threshold)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        near_duplicates(table([tmp_path / "bad.jpg"]))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12))
def test_clusters_are_the_connected_components(count: int, ends: list[tuple[int, int]]) -> None:
    ends = [(a % count, b % count) for a, b in ends]
    records = record_table({"image_id": f"im{i}", "path": f"{i}.jpg", "source": "test"} for i in range(count))
    pairs = pd.DataFrame([(f"im{a}", f"im{b}") for a, b in ends], columns=["image_a", "image_b"])
    found = clusters(records, pairs)
    reach = np.eye(count, dtype=bool)
    for a, b in ends:
        reach[a, b] = reach[b, a] = True
    for k in range(count):  # Warshall's closure
        reach |= reach[:, [k]] & reach[[k], :]
    same = found.to_numpy()[:, None] == found.to_numpy()[None, :]
    assert (same == reach).all()
    assert list(found.index) == list(records["image_id"])


def test_clusters_refuse_strangers() -> None:
    records = record_table([{"image_id": "a", "path": "a.jpg", "source": "test"}])
    with pytest.raises(DataError, match="'b' in the pairs"):
        clusters(records, pd.DataFrame({"image_a": ["a"], "image_b": ["b"]}))


def test_isic2017_known_pairs_are_found(real_data: Callable[[str], Path]) -> None:
    """All twelve listed pairs among 350 images, and few others."""
    folder = real_data("isic2017")
    listed = pd.read_csv(folder / "near_duplicates.csv")
    records = read_dataset(folder)
    ids = {*listed["image_a"], *listed["image_b"], *records["image_id"].sample(330, random_state=0)}
    part = records[records["image_id"].isin(ids)]
    found = near_duplicates(part)
    pairs = {frozenset(pair) for pair in zip(found["image_a"], found["image_b"], strict=True)}
    known = {frozenset(pair) for pair in zip(listed["image_a"], listed["image_b"], strict=True)}
    assert known <= pairs
    assert len(pairs - known) <= 5
    crossing = leak_report(part, found).pairs
    assert crossing is not None
    assert len(crossing) >= 6


def test_ham10000_pairs_are_of_one_lesion(real_data: Callable[[str], Path]) -> None:
    """The lesion ids, which play no part in the search, agree with nearly every pair found."""
    records = read_dataset(real_data("ham10000")).sort_values("lesion_id").head(400)
    found = near_duplicates(records)
    lesion = records.set_index("image_id")["lesion_id"]
    same = lesion[found["image_a"]].to_numpy() == lesion[found["image_b"]].to_numpy()
    assert len(found) >= 10
    assert same.mean() > 0.8
