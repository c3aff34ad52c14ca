"""EfficientNet-Lite against an independent implementation with the same weights, on real photographs and by counts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from skimage import data as pictures

import pesi
from pesi.nn.lite import LITE_SCALES
from pesi.nn.pretrained import CheckpointError, imagenet_weights, load_pretrained

NAMES = list(LITE_SCALES)


def classified(name: str, picture: np.ndarray) -> list[int]:
    """The five ImageNet classes that a network with its package's weights thinks most likely."""
    model = pesi.create_model(name, num_classes=1000, attention="none")
    assert load_pretrained(model, imagenet_weights(name)).head == "kept"
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    square = cv2.resize(picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    x = (torch.from_numpy(square).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.no_grad():
        return model.eval()(x)[0].topk(5).indices.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("picture", "classes"),
    [
        ("cat", {281, 282, 283, 284, 285}),  # tabby, tiger, Persian, Siamese, Egyptian cat
        ("coffee", {504, 967, 968}),  # coffee mug, espresso, cup
        ("rocket", {657, 744}),  # missile, projectile
    ],
)
def test_photographs_are_what_they_are(name, picture, classes):
    assert classes & set(classified(name, getattr(pictures, picture)())[:2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (97, 130)])
def test_it_is_the_published_network(name, size):
    """Same weights, same input, another implementation (efficientnet_lite_pytorch): the same logits."""
    weights = torch.load(imagenet_weights(name), weights_only=True, map_location="cpu")
    # Its padding is computed for one image size, given when it is made.
    theirs = EfficientNet.from_name(name.replace("pesi_lite", "efficientnet-lite"), image_size=size)
    theirs.load_state_dict(weights)
    ours = pesi.create_model(name, num_classes=1000, attention="none")
    load_pretrained(ours, imagenet_weights(name))
    x = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-4)


def test_alpha_zero_changes_nothing_and_alpha_counts():
    plain = pesi.create_model("pesi_lite0", num_classes=3, attention="none").eval()
    x = torch.randn(2, 3, 64, 64)
    for form in ("spatial", "spatial-mean1", "sigmoid", "channel"):
        model = pesi.create_model("pesi_lite0", num_classes=3, attention=form, alpha=0.0).eval()
        report = model.load_state_dict(plain.state_dict(), strict=False)
        # Lite0 has 16 blocks; 9 of them keep resolution and width, so only they have a shortcut.
        assert len(report.missing_keys) == 9
        assert all(name.endswith("alpha") for name in report.missing_keys)
        assert torch.equal(model(x), plain(x)), form


@pytest.mark.parametrize("form", ["spatial", "spatial-mean1", "sigmoid", "channel"])
def test_every_alpha_learns_and_maps_are_exact(form):
    torch.manual_seed(0)
    model = pesi.create_model("pesi_lite0", num_classes=3, attention=form, alpha=0.1)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(float(alpha.grad.abs()) > 0 for alpha in model.alphas().values() if alpha.grad is not None)
    assert all(alpha.grad is not None for alpha in model.alphas().values())
    model.eval()
    with torch.no_grad():
        maps = model.forward_maps(torch.randn(2, 3, 96, 64))
    torch.testing.assert_close(maps.cam.mean((2, 3)) + model.fc.bias, maps.logits, rtol=1e-4, atol=1e-5)
    assert set(maps.attention) == set(model.alphas())
    if form == "spatial":
        for attention in maps.attention.values():
            torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize("name", ["pesi18", "pesi50", *NAMES])
def test_pyramid(name):
    """Each level has the announced channels at half the resolution of the one before."""
    model = pesi.create_model(name, num_classes=2).eval()
    with torch.no_grad():
        levels = model.forward_pyramid(torch.randn(1, 3, 64, 128))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (channels, 64 // 2**k, 128 // 2**k) for k, channels in enumerate(model.pyramid_channels, start=1)
    ]
    assert len(levels) == 5


def test_export_gives_the_same_network():
    model = pesi.create_model("pesi_lite0", num_classes=3, alpha=0.1).eval()
    x = torch.randn(2, 3, 64, 64)
    exported = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))


def test_missing_weights_are_named():
    with pytest.raises(CheckpointError, match="No package brings ImageNet weights for pesi50"):
        imagenet_weights("pesi50")
    with pytest.raises(CheckpointError, match=r"efficientnet-lite7-pytorch-model is not installed"):
        imagenet_weights("pesi_lite7")
    with pytest.raises(CheckpointError, match="lacks"):
        load_pretrained(pesi.create_model("pesi_lite2", num_classes=3), imagenet_weights("pesi_lite0"))
