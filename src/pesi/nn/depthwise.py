"""Depthwise convolution that learns fast in bfloat16 on a CPU.

oneDNN runs a depthwise convolution forward in bfloat16 as fast as memory allows, but two of its gradients fall back to
a loop: the input's where the stride is 2, and the weight's where the kernel is 5 x 5. So those two are computed in
float32, and all else in bfloat16; the input's where the stride is 1 as a forward convolution with the kernel turned,
which takes half the time. Forward and backward, such a convolution is then 2 to 15 times as fast on an AVX-512
processor (`benchmarks/speed/parts.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def learns_in_bfloat16(x: Tensor) -> bool:
    """Whether a convolution of `x` is about to be computed in bfloat16 on a CPU, and to be learned from."""
    return (
        x.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Each channel convolved with a kernel of its own, in bfloat16; the weight's gradient is in the weight's dtype.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, K, K).
        stride, padding: In pixels, along both axes.

    Returns:
        (N, C, H', W'), bfloat16.
    """
    out: Tensor = _DepthwiseBfloat16.apply(x.bfloat16(), weight, stride, padding)  # type: ignore[no-untyped-call]
    return out


class _DepthwiseBfloat16(torch.autograd.Function):
    """Forward in bfloat16; backward in the faster dtype of each gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight.to(x.dtype), None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        kernel, groups = weight.shape[-1], x.shape[1]

        def gradients(dtype: torch.dtype, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            stride, padding = [ctx.stride] * 2, [ctx.padding] * 2
            grads: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                grad.to(dtype),
                x.to(dtype),
                weight.to(dtype),
                None,
                stride,
                padding,
                [1, 1],
                False,
                [0, 0],
                groups,
                wanted,
            )
            return grads

        of_x, of_weight = ctx.needs_input_grad[:2]
        if ctx.stride == 1 and of_x:
            turned = weight.to(x.dtype).flip(2, 3)
            grad_x = F.conv2d(grad.to(x.dtype), turned, None, 1, kernel - 1 - ctx.padding, 1, groups)
        else:
            grad_x = gradients(torch.float32, [of_x, False, False])[0]
        grad_weight = gradients(torch.bfloat16 if kernel <= 3 else torch.float32, [False, of_weight, False])[1]
        return grad_x.to(x.dtype) if of_x else None, grad_weight.to(weight.dtype) if of_weight else None, None, None
