"""The ABCD description on shapes and pictures of known answer, against closed forms and scikit-image."""

from __future__ import annotations

import io
import json
import math

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage.color import deltaE_cie76, rgb2lab
from skimage.measure import perimeter_crofton, regionprops

from pesi.errors import DataError, ImageError
from pesi.explain.asymmetry import measure_asymmetry, principal_angle
from pesi.explain.border import feret_diameter, measure_border
from pesi.explain.colours import REFERENCES, measure_colours, srgb
from pesi.explain.description import DEFINITIONS, NO_TOTAL, attention_shares, describe_lesion
from pesi.explain.description_picture import description_png
from pesi.explain.lesion_patch import cielab, lesion_patch
from pesi.explain.localisation import attention_inside
from pesi.explain.maps import explain
from pesi.predict.segmenter import LesionMask

SKIN, BROWN = (225, 185, 165), (100, 65, 50)


def disc(size: int = 400, radius: int = 90, x: int = 200, y: int = 200) -> np.ndarray:
    return cv2.circle(np.zeros((size, size), np.uint8), (x, y), radius, 1.0, -1) > 0


def polygon(points: np.ndarray, size: int = 400) -> np.ndarray:
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [np.round(points).astype(np.int32)], 1.0) > 0


def star(outer: float = 150, inner: float = 75, turn: float = 0.0) -> np.ndarray:
    angles = np.radians(turn + 36 * np.arange(10))
    radii = np.where(np.arange(10) % 2, inner, outer)
    return 200 + np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)


def painted(mask: np.ndarray, colour: tuple[int, int, int] = BROWN) -> np.ndarray:
    image = np.full((*mask.shape, 3), SKIN, np.uint8)
    image[mask] = colour
    return image


def shape_of(mask: np.ndarray):
    patch = lesion_patch(painted(mask), mask)
    return measure_asymmetry(patch), measure_border(patch)


def polygon_forms(points: np.ndarray) -> tuple[float, float]:
    """Perimeter and area of a polygon, by complex numbers."""
    z = points[:, 0] + 1j * points[:, 1]
    return float(np.abs(np.roll(z, -1) - z).sum()), float(abs((np.conj(z) * np.roll(z, -1)).imag.sum()) / 2)


def test_cielab_is_scikit_images():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    ours, theirs = cielab(image), rgb2lab(image)
    assert np.abs(ours - theirs).max() < 0.5  # OpenCV's table of the transfer curve; an eye sees 2
    assert np.abs(ours - theirs).mean() < 0.1
    a, b = ours[:20], ours[20:]
    assert np.abs(np.linalg.norm(a - b, axis=2) - deltaE_cie76(theirs[:20], theirs[20:])).max() < 0.7
    assert srgb(tuple(rgb2lab(np.array([[BROWN]], np.uint8))[0, 0])) == BROWN


def test_a_circle_is_round_and_symmetric():
    asymmetry, border = shape_of(disc())
    assert border.compactness == pytest.approx(1, abs=0.015)
    assert border.solidity == pytest.approx(1, abs=0.01)
    assert border.convexity == pytest.approx(1, abs=0.01)
    assert asymmetry.score == 0
    assert asymmetry.shape < 0.01
    assert asymmetry.colour < 0.1


def test_an_ellipse_and_its_axes():
    mask = cv2.ellipse(np.zeros((400, 400), np.uint8), (200, 200), (120, 60), 30, 0, 360, 1.0, -1) > 0
    asymmetry, border = shape_of(mask)
    a, b = 120.5, 60.5
    h = ((a - b) / (a + b)) ** 2
    perimeter = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))  # Ramanujan
    assert border.compactness == pytest.approx(perimeter**2 / (4 * math.pi * math.pi * a * b), rel=0.02)
    assert asymmetry.principal[0].angle == pytest.approx(30, abs=1)
    assert asymmetry.principal[1].angle == pytest.approx(120, abs=1)
    assert asymmetry.principal[0].shape < 0.02
    assert asymmetry.score == 0
    ours = math.radians(principal_angle(mask))
    theirs = regionprops(mask.astype(np.uint8))[0].orientation  # from the row axis, counter-clockwise
    assert abs(math.sin(ours - (math.pi / 2 - theirs))) < 0.01


def test_a_rectangle_about_its_axes_and_about_slanted_ones():
    mask = np.zeros((400, 400), bool)
    mask[150:250, 100:301] = True
    asymmetry, border = shape_of(mask)
    assert border.compactness == pytest.approx(600**2 / (4 * math.pi * 100 * 200), rel=0.02)
    assert border.solidity == pytest.approx(1, abs=0.01)
    assert asymmetry.principal[0].shape < 0.01
    assert asymmetry.principal[0].angle == pytest.approx(0, abs=0.5)


def test_a_square_with_a_bite():
    mask = np.zeros((400, 400), bool)
    mask[100:300, 100:300] = True
    mask[100:200, 200:300] = False  # an L: three quarters of a square
    asymmetry, border = shape_of(mask)
    # Its hull is the square without a corner triangle: 7/8 of it.
    assert border.solidity == pytest.approx(6 / 7, abs=0.01)
    assert border.convexity == pytest.approx((600 + 100 * math.sqrt(2)) / 800, abs=0.01)
    # An L has one mirror axis: its diagonal. About the other one it is asymmetric.
    assert asymmetry.score == 1
    symmetric = min(asymmetry.least, key=lambda axis: axis.shape)
    assert symmetric.shape < 0.02
    assert symmetric.angle == pytest.approx(135, abs=2.5)


def test_a_star_polygon():
    points = star()
    perimeter, area = polygon_forms(points)
    hull_perimeter, hull_area = polygon_forms(points[::2])
    asymmetry, border = shape_of(polygon(points))
    assert border.compactness == pytest.approx(perimeter**2 / (4 * math.pi * area), rel=0.05)
    assert border.solidity == pytest.approx(area / hull_area, rel=0.03)
    assert border.convexity == pytest.approx(hull_perimeter / perimeter, rel=0.03)
    assert min(axis.shape for axis in asymmetry.least) < 0.03  # five-fold: one of two perpendicular axes fits


def test_a_shape_without_any_mirror_axis_scores_two():
    points = np.array([[100, 100], [300, 130], [330, 180], [180, 200], [220, 330], [120, 260]])
    asymmetry, _ = shape_of(polygon(points))
    assert asymmetry.score == 2
    assert all(axis.shape > 0.1 for axis in asymmetry.least)


@pytest.mark.parametrize("turn", [0, 17, 41, 90])
def test_shape_measures_agree_with_scikit_image_and_do_not_turn(turn):
    mask = polygon(star(turn=turn))
    _, border = shape_of(mask)
    theirs = regionprops(mask.astype(np.uint8))[0]
    assert feret_diameter(mask)[0] == pytest.approx(theirs.feret_diameter_max, abs=0.05)
    assert border.solidity == pytest.approx(theirs.solidity, rel=0.02)
    _, upright = shape_of(polygon(star()))
    assert border.compactness == pytest.approx(upright.compactness, rel=0.03)
    crofton = perimeter_crofton(mask, directions=4)
    assert border.compactness == pytest.approx(crofton**2 / (4 * math.pi * theirs.area), rel=0.08)


def test_feret_diameters_of_known_masks():
    single = np.zeros((9, 9), bool)
    single[4, 4] = True
    assert feret_diameter(single)[0] == 1
    line = np.zeros((9, 30), bool)
    line[4, 3:23] = True
    diameter, ends = feret_diameter(line)
    assert diameter == 20
    assert sorted(ends[:, 0]) == [2.5, 22.5]
    assert feret_diameter(disc(radius=60))[0] == pytest.approx(121, abs=1)


def test_half_discs_of_two_colours():
    mask = disc()
    image = painted(mask, (180, 130, 95))
    left = mask & (np.arange(400)[None] < 200)
    image[left] = BROWN
    apart = float(deltaE_cie76(rgb2lab(np.uint8([[BROWN]])), rgb2lab(np.uint8([[(180, 130, 95)]])))[0, 0])
    for turn in (0, 30):
        matrix = cv2.getRotationMatrix2D((200, 200), turn, 1)
        turned = cv2.warpAffine(image, matrix, (400, 400), borderMode=cv2.BORDER_REPLICATE)
        asymmetry = measure_asymmetry(lesion_patch(turned, mask))
        assert asymmetry.score == 1  # only the line between the halves divides unlike ones
        worse, better = sorted(asymmetry.least, key=lambda axis: -axis.colour)
        assert better.colour < 3
        assert worse.angle == pytest.approx(90 - turn, abs=5)
        assert worse.colour == pytest.approx(apart, rel=0.15)  # less near the line, by the smoothing
        assert worse.shape < 0.02


def test_hair_makes_no_asymmetry():
    mask = disc()
    image = painted(mask)
    cv2.line(image, (130, 120), (240, 290), (20, 15, 15), 2)
    assert measure_asymmetry(lesion_patch(image, mask)).score == 0


def test_each_of_the_six_colours_is_found():
    skin = (205, 160, 140)
    for name, colour in REFERENCES.items():
        mask = disc()
        image = np.full((400, 400, 3), skin, np.uint8)
        image[mask] = colour
        colours = measure_colours(lesion_patch(image, mask))
        assert colours.present == (name,)
        assert colours.shares[name] > 0.95
    mask = disc()
    image = np.full((400, 400, 3), skin, np.uint8)
    angles = (np.degrees(np.arctan2(np.indices((400, 400))[0] - 200, np.indices((400, 400))[1] - 200)) % 360) // 60
    for index, colour in enumerate(REFERENCES.values()):
        image[mask & (angles == index)] = colour
    colours = measure_colours(lesion_patch(image, mask))
    assert colours.score == 6
    assert all(share == pytest.approx(1 / 6, abs=0.04) for share in colours.shares.values())
    assert sum(colours.shares.values()) + colours.skin_like == pytest.approx(1)
    assert colours.skin == pytest.approx(tuple(rgb2lab(np.uint8([[skin]]))[0, 0]), abs=0.1)


def test_white_must_be_lighter_than_the_skin_and_skin_is_no_colour():
    mask = disc()
    bright = np.full((400, 400, 3), (245, 235, 230), np.uint8)  # very light skin around
    bright[mask] = REFERENCES["white"]
    colours = measure_colours(lesion_patch(bright, mask))
    assert colours.shares["white"] == 0
    assert colours.score == 1  # the rule's least
    same = np.full((400, 400, 3), SKIN, np.uint8)
    assert measure_colours(lesion_patch(same, mask)).skin_like > 0.99


def test_a_sharp_border_is_abrupt_and_a_fading_one_is_not():
    mask = disc()
    sharp = painted(mask)
    distance = np.hypot(*(np.indices((400, 400)) - 200))
    fade = np.clip((distance - 40) / 100, 0, 1)[..., None]  # from the middle far beyond the border
    gradual = (np.array(BROWN) * (1 - fade) + np.array(SKIN) * fade).astype(np.uint8)
    assert measure_border(lesion_patch(sharp, mask)).score == 8
    assert measure_border(lesion_patch(gradual, mask)).score == 0
    half = np.where((np.arange(400) < 200)[None, :, None], sharp, gradual)
    border = measure_border(lesion_patch(half, mask))
    assert border.score == 4
    apart = float(deltaE_cie76(rgb2lab(np.uint8([[BROWN]])), rgb2lab(np.uint8([[SKIN]])))[0, 0])
    assert max(step for step in border.steps if step is not None) == pytest.approx(apart, rel=0.02)


def test_a_lesion_that_the_picture_cuts():
    mask = disc(x=0)
    border = measure_border(lesion_patch(painted(mask), mask))
    assert 0.3 < border.cut < 0.5  # the diameter against half the circle: 2 / (2 + pi) = 0.39
    assert border.eighths_seen < 8
    assert border.score == border.eighths_seen
    assert measure_border(lesion_patch(painted(disc()), disc())).cut == 0
    assert "edge cuts the lesion" in describe_lesion(painted(mask), mask).to_text()


def test_size_in_pixels_and_millimetres():
    mask = disc(radius=50)
    without = describe_lesion(painted(mask), mask)
    assert without.diameter_px == pytest.approx(101, abs=1)
    assert without.area_px == mask.sum()
    assert without.diameter_mm is None
    assert without.area_mm2 is None
    assert "not known" in without.to_text()
    scaled = describe_lesion(painted(mask), mask, mm_per_pixel=0.05)
    assert scaled.diameter_mm == pytest.approx(5.05, abs=0.05)
    assert scaled.area_mm2 == pytest.approx(math.pi * 2.5**2, rel=0.01)
    for scale in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DataError, match="positive"):
            describe_lesion(painted(mask), mask, mm_per_pixel=scale)


def test_the_measures_do_not_hang_on_the_resolution():
    small, large = polygon(star()), polygon(star() * 4, 1700)
    a, b = (describe_lesion(painted(mask), mask).measures() for mask in (small, large))
    assert large.sum() == pytest.approx(16 * small.sum(), rel=0.02)
    for name in ("compactness", "solidity", "convexity", "asymmetry of shape", "colour step at the border"):
        assert a[name] == pytest.approx(b[name], rel=0.05, abs=0.02), name


def test_the_largest_region_is_described_and_none_says_why():
    mask = disc() | disc(radius=5, x=20, y=20)
    assert describe_lesion(painted(mask), mask).area_px == disc().sum()
    nothing = np.zeros((400, 400), bool)
    empty = describe_lesion(painted(nothing), nothing)
    assert not empty.found
    assert empty.to_text() == "No lesion to describe: the mask is empty."
    assert empty.measures() == {}
    refused = LesionMask(disc(), np.zeros((400, 400), np.float32), 0.9, False, "no border is in sight")
    told = describe_lesion(painted(nothing), refused)
    assert told.to_dict()["reason"] == "no border is in sight"
    assert "asymmetry" not in told.to_dict()
    with pytest.raises(ImageError, match="400 x 400"):
        describe_lesion(painted(nothing)[:100], nothing)


def test_words_and_json_say_what_it_is_not():
    mask = polygon(star())
    described = describe_lesion(painted(mask), mask, mm_per_pixel=0.02, attention={"class activation": 0.5})
    text, values = described.to_text(), json.loads(json.dumps(described.to_dict(), allow_nan=False))
    assert NO_TOTAL in text
    assert "not part of the network's probability" in text
    assert "class activation 50%" in text
    assert set(values["definitions"]) == set(DEFINITIONS)
    assert "total" not in values
    assert values["asymmetry"]["score"] == described.measures()["A, asymmetry score"]
    for name in DEFINITIONS:
        group, _, key = name.partition(".")
        if group in ("border", "colours"):
            assert key in values[group]


def test_attention_inside_is_that_of_localisation(classifier, spots):
    image = np.asarray(PillowImage.open(spots["path"].iloc[0]).convert("RGB"))
    mask = np.asarray(PillowImage.open(spots["mask_path"].iloc[0])) > 0
    explanation = explain(classifier, image)
    shares = attention_shares(classifier, explanation, mask)
    inside = cv2.resize(np.where(mask, np.uint8(255), np.uint8(0)), (64, 64), interpolation=cv2.INTER_AREA) > 127
    assert shares["blended"] == pytest.approx(attention_inside(explanation.blended, inside))
    assert set(shares) == {"class activation", "blended", *explanation.attention}
    everywhere = attention_shares(classifier, explanation, np.ones_like(mask))
    assert all(share == pytest.approx(1) for share in everywhere.values())


def test_the_picture():
    mask = polygon(star())
    for lesion, described in (
        (mask, describe_lesion(painted(mask), mask, mm_per_pixel=0.02)),
        (mask & False, describe_lesion(painted(mask), mask & False)),
    ):
        drawn = PillowImage.open(io.BytesIO(description_png(painted(mask), lesion, described, title="a star")))
        assert drawn.format == "PNG"
        assert np.asarray(drawn.convert("L")).std() > 10
