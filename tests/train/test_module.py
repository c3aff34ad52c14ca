"""Loss, schedule and optimiser groups against torch's own functions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

import pesi
from pesi.taxonomy import TASKS
from pesi.train.classification_module import LesionLoss, LesionModule, attention_mask_loss, class_offsets, class_weights
from pesi.train.recipe import load_recipe

TASK = TASKS["isic2017"]


def module(*overrides: str, steps: int = 10) -> LesionModule:
    recipe = load_recipe("pesi50", ["network.name=pesi14", *overrides])
    network = pesi.create_model("pesi14", num_classes=3, **recipe.network.options())
    return LesionModule(network, recipe, TASK, np.ones(3), steps_per_epoch=steps)


def test_class_weights():
    classes = np.array([0] * 4 + [1] * 1 + [2] * 16)
    np.testing.assert_allclose(class_weights(classes, 3, "none"), 1)
    balanced = class_weights(classes, 3, "balanced")
    np.testing.assert_allclose(balanced / balanced[1], [1 / 4, 1, 1 / 16])
    sqrt = class_weights(classes, 3, "sqrt")
    np.testing.assert_allclose(sqrt / sqrt[1], [1 / 2, 1, 1 / 4])
    assert balanced[classes].mean() == pytest.approx(1)


def test_multiclass_loss_is_torchs_cross_entropy():
    torch.manual_seed(0)
    logits, classes = torch.randn(8, 3), torch.randint(3, (8,))
    for smoothing in (0.0, 0.1):
        loss = LesionLoss(np.ones(3), TASK, head="multiclass", label_smoothing=smoothing)
        expected = functional.cross_entropy(logits, classes, label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits, classes), expected)
    weights = np.array([2.0, 0.5, 1.0])
    each = functional.cross_entropy(logits, classes, reduction="none") * torch.tensor(weights).float()[classes]
    weighted = LesionLoss(weights, TASK, head="multiclass", label_smoothing=0.0)
    torch.testing.assert_close(weighted(logits, classes), each.mean())
    partner = classes.flip(0)
    mixed = functional.cross_entropy(logits, classes) * 0.3 + functional.cross_entropy(logits, partner) * 0.7
    plain = LesionLoss(np.ones(3), TASK, head="multiclass", label_smoothing=0.0)
    torch.testing.assert_close(plain(logits, classes, partner, 0.3), mixed)


def test_logit_adjustment_learns_balanced_probabilities():
    """Of a picture that is the same in all classes only the shares can be learned.

    The adjusted loss is least where the network calls all classes alike, the plain one where it says the shares.
    """
    classes = np.array([0] * 10 + [1] * 30 + [2] * 60)
    shares = np.array([0.1, 0.3, 0.6])
    np.testing.assert_allclose(class_offsets(classes, 3, 1.0), np.log(shares))
    np.testing.assert_allclose(class_offsets(classes, 3, 0.5), np.log(shares) / 2)
    assert np.isfinite(class_offsets(classes, 4, 1.0)).all()
    for strength, expected in ((0.0, shares), (0.5, shares**0.5 / (shares**0.5).sum()), (1.0, np.full(3, 1 / 3))):
        offsets = class_offsets(classes, 3, strength)
        loss = LesionLoss(np.ones(3), TASK, head="multiclass", label_smoothing=0.0, offsets=offsets)
        logits = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=100)

        def closure(optimizer=optimizer, loss=loss, logits=logits):
            optimizer.zero_grad()
            value = loss(logits.expand(100, 3), torch.from_numpy(classes))
            value.backward()
            return value

        optimizer.step(closure)
        np.testing.assert_allclose(logits.detach().softmax(0), expected, atol=1e-3)


def test_multilabel_loss_is_torchs_binary_cross_entropy():
    torch.manual_seed(0)
    logits, classes = torch.randn(8, 2), torch.randint(3, (8,))
    targets = torch.stack([classes == 0, classes == 1], 1).float()
    loss = LesionLoss(np.ones(3), TASK, head="multilabel", label_smoothing=0.0)
    torch.testing.assert_close(loss(logits, classes), functional.binary_cross_entropy_with_logits(logits, targets))


def test_alpha_has_its_own_group_without_decay():
    settings = module("optimizer.lr=0.01", "optimizer.alpha_lr_scale=20", "optimizer.weight_decay=0.1")
    optimizer = settings.configure_optimizers()["optimizer"]
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert groups["alpha"]["initial_lr"] == pytest.approx(0.2)
    assert groups["alpha"]["weight_decay"] == groups["norms"]["weight_decay"] == 0
    assert groups["weights"]["weight_decay"] == 0.1
    assert len(groups["alpha"]["params"]) == 4
    grouped = sum(p.numel() for group in groups.values() for p in group["params"])
    assert grouped == sum(p.numel() for p in settings.network.parameters())


def test_schedules():
    halve = module("optimizer.schedule=halve", "optimizer.halve_every=30", "optimizer.warmup_epochs=0")
    assert [halve.lr_factor(10 * e) for e in (0, 29, 30, 59, 60)] == [1, 1, 0.5, 0.5, 0.25]
    cosine = module("optimizer.schedule=cosine", "optimizer.warmup_epochs=2", "epochs=12")
    assert cosine.lr_factor(0) == pytest.approx(1 / 20)
    assert cosine.lr_factor(19) == pytest.approx(1.0)
    assert cosine.lr_factor(20) == pytest.approx(1.0)
    assert cosine.lr_factor(70) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert cosine.lr_factor(120) == pytest.approx(0.0, abs=1e-12)
    assert module("optimizer.schedule=constant", "optimizer.warmup_epochs=0").lr_factor(99) == 1


def test_attention_mask_loss_closed_forms():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4] = True  # half of the first picture, a quarter of the second, none of the third
    masks[1, :4, :4] = True
    even = torch.ones(3, 4, 4)
    expected = (math.log(2) + math.log(4)) / 2
    assert float(attention_mask_loss([even], masks)) == pytest.approx(expected, abs=1e-6)
    on_lesion = torch.zeros(3, 2, 2)
    on_lesion[:, 0, 0] = 5.0
    assert float(attention_mask_loss([on_lesion], masks)) == pytest.approx(0, abs=1e-6)
    assert float(attention_mask_loss([even, on_lesion], masks)) == pytest.approx(expected / 2, abs=1e-6)
    assert float(attention_mask_loss([even], torch.zeros(3, 8, 8, dtype=torch.bool))) == 0


@pytest.mark.parametrize("form", ["spatial", "channel"])
def test_attention_learns_the_mask(form):
    """A few steps on the mask alone move the attention onto the lesion."""
    torch.manual_seed(0)
    network = pesi.create_model("pesi14", num_classes=3, attention=form).train()
    x, masks = torch.randn(4, 3, 64, 64), torch.zeros(4, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    x += 2 * masks[:, None]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = attention_mask_loss(network.forward_attention(x)[1].values(), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if form == "spatial":
        assert losses[-1] < losses[0] - 0.1
    else:  # its mean over the channels is 1 / C everywhere: nothing to learn
        assert losses[-1] == pytest.approx(losses[0], abs=1e-4)
