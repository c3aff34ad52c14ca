"""The arithmetic of a Pesi block's tail in torch's operations, a few images at a time; see `nn.fused`."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
# Elements worked on at once by each thread: some six maps of them lie in a core's second-level cache of 1 to 2 MB.
_CHUNK = 1 << 16
# Where each sum of exp(O) is within e^-60 to e^60, it is exact to rounding without subtracting the maximum first.
_SAFE_LOG_SUM = 60.0


class Settings(NamedTuple):
    """What the operation does besides adding up.

    Attributes:
        temperature: What O is divided by.
        gain: What the softmax is multiplied by.
        relu: Whether a ReLU follows.
    """

    temperature: float
    gain: float
    relu: bool


class Affine(NamedTuple):
    """A batch norm as z scale + shift, each (C,), with what torch's own norm is called with."""

    scale: Tensor
    shift: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    inverse_std: Tensor
    of_batch: bool
    eps: float


class Softmax(NamedTuple):
    """What is left of M: exp(O / T - peak - log_sum), where log_sum has the gain in it, each (N, C); no peak: 0."""

    log_sum: Tensor
    peak: Tensor | None


class Kernels(Protocol):
    """The arithmetic, forward and backward; `a` and `b` are the norms of z and s.

    Attributes:
        needs_result: Whether `backward` is given y where there is a ReLU.
    """

    needs_result: bool

    def forward(
        self, z: Tensor, a: Affine | None, s: Tensor, b: Affine | None, alpha: Tensor, settings: Settings
    ) -> tuple[Tensor, Softmax]:
        """y, of the type of z and s, and the softmax."""

    def backward(
        self,
        grad: Tensor,
        y: Tensor | None,
        z: Tensor,
        a: Affine | None,
        s: Tensor,
        b: Affine | None,
        alpha: Tensor,
        softmax: Softmax,
        settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of O and of s, of the type of the maps; and of alpha, a term an image and channel, (N, C).

        Args:
            grad: Of y.
            y: As `forward` gave it; None: no ReLU, or not `needs_result`.
            z, a, s, b, alpha, settings: As in `forward`.
            softmax: As `forward` gave it.
        """


def work_type(dtype: torch.dtype) -> torch.dtype:
    """What maps of a type are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format(x: Tensor) -> torch.memory_format:
    """Of a map: channels_last or contiguous."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


class TorchKernels:
    """On a CPU some images at a time, in buffers that stay in the cache; on a GPU all at once."""

    needs_result = True

    def forward(
        self, z: Tensor, a: Affine | None, s: Tensor, b: Affine | None, alpha: Tensor, settings: Settings
    ) -> tuple[Tensor, Softmax]:
        """See `Kernels`."""
        y, softmax = self._forward(z, a, s, b, alpha, settings, safely=z.device.type != "cpu")
        if z.device.type != "cpu" or bool((softmax.log_sum.abs() < _SAFE_LOG_SUM + math.log(settings.gain)).all()):
            return y, softmax
        return self._forward(z, a, s, b, alpha, settings, safely=True)

    def _forward(
        self,
        z: Tensor,
        a: Affine | None,
        s: Tensor,
        b: Affine | None,
        alpha: Tensor,
        settings: Settings,
        *,
        safely: bool,
    ) -> tuple[Tensor, Softmax]:
        work, form, step = work_type(z.dtype), memory_format(z), _step(z)
        y = torch.empty(z.shape, dtype=z.dtype, device=z.device, memory_format=form)
        sums = torch.empty(z.shape[:2], dtype=work, device=z.device)
        peak = torch.empty_like(sums) if safely else None
        alpha = settings.gain * alpha.to(work).view(1, -1)
        buffers = [torch.empty((step, *z.shape[1:]), dtype=work, device=z.device, memory_format=form) for _ in range(3)]
        for start in range(0, len(z), step):
            part = slice(start, start + step)
            o, e, shortcut = (buffer[: len(z[part])] for buffer in buffers)
            o = y[part] if y.dtype == work else o  # where it can, the result's place is a buffer first
            normed = _normed(z[part], a, o)
            if normed is not o:
                o.copy_(normed)
            scaled = o if settings.temperature == 1.0 else torch.mul(o, 1 / settings.temperature, out=e)
            if peak is not None:
                peak[part] = scaled.amax((2, 3))
                scaled = torch.sub(scaled, peak[part][:, :, None, None], out=e)
            torch.sum(torch.exp(scaled, out=e), (2, 3), out=sums[part])
            e.mul_((alpha / sums[part])[:, :, None, None])  # alpha M
            shortcut = _normed(s[part], b, shortcut)
            o.add_(shortcut).addcmul_(e, shortcut)
            if settings.relu:
                o.relu_()
            if y.dtype != work:
                y[part].copy_(o)
        return y, Softmax(sums.log_().sub_(math.log(settings.gain)), peak)

    def backward(
        self,
        grad: Tensor,
        y: Tensor | None,
        z: Tensor,
        a: Affine | None,
        s: Tensor,
        b: Affine | None,
        alpha: Tensor,
        softmax: Softmax,
        settings: Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernels`."""
        work, form, step = work_type(z.dtype), memory_format(z), _step(z)
        of_o = torch.empty(z.shape, dtype=z.dtype, device=z.device, memory_format=form)
        of_s = torch.empty_like(of_o)
        terms = torch.empty_like(softmax.log_sum)
        single = alpha.numel() == 1 and z.device.type == "cpu"  # elsewhere its value would have to be waited for
        factor, each = (float(alpha), None) if single else (1.0, alpha.to(work).view(1, -1, 1, 1))
        buffers = [torch.empty((step, *z.shape[1:]), dtype=work, device=z.device, memory_format=form) for _ in range(5)]
        for start in range(0, len(z), step):
            part = slice(start, start + step)
            g, q, shortcut, m, product = (buffer[: len(z[part])] for buffer in buffers)
            m = of_o[part] if of_o.dtype == work else m  # where it can, a gradient's place is a buffer first
            product = of_s[part] if of_s.dtype == work else product
            given = grad[part] if grad.dtype == work else g.copy_(grad[part])
            if y is not None:
                positive = y[part] if y.dtype == work else q.copy_(y[part])
                given = torch.ops.aten.threshold_backward.grad_input(given, positive, 0, grad_input=g)
            _attention(z[part], a, softmax, part, settings, m)
            torch.mul(given, _normed(s[part], b, shortcut), out=q)
            torch.sum(torch.mul(q, m, out=product), (2, 3), out=terms[part])  # of g . s . M
            q.sub_((terms[part] / settings.gain)[:, :, None, None])
            if each is not None:
                m.mul_(each)
            torch.addcmul(given, given, m, value=factor, out=product)
            torch.addcmul(given, m, q, value=factor / settings.temperature, out=m)
            if of_o.dtype != work:
                of_o[part].copy_(m)
            if of_s.dtype != work:
                of_s[part].copy_(product)
        return of_o, of_s, terms


def _attention(
    z: Tensor, norm: Affine | None, softmax: Softmax, part: slice, settings: Settings, out: Tensor
) -> Tensor:
    """M of some images, in `out`."""
    low = softmax.log_sum[part][:, :, None, None]
    if norm is not None and softmax.peak is None:  # the usual case, in two passes
        scale, shift = (t.view(1, -1, 1, 1) / settings.temperature for t in (norm.scale, norm.shift))
        z = z if z.dtype == out.dtype else out.copy_(z)
        return torch.addcmul(shift - low, z, scale, out=out).exp_()
    o = torch.mul(_normed(z, norm, out), 1 / settings.temperature, out=out)
    if softmax.peak is not None:
        o.sub_(softmax.peak[part][:, :, None, None])
    return o.sub_(low).exp_()


def _step(z: Tensor) -> int:
    """Images worked on at once."""
    if z.device.type != "cpu":
        return len(z)
    return min(len(z), max(1, _CHUNK * torch.get_num_threads() // max(1, z[0].numel())))


def _normed(z: Tensor, norm: Affine | None, buffer: Tensor) -> Tensor:
    """The map after its norm, in the buffer; the map itself where nothing is to be done."""
    out = buffer[: len(z)]
    if z.dtype != out.dtype:
        z = out.copy_(z)
    if norm is None:
        return z
    if memory_format(out) == torch.channels_last:
        return torch.addcmul(norm.shift.view(1, -1, 1, 1), z, norm.scale.view(1, -1, 1, 1), out=out)
    weight, bias, mean, var = (t.to(out.dtype) for t in (norm.weight, norm.bias, norm.mean, norm.var))
    places = (out, z.new_empty(0), z.new_empty(0))
    return torch.native_batch_norm(z, weight, bias, mean, var, False, 0.0, norm.eps, out=places)[0]
