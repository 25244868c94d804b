"""Attention of one query a row over cached keys, as a native kernel: a step of decoding is reading memory."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native


def reads_cache(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `read_cache` serves: one float32 query a row on the CPU, values as wide as keys, and no gradients."""
    if q.shape[2] != 1 or k.shape[3] != v.shape[3] or k.shape[2] == 0 or q.dtype != torch.float32:
        return False
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return not grad and kernels.serves(q, k, v)


@torch.library.custom_op("tokenmix::read_cache", mutates_args=())
def read_cache(q: Tensor, k: Tensor, v: Tensor, low: Tensor | None, high: Tensor | None, scale: float) -> Tensor:
    """Softmax attention of one query a head; a query without keys gives 0.

    Args:
        q: (B, H, 1, D). k, v: (B, Hkv, S, D), where Hkv divides H; contiguous in their last axis.
        low, high: (B,) int64: row b reads keys low[b] <= j < high[b]; None for all.
        scale: factor of the scores.

    Returns:
        (B, H, 1, D).
    """
    q, k, v = map(native.rows, (q, k, v))
    y = torch.empty_like(q, memory_format=torch.contiguous_format)
    places = [None if place is None else place.contiguous() for place in (low, high)]
    (rows, heads, _, width), (kv_heads, keys) = q.shape, k.shape[1:3]
    arguments = native.Cache(
        *map(native.address, (q, k, v, *places, y)),
        *(rows, heads, kv_heads, keys, width),
        *(q.stride(0), q.stride(1)),
        *k.stride()[:3],
        *v.stride()[:3],
        scale,
        native.threads(rows * heads * keys * width),
    )
    native.run(kernels.library().tm_read_cache, arguments)
    return y


@read_cache.register_fake
def _shape(q: Tensor, *_: Tensor | float | None) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
