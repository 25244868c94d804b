"""Attention of one query a row over cached keys, as a native kernel: a step of decoding is reading memory."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native
from tokenmix.ops.blocked import Tokens
from tokenmix.ops.sources import Full, Span

_FEWEST = 1 << 17  # numbers of all keys that are worth a call of the kernel where torch's serves as well


def reads_cache(source: Full | Span, tokens: Tokens) -> bool:
    """Whether `read_cached` is right for these tokens, and faster: one float32 query a row on the CPU, no gradients."""
    q, k, v, *rest = tokens
    if q.shape[2] != 1 or rest != [None, None, None]:
        return False
    if q.dtype != torch.float32 or k.shape[3] != v.shape[3] or k.shape[2] == 0 or torch.compiler.is_compiling():
        return False
    if isinstance(source, Full) and k.numel() < _FEWEST:
        return False
    return not kernels.wants_gradients(q, k, v) and kernels.serves(q, k, v)


def read_cached(source: Full | Span, tokens: Tokens, scale: float) -> Tensor:
    """(B, H, 1, D): softmax attention of one query over all keys, or over an interval of them."""
    q, k, v = tokens[:3]
    low = high = None
    if isinstance(source, Span):
        low, high = _bounds(source, q.shape[0], k.shape[2])
    y: Tensor = kernels.call(_run, read_cache, q, k, v, low, high, scale)
    return y


def _bounds(source: Span, batch: int, keys: int) -> tuple[Tensor, Tensor]:
    """(B,) first key of a row, and the one behind its last.

    Raises:
        ValueError: an interval for other rows.
    """
    if source.low.shape not in ((batch, 1), (1, 1)):
        raise ValueError(f"low, high: expected shape (B, Lq)={(batch, 1)} or (1, Lq), found {tuple(source.low.shape)}")
    low, high = (x.clamp(0, keys).expand(batch, 1)[:, 0] for x in (source.low, source.high))
    return low, high


def _run(q: Tensor, k: Tensor, v: Tensor, low: Tensor | None, high: Tensor | None, scale: float) -> Tensor:
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


read_cache = torch.library.custom_op("tokenmix::read_cache", _run, mutates_args=())


@read_cache.register_fake
def _shape(q: Tensor, *_: Tensor | float | None) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)
