"""Pesi-CNN against an independent ResNet (transformers'), known parameter counts, and what users do with a network."""

from __future__ import annotations

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

import pesi
from pesi.nn.cnn import PesiCNN
from pesi.nn.resnet import ARCHITECTURES

NAMES = list(ARCHITECTURES)


def transformers_twin(model: PesiCNN, name: str) -> ResNetForImageClassification:
    """transformers' ResNet of the same depth with the same weights."""
    architecture = ARCHITECTURES[name]
    widths = [64, 128, 256, 512]
    twin = ResNetForImageClassification(
        ResNetConfig(
            depths=list(architecture.blocks),
            hidden_sizes=[4 * w for w in widths] if architecture.bottleneck else widths,
            layer_type="bottleneck" if architecture.bottleneck else "basic",
            downsample_in_first_stage=False,
            downsample_in_bottleneck=False,
            num_labels=model.num_classes,
        )
    ).eval()

    def theirs(key: str) -> str | None:
        if key.endswith("alpha"):
            return None
        parts = key.split(".")
        kind = {"conv": "convolution", "bn": "normalization"}
        if parts[0] in ("conv1", "bn1"):
            return f"resnet.embedder.embedder.{kind[parts[0][:-1]]}.{parts[1]}"
        if parts[0] == "fc":
            return f"classifier.1.{parts[1]}"
        prefix = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
        if parts[2] == "downsample":
            return f"{prefix}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
        layer, number = parts[2][:-1], int(parts[2][-1])
        return f"{prefix}.layer.{number - 1}.{kind[layer]}.{parts[3]}"

    state = {theirs(key): value for key, value in model.state_dict().items() if theirs(key)}
    twin.load_state_dict(state, strict=True)
    return twin


def with_random_statistics(model: PesiCNN) -> PesiCNN:
    """Batch norms away from the identity, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(3)
    for name, value in model.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            if name.endswith(("running_var", "weight")):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif name.endswith(("running_mean", "bias")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_without_attention_it_is_a_resnet_bit_for_bit(name):
    torch.manual_seed(0)
    plain = with_random_statistics(pesi.create_model(name, num_classes=3, attention="none"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = transformers_twin(plain, name)(x).logits
        assert torch.equal(plain(x), expected)
        for form in ("spatial", "spatial-mean1", "sigmoid", "channel", "se"):
            model = pesi.create_model(name, num_classes=3, attention=form, alpha=0.0).eval()
            report = model.load_state_dict(plain.state_dict(), strict=False)
            assert all(key.endswith("alpha") or ".se." in key for key in report.missing_keys)
            assert torch.equal(model(x), expected), form
    # Where gradients are recorded other kernels may be used: the same network but for rounding.
    fused = pesi.create_model(name, num_classes=3, alpha=0.0)
    fused.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(fused.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("name", "classes", "plain", "attending"),
    [("pesi14", 3, 8_022_083, 8_022_087), ("pesi50", 3, 23_514_179, 23_514_195)],
)
def test_parameter_counts(name, classes, plain, attending):
    def count(attention: str) -> int:
        return sum(p.numel() for p in pesi.create_model(name, num_classes=classes, attention=attention).parameters())

    assert (count("none"), count("spatial")) == (plain, attending)


def test_alpha_is_one_a_block_or_one_a_channel():
    model = pesi.create_model("pesi18", num_classes=2)
    assert [tuple(a.shape) for a in model.alphas().values()] == [(1,)] * 8
    assert all(a.item() == pytest.approx(1e-3) for a in model.alphas().values())
    model = pesi.create_model("pesi18", num_classes=2, per_channel=True)
    assert [a.shape[0] for a in model.alphas().values()] == [64, 64, 128, 128, 256, 256, 512, 512]
    model = pesi.create_model("pesi18", num_classes=2, attend_projection=False)
    assert list(model.alphas()) == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    model = pesi.create_model("pesi18", num_classes=2, attend_stages=(3, 4))
    assert list(model.alphas()) == ["layer3.0", "layer3.1", "layer4.0", "layer4.1"]


@pytest.mark.parametrize("form", ["spatial", "spatial-mean1", "sigmoid", "channel"])
def test_every_alpha_learns(form):
    torch.manual_seed(0)
    model = pesi.create_model("pesi14", num_classes=3, attention=form)
    torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0])).backward()
    for name, alpha in model.alphas().items():
        assert alpha.grad is not None
        assert float(alpha.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (224, 160)])
def test_any_size_from_64(size):
    model = pesi.create_model("pesi18", num_classes=4).eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, 512, -(-size[0] // 32), -(-size[1] // 32))
        assert torch.equal(model.forward_head(features), model(x))
        assert model.forward_head(features, pre_logits=True).shape == (1, 512)


def test_images_of_a_batch_do_not_touch_each_other():
    torch.manual_seed(0)
    model = with_random_statistics(pesi.create_model("pesi14", num_classes=3, attention="spatial-mean1", alpha=0.5))
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["spatial", "channel", "none"])
def test_maps(form):
    torch.manual_seed(0)
    model = with_random_statistics(pesi.create_model("pesi18", num_classes=3, attention=form, alpha=0.3))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        maps = model.forward_maps(x)
        torch.testing.assert_close(maps.logits, model(x))
    # The class activation map is exact: its mean and the bias give the logit (Zhou et al., CVPR 2016).
    torch.testing.assert_close(maps.cam.mean((2, 3)) + model.fc.bias, maps.logits, rtol=1e-4, atol=1e-5)
    assert list(maps.energy) == list(model.blocks())
    if form == "none":
        assert maps.attention == {}
        assert all(float(e.abs().sum()) == 0 for e in maps.energy.values())
    else:
        assert maps.attention["layer1.0"].shape == (2, 24, 24)
        assert all(float(e.min()) > 0 for e in maps.energy.values())
    if form == "spatial":
        for attention in maps.attention.values():
            torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))


def test_energy_is_what_the_attention_adds():
    torch.manual_seed(0)
    model = pesi.create_model("pesi18", num_classes=2, attention="sigmoid", alpha=0.2).eval()
    block = model.layer1[1]
    x = torch.rand(1, 64, 8, 8)
    with torch.no_grad():
        o, s = (branch.map() for branch in block.branches(x))
        block(x, traces := [])
    added = 0.2 * torch.sigmoid(o) * s
    torch.testing.assert_close(traces[0].energy, (added.norm() / (s + o).norm()).reshape(1))


def test_export_and_compile():
    torch.manual_seed(0)
    model = with_random_statistics(pesi.create_model("pesi14", num_classes=3, attention="spatial", alpha=0.1))
    x = torch.randn(2, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        expected = model(x)
        exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}).module()
        torch.testing.assert_close(exported(x), expected)
        torch.testing.assert_close(exported(x[:1]), expected[:1], rtol=1e-4, atol=1e-5)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)


def test_compiled_training_learns_alpha():
    torch.manual_seed(0)
    model = pesi.create_model("pesi14", num_classes=3, alpha=0.1).train()
    grads = []
    for network in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        torch.manual_seed(1)
        network(torch.randn(2, 3, 64, 64)).square().sum().backward()
        grads.append({name: alpha.grad.clone() for name, alpha in model.alphas().items()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-3, atol=1e-4)


def test_bfloat16_weights():
    model = pesi.create_model("pesi14", num_classes=3, alpha=0.1).eval().bfloat16()
    with torch.no_grad():
        for form in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(1, 3, 64, 64, dtype=torch.bfloat16).contiguous(memory_format=form)
            assert model.to(memory_format=form)(x).isfinite().all()


def test_new_head():
    model = pesi.create_model("pesi18", num_classes=3)
    model.reset_classifier(7)
    assert model.num_classes == 7
    assert model.get_classifier() is model.fc
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_unknown_names_list_what_exists():
    with pytest.raises(ValueError, match=r"Did you mean pesi50.*pesi14, pesi18, pesi34, pesi50, pesi101"):
        pesi.create_model("pesi-50", num_classes=3)
    with pytest.raises(ValueError, match="spatial-mean1"):
        pesi.create_model("pesi18", num_classes=3, attention="softmax")
    with pytest.raises(ValueError, match="stages 1 to 4"):
        pesi.create_model("pesi18", num_classes=3, attend_stages=(0,))
    with pytest.raises(ValueError, match="at least 0"):
        pesi.create_model("pesi18", num_classes=-1)
