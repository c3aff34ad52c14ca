"""The tail of a Pesi block in one operation: y = ReLU(O + s + alpha M . s), M = gain softmax(O / T) over H x W.

O = norm(z), and s = norm'(z') where the shortcut is a projection: the batch norms are part of the operation, so that it
keeps for the backward pass what autograd keeps of a plain ResNet block (z, z', y) and two numbers a channel of each
image; O, s and M are computed anew. The arithmetic is in `nn.native`, where there is no C compiler in `nn.kernels`, for
CUDA GPUs in `nn.triton_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pesi.nn.kernels import Affine, Kernels, Settings, Softmax, TorchKernels, work_type
from pesi.nn.native import NATIVE, NativeKernels, native_kernels

Implementation = Literal["auto", "plain", "torch", "native", "triton"]
_TORCH = TorchKernels()
_IMPLEMENTATION: ContextVar[Implementation] = ContextVar("implementation", default="auto")


class Branch(NamedTuple):
    """One of the two maps that a block adds up.

    Attributes:
        z: Before the batch norm, (N, C, H, W).
        norm: The batch norm; None: there is none.
    """

    z: Tensor
    norm: nn.Module | None = None

    def map(self) -> Tensor:
        """After the batch norm."""
        return self.z if self.norm is None else self.norm(self.z)


@contextmanager
def implementation(name: Implementation) -> Iterator[None]:
    """Within it every block is computed so, for tests and benchmarks: "plain" is torch's operations one by one."""
    token = _IMPLEMENTATION.set(name)
    try:
        yield
    finally:
        _IMPLEMENTATION.reset(token)


def records_graph() -> bool:
    """Whether torch.compile, export or tracing makes a graph of what is called."""
    return torch.compiler.is_compiling() or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def kernels_for(o: Branch, s: Branch) -> Kernels | None:
    """What computes the operation for these maps here; None: torch's own operations, one by one.

    Those also wherever a graph is recorded, and where there is nothing to compute.
    """
    if records_graph():
        return None
    name, device = _IMPLEMENTATION.get(), o.z.device.type
    if name == "plain" or o.z.shape != s.z.shape or not o.z.numel():
        return None
    if name == "triton":
        from pesi.nn.triton_kernels import TritonKernels

        return TritonKernels()
    if name == "native":
        return NativeKernels()
    if name == "torch":
        return _TORCH
    # The Triton kernels have run in its interpreter only: on a GPU "auto" stays with torch until they have run on one.
    if device != "cpu":
        return None
    # Without gradients the numbers at alpha 0 stay a plain network's, bit for bit, and nobody waits for a compiler.
    return (native_kernels() if o.z.dtype in NATIVE and torch.is_grad_enabled() else None) or _TORCH


def _computable(norm: nn.Module, z: Tensor) -> bool:
    """Whether it is a plain `BatchNorm2d` that nothing listens to, and not to be refused."""
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None or norm.weight is None:
        return False
    hooks = (norm._forward_hooks, norm._forward_pre_hooks, norm._backward_hooks, norm._backward_pre_hooks)
    return not any(hooks) and (not norm.training or z.numel() > z.shape[1])


def attention_residual(o: Branch, s: Branch, alpha: Tensor, settings: Settings, kernels: Kernels) -> Tensor:
    """ReLU(O + s + alpha M . s), M = gain softmax(O / T) over H x W, in the type and memory format of o's z.

    16-bit maps are computed in float32 and rounded once.

    Args:
        o, s: The two branches, (N, C, H, W); a norm in training mode updates its running statistics.
        alpha: (1,) or (C,).
        settings: See there.
        kernels: See `kernels_for`.
    """
    o, s = (
        branch if branch.norm is None or _computable(branch.norm, branch.z) else Branch(branch.map())
        for branch in (o, s)
    )
    (a, a_params), (b, b_params) = (_affine(branch) for branch in (o, s))
    y: Tensor = _AttentionResidual.apply(  # type: ignore[no-untyped-call]
        o.z, *a_params, s.z.to(o.z.dtype), *b_params, alpha, a, b, settings, kernels
    )
    return y


def _affine(branch: Branch) -> tuple[Affine | None, tuple[Tensor | None, Tensor | None]]:
    """The branch's norm with its present statistics, and its parameters."""
    norm, z = branch.norm, branch.z
    if norm is None:
        return None, (None, None)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        momentum = norm.momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            momentum = 1 / float(norm.num_batches_tracked) if momentum is None else momentum
        with torch.no_grad():
            mean, var = torch.ops.aten.batch_norm_update_stats(z, mean, var, momentum)
    with torch.no_grad():
        work = work_type(z.dtype)
        inverse_std = 1 / (var.to(work) + norm.eps).sqrt()
        scale = norm.weight.to(work) * inverse_std
        shift = torch.addcmul(norm.bias.to(work), mean.to(work), scale, value=-1)  # as torch's own norm rounds it
        weight, bias = norm.weight.detach(), norm.bias.detach()
    return Affine(scale, shift, weight, bias, mean, var, inverse_std, norm.training, norm.eps), (norm.weight, norm.bias)


class _AttentionResidual(torch.autograd.Function):
    """Gradients for z, s, both norms' parameters and alpha; `Kernels` does the maps, torch the norms' backward."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        a_weight: Tensor | None,
        a_bias: Tensor | None,
        s: Tensor,
        b_weight: Tensor | None,
        b_bias: Tensor | None,
        alpha: Tensor,
        a: Affine | None,
        b: Affine | None,
        settings: Settings,
        kernels: Kernels,
    ) -> Tensor:
        y, softmax = kernels.forward(z, a, s, b, alpha, settings)
        if any(ctx.needs_input_grad):
            ctx.a, ctx.b, ctx.settings, ctx.kernels = a, b, settings, kernels
            kept = y if settings.relu and kernels.needs_result else None
            ctx.save_for_backward(z, a_weight, s, b_weight, alpha, *softmax, kept)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, a_weight, s, b_weight, alpha, log_sum, peak, y = ctx.saved_tensors
        softmax = Softmax(log_sum, peak)
        of_o, of_s, terms = ctx.kernels.backward(grad, y, z, ctx.a, s, ctx.b, alpha, softmax, ctx.settings)
        of_alpha = terms.sum(0) if alpha.numel() > 1 else terms.sum().view(1)
        wanted = ctx.needs_input_grad
        return (
            *_through_norm(of_o, z, a_weight, ctx.a, wanted[:3]),
            *_through_norm(of_s, s, b_weight, ctx.b, wanted[3:6]),
            of_alpha.to(alpha.dtype),
            *(None,) * 4,
        )


def _through_norm(
    grad: Tensor, z: Tensor, weight: Tensor | None, norm: Affine | None, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if norm is None or not any(wanted):
        return grad, None, None
    grads: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.native_batch_norm_backward(
        grad, z, weight, norm.mean, norm.var, norm.mean, norm.inverse_std, norm.of_batch, norm.eps, list(wanted)
    )
    return grads
