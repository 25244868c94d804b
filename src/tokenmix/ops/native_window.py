"""Windowed attention as a native kernel: what `tokenmix.ops.windowed` calls where it serves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native

_WIDEST, _LONGEST = 512, 2048  # features and window that the kernel's scratch is made for


def fits(q: Tensor, v: Tensor, mask: Tensor | None, segments: Tensor | None, window: int, dilation: int) -> bool:
    """Whether the kernel serves: float32 on the CPU, whole vectors of features, no padding and no documents."""
    if mask is not None or segments is not None or dilation != 1 or window > _LONGEST or q.dtype != torch.float32:
        return False
    width = q.shape[3]
    return width % 16 == 0 and 0 < width <= _WIDEST and v.shape[3] == width and q.numel() > 0 and kernels.serves(q)


def run_forward(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor, window: int, causal: bool, scale: float
) -> None:
    """Write y (B, H, L, D), and the log-sum-exp of the scores (B, H, L, 1)."""
    native.run(kernels.library().tm_window_forward, _arguments(q, k, v, y, sums, window, causal, scale))


def run_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor, window: int, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, laid out as they are."""
    arguments = _arguments(q, k, v, y, sums, window, causal, scale)
    grad = native.rows(grad)
    likes = [torch.empty_like(x) for x in (q, k, v)]
    found = [x if x.stride(-1) == 1 else x.new_empty(x.shape) for x in likes]
    strides = [stride for x in (grad, *found) for stride in x.stride()[:3]]
    grads = native.WindowGrads(*map(native.address, (grad, *found)), *strides)
    native.run(kernels.library().tm_window_backward, arguments, grads)
    grad_q, grad_k, grad_v = (x if x is y else x.copy_(y) for x, y in zip(likes, found, strict=True))
    return grad_q, grad_k, grad_v


def _arguments(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, sums: Tensor, window: int, causal: bool, scale: float
) -> Any:
    q, k, v = map(native.rows, (q, k, v))
    rows, heads, length, width = q.shape
    arguments = native.Window(
        *map(native.address, (q, k, v, y, sums)),
        *(rows, heads, k.shape[1], length, width, window, int(causal)),
        *q.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *y.stride()[:3],
        *sums.stride()[:3],
        scale,
        native.threads(rows * heads * length * min(window, length) * width),
    )
    return native.holding(arguments, q, k, v)
