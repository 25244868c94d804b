"""Blockings: each source turns queries, keys and values into blocks that one dense kernel reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.ops.cells import cells_plan, gather, scatter
from tokenmix.ops.sources import Band, Cells, Full, Neighbours, Slots, Span

Bias = Tensor | Callable[[Tensor, Tensor], Tensor]


class Tokens(NamedTuple):
    """What `attend` was given."""

    q: Tensor  # (B, H, Lq, D)
    k: Tensor  # (B, Hkv, Lk, D)
    v: Tensor  # (B, Hkv, Lk, E)
    mask: Tensor | None  # (B, Lk)
    segments: Tensor | None  # (B, L)
    bias: Bias | None  # (B|1, H|1, Lq|1, Lk|1), or callable


class Block(NamedTuple):
    """Dense work: N blocks of n queries that read m keys."""

    q: Tensor  # (N, H, n, D)
    k: Tensor  # (N, Hkv, m, D)
    v: Tensor  # (N, Hkv, m, E)
    allowed: Tensor | None = None  # broadcasts to (N, 1, n, m)
    bias: Tensor | None = None  # broadcasts to (N, H, n, m)
    covered: bool = False  # whether `allowed` leaves every query a key


Restore = Callable[[list[Tensor]], Tensor]  # results of the blocks, (N, H, n, E) each, -> (B, H, Lq, E)
Blocking = tuple[list[Block], Restore]


def block(source: Full | Band | Cells | Neighbours | Slots | Span, tokens: Tokens) -> Blocking:
    """Cut the work of one source into blocks."""
    match source:
        case Full():
            return _block_full(source, tokens)
        case Band():
            return _block_band(source, tokens)
        case Cells():
            return _block_cells(source, tokens)
        case Neighbours():
            return _block_neighbours(source, tokens)
        case Span():
            return _block_span(source, tokens)
        case Slots():
            return _block_slots(source, tokens)


# ---------------------------------------------------------------------- one block a row


def _block_full(source: Full, tokens: Tokens) -> Blocking:
    if tokens.segments is not None:
        return _block_cells(Cells(tokens.segments, source.causal), tokens._replace(segments=None))
    queries, keys = tokens.q.shape[2], tokens.k.shape[2]
    allowed = None
    if source.causal and queries > 1:
        allowed = torch.ones(queries, keys, dtype=torch.bool, device=tokens.q.device).tril(keys - queries)[None, None]
    return _whole_rows(tokens, allowed, covered=tokens.mask is None and queries <= keys)


def _block_span(source: Span, tokens: Tokens) -> Blocking:
    batch, _, queries, _ = tokens.q.shape
    if source.low.shape not in ((batch, queries), (1, queries)):
        raise ValueError(
            f"low, high: expected shape (B, Lq)={(batch, queries)} or (1, Lq), found {tuple(source.low.shape)}"
        )
    key = torch.arange(tokens.k.shape[2], device=tokens.q.device)
    low, high = source.low[:, None, :, None], source.high[:, None, :, None]
    return _whole_rows(tokens, (low <= key) & (key < high), covered=False)


def _whole_rows(tokens: Tokens, allowed: Tensor | None, covered: bool) -> Blocking:
    q, k, v, mask, segments, bias = tokens
    if mask is not None:
        allowed = _both(allowed, mask[:, None, None, :])
    if segments is not None:
        allowed = _both(allowed, segments[:, None, :, None] == segments[:, None, None, :])
    if callable(bias):
        query, key = (torch.arange(x.shape[2], device=q.device) for x in (q, k))
        bias = call_bias(bias, query[:, None], key[None, :], q.shape[1])[None]
    return [Block(q, k, v, allowed, bias, covered)], lambda results: results[0]


def _block_slots(source: Slots, tokens: Tokens) -> Blocking:
    q = tokens.q
    batch, heads, _, width = q.shape
    k, v = (_four(x, batch, heads, name) for x, name in ((source.k, "k of Slots"), (source.v, "v of Slots")))
    if k.shape[3] != width:
        raise ValueError(f"k of Slots: expected last dimension D={width}, found shape {tuple(source.k.shape)}")
    bias = None
    if source.log_weight is not None:
        bias = _four(source.log_weight[..., None], batch, heads, "log_weight").transpose(2, 3)  # (B, h, 1, S)
        bias = bias.repeat_interleave(heads // bias.shape[1], dim=1)
    return [Block(q, k, v, None, bias, covered=True)], lambda results: results[0]


def _four(x: Tensor, batch: int, heads: int, name: str) -> Tensor:
    """(S, D), (h, S, D) or (B, h, S, D) -> (B, h, S, D), where h divides H."""
    y = x.reshape((1,) * (4 - x.dim()) + x.shape)
    if y.shape[0] not in (1, batch) or heads % y.shape[1]:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: expected B={batch} rows and heads that divide H={heads}, found {shape}")
    return y.expand(batch, -1, -1, -1)


# ---------------------------------------------------------------------- blocks with their neighbours


def _block_band(source: Band, tokens: Tokens) -> Blocking:
    batch, _, length, _ = tokens.q.shape
    if tokens.k.shape[2] != length:
        raise ValueError(f"k: Band expected as many keys as queries ({length}), found {tokens.k.shape[2]}; see Span")
    window, dilation = source.window, source.dilation
    steps = -(-length // dilation)  # tokens of one residue class
    size, before = block_size(window, steps, source.causal)
    after = 0 if source.causal else before
    count = -(-steps // size)

    def split(x: Tensor, before: int, after: int) -> Tensor:
        """(B, h, L, D) -> (B * dilation * count, h, (before + 1 + after) * size, D), classes apart."""
        step = size * dilation
        x = F.pad(x, (0, 0, before * step, (count + after) * step - length))
        x = x.unflatten(2, (-1, size, dilation)).permute(0, 4, 2, 1, 3, 5)  # (B, dilation, blocks, h, size, D)
        if before + after:
            x = torch.cat([x[:, :, i : i + count] for i in range(before + 1 + after)], dim=4)
        return x.flatten(0, 2)

    def restore(results: list[Tensor]) -> Tensor:
        x = results[0].unflatten(0, (batch, dilation, count)).permute(0, 3, 2, 4, 1, 5)  # (B, H, count, size, d, E)
        return x.flatten(2, 4)[:, :, :length]

    device = tokens.q.device
    step = torch.arange(count * size, device=device).view(count, size)
    offset = torch.arange(-before * size, (1 + after) * size, device=device)  # of keys, from the block's first query
    distance = torch.arange(size, device=device)[:, None] - offset
    seen = (distance < window) & (distance >= 0 if source.causal else distance > -window)  # (n, m)
    class_ = torch.arange(dilation, device=device)[:, None, None]
    query = (step * dilation + class_).flatten(0, 1)  # (dilation * count, n): places in the row
    key = ((step[:, :1] + offset) * dilation + class_).flatten(0, 1)  # (dilation * count, m)
    inside = (key >= 0)[:, None]
    if not source.causal:  # a query of the padding reads itself, so that no query reads nothing
        inside = inside & ((key < length)[:, None] | (distance == 0))
    allowed, bias = _restrict(tokens, query, key, None, seen & inside)
    blocks = Block(split(tokens.q, 0, 0), split(tokens.k, before, after), split(tokens.v, before, after), allowed, bias)
    return [blocks._replace(covered=tokens.mask is None)], restore


def block_size(window: int, steps: int, causal: bool) -> tuple[int, int]:
    """Tokens of a block of a band, and how many blocks it reads on a side besides itself."""
    size = max(32, -(-window // 2))
    neighbours = -(-(window - 1) // size)
    read = size * (1 + neighbours * (1 if causal else 2))
    if -(-steps // size) * size * read >= steps * steps:  # short rows: one block is less work
        return steps, 0
    return size, neighbours


# ---------------------------------------------------------------------- gathered blocks


def _block_cells(source: Cells, tokens: Tokens) -> Blocking:
    batch, _, length, _ = tokens.q.shape
    if tokens.k.shape[2] != length:
        raise ValueError(f"k: Cells expected as many keys as queries ({length}), found {tokens.k.shape[2]}")
    if source.label.shape not in ((length,), (batch, length)):
        raise ValueError(
            f"label: expected shape (L,)={(length,)} or (B, L)={(batch, length)}, found {tuple(source.label.shape)}"
        )
    plan = cells_plan(source.label, tokens.segments, batch)
    tokens = tokens._replace(segments=None)  # the plan keeps documents apart
    blocks = []
    for row, place, used in plan.buckets:
        flat = row[:, None] * length + place
        allowed = None if used is None else used[:, None]  # (N, 1, n)
        if source.causal:
            causal = torch.ones(place.shape[1], place.shape[1], dtype=torch.bool, device=flat.device).tril()
            allowed = _both(allowed, causal[None])
        q, k, v = (gather(x, flat) for x in tokens[:3])
        allowed, bias = _restrict(tokens, place, place, row, allowed)
        blocks.append(Block(q, k, v, allowed, bias, covered=tokens.mask is None))
    return blocks, lambda results: scatter(results, plan, batch)


def _block_neighbours(source: Neighbours, tokens: Tokens) -> Blocking:
    q, k, v = tokens[:3]
    batch, _, queries, _ = q.shape
    keys = k.shape[2]
    if source.index.shape[:-1] not in ((queries,), (batch, queries)):
        raise ValueError(
            f"index: expected shape (L, K) or (B, L, K) with B={batch}, L={queries}, found {tuple(source.index.shape)}"
        )
    if source.highest >= keys:
        raise ValueError(f"index: expected places below the number of keys {keys}, found {source.highest}")
    index = source.index.expand(batch, queries, -1).flatten(0, 1)  # (B * Lq, K)
    place = index.clamp(min=0)
    row = torch.arange(batch, device=q.device).repeat_interleave(queries)
    query = torch.arange(queries, device=q.device).repeat(batch)[:, None]
    allowed, bias = _restrict(tokens, query, place, row, (index >= 0)[:, None])
    flat = place + row[:, None] * keys
    alone = q.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B * Lq, H, 1, D)
    blocks = Block(alone, gather(k, flat), gather(v, flat), allowed, bias)
    return [blocks], lambda results: results[0].squeeze(2).unflatten(0, (batch, queries)).transpose(1, 2)


# ---------------------------------------------------------------------- what a block may read


def _restrict(
    tokens: Tokens, query: Tensor, key: Tensor, row: Tensor | None, allowed: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """What `mask`, `segments` and `bias` say about blocks.

    Args:
        tokens: what `attend` was given.
        query: (M, n) places in the row; those outside are brought to its ends.
        key: (M, m) places in the row, likewise.
        row: (M,) the row of each block; None where every row has these blocks, so that N = B * M.
        allowed: what the source says, broadcasting to (M, n, m).

    Returns:
        allowed, (N, 1, n|1, m), and bias, (N, H|1, n, m).
    """
    batch, heads, queries, _ = tokens.q.shape
    query, key = query.clamp(0, queries - 1), key.clamp(0, tokens.k.shape[2] - 1)
    if allowed is not None:
        allowed = allowed.expand(len(key), -1, -1)
        allowed = allowed if row is not None else allowed.repeat(batch, 1, 1)
    if tokens.mask is not None:
        allowed = _both(allowed, _look_up(tokens.mask, key, row)[:, None])
    if tokens.segments is not None:
        same = _look_up(tokens.segments, query, row)[:, :, None] == _look_up(tokens.segments, key, row)[:, None]
        allowed = _both(allowed, same)
    bias = tokens.bias
    if callable(bias):
        bias = call_bias(bias, query[:, :, None], key[:, None], heads).transpose(0, 1)  # (M, h, n, m)
        bias = bias if row is not None else bias.repeat(batch, 1, 1, 1)
    elif bias is not None:
        bias = bias.expand(-1, -1, queries, tokens.k.shape[2])
        rows = torch.arange(batch, device=key.device).repeat_interleave(len(key)) if row is None else row
        if row is None:
            query, key = query.repeat(batch, 1), key.repeat(batch, 1)
        rows = rows if bias.shape[0] > 1 else torch.zeros_like(rows)
        bias = bias[rows[:, None, None], :, query[:, :, None], key[:, None]].permute(0, 3, 1, 2)
    return None if allowed is None else allowed[:, None], bias


def _look_up(values: Tensor, place: Tensor, row: Tensor | None) -> Tensor:
    """Values (B, L) at places (M, n), of every row or of row (M,) -> (N, n)."""
    return values[:, place].flatten(0, 1) if row is None else values[row[:, None], place]


def _both(left: Tensor | None, right: Tensor) -> Tensor:
    return right if left is None else left & right


def call_bias(bias: Callable[[Tensor, Tensor], Tensor], query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Scores (H|1, *index shape) from a callable bias."""
    shape = torch.broadcast_shapes(query.shape, key.shape)
    added = bias(query, key)
    if not isinstance(added, Tensor) or added.dim() != 1 + len(shape) or added.shape[0] not in (1, heads):
        found = tuple(added.shape) if isinstance(added, Tensor) else type(added).__name__
        raise ValueError(f"bias: expected it to return a tensor (H={heads} or 1, *{tuple(shape)}), found {found}")
    return added.expand(-1, *shape)
