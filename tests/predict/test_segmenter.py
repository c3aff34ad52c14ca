"""From an image to its lesion: regions against scipy, geometry, why none is found; the bundle and its damage."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn

import pesi
from pesi.bundle.card import keep_measured, model_card
from pesi.bundle.config import read_config
from pesi.bundle.files import FORMAT_VERSION
from pesi.bundle.segmenter import SegmenterConfig, SegmenterMeasured, load_segmenter, save_segmenter
from pesi.errors import BundleError, ImageError
from pesi.images.decode import decode_image
from pesi.images.quality import quality_verdicts
from pesi.images.regions import Seen
from pesi.images.transforms import fit_square
from pesi.nn.segmenter import PesiSegmenter, create_segmenter
from pesi.predict.segmenter import (
    LesionSegmenter,
    largest_region,
    lesion_of,
    shipped_segmenter,
    shipped_segmenter_folder,
)

CONFIG = SegmenterConfig(
    name="tiny",
    network={"encoder": "pesi_lite0", "options": {"width": 2, "attention": "none"}},
    preprocess={"source_size": 96, "size": 64, "geometry": "squeeze", "mean": (0.5,) * 3, "std": (0.5,) * 3},
)


class Dark(nn.Module):
    """Stands in for a network: what is darker than mid gray is lesion."""

    def forward_described(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return -20 * x.mean(1, keepdim=True), x.mean((2, 3))


def dark_segmenter(geometry: str = "squeeze", **changes) -> LesionSegmenter:
    preprocess = CONFIG.preprocess.model_copy(update={"geometry": geometry})
    return LesionSegmenter(CONFIG.model_copy(update={"preprocess": preprocess, **changes}), Dark(), device="cpu")


def with_spot(height: int, width: int, radius: int, centre: tuple[int, int] | None = None) -> np.ndarray:
    image = np.full((height, width, 3), 220, np.uint8)
    return cv2.circle(image, centre or (width // 2, height // 2), radius, (40.0, 30.0, 30.0), -1)


@pytest.fixture(scope="module")
def network() -> PesiSegmenter:
    torch.manual_seed(0)
    return create_segmenter("pesi_lite0", width=2, attention="none")


@pytest.fixture
def folder(tmp_path, network):
    save_segmenter(tmp_path / "bundle", CONFIG, network, card=model_card(CONFIG))
    return tmp_path / "bundle"


def test_largest_region_is_scipys():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.5, 0.7):
        noise = cv2.GaussianBlur(rng.random((80, 100)), (0, 0), 2)
        mask = noise > np.quantile(noise, 1 - share)
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = ndimage.sum(mask, labels, range(1, count + 1))
        expected = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
        np.testing.assert_array_equal(largest_region(mask), expected)
    assert not largest_region(np.zeros((5, 7), bool)).any()
    assert largest_region(np.ones((5, 7), bool)).all()


def test_holes_and_specks():
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10:14, 10:14] = False
    mask[30:33, 30:33] = True
    expected = np.zeros((40, 40), bool)
    expected[5:25, 5:25] = True
    np.testing.assert_array_equal(largest_region(mask), expected)


@pytest.mark.parametrize(
    ("side", "found", "why"),
    [(0, False, "no pixel"), (2, False, "less than"), (50, True, ""), (99, True, ""), (100, False, "no border")],
)
def test_when_none_is_found_it_says_why(side, found, why):
    probability = np.full((100, 100), 0.1, np.float32)
    probability[:side, :side] = 0.9
    lesion = lesion_of(probability, threshold=0.5, minimum_area=0.003, maximum_area=0.9802)
    assert lesion.found is found
    assert why in lesion.reason
    assert bool(lesion.reason) is not found
    assert lesion.area == pytest.approx(side**2 / 1e4)
    assert lesion.mask.sum() == side**2


def test_exactly_at_the_threshold_is_skin():
    half = np.full((10, 10), 0.5, np.float32)
    assert not lesion_of(half, threshold=0.5, minimum_area=0, maximum_area=1).mask.any()


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
def test_the_mask_is_in_the_images_own_geometry(geometry):
    image = with_spot(150, 240, 40, (130, 70))
    lesion = dark_segmenter(geometry).segment(image)
    truth = image[..., 0] < 128
    assert lesion.mask.shape == lesion.probability.shape == (150, 240)
    assert lesion.probability.dtype == np.float32
    assert (lesion.mask & truth).sum() / (lesion.mask | truth).sum() > 0.93
    assert lesion.found
    assert lesion.area == lesion.mask.mean()
    if geometry == "center_crop":
        assert not lesion.probability[:, :44].any()


def test_one_and_many_agree():
    squares = [with_spot(96, 96, radius) for radius in (0, 10, 20, 30, 40)]
    segmenter = dark_segmenter()
    many = segmenter.segment_many(np.stack(squares), batch_size=2)
    for square, lesion in zip(squares, many, strict=True):
        one = segmenter.segment(square)
        np.testing.assert_array_equal(one.mask, lesion.mask)
        assert one.found == lesion.found
    assert segmenter.segment_many([]) == []
    with pytest.raises(ImageError, match="not square"):
        segmenter.segment_many([with_spot(50, 60, 9)])


def test_a_picture_asked_for_again_is_not_looked_at_again(monkeypatch):
    """The quality gate and the lesion's crop ask in turn. A picture that was changed is another one."""
    segmenter, picture = dark_segmenter(), with_spot(96, 96, 20)
    looked_at: list[int] = []
    look = segmenter.outputs
    monkeypatch.setattr(segmenter, "outputs", lambda squares: looked_at.append(len(squares)) or look(squares))
    first = segmenter.segment(picture)
    first.probability[:] = 0
    again = segmenter.segment(picture.copy())
    assert len(looked_at) == 1
    np.testing.assert_array_equal(again.mask, dark_segmenter().segment(picture).mask)
    np.testing.assert_array_equal(again.probability, dark_segmenter().segment(picture).probability)
    picture[:] = picture[0, 0]
    assert not segmenter.segment(picture).found
    assert len(looked_at) == 2


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), "u1")]
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ImageError, match=r"must be uint8|is gray|64 bits a sample"):
        dark_segmenter().segment(image)


def test_round_trip(folder, network):
    config, again = load_segmenter(folder)
    assert config.model_copy(update={"weights_sha256": ""}) == CONFIG
    assert config.bundle_id.startswith("tiny@")
    stored = load_file(folder / "model.safetensors")
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            assert stored[name].dtype == torch.float16
            torch.testing.assert_close(again.state_dict()[name], value.half().float())
        else:
            assert torch.equal(again.state_dict()[name], value)
    assert not any(name.startswith(("encoder.fc", "encoder.conv_top")) for name in stored)
    image = with_spot(70, 90, 20)
    lesion = LesionSegmenter.load(folder, device="cpu").segment(image)
    assert lesion.probability.shape == (70, 90)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_measured_figures_go_into_config_and_card(folder):
    before = (folder / "model.safetensors").read_bytes()
    config = keep_measured(folder, SegmenterMeasured(on="made", images=3, found=2, scores={"jaccard": (0.7, 0.6, 0.8)}))
    assert load_segmenter(folder)[0] == config
    assert "jaccard 0.700 (95 % interval 0.600 to 0.800)" in (folder / "README.md").read_text()
    assert (folder / "model.safetensors").read_bytes() == before


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("version", "cure"), [(FORMAT_VERSION + 1, "Upgrade"), (0, "Train"), (None, "Train")])
def test_another_version(folder, version, cure):
    edit(folder, format_version=version)
    with pytest.raises(BundleError, match=f"version {version}") as caught:
        SegmenterConfig.read(folder)
    assert cure in caught.value.cure


def test_damage(folder, tmp_path):
    with pytest.raises(BundleError, match=r"has no config\.json"):
        SegmenterConfig.read(tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"not the file that config\.json names"):
        load_segmenter(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"no model\.safetensors"):
        load_segmenter(folder)
    edit(folder, threshold=2)
    with pytest.raises(BundleError, match="threshold"):
        SegmenterConfig.read(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        SegmenterConfig.read(folder)


def test_another_kind_of_bundle(folder, tmp_path):
    with pytest.raises(BundleError):
        read_config(folder)  # a segmenter is no classifier
    config = json.loads((folder / "config.json").read_text())
    config.pop("kind")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="no segmenter's bundle"):
        load_segmenter(folder)


def test_another_network_does_not_fit(folder):
    for network in ({"encoder": "pesi18", "options": {"width": 2}}, {"encoder": "pesi_lite0", "options": {"widht": 2}}):
        edit(folder, network=network)
        with pytest.raises(BundleError, match="do not fit"):
            load_segmenter(folder)


def test_weights_that_float16_cannot_hold_are_not_written(tmp_path, network):
    state = {name: value.clone() for name, value in network.state_dict().items()}
    other = create_segmenter("pesi_lite0", width=2, attention="none")
    state["head.weight"][0] = 1e6
    other.load_state_dict(state)
    with pytest.raises(BundleError, match=r"head\.weight are not finite"):
        save_segmenter(tmp_path / "bundle", CONFIG, other, card="")
    assert not (tmp_path / "bundle").exists()


def test_the_shipped_segmenter():
    """It is there and finds a lesion on skin, or says that there is none in this version."""
    folder = shipped_segmenter_folder()
    if folder is None:
        with pytest.raises(BundleError, match="ships no lesion segmenter"):
            shipped_segmenter()
        return
    segmenter = shipped_segmenter(device="cpu")
    assert segmenter.config.measured is not None
    assert (folder / "model.safetensors").stat().st_size < 15e6
    rng = np.random.default_rng(0)
    skin = rng.normal((205, 165, 145), 6, (200, 260, 3))
    distance = np.hypot(*(np.mgrid[:200, :260] - np.array([95, 140]).reshape(2, 1, 1)))
    share = 1 / (1 + np.exp((distance - 45) / 3))[..., None]
    image = np.clip(skin * (1 - share) + rng.normal((95, 55, 40), 8, skin.shape) * share, 0, 255).astype(np.uint8)
    lesion = segmenter.segment(image)
    truth = distance < 45
    assert lesion.found
    assert (lesion.mask & truth).sum() / (lesion.mask | truth).sum() > 0.6


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
def test_a_file_that_is_read_smaller_is_answered_in_its_own_geometry(geometry, tmp_path, monkeypatch):
    image = with_spot(300, 401, 60, (180, 130))
    Image.fromarray(image).save(tmp_path / "large.png")
    whole = dark_segmenter(geometry).segment(tmp_path / "large.png")
    monkeypatch.setattr("pesi.images.decode.FULL_PIXELS", 100 * 100)
    for source in (tmp_path / "large.png", str(tmp_path / "large.png"), (tmp_path / "large.png").read_bytes()):
        reduced = dark_segmenter(geometry).segment(source)
        assert reduced.mask.shape == reduced.probability.shape == image.shape[:2]
        assert np.mean(reduced.mask != whole.mask) < 0.02
        assert np.abs(reduced.probability - whole.probability).mean() < 0.02
        assert reduced.found


@pytest.mark.parametrize("geometry", ["squeeze", "center_crop", "pad"])
@pytest.mark.parametrize("height, width", [(300, 300), (300, 400), (400, 300)])
def test_a_square_s_lesion_is_that_of_the_whole_image(geometry, height, width):
    segmenter = dark_segmenter(minimum_area=0.0, maximum_area=1.0)
    image = with_spot(height, width, 60)
    square = fit_square(np.where(segmenter.segment(image).mask, np.uint8(255), np.uint8(0)), 128, geometry) > 127
    found = segmenter.find_seen(Seen(image), 128, geometry)
    assert (found & square).sum() / (found | square).sum() > 0.93
    if height == width:
        np.testing.assert_array_equal(
            segmenter.find_seen(Seen(image), 96, geometry), segmenter.find(fit_square(image, 96, "squeeze"))
        )


def test_threads_do_not_mix_their_pictures():
    segmenter = dark_segmenter(minimum_area=0.0, maximum_area=1.0)
    images = [with_spot(96, 96, radius) for radius in range(8, 40, 4)]
    expected = [segmenter.segment(image).area for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            assert list(pool.map(lambda image: segmenter.segment(image).area, images)) == expected


@pytest.mark.slow
def test_real_images_are_segmented_once_and_judged_as_at_full_size(shared):
    segmenter, classifier = shipped_segmenter(device="cpu"), pesi.load(device="cpu")
    passes: list[int] = []
    outputs = segmenter.outputs
    paths = sorted((shared / "data" / "isic_extra" / "images").glob("*.jpg"))[::20]
    levels = []
    for path in paths:
        image = decode_image(path)
        lesion = segmenter.segment(image)
        whole = quality_verdicts(image, mask=lesion.mask & lesion.found, not_found=lesion.reason)
        segmenter.outputs = lambda squares: (passes.append(1), outputs(squares))[1]
        reading = classifier.read(path)
        segmenter.outputs = outputs
        levels.append([v.level for v in reading.verdicts[1:]] == [v.level for v in whole])
        for small, large in zip(reading.verdicts[1:], whole, strict=True):
            assert small.value == pytest.approx(large.value, abs=0.02), (path, small)
    assert len(passes) <= len(paths)
    assert np.mean(levels) > 0.95
