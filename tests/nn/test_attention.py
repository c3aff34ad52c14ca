"""The attention against its formula in float64, against plain autograd, and under mixed precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pesi.nn.attention import FORMS, SqueezeExcitation, attend, attend_normed, attention_map, has_map
from pesi.nn.block import AttentionSettings, PesiBlock
from pesi.nn.fused import Branch

ATTENDING = [form for form in FORMS if has_map(form)]


def by_the_formula(
    o: torch.Tensor, s: torch.Tensor, alpha: torch.Tensor, form: str, temperature: float
) -> torch.Tensor:
    """METHOD section 1, written with torch's own softmax on flattened maps."""
    n, c, h, w = o.shape
    z = o / temperature
    if form.startswith("spatial"):
        m = torch.softmax(z.reshape(n, c, h * w), dim=2).reshape(n, c, h, w)
        if form == "spatial-mean1":
            m = m * h * w
    elif form == "channel":
        m = torch.softmax(z, dim=1)
    else:
        m = 1 / (1 + torch.exp(-z))
    return torch.clamp(s + o + alpha.reshape(1, -1, 1, 1) * m * s, min=0)


@pytest.mark.parametrize("form", ATTENDING)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_value_and_gradients_follow_the_formula(form, per_channel, memory_format):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 5, 4, 6, dtype=torch.float64).contiguous(memory_format=memory_format) for _ in range(2)]
    alpha = torch.rand(5 if per_channel else 1, dtype=torch.float64) + 0.5
    weights = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    results = []
    for function in (attend, by_the_formula):
        o, s, a = (t.clone(memory_format=torch.preserve_format).requires_grad_() for t in (*inputs, alpha))
        y = function(o, s, a, form, 0.7)
        results.append((y, *torch.autograd.grad((y * weights).sum(), [o, s, a])))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ATTENDING)
def test_gradcheck(form):
    torch.manual_seed(1)
    o, s = (torch.randn(2, 3, 3, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    alpha = torch.tensor([0.8, -0.3, 1.5], dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: attend(*x, form, 1.3), (o, s, alpha))


def test_inference_and_training_agree():
    torch.manual_seed(2)
    o, s = torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5)
    alpha = torch.tensor([0.5])
    with torch.no_grad():
        inference = attend(o, s, alpha, "spatial", 1.0)
    torch.testing.assert_close(attend(o.requires_grad_(), s, alpha, "spatial", 1.0), inference)


def test_sums():
    o = 10 * torch.randn(3, 7, 9, 4)
    torch.testing.assert_close(attention_map(o, "spatial").sum((2, 3)), torch.ones(3, 7))
    torch.testing.assert_close(attention_map(o, "spatial-mean1").mean((2, 3)), torch.ones(3, 7))
    torch.testing.assert_close(attention_map(o, "channel").sum(1), torch.ones(3, 9, 4))


def test_large_values_do_not_overflow():
    m = attention_map(torch.full((1, 2, 3, 3), 1e30), "spatial")
    torch.testing.assert_close(m, torch.full((1, 2, 3, 3), 1 / 9))


def survival(side: int, *, rounded: str) -> float:
    """Share of the true contribution alpha M s that is left in bfloat16, by projection on it."""
    torch.manual_seed(side)
    z, s = (torch.rand(8, 64, side, side).bfloat16() for _ in range(2))
    norm = torch.nn.BatchNorm2d(64).eval()
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)  # O is then no number of bfloat16
    alpha = torch.tensor([0.1])
    with torch.no_grad():
        o = norm(z.float())
        m = attention_map(o, "spatial")
        true = alpha * m * s
        if rounded == "once":
            with_it, without = (attend_normed(Branch(z, norm), Branch(s), a, "spatial") for a in (alpha, 0 * alpha))
        else:  # what a naive block does
            without = o.bfloat16() + s
            with_it = without + alpha.bfloat16() * m.bfloat16() * s
    return float(((with_it.float() - without.float()) * true).sum() / (true * true).sum())


@pytest.mark.parametrize("side", [56, 28, 14, 7])
def test_mixed_precision_keeps_the_attention_on_average(side):
    assert survival(side, rounded="once") == pytest.approx(1.0, abs=0.1)


def test_a_sum_of_rounded_values_would_lose_it():
    assert survival(56, rounded="at every step") < 0.1  # why all is added up in float32


def test_block_under_autocast_keeps_the_attention():
    torch.manual_seed(0)
    blocks = {alpha: PesiBlock(64, 64, attention=AttentionSettings(alpha=alpha)).eval() for alpha in (0.0, 0.1)}
    torch.nn.init.uniform_(blocks[0.0].bn2.weight, 0.5, 1.5)
    blocks[0.1].load_state_dict(blocks[0.0].state_dict() | {"alpha": torch.tensor([0.1])})
    x = torch.rand(8, 64, 56, 56)
    with torch.no_grad():
        true = blocks[0.1](x) - blocks[0.0](x)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = [blocks[alpha](x) for alpha in (0.1, 0.0)]
    assert all(each.dtype == torch.bfloat16 for each in outputs)  # as of a plain ResNet block
    kept = outputs[0].float() - outputs[1].float()
    assert float((kept * true).sum() / (true * true).sum()) == pytest.approx(1.0, abs=0.1)


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="choose one of: spatial"):
        AttentionSettings(form="softmax")
    with pytest.raises(ValueError, match="temperature"):
        AttentionSettings(temperature=0)


def test_squeeze_excitation_starts_as_nothing_and_is_the_papers_formula():
    torch.manual_seed(0)
    block = SqueezeExcitation(32, reduction=8)
    o = torch.randn(2, 32, 5, 6)
    torch.testing.assert_close(block(o), o)
    torch.nn.init.normal_(block.fc2.weight)
    torch.nn.init.normal_(block.fc2.bias)
    w1, b1, w2, b2 = (p.detach().numpy() for p in block.parameters())
    z = o.numpy().mean((2, 3))
    gate = 2 / (1 + np.exp(-(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)))
    np.testing.assert_allclose(block(o).detach().numpy(), o.numpy() * gate[:, :, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("relu", [True, False])
def test_without_relu_the_tail_is_linear_and_its_gradient_exact(relu):
    torch.manual_seed(1)
    o, s = (torch.randn(2, 3, 4, 5, dtype=torch.double, requires_grad=True) for _ in range(2))
    alpha = torch.tensor([0.7], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: attend(*a, "spatial", 0.8, relu=relu), (o, s, alpha))
    y = attend(o, s, alpha, "spatial", 0.8, relu=False)
    assert bool((y < 0).any())
    torch.testing.assert_close(attend(o, s, alpha, "spatial", 0.8, relu=True), y.relu())


@pytest.mark.parametrize("scale", [1.0, 1e4, -1e4])
def test_a_graph_gives_a_softmax_without_a_maximum(scale):
    """Equal to the formula within +-70; beyond, still weights that sum to 1."""
    o, s = scale + 5 * torch.randn(2, 3, 6, 7), torch.randn(2, 3, 6, 7)

    def both(o, s):
        return attention_map(o, "spatial"), attend(o, s, torch.tensor([0.7]), "spatial")

    m, y = torch.jit.trace(both, (o, s), check_trace=False)(o, s)
    torch.testing.assert_close(m.sum((2, 3)), torch.ones(2, 3))
    if scale == 1.0:
        torch.testing.assert_close((m, y), both(o, s))
