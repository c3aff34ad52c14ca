"""The arithmetic of a Pesi block's tail as two Triton kernels, for CUDA GPUs; see `nn.fused`.

A program takes some channels of one image and goes twice over their positions: for the sums, then for the maps. Triton
comes with torch where torch has CUDA; nothing else imports this file.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pesi.nn.kernels import Affine, Settings, Softmax, memory_format


@triton.jit
def _load(pointer, place, inside):  # type: ignore[no-untyped-def]
    """A tile of a map, float32."""
    return tl.load(pointer + place, mask=inside, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    z_p, s_p, y_p, scale_p, shift_p, s_scale_p, s_shift_p, alpha_p, log_sum_p, peak_p,
    channels, positions, c_stride, p_stride, alpha_stride, inverse_temperature, log_gain,
    A: tl.constexpr, B: tl.constexpr, RELU: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < channels
    scale, shift = tl.full([BLOCK_C], 1.0, tl.float32), tl.zeros([BLOCK_C], tl.float32)
    s_scale, s_shift = scale, shift
    if A:
        scale, shift = _load(scale_p, c, real), _load(shift_p, c, real)
    if B:
        s_scale, s_shift = _load(s_scale_p, c, real), _load(s_shift_p, c, real)
    alpha = _load(alpha_p, c * alpha_stride, real)
    base = image * channels * positions + c[None, :] * c_stride
    peak, total = tl.full([BLOCK_C], float("-inf"), tl.float32), tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, positions, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        inside = (p < positions)[:, None] & real[None, :]
        o = _load(z_p, base + p[:, None] * p_stride, inside) * scale[None, :] + shift[None, :]
        x = tl.where((p < positions)[:, None], o * inverse_temperature, float("-inf"))
        higher = tl.maximum(peak, tl.max(x, 0))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(x - higher[None, :]), 0)
        peak = higher
    log_sum = tl.log(total) - log_gain
    tl.store(log_sum_p + image * channels + c, log_sum, mask=real)
    tl.store(peak_p + image * channels + c, peak, mask=real)
    for start in range(0, positions, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        inside = (p < positions)[:, None] & real[None, :]
        place = base + p[:, None] * p_stride
        o = _load(z_p, place, inside) * scale[None, :] + shift[None, :]
        s = _load(s_p, place, inside) * s_scale[None, :] + s_shift[None, :]
        m = tl.exp(o * inverse_temperature - peak[None, :] - log_sum[None, :])
        y = o + s + alpha[None, :] * m * s
        if RELU:
            y = tl.where(y < 0, 0.0, y)  # keeps NaN, as torch does
        tl.store(y_p + place, y.to(y_p.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    g_p, y_p, z_p, s_p, of_o_p, of_s_p, terms_p, scale_p, shift_p, s_scale_p, s_shift_p, alpha_p, log_sum_p,
    peak_p, channels, positions, c_stride, p_stride, alpha_stride, inverse_temperature, gain,
    A: tl.constexpr, B: tl.constexpr, RELU: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    real = c < channels
    scale, shift = tl.full([BLOCK_C], 1.0, tl.float32), tl.zeros([BLOCK_C], tl.float32)
    s_scale, s_shift = scale, shift
    if A:
        scale, shift = _load(scale_p, c, real), _load(shift_p, c, real)
    if B:
        s_scale, s_shift = _load(s_scale_p, c, real), _load(s_shift_p, c, real)
    alpha = _load(alpha_p, c * alpha_stride, real)
    peak, log_sum = _load(peak_p + image * channels, c, real), _load(log_sum_p + image * channels, c, real)
    base = image * channels * positions + c[None, :] * c_stride
    total = tl.zeros([BLOCK_C], tl.float32)
    for again in tl.static_range(2):
        for start in range(0, positions, BLOCK_P):
            p = start + tl.arange(0, BLOCK_P)
            inside = (p < positions)[:, None] & real[None, :]
            place = base + p[:, None] * p_stride
            g = _load(g_p, place, inside)
            if RELU:
                g = tl.where(_load(y_p, place, inside) > 0, g, 0.0)
            o = _load(z_p, place, inside) * scale[None, :] + shift[None, :]
            s = _load(s_p, place, inside) * s_scale[None, :] + s_shift[None, :]
            m = tl.exp(o * inverse_temperature - peak[None, :] - log_sum[None, :])
            if again == 0:
                total += tl.sum(tl.where(inside, g * s * m, 0.0), 0)
            else:
                alpha_m = alpha[None, :] * m
                of_o = g + alpha_m * inverse_temperature * (g * s - total[None, :] / gain)
                tl.store(of_o_p + place, of_o.to(of_o_p.dtype.element_ty), mask=inside)
                tl.store(of_s_p + place, (g + alpha_m * g).to(of_s_p.dtype.element_ty), mask=inside)
    tl.store(terms_p + image * channels + c, total, mask=real)


class TritonKernels:
    """A launch forward and one backward; maps in z's memory format, arithmetic in float32."""

    needs_result = True

    def forward(
        self, z: Tensor, a: Affine | None, s: Tensor, b: Affine | None, alpha: Tensor, settings: Settings
    ) -> tuple[Tensor, Softmax]:
        """See `Kernels`."""
        form, launch = memory_format(z), _Launch(z, a, b, alpha)
        z, s = (t.contiguous(memory_format=form) for t in (z, s))
        y = torch.empty_like(z)
        log_sum, peak = (z.new_empty(z.shape[:2], dtype=torch.float32) for _ in range(2))
        _forward[launch.grid](
            *(z, s, y, *launch.vectors, log_sum, peak, *launch.sizes),
            *(1 / settings.temperature, math.log(settings.gain)),
            **launch.kind, RELU=settings.relu,
        )  # fmt: skip
        return y, Softmax(log_sum, peak)

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
        form, launch = memory_format(z), _Launch(z, a, b, alpha)
        z, s, grad = (t.contiguous(memory_format=form) for t in (z, s, grad))
        of_o, of_s, terms = torch.empty_like(z), torch.empty_like(z), torch.empty_like(softmax.log_sum)
        _backward[launch.grid](
            *(grad, z if y is None else y, z, s, of_o, of_s, terms, *launch.vectors, *softmax, *launch.sizes),
            *(1 / settings.temperature, settings.gain),
            **launch.kind, RELU=y is not None,
        )  # fmt: skip
        return of_o, of_s, terms


class _Launch:
    """What both kernels are called with."""

    def __init__(self, z: Tensor, a: Affine | None, b: Affine | None, alpha: Tensor) -> None:
        images, channels, height, width = z.shape
        positions, last = height * width, memory_format(z) == torch.channels_last
        block_c = min(triton.next_power_of_2(channels), 64 if last else 8)
        block_p = min(triton.next_power_of_2(positions), 2048 // block_c)
        self.grid = (images, triton.cdiv(channels, block_c))
        unused = (alpha, alpha)
        self.vectors = (*(a[:2] if a else unused), *(b[:2] if b else unused), alpha)
        strides = (1, channels) if last else (positions, 1)
        self.sizes = (channels, positions, *strides, int(alpha.numel() > 1))
        self.kind: dict[str, Any] = {"A": a is not None, "B": b is not None, "BLOCK_P": block_p, "BLOCK_C": block_c}
