"""Grad-CAM against captum and against the class activation map; the random map and the middle of the picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from scipy.stats import kstest, norm

from pesi.errors import DataError
from pesi.explain.baselines import centre_gaussian, grad_cam, last_block_of_stage, pixel_noise, random_map
from pesi.explain.maps import explain
from pesi.images.transforms import normalise, to_tensor


@pytest.mark.parametrize("stage", [2, 3, 4])
@pytest.mark.parametrize("relu", [True, False])
def test_grad_cam_agrees_with_captum(classifier, spots, stage, relu):
    picture = explain(classifier, spots["path"].iloc[3]).image
    layer = last_block_of_stage(classifier.network, stage)
    found = grad_cam(classifier, picture, "seborrheic_keratosis", layer=layer, relu=relu)
    preprocess = classifier.config.preprocess
    x = normalise(to_tensor(picture)[None], preprocess.mean, preprocess.std)
    captum = LayerGradCam(classifier.network, classifier.network.get_submodule(layer))
    column = classifier.config.outputs.index("seborrheic_keratosis")
    small = captum.attribute(x, target=column, relu_attributions=relu)[0, 0].detach().numpy()
    expected = cv2.resize(small, picture.shape[:2], interpolation=cv2.INTER_LINEAR)
    assert np.ptp(expected) > 0
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6 * float(np.abs(expected).max()))


def test_at_the_last_map_grad_cam_is_the_class_activation_map(classifier, spots):
    # The mean over h x w positions is the pool, so the gradient of the logit is weight / (h w).
    explanation = explain(classifier, spots["path"].iloc[0], class_name="melanoma")
    layer = last_block_of_stage(classifier.network, 4)
    found = grad_cam(classifier, explanation.image, "melanoma", layer=layer, relu=False)
    positions = (64 // 32) ** 2
    assert found * positions == pytest.approx(explanation.cam, abs=1e-4 * float(np.abs(explanation.cam).max()))


def test_a_frozen_network_and_clean_hooks(classifier, spots):
    picture = explain(classifier, spots["path"].iloc[0]).image
    open_ = grad_cam(classifier, picture, "nevus")
    assert open_.min() >= 0
    try:
        classifier.network.requires_grad_(False)
        assert grad_cam(classifier, picture, "nevus") == pytest.approx(open_)
    finally:
        classifier.network.requires_grad_(True)
    assert not any(module._forward_hooks for module in classifier.network.modules())
    assert all(p.grad is None for p in classifier.network.parameters())
    assert torch.is_grad_enabled()


def test_unknown_names_are_told(classifier, spots):
    picture = explain(classifier, spots["path"].iloc[0]).image
    with pytest.raises(DataError, match="melanoma"):
        grad_cam(classifier, picture, "BCC")
    with pytest.raises(DataError, match=r"layer4\.0"):
        grad_cam(classifier, picture, "nevus", layer="layer9.0")
    with pytest.raises(ValueError, match="stage 7"):
        last_block_of_stage(classifier.network, 7)


def test_the_random_map_is_smooth_and_its_generators():
    first, again, other = (random_map(160, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() == 0
    assert np.abs(np.diff(first, axis=0)).max() < 0.1 * np.ptp(first)
    # Over many draws no place is preferred.
    top = [np.argmax(random_map(96, np.random.default_rng(seed)).mean(0)[[8, 48, 88]]) for seed in range(300)]
    assert np.bincount(top, minlength=3).min() > 60


def test_pixel_noise_has_no_neighbours():
    noise = pixel_noise(128, np.random.default_rng(0))
    assert kstest(noise.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.03


def test_the_centre_is_a_normal_density():
    bell = centre_gaussian(101, deviation=0.2)
    assert np.unravel_index(bell.argmax(), bell.shape) == (50, 50)
    assert bell[50, 50] == pytest.approx(1)
    x = np.arange(-50, 51) / 101
    assert bell[50] == pytest.approx(norm.pdf(x, scale=0.2) / norm.pdf(0, scale=0.2), abs=1e-6)
    assert np.array_equal(bell, bell.T)
