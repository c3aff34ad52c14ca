import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage, stats

from pesi.errors import DataError, StorageError
from pesi.synthetic import (
    CRITERIA,
    FREQUENCIES,
    RATES,
    SyntheticImage,
    draw_lesion,
    draw_parameters,
    render,
    write_synthetic,
)

DIAGNOSES = ("MEL", "NV", "SK")
# Chardon et al. 1991, typed here again so that a slip in the code's table shows.
BANDS = {1: (55, 90), 2: (41, 55), 3: (28, 41), 4: (10, 28), 5: (-30, 10), 6: (-90, -30)}


def drawn(diagnosis: str, seed: int, *, size: int = 128, skin_tone: int | None = None) -> SyntheticImage:
    return draw_lesion(np.random.default_rng(seed), diagnosis, size=size, skin_tone=skin_tone)


@pytest.fixture(scope="module")
def gallery() -> list[SyntheticImage]:
    return [drawn(diagnosis, seed) for seed in range(40) for diagnosis in DIAGNOSES]


def healthy_skin(image: SyntheticImage) -> np.ndarray:
    """Pixels well away from the lesion and from every artefact."""
    size = len(image.image)
    skin = ~ndimage.binary_dilation(image.lesion_mask, iterations=size // 10)
    for mask in image.artefacts.values():
        skin &= ~ndimage.binary_dilation(mask, iterations=size // 40)
    return skin


def lab_of(image: SyntheticImage) -> np.ndarray:
    return cv2.cvtColor(image.image.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)


def asymmetry(mask: np.ndarray) -> float:
    """Share of the lesion that does not cover itself when mirrored about its two principal axes (ABCD rule's A)."""
    rows, columns = np.nonzero(mask)
    points = np.stack([columns, rows], axis=1).astype(float)
    centre = points.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov((points - centre).T))
    missed = []
    for axis in axes.T:
        mirrored = centre + (points - centre) - 2.0 * ((points - centre) @ axis)[:, None] * axis
        x, y = np.round(mirrored).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
        missed.append(1.0 - mask[y[inside], x[inside]].sum() / len(points))
    return float(np.mean(missed))


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = drawn("MEL", 3), drawn("MEL", 3), drawn("MEL", 4)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.lesion_mask.tobytes() == again.lesion_mask.tobytes()
    assert first.criteria.keys() == again.criteria.keys()
    assert first.parameters == again.parameters
    assert first.image.tobytes() != other.image.tobytes()


def test_a_generator_moves_on_from_image_to_image():
    rng = np.random.default_rng(0)
    assert draw_lesion(rng, "NV", size=64).image.tobytes() != draw_lesion(rng, "NV", size=64).image.tobytes()


def test_drawing_leaves_numpys_global_generator_alone():
    np.random.seed(5)  # noqa: NPY002 - the global state is what is tested
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn("SK", 1, size=64)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_recorded_parameters_render_to_the_same_picture_at_any_later_time():
    parameters = draw_parameters(np.random.default_rng(8), "SK")
    first = render(parameters, size=96)
    drawn("MEL", 1, size=64)
    assert render(first.parameters, size=96).image.tobytes() == first.image.tobytes()


def test_the_lesion_keeps_its_shape_at_another_size():
    for diagnosis in DIAGNOSES:
        small, large = drawn(diagnosis, 11, size=128), drawn(diagnosis, 11, size=256)
        shrunk = cv2.resize(large.lesion_mask.astype(np.uint8), (128, 128), interpolation=cv2.INTER_LINEAR) > 0
        assert (shrunk & small.lesion_mask).sum() / (shrunk | small.lesion_mask).sum() > 0.85


def test_shapes_types_and_names(gallery):
    for image in gallery:
        assert image.image.shape == (128, 128, 3)
        assert image.image.dtype == np.uint8
        assert 1 <= image.skin_tone <= 6
        for mask in (image.lesion_mask, *image.criteria.values(), *image.artefacts.values()):
            assert mask.shape == (128, 128)
            assert mask.dtype == np.bool_
        assert set(image.criteria) <= set(CRITERIA)
        assert set(image.artefacts) <= set(RATES)


def test_lesions_fill_a_sensible_part_of_the_picture_at_varied_places(gallery):
    areas = np.array([image.lesion_mask.mean() for image in gallery])
    assert areas.min() > 0.07
    assert areas.max() < 0.48
    assert areas.std() > 0.04
    centres = np.array([ndimage.center_of_mass(image.lesion_mask) for image in gallery]) / 128
    assert (centres.std(axis=0) > 0.02).all()


def test_criteria_lie_within_the_lesion_and_are_not_empty(gallery):
    for image in gallery:
        for name, mask in image.criteria.items():
            assert mask.any(), name
            assert not (mask & ~image.lesion_mask).any(), name
        assert all(mask.any() for mask in image.artefacts.values())


def test_nearly_every_criterion_that_was_drawn_can_be_seen(gallery):
    claimed = sum(len(image.parameters.lesion.criteria) for image in gallery)
    assert sum(len(image.criteria) for image in gallery) >= 0.97 * claimed


def test_every_criterion_occurs_and_only_where_it_belongs(gallery):
    seen = Counter((image.diagnosis, name) for image in gallery for name in image.criteria)
    assert {name for _, name in seen} == set(CRITERIA)
    assert all(name in FREQUENCIES[diagnosis] for diagnosis, name in seen)
    network = ("typical_network", "atypical_network")
    assert not any(seen["SK", name] for name in network)  # Braun 2002: no network
    assert all(seen[d, "cerebriform_ridges"] == 0 for d in ("MEL", "NV"))


def test_no_criterion_is_in_all_images_of_a_diagnosis(gallery):
    for diagnosis in DIAGNOSES:
        of_it = [image for image in gallery if image.diagnosis == diagnosis]
        shares = Counter(name for image in of_it for name in image.criteria)
        assert max(shares.values()) < len(of_it)


@pytest.mark.parametrize("tone", range(1, 7))
def test_the_skin_beside_the_lesion_has_the_tones_typology_angle(tone):
    for seed in range(6):
        image = drawn("NV" if seed % 2 else "MEL", 100 + seed, skin_tone=tone)
        lightness, _, b = np.median(lab_of(image)[healthy_skin(image)], axis=0)
        low, high = BANDS[tone]
        assert low < np.degrees(np.arctan2(lightness - 50.0, b)) < high
        assert image.skin_tone == tone


def test_all_tones_are_drawn_when_none_is_asked_for(gallery):
    assert {image.skin_tone for image in gallery} == set(BANDS)


def test_lesions_are_darker_than_the_skin_around(gallery):
    darker = []
    for image in gallery:
        lightness = lab_of(image)[..., 0]
        lesion = image.lesion_mask & ~image.artefacts.get("dark_corner", np.zeros_like(image.lesion_mask))
        darker.append(np.median(lightness[healthy_skin(image)]) - np.median(lightness[lesion]))
    assert np.mean(np.array(darker) > 3.0) > 0.95


def in_and_beside(image: SyntheticImage, criterion: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean Lab colour within a criterion and in the rest of the lesion, artefacts left out."""
    lab, clear = lab_of(image), np.ones_like(image.lesion_mask)
    for mask in image.artefacts.values():
        clear &= ~mask
    within = image.criteria[criterion] & clear
    rest = image.lesion_mask & ~image.criteria[criterion] & clear
    return lab[within].mean(axis=0), lab[rest].mean(axis=0)


@pytest.mark.parametrize(
    "criterion, channel, sign",
    [
        ("blue_white_veil", 2, -1),  # bluer
        ("regression", 0, +1),  # lighter
        ("milia_like_cysts", 0, +1),
        ("comedo_like_openings", 0, -1),  # darker
        ("irregular_blotches", 0, -1),
        ("irregular_globules", 0, -1),
        ("regular_globules", 0, -1),
    ],
)
def test_a_criterion_has_its_colour_where_its_mask_says(gallery, criterion, channel, sign):
    differences = []
    for image in gallery:
        if criterion in image.criteria and len(image.criteria) <= 4:
            within, rest = in_and_beside(image, criterion)
            differences.append(sign * (within - rest)[channel])
    assert len(differences) >= 3
    assert np.mean(np.array(differences) > 0) > 0.75
    assert np.mean(differences) > 2.0


def test_melanomas_are_more_asymmetric_than_nevi(gallery):
    measured = {d: [asymmetry(i.lesion_mask) for i in gallery if i.diagnosis == d] for d in DIAGNOSES}
    assert np.mean(measured["MEL"]) > 4.0 * np.mean(measured["NV"])
    assert stats.mannwhitneyu(measured["MEL"], measured["NV"], alternative="greater").pvalue < 1e-4


def test_borders_are_irregular_in_melanoma_and_fade_in_nevi(gallery):
    solidity: dict[str, list[float]] = {d: [] for d in DIAGNOSES}
    step: dict[str, list[float]] = {d: [] for d in DIAGNOSES}
    for image in gallery:
        contours, _ = cv2.findContours(image.lesion_mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        contour = max(contours, key=cv2.contourArea)
        solidity[image.diagnosis].append(cv2.contourArea(contour) / cv2.contourArea(cv2.convexHull(contour)))
        # How much of the contrast is reached within 4 pixels of the border.
        lightness = lab_of(image)[..., 0]
        distance = ndimage.distance_transform_edt(image.lesion_mask)
        outside = ndimage.distance_transform_edt(~image.lesion_mask)
        ring = np.median(lightness[(outside > 2) & (outside < 5)]) - np.median(
            lightness[(distance > 2) & (distance < 5)]
        )
        full = np.median(lightness[(outside > 8) & (outside < 14)]) - np.median(lightness[distance > 8])
        step[image.diagnosis].append(ring / max(full, 3.0))
    assert np.median(solidity["MEL"]) < np.median(solidity["NV"]) - 0.04
    assert np.median(step["SK"]) > np.median(step["NV"]) + 0.2


def test_melanomas_show_more_colours_than_nevi(gallery):
    spread: dict[str, list[float]] = {d: [] for d in DIAGNOSES}
    for image in gallery:
        if not {"hair", "gel_bubble"} & image.artefacts.keys():
            smooth = cv2.GaussianBlur(lab_of(image), (0, 0), 3.0)  # away with network and globules
            spread[image.diagnosis].append(float(np.sqrt(smooth[image.lesion_mask].var(axis=0).sum())))
    assert np.mean(spread["MEL"]) > 1.3 * np.mean(spread["NV"])


def test_skin_and_artefacts_do_not_depend_on_the_diagnosis():
    for seed in range(12):
        mel, nv, sk = (drawn(d, seed) for d in DIAGNOSES)
        for other in (nv, sk):
            assert other.parameters.skin == mel.parameters.skin
            assert other.parameters.artefacts == mel.parameters.artefacts
            assert other.artefacts.keys() == mel.artefacts.keys()
            assert all(np.array_equal(other.artefacts[name], mel.artefacts[name]) for name in mel.artefacts)
            assert other.parameters.lesion.area == mel.parameters.lesion.area
            assert other.parameters.lesion.centre == mel.parameters.lesion.centre
        far = ~ndimage.binary_dilation(mel.lesion_mask | nv.lesion_mask | sk.lesion_mask, iterations=30)
        assert far.any()
        assert np.array_equal(mel.image[far], sk.image[far])
        assert not np.array_equal(mel.image, sk.image)


def test_artefacts_are_independent_of_the_label_and_as_frequent_as_stated():
    diagnoses = np.random.default_rng(1).permutation(np.repeat(DIAGNOSES, 700))
    root = np.random.default_rng(2)
    found = [draw_parameters(root, d).artefacts.present for d in diagnoses]
    for name, rate in RATES.items():
        present = np.array([name in f for f in found])
        table = [[np.sum(present & (diagnoses == d)), np.sum(~present & (diagnoses == d))] for d in DIAGNOSES]
        assert stats.chi2_contingency(table).pvalue > 0.001, name
        assert abs(present.mean() - rate) < 0.04, name


def test_an_artefact_changes_the_picture_where_its_mask_says(gallery):
    for name in RATES:
        image = next(i for i in gallery if name in i.artefacts)
        others = tuple(n for n in image.parameters.artefacts.present if n != name)
        without = render(
            replace(image.parameters, artefacts=replace(image.parameters.artefacts, present=others)), size=128
        )
        change = np.abs(image.image.astype(int) - without.image.astype(int)).max(axis=-1)
        mask = image.artefacts[name]
        assert change[mask].mean() > 4 * max(change[~ndimage.binary_dilation(mask, iterations=4)].mean(), 0.5), name


@pytest.mark.parametrize("arguments", [{"diagnosis": "BCC"}, {"skin_tone": 0}, {"skin_tone": 7}, {"size": 16}])
def test_impossible_wishes_are_refused(arguments):
    with pytest.raises(DataError):
        draw_lesion(np.random.default_rng(0), **{"diagnosis": "MEL", **arguments})


@pytest.fixture(scope="module")
def small_set(tmp_path_factory) -> tuple[Path, list[int]]:
    done: list[int] = []
    root = tmp_path_factory.mktemp("synthetic") / "set"
    assert write_synthetic(root, train=12, val=4, test=5, size=64, seed=7, progress=done.append) == root
    return root, done


def test_the_layout_is_that_of_isic_2017(small_set):
    root, done = small_set
    assert done == list(range(1, 22))
    files = {
        "train": ("ISIC-2017_Training_Part3_GroundTruth.csv", 12),
        "val": ("ISIC-2017_Validation_Part3_GroundTruth.csv", 4),
        "test": ("ISIC-2017_Test_v2_Part3_GroundTruth.csv", 5),
    }
    ids: list[str] = []
    for split, (name, count) in files.items():
        table = pd.read_csv(root / name)
        assert list(table.columns) == ["image_id", "melanoma", "seborrheic_keratosis"]
        assert table.dtypes["melanoma"] == table.dtypes["seborrheic_keratosis"] == np.float64
        assert len(table) == count
        assert (table["melanoma"] + table["seborrheic_keratosis"] <= 1).all()
        assert sorted(p.stem for p in (root / "images" / split).glob("*.jpg")) == sorted(table["image_id"])
        ids += list(table["image_id"])
    assert ids == [f"SYN_{i:07d}" for i in range(21)]
    assert len(list((root / "masks").glob("SYN_*_segmentation.png"))) == 21
    assert "SYNTHETIC" in (root / "README.txt").read_text()
    assert "NOT FOR CLINICAL USE" in (root / "README.txt").read_text()


def test_the_tables_agree_with_the_drawing(small_set):
    root, _ = small_set
    metadata = pd.read_csv(root / "metadata.csv").set_index("image_id")
    artefacts = pd.read_csv(root / "artefacts.csv").set_index("image_id")
    assert list(artefacts.columns) == ["dark_corner", "hair", "gel_border", "gel_bubble", "ruler", "ink", "patches"]
    assert artefacts.isin([0, 1]).all(axis=None)
    assert metadata[["age_approximate", "sex", "anatom_site_general"]].isna().all(axis=None)
    train = metadata[metadata["split"] == "train"]
    assert Counter(train["diagnosis"]) == {"MEL": 4, "NV": 4, "SK": 4}
    assert list(train["diagnosis"]) != sorted(train["diagnosis"])
    truth = pd.read_csv(root / "ISIC-2017_Training_Part3_GroundTruth.csv").set_index("image_id")
    assert ((train["diagnosis"] == "MEL") == (truth["melanoma"] == 1)).all()
    assert ((train["diagnosis"] == "SK") == (truth["seborrheic_keratosis"] == 1)).all()
    for index, image_id in enumerate(metadata.index):
        rng = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(index,)))
        image = draw_lesion(rng, metadata.loc[image_id, "diagnosis"], size=64)
        assert image.skin_tone == metadata.loc[image_id, "skin_tone"]
        assert set(image.artefacts) == {name for name in RATES if artefacts.loc[image_id, name]}
        mask = np.asarray(Image.open(root / "masks" / f"{image_id}_segmentation.png"))
        assert np.array_equal(mask, image.lesion_mask * np.uint8(255))
        criteria = {p.stem.removeprefix(f"{image_id}_") for p in (root / "criteria").glob(f"{image_id}_*.png")}
        assert criteria == set(image.criteria)
        with Image.open(next(root.glob(f"images/*/{image_id}.jpg"))) as jpeg:
            assert jpeg.size == (64, 64)
            assert b"synthetic" in jpeg.info["comment"]
            assert "synthetic" in jpeg.getexif()[0x010E]
            assert np.abs(np.asarray(jpeg).astype(int) - image.image).mean() < 8


def test_two_workers_write_the_same_bytes_as_one(small_set, tmp_path):
    root, _ = small_set
    done: list[int] = []
    write_synthetic(tmp_path / "set", train=12, val=4, test=5, size=64, seed=7, workers=2, progress=done.append)
    assert done == list(range(1, 22))
    assert hashes(tmp_path / "set") == hashes(root)


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path):
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    write_synthetic(empty, train=1, val=0, test=0, size=64)
    assert (empty / "README.txt").exists()
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        write_synthetic(full, train=1, val=0, test=0, size=64)
    assert [p.name for p in full.iterdir()] == ["mine.txt"]


def test_a_set_that_breaks_off_leaves_nothing_behind(tmp_path):
    def stop(done: int) -> None:
        if done == 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left"):
        write_synthetic(tmp_path / "set", train=3, val=0, test=0, size=64, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"train": -1}, {"seed": -1}, {"workers": 0}, {"size": 8}, {"train": 0, "val": 0, "test": 0}]
)
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(DataError):
        write_synthetic(tmp_path / "set", **{"train": 1, "val": 1, "test": 1, "size": 64, **wrong})
    assert list(tmp_path.iterdir()) == []
