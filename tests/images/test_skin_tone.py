"""Skin tone: patches of known CIELAB colour (scikit-image's conversion), and what must not matter to it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.color import lab2rgb

from pesi.images.skin_tone import SKIN_TONES, ita_degrees, skin_tone, skin_tone_group

# L*, a*, b* and group. The angles are 68.2, 49.4, 34.7, 19.3, -21.8 and -61.2 degrees.
SKINS = [
    ((75, 12, 10), "very light"),
    ((71, 12, 18), "light"),
    ((63.5, 13, 19.5), "intermediate"),
    ((57, 14, 20), "tan"),
    ((42, 14, 20), "brown"),
    ((30, 9, 11), "dark"),
]


def patch(lab, size=128):
    rgb = lab2rgb(np.full((size, size, 3), lab, np.float64))
    return np.round(rgb * 255).astype(np.uint8)


def spot(size=128, radius=20):
    return cv2.circle(np.zeros((size, size), np.uint8), (size // 2, size // 2), radius, 1, -1) > 0


@pytest.mark.parametrize(("lab", "group"), SKINS)
def test_uniform_skin_of_known_colour(lab, group):
    image = patch(lab)
    image[spot()] = (60, 30, 25)
    tone = skin_tone(image, spot())
    expected = math.degrees(math.atan((lab[0] - 50) / lab[2]))
    assert tone.ita == pytest.approx(expected, abs=1.5)  # 8-bit colours: b* is rounded
    assert tone.group == group
    assert tone.reason == ""


def test_what_is_not_skin_does_not_matter():
    skin = (66, 13, 18)
    plain = patch(skin)
    image = plain.copy()
    rng = np.random.default_rng(0)
    image[spot()] = (50, 25, 20)
    corners = cv2.circle(np.zeros((128, 128), np.uint8), (64, 64), 62, 1, -1) == 0
    image[corners] = 3
    for _ in range(12):  # hair
        a, b = rng.integers(0, 128, (2, 2))
        cv2.line(image, a.tolist(), b.tolist(), (45, 30, 25), 1)
    for x in range(20, 110, 6):  # a ruler
        cv2.line(image, (x, 100), (x, 108), (10, 10, 10), 1)
    cv2.circle(image, (90, 40), 5, (255, 255, 255), -1)  # glare
    cv2.circle(image, (15, 64), 18, (0, 120, 220), -1)  # a blue sticker
    cv2.rectangle(image, (60, 25), (75, 32), (110, 60, 160), -1)  # ink
    expected = skin_tone(plain, spot()).ita
    assert np.median(np.abs(image.astype(int) - plain)) == 0
    assert np.mean(np.abs(image.astype(int) - plain)) > 20
    assert skin_tone(image, spot()).ita == pytest.approx(expected, abs=0.5)


def test_a_second_colour_on_less_than_half_of_the_ring_does_not_matter():
    image = patch((66, 13, 18))
    image[:, :40] = patch((66, 35, 28))[0, 0]
    assert skin_tone(image, spot()).ita == pytest.approx(math.degrees(math.atan(16 / 18)), abs=1.5)


def test_too_little_skin_is_said():
    image = patch((66, 13, 18))
    full = skin_tone(image, np.ones((128, 128), bool))
    assert full.ita is None
    assert full.group is None
    assert "fills the picture" in full.reason
    blue = skin_tone(patch((50, 0, -30)), spot())
    assert blue.ita is None
    assert "no skin's colour" in blue.reason
    tinted = patch((70, 6, -4))  # bluish light, a warm reflection on a fifth of the picture
    tinted[:25] = patch((70, 6, 9))[0, 0]
    assert skin_tone(tinted, spot()).ita is None
    black = skin_tone(np.zeros((128, 128, 3), np.uint8), spot())
    assert black.ita is None


def test_groups_at_their_borders():
    # Del Bino and Bernerd 2013: very light > 55 >= light > 41 >= intermediate > 28 >= tan > 10 >= brown > -30 >= dark.
    angles = {55.1: "very light", 55: "light", 41.1: "light", 41: "intermediate", 28: "tan", 10: "brown", -30: "dark"}
    for angle, group in angles.items():
        assert skin_tone_group(angle) == group
    assert skin_tone_group(-90) == "dark"
    assert [name for name, _ in SKIN_TONES] == ["very light", "light", "intermediate", "tan", "brown", "dark"]


def test_wrong_input():
    with pytest.raises(ValueError, match="positive"):
        ita_degrees(60, 0)
    with pytest.raises(ValueError, match="empty"):
        skin_tone(patch((66, 13, 18)), np.zeros((128, 128), bool))
    with pytest.raises(ValueError, match="64"):
        skin_tone(patch((66, 13, 18)), np.ones((64, 64), bool))
