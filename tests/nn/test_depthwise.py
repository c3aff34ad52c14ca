"""The depthwise convolution that learns in bfloat16 against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import pesi
from pesi.nn.depthwise import depthwise_conv2d


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    got, wanted = got.detach(), wanted.detach()
    return float((got.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_output_and_gradients_are_those_of_float64(kernel, stride, size):
    torch.manual_seed(kernel + stride)
    x = torch.randn(2, 12, *size).to(memory_format=torch.channels_last).bfloat16().requires_grad_()
    weight = torch.randn(12, 1, kernel, kernel).bfloat16().float().requires_grad_()
    out = depthwise_conv2d(x, weight, stride, kernel // 2)
    exact_x, exact_weight = x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, exact_weight, None, stride, kernel // 2, 1, 12)
    grad = torch.randn_like(out)
    out.backward(grad)
    exact.backward(grad.double())
    assert (out.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert relative_error(out, exact) < 5e-3
    assert relative_error(x.grad, exact_x.grad) < 5e-3
    assert relative_error(weight.grad, exact_weight.grad) < 5e-3


def test_a_network_learns_the_same_with_it(monkeypatch):
    """Gradients of a whole Pesi-Lite0 in bfloat16: as near to float32's as with torch's own convolution."""
    torch.manual_seed(0)
    # On real-sized activations of a network that starts anew, so that rounding is what differs and not chance.
    model = pesi.create_model("pesi_lite0", num_classes=3).to(memory_format=torch.channels_last)
    x, y = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last), torch.tensor([0, 1, 2, 0])

    def gradients(bfloat16: bool) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            F.cross_entropy(model(x).float(), y).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()

    exact, ours = gradients(False), gradients(True)
    monkeypatch.setattr("pesi.nn.lite.learns_in_bfloat16", lambda x: False)
    own = gradients(True)
    assert not torch.equal(ours, own)  # so both paths ran
    assert relative_error(ours, exact) < 1.1 * relative_error(own, exact)


def test_prediction_and_float32_training_are_left_alone(monkeypatch):
    def refuse(*args):
        raise AssertionError("not to be used")

    monkeypatch.setattr("pesi.nn.lite.depthwise_conv2d", refuse)
    model = pesi.create_model("pesi_lite0", num_classes=3).train()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 64, 64))
    with pytest.raises(AssertionError, match="not to be used"), torch.autocast("cpu", torch.bfloat16):
        model(torch.randn(2, 3, 64, 64))
