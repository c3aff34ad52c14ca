"""The block's tail as one operation: the formula in float64, gradients, memory, what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pesi
from pesi.nn import fused, kernels
from pesi.nn.attention import attend, attend_normed
from pesi.nn.block import AttentionSettings, PesiBlock
from pesi.nn.fused import Branch, implementation, kernels_for

LAST, FIRST = torch.channels_last, torch.contiguous_format


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one smaller, also of small maps."""
    monkeypatch.setattr(kernels, "_CHUNK", 500)
    torch.manual_seed(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, form: torch.memory_format = LAST) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype).contiguous(memory_format=form).requires_grad_()


def norm_of(channels: int, dtype: torch.dtype = torch.float32, *, training: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).to(dtype).train(training)
    for values, low in ((norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)):
        nn.init.uniform_(values, low, 1.5)
    return norm


def by_the_formula(
    z: torch.Tensor,
    a: nn.Module | None,
    s: torch.Tensor,
    b: nn.Module | None,
    alpha: torch.Tensor,
    gain: float = 1.0,
    *,
    temperature: float = 1.0,
    relu: bool = True,
) -> torch.Tensor:
    """METHOD section 1, with torch's own batch norm and softmax."""
    o, s = (z if a is None else a(z)), (s if b is None else b(s))
    m = gain * torch.softmax((o / temperature).flatten(2), 2).view(o.shape)
    y = s + o + alpha.view(1, -1, 1, 1) * m * s
    return torch.relu(y) if relu else y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("form", [LAST, FIRST])
@pytest.mark.parametrize("shape", [(5, 6, 4, 7), (3, 4, 1, 1), (1, 3, 2, 2)])
def test_with_its_norms_it_is_the_formula(training, projected, form, shape):
    z, s = (drawn(*shape, dtype=torch.float64, form=form) for _ in range(2))
    alpha = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    grad, results = torch.randn(shape, dtype=torch.float64), []
    for ours in (True, False):
        torch.manual_seed(1)
        a = norm_of(shape[1], torch.float64, training=training)
        b = norm_of(shape[1], torch.float64, training=training) if projected else None
        if ours:
            assert kernels_for(Branch(z, a), Branch(s, b)) is not None
            y = attend_normed(Branch(z, a), Branch(s, b), alpha, "spatial")
        else:
            y = by_the_formula(z, a, s, b, alpha)
        norms = [norm for norm in (a, b) if norm is not None]
        parameters = [parameter for norm in norms for parameter in norm.parameters()]
        state = [value for norm in norms for value in norm.buffers()]
        results.append((y, *torch.autograd.grad(y, [z, s, alpha, *parameters], grad), *state))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_gradcheck_through_both_norms(training, per_channel):
    z, s = (drawn(3, 4, 3, 5, dtype=torch.float64) for _ in range(2))
    a, b = (norm_of(4, torch.float64, training=training) for _ in range(2))
    alpha = torch.linspace(0.5, 1.5, 4 if per_channel else 1, dtype=torch.float64).requires_grad_()

    def tail(z, s, alpha, *_):
        return attend_normed(Branch(z, a), Branch(s, b), alpha, "spatial", 0.7)

    assert torch.autograd.gradcheck(tail, (z, s, alpha, *a.parameters(), *b.parameters()))


@pytest.mark.parametrize("name", ["torch", "native"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [LAST, FIRST])
@pytest.mark.parametrize(
    ("shape", "gain", "per_channel", "normed", "projected", "relu"),
    [
        ((6, 16, 7, 5), False, False, True, True, True),
        ((3, 67, 9, 8), False, True, True, False, True),  # more channels, and positions, than lanes
        ((2, 130, 1, 3), True, False, True, True, False),
        ((2, 5, 16, 16), False, False, False, False, False),
        ((4, 64, 1, 1), True, True, True, False, True),
    ],
)
def test_value_and_gradients_are_those_of_float64(
    name, dtype, memory_format, shape, gain, per_channel, normed, projected, relu
):
    z, s = (drawn(*shape, dtype=dtype, form=memory_format) for _ in range(2))
    channels, form = shape[1], "spatial-mean1" if gain else "spatial"
    a, b = (norm_of(channels) if there else None for there in (normed, projected))
    alpha = torch.linspace(0.5, 1.5, channels if per_channel else 1).requires_grad_()
    grad = torch.randn(shape).to(dtype)
    with implementation(name):
        y = attend_normed(Branch(z, a), Branch(s, b), alpha, form, 0.7, relu=relu)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
    parameters = [parameter for norm in (a, b) if norm is not None for parameter in norm.parameters()]
    got = torch.autograd.grad(y, [z, s, alpha, *parameters], grad)

    exact = [t.detach().double().requires_grad_() for t in (z, s, alpha)]
    a, b = (None if norm is None else norm.double() for norm in (a, b))
    parameters = [parameter for norm in (a, b) if norm is not None for parameter in norm.parameters()]
    factor = float(shape[2] * shape[3]) if gain else 1.0
    wanted_y = by_the_formula(exact[0], a, exact[1], b, exact[2], factor, temperature=0.7, relu=relu)
    wanted = torch.autograd.grad(wanted_y, [*exact, *parameters], grad.double())
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(y.double(), wanted_y, rtol=rounding, atol=1e-5)
    for ours, exactly in zip(got, wanted, strict=True):
        allowed = 1e-5 if dtype == torch.float32 else 1e-2
        assert float((ours.double() - exactly).norm()) <= allowed * float(exactly.norm())


def test_inputs_stay_and_may_be_one_tensor():
    x = drawn(3, 8, 5, 6)
    before = x.detach().clone()
    alpha = torch.tensor([0.8], requires_grad=True)
    y = attend(x, x, alpha, "spatial")
    (got,) = torch.autograd.grad(y.square().sum(), x)
    exact = before.double().requires_grad_()
    (wanted,) = torch.autograd.grad(by_the_formula(exact, None, exact, None, alpha.double()).square().sum(), exact)
    assert torch.equal(x, before)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [LAST, FIRST])
def test_strides_are_kept(form):
    z, s = drawn(2, 8, 5, 6, form=form), drawn(2, 8, 5, 6, form=form)
    y = attend_normed(Branch(z, norm_of(8)), Branch(s), torch.tensor([0.1]), "spatial")
    # A gradient as a mean over the positions gives it: expanded, in no format of its own.
    of_z, of_s = torch.autograd.grad(y.mean((2, 3)).sum(), [z, s])
    assert all(t.is_contiguous(memory_format=form) for t in (y, of_z, of_s))


def test_nothing_and_one_value_a_channel():
    alpha = torch.tensor([0.1], requires_grad=True)
    empty = drawn(0, 4, 3, 3)
    y = attend_normed(Branch(empty, norm_of(4, training=False)), Branch(empty), alpha, "spatial")
    assert y.shape == empty.shape
    y.sum().backward()
    single = drawn(1, 4, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # as torch's own norm says it
        attend_normed(Branch(single, norm_of(4)), Branch(single), alpha, "spatial")
    torch.testing.assert_close(attend(single, single, alpha, "spatial"), torch.relu(single * (2 + alpha)))


@pytest.mark.parametrize("name", ["torch", "native"])
@pytest.mark.parametrize("form", [LAST, FIRST])
@pytest.mark.parametrize("scale", [1e30, -1e30, 200.0, -200.0])
def test_values_whose_exponential_overflows(name, form, scale):
    o = torch.full((1, 2, 3, 3), scale) + torch.randn(1, 2, 3, 3)
    o = o.contiguous(memory_format=form).requires_grad_()
    s = torch.ones_like(o).requires_grad_()
    with implementation(name):
        y = attend(o, s, torch.tensor([0.5]), "spatial", relu=False)
    (of_s,) = torch.autograd.grad(y.sum(), s)
    m = torch.softmax(o.detach().double().flatten(2), 2).view(o.shape)
    torch.testing.assert_close(of_s, (1 + 0.5 * m).float())
    torch.testing.assert_close(y, o + 1 + 0.5 * m.float())


def saved_bytes(model: nn.Module, x: torch.Tensor, *, bfloat16: bool) -> int:
    """What autograd keeps for the backward pass besides the parameters, each storage once."""
    seen: dict[int, torch.Tensor] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        model(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", ["pesi50", "pesi_lite0"])
def test_it_keeps_hardly_more_than_a_plain_network(name, bfloat16):
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=LAST)
    kept = {
        form: saved_bytes(
            pesi.create_model(name, num_classes=3, attention=form).to(memory_format=LAST), x, bfloat16=bfloat16
        )
        for form in ("none", "spatial")
    }
    assert kept["spatial"] < 1.03 * kept["none"]


def test_gradients_of_a_network_in_bfloat16_are_as_near_as_the_plain_forms():
    model = pesi.create_model("pesi18", num_classes=3, alpha=0.1).to(memory_format=LAST)
    x = torch.randn(8, 3, 64, 64).contiguous(memory_format=LAST)

    def gradients(name: fused.Implementation, *, bfloat16: bool) -> torch.Tensor:
        model.zero_grad()
        with implementation(name), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            model(x).float().square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    exact = gradients("plain", bfloat16=False)
    torch.testing.assert_close(
        gradients("auto", bfloat16=False), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max())
    )
    errors = [float((gradients(name, bfloat16=True) - exact).norm()) for name in ("auto", "plain")]
    assert errors[0] < 1.2 * errors[1]


def test_a_norm_that_is_listened_to_is_called():
    block = PesiBlock(8, 8, attention=AttentionSettings(alpha=0.1)).eval()
    x, seen = torch.randn(1, 8, 4, 4), []
    expected = block(x)
    handle = block.bn2.register_forward_hook(lambda module, args, output: seen.append(output))
    torch.testing.assert_close(block(x), expected)
    assert len(seen) == 1
    handle.remove()
    block.bn2 = nn.SyncBatchNorm.convert_sync_batchnorm(block.bn2)
    torch.testing.assert_close(block(x), expected)


def test_cumulative_running_statistics():
    norms = [norm_of(4), norm_of(4)]
    norms[1].load_state_dict(norms[0].state_dict())
    for norm in norms:
        norm.momentum = None
    for _ in range(3):
        z = torch.randn(4, 4, 3, 3)
        norms[0](z)
        attend_normed(Branch(z, norms[1]), Branch(z), torch.tensor([0.1]), "spatial")
    for got, wanted in zip(norms[1].buffers(), norms[0].buffers(), strict=True):
        torch.testing.assert_close(got, wanted)
