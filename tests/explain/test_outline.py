"""The drawn border lies on the mask's border and nowhere else."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pesi.explain.outline import outlined


def test_the_border_is_drawn_and_the_rest_is_left():
    image = np.random.default_rng(0).integers(60, 200, (90, 120, 3), dtype=np.uint8)
    before = image.copy()
    mask = np.zeros((90, 120), bool)
    mask[30:60, 40:90] = True
    drawn = outlined(image, mask)
    np.testing.assert_array_equal(image, before)
    edge = mask & ~ndimage.binary_erosion(mask)
    assert (drawn[edge] == 255).all()
    near = ndimage.binary_dilation(edge, iterations=4)
    np.testing.assert_array_equal(drawn[~near], image[~near])
    np.testing.assert_array_equal(outlined(image, np.zeros_like(mask)), image)
