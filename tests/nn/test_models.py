"""What users of other libraries expect of every network: names, features, hooks, appended layers, captum, weights."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from safetensors.torch import save_file
from torch import nn

import pesi
from pesi.errors import ChoiceError
from pesi.nn.models import NETWORKS
from pesi.nn.pretrained import CheckpointError, imagenet_weights

STRIDES = {1: 4, 2: 8, 3: 16, 4: 32}
PASSES = ("forward", "forward_features", "forward_pyramid", "forward_attention", "forward_maps")


class Times(nn.Module):
    """A layer that a user might append."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return pesi.create_model(name, **{"num_classes": 3, "alpha": 0.1} | options).eval()


def test_the_list_is_what_can_be_made():
    assert pesi.list_models() == list(NETWORKS)
    assert pesi.list_models("pesi_lite*") == ["pesi_lite0", "pesi_lite2"]
    assert pesi.list_models("vgg*") == []
    with pytest.raises(ChoiceError) as caught:
        pesi.create_model("pesi_lite")
    assert isinstance(caught.value, ValueError)
    assert "Did you mean pesi_lite" in caught.value.cure
    assert all(name in caught.value.cure for name in NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_are_containers(name):
    """A hook on a stage fires once in every kind of pass, with the stage's map; hooks change the answer."""
    model = network(name)
    seen: list[tuple[int, torch.Size]] = []
    for stage in STRIDES:
        model.get_submodule(f"layer{stage}").register_forward_hook(
            lambda module, args, output, stage=stage: seen.append((stage, output.shape[2:]))
        )
    with torch.no_grad():
        for kind in PASSES:
            seen.clear()
            getattr(model, kind)(torch.zeros(1, 3, 64, 64))
            assert seen == [(stage, (64 // stride, 64 // stride)) for stage, stride in STRIDES.items()], kind
        before = model(torch.ones(1, 3, 64, 64))
        model.layer4.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
        silent = model(torch.ones(1, 3, 64, 64))
    assert not torch.equal(before, silent)
    if name == "pesi18":
        assert torch.equal(silent[0], model.fc.bias)


@pytest.mark.parametrize("name", ["pesi18", "pesi_lite0"])
def test_an_appended_layer_runs_in_every_pass(name):
    model, x = network(name), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = model.forward_pyramid(x), model(x), model.forward_maps(x)
        assert torch.equal(plain[1], plain[2].logits)
        model.layer1.append(Times(1.0))
        assert torch.equal(model(x), plain[1])
        model.layer4.append(Times(2.0))
        assert torch.equal(model.forward_pyramid(x)[-1], 2 * plain[0][-1])
        maps = model.forward_maps(x)
        assert torch.equal(maps.logits, model(x))
        assert torch.equal(maps.logits, model.forward_attention(x)[0])
        assert not torch.equal(maps.logits, plain[1])
        if name == "pesi18":
            assert torch.equal(maps.features, 2 * plain[2].features)
    assert list(maps.attention) == list(plain[2].attention)


def test_captum_as_its_manual_shows_it():
    """Behind layer4 comes a mean and a linear head, so Grad-CAM there is the class activation map over its area."""
    model, x = network("pesi14"), torch.rand(2, 3, 96, 64)
    cam = LayerGradCam(model, model.layer4).attribute(x, target=1)
    with torch.no_grad():
        expected = model.forward_maps(x).cam[:, 1]
    torch.testing.assert_close(cam[:, 0], expected / (3 * 2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["pesi14", "pesi_lite0"])
def test_no_classes_gives_the_pooled_features(name):
    headed, x = network(name), torch.rand(2, 3, 64, 64)
    bare = pesi.create_model(name).eval()
    left_out = bare.load_state_dict(headed.state_dict(), strict=False)
    assert set(left_out.unexpected_keys) == {"fc.weight", "fc.bias"}
    assert left_out.missing_keys == []
    with torch.no_grad():
        features = bare(x)
        assert features.shape == (2, bare.num_features)
        assert torch.equal(features, headed.forward_features(x).mean((2, 3)))
        with pytest.raises(ValueError, match="no class activation maps"):
            bare.forward_maps(x)
        headed.reset_classifier(0)
        assert headed.num_classes == bare.num_classes == 0
        assert torch.equal(headed(x), features)
        headed.reset_classifier(5)
        assert headed(x).shape == (2, 5)


def test_pretrained_by_path_and_from_the_installed_package(tmp_path):
    path = tmp_path / "w.safetensors"
    weights = network("pesi14", num_classes=10, attention="none").state_dict()
    save_file(weights, path)
    for classes in (0, 3, 10):
        model = pesi.create_model("pesi14", pretrained=path, num_classes=classes)
        assert torch.equal(model.layer4[0].conv3.weight, weights["layer4.0.conv3.weight"])
        if classes:
            assert torch.equal(model.fc.weight[:3], weights["fc.weight"][:3]) == (classes == 10)
    theirs = torch.load(imagenet_weights("pesi_lite0"), weights_only=True)
    assert torch.equal(pesi.create_model("pesi_lite0", pretrained=True).conv1.weight, theirs["_conv_stem.weight"])
    whole = pesi.create_model("pesi_lite0", pretrained=True, num_classes=1000)
    assert torch.equal(whole.fc.weight, theirs["_fc.weight"])
    with pytest.raises(CheckpointError, match="No package brings ImageNet weights for pesi50"):
        pesi.create_model("pesi50", pretrained=True)
    with pytest.raises(CheckpointError, match=r"no weights file nowhere\.pth"):
        pesi.create_model("pesi50", pretrained="nowhere.pth")


@pytest.mark.parametrize("name", ["pesi18", "pesi50", "pesi_lite0"])
def test_gradient_checkpointing_changes_memory_alone(name):
    """In float64: gradients and running statistics as without it, and less kept for the backward pass."""
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    results, kept = [], []
    for on in (False, True):
        torch.manual_seed(0)
        model = pesi.create_model(name, num_classes=3, alpha=0.1, dropout=0.2).double()
        model.gradient_checkpointing = on
        size = 0

        def keep(tensor):
            nonlocal size
            size += tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(x).square().sum() + model.forward_pyramid(x)[2].square().mean()
        kept.append(size)
        loss.backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-6, atol=1e-9)
    assert kept[1] < 0.5 * kept[0]


def test_gradient_checkpointing_under_autocast():
    torch.manual_seed(0)
    model = pesi.create_model("pesi_lite0", num_classes=3, alpha=0.1)
    x, gradients = torch.randn(4, 3, 64, 64), []
    for on in (False, True):
        model.gradient_checkpointing = on
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(x).float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*gradients)
