"""Mixup and CutMix by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pesi.train.mixing import cutmix, mixup


def numbered(count: int, height: int = 20, width: int = 30) -> torch.Tensor:
    """Pictures whose every pixel is the picture's number."""
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, height, width)


def test_mixup_is_the_weighted_mean_by_a_beta_weight():
    rng, x = np.random.default_rng(0), numbered(6)
    shares = []
    for _ in range(4000):
        mixture = mixup(x, 0.4, rng)
        shares.append(mixture.share)
    own, partner = torch.arange(6.0), mixture.partner.float()
    expected = mixture.share * own + (1 - mixture.share) * partner
    torch.testing.assert_close(mixture.pictures, expected[:, None, None, None].expand_as(x))
    assert sorted(mixture.partner.tolist()) == list(range(6))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # variance of Beta(a, a)


def test_cutmix_pastes_one_rectangle_and_counts_its_pixels():
    rng, x = np.random.default_rng(1), numbered(5)
    seen = 0
    for _ in range(300):
        mixture = cutmix(x, 1.0, rng)
        for own, (picture, partner) in enumerate(zip(mixture.pictures, mixture.partner.tolist(), strict=True)):
            assert set(picture.unique().tolist()) <= {float(own), float(partner)}
            if partner == own:
                continue
            pasted = (picture == partner).all(0)
            assert (~pasted).float().mean() == pytest.approx(mixture.share, abs=1e-6)
            rows, columns = pasted.any(1), pasted.any(0)
            assert torch.equal(pasted, rows[:, None] & columns[None, :])  # a rectangle, whole
            for line in (rows, columns):
                assert (line.int().diff().abs().sum()) <= 2  # in one piece
            seen += 0 < mixture.share < 1
    assert seen > 500
    assert torch.equal(x, numbered(5))  # the batch itself is left alone


def test_cutmix_rectangles_hold_their_share_where_the_border_cuts_nothing():
    """1 - share of the area, drawn evenly for alpha 1: the mean over uncut rectangles of a share s is s."""
    rng, x = np.random.default_rng(2), numbered(2, 400, 400)
    uncut = []
    for _ in range(400):
        state = rng.bit_generator.state
        drawn = float(rng.beta(1.0, 1.0))
        rng.bit_generator.state = state
        mixture = cutmix(x, 1.0, rng)
        assert mixture.share >= drawn - 0.01  # the border only takes from the rectangle
        if drawn > 0.8 and abs(mixture.share - drawn) < 0.01:
            uncut.append(mixture.share - drawn)
    assert len(uncut) > 20
    assert np.mean(uncut) == pytest.approx(0, abs=2e-3)
