"""Attention from any source: one function, one dense kernel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tokenmix.ops.blocked import Bias, Tokens, block, call_bias
from tokenmix.ops.cells import cells_plan, gather, scatter
from tokenmix.ops.dense import PLAIN, Rule, compute, fused, mix_channels
from tokenmix.ops.native_cache import read_cached, reads_cache
from tokenmix.ops.sources import Band, Full, HeadSplit, Slots, Source, Span, Union, check_source
from tokenmix.ops.windowed import serves, windowed

Score = Literal["softmax", "relu2", "relu", "none"]
Axis = Literal["token", "channel"]


def attend(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    source: Source,
    *,
    mask: Tensor | None = None,
    segments: Tensor | None = None,
    bias: Bias | None = None,
    score: Score = "softmax",
    axis: Axis = "token",
    scale: float | None = None,
) -> Tensor:
    """Read keys chosen by a source.

    With reads(i) the keys that the source, the mask and the segments leave to query i::

        s_ij = scale * q_i . k_j + bias_ij
        y_i  = sum over j in reads(i) of w_ij v_j

    where w_ij is exp(s_ij) / sum_j exp(s_ij) for score "softmax", max(s_ij, 0)^2 for "relu2", max(s_ij, 0) for
    "relu" and s_ij for "none". A query that reads nothing gives 0. With axis "channel", channels read channels
    (cross-covariance attention), over the real tokens n of a document::

        W_de = score over e of (scale * sum_n q_nd k_ne)
        y_nd = sum over e of W_de v_ne

    Scores, softmax and sums are computed in float32 or better, whatever the dtype of q, k and v.

    Args:
        q: (B, H, Lq, D) queries.
        k: (B, Hkv, Lk, D) keys, where Hkv divides H and query head h reads key head h // (H / Hkv). None, like v,
            if the source has no keys but `Slots`.
        v: (B, Hkv, Lk, E) values.
        source: which keys a query reads; see `tokenmix.ops.sources`.
        mask: (B, Lk) bool, True for keys that are real.
        segments: (B, L) integers, for Lq = Lk = L; a token reads only tokens of its own number.
        bias: added to the scores of tokens; (B|1, H|1, Lq, Lk) or fewer dimensions, or a function of int64 places of
            queries and keys that returns (H|1, *broadcast shape of the places). -inf hides a key.
        score: "softmax", "relu2", "relu" or "none".
        axis: "token", or "channel" for `Full()` only.
        scale: factor of the scores; default 1 / sqrt(D), and 1 on the channel axis (whose q and k are commonly
            normalised along the tokens, and multiplied by a temperature, beforehand).

    Returns:
        (B, H, Lq, E), in the dtype of q.

    Raises:
        ValueError, TypeError: input that does not fit; the message names the argument.

    Example:
        >>> x = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1)
        >>> attend(torch.zeros_like(x), x, x, Full()).flatten().tolist()
        [2.0, 2.0]

    Source: Vaswani et al. 2017 (1706.03762); grouped keys, Ainslie et al. 2023 (2305.13245); channel axis, El-Nouby
    et al. 2021 (2106.09681).
    """
    check_source("source", source)
    _check_choice("score", score, ("softmax", *PLAIN))
    _check_choice("axis", axis, ("token", "channel"))
    tokens = _check_tokens(q, k, v, source, mask, segments, bias)
    if axis == "channel":
        if not isinstance(source, Full) or source.causal or bias is not None or k is None:
            found = f"{type(source).__name__}, causal={getattr(source, 'causal', False)}, bias={bias is not None}"
            raise ValueError(f"axis: 'channel' expected source Full() and no bias, found {found}")
        return _attend_channels(tokens, Rule(score, 1.0 if scale is None else scale, sums=False))
    rule = Rule(score, q.shape[-1] ** -0.5 if scale is None else scale, sums=False)
    return _read(source, tokens, rule)[0].to(q.dtype)


# ---------------------------------------------------------------------- sources


def _read(source: Source, tokens: Tokens, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """(B, H, Lq, E), and (B, H, Lq, 1) log-sum-exp of the scores if the rule wants it."""
    if isinstance(source, Union):
        return _read_union(source, tokens, rule)
    if isinstance(source, HeadSplit):
        return _read_heads(source, tokens, rule)
    length = tokens.q.shape[2]
    if isinstance(source, Band) and source.dilation == 1 and source.window >= length == tokens.k.shape[2]:
        source = Full(source.causal)
    plain = rule.score == "softmax" and not rule.sums
    if plain and isinstance(source, (Full, Span)) and reads_cache(source, tokens):
        return read_cached(source, tokens, rule.scale), None
    if isinstance(source, Full) and plain and tokens[3:] == (None, None, None):
        if not source.causal or length == 1:
            return fused(tokens.q, tokens.k, tokens.v, None, rule.scale), None
        if length == tokens.k.shape[2]:
            return fused(tokens.q, tokens.k, tokens.v, None, rule.scale, is_causal=True), None
    if isinstance(source, Band) and plain and serves(source, tokens):
        return windowed(source, tokens, rule.scale), None
    blocks, restore = block(source, tokens)
    results = [compute(x, rule) for x in blocks]
    sums = [total for _, total in results if total is not None]
    return restore([y for y, _ in results]), restore(sums) if sums else None


def _read_union(source: Union, tokens: Tokens, rule: Rule) -> tuple[Tensor, Tensor | None]:
    if len(source.sources) == 1:
        return _read(source.sources[0], tokens, rule)
    if rule.score != "softmax":
        return torch.stack([_read(member, tokens, rule)[0] for member in source.sources]).sum(0), None
    results = [_read(member, tokens, rule._replace(sums=True)) for member in source.sources]
    totals = torch.stack([total for _, total in results if total is not None])  # (members, B, H, Lq, 1)
    nothing = (totals == -torch.inf).all(0)  # queries that read nothing anywhere
    totals = totals.masked_fill(nothing, 0.0)
    share = totals.softmax(0)
    y = sum((share[i] * results[i][0] for i in range(1, len(results))), share[0] * results[0][0])
    return y, totals.logsumexp(0).masked_fill(nothing, -torch.inf) if rule.sums else None


def _read_heads(source: HeadSplit, tokens: Tokens, rule: Rule) -> tuple[Tensor, Tensor | None]:
    heads, kv_heads = tokens.q.shape[1], tokens.k.shape[1]
    found = sum(count for count, _ in source.parts)
    if found != heads:
        raise ValueError(f"parts: expected heads that sum to H={heads}, found {found}")
    group = heads // kv_heads
    results, low = [], 0
    for count, member in source.parts:
        high = low + count
        whole = low % group == 0 and high % group == 0
        if not whole and low // group != (high - 1) // group:
            raise ValueError(
                f"parts: heads {low} to {high - 1} expected to be whole groups of {group} heads (H={heads}, "
                f"Hkv={kv_heads}) or to lie inside one"
            )
        kv = slice(low // group, -(-high // group))
        k, v = tokens.k[:, kv], tokens.v[:, kv]
        part = tokens._replace(q=tokens.q[:, low:high], k=k, v=v, bias=_slice_bias(tokens.bias, low, high, heads))
        results.append(_read(member, part, rule))
        low = high
    sums = [total for _, total in results if total is not None]
    return _join([y for y, _ in results]), torch.cat(sums, dim=1) if sums else None


def _join(parts: list[Tensor]) -> Tensor:
    """Heads side by side, (B, H, L, E), laid out as (B, L, H, E): what a projection of all heads reads."""
    return torch.cat([x.transpose(1, 2) for x in parts], dim=2).transpose(1, 2)


def _slice_bias(bias: Bias | None, low: int, high: int, heads: int) -> Bias | None:
    if callable(bias):
        whole = bias

        def part(query: Tensor, key: Tensor) -> Tensor:
            added = call_bias(whole, query, key, heads)
            return added[low:high] if added.shape[0] > 1 else added

        return part
    return bias[:, low:high] if bias is not None and bias.shape[1] > 1 else bias


def _attend_channels(tokens: Tokens, rule: Rule) -> Tensor:
    q, k, v, mask, segments, _ = tokens
    group = q.shape[1] // k.shape[1]
    if not q.shape[2:] == k.shape[2:] == v.shape[2:]:
        raise ValueError(
            "q, k, v: axis 'channel' expected one length and width, found "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    real = q.new_ones(q.shape[0], 1, q.shape[2], 1, dtype=torch.bool) if mask is None else mask[:, None, :, None]
    if segments is None:
        return mix_channels(q, k, v, real, rule).to(q.dtype)
    plan = cells_plan(segments, None, q.shape[0])
    results = []
    for row, place, used in plan.buckets:
        flat = row[:, None] * q.shape[2] + place
        real_here = gather(real, flat) if used is None else gather(real, flat) & used[:, None, :, None]
        results.append(mix_channels(gather(q, flat), gather(k, flat), gather(v, flat), real_here, rule))
    return scatter(results, plan, q.shape[0]).to(q.dtype)


# ---------------------------------------------------------------------- checks


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, found {value!r}")


def _needs_tokens(source: Source) -> bool:
    if isinstance(source, Union):
        return any(_needs_tokens(member) for member in source.sources)
    if isinstance(source, HeadSplit):
        return any(_needs_tokens(member) for _, member in source.parts)
    return not isinstance(source, Slots)


def _check_tokens(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    source: Source,
    mask: Tensor | None,
    segments: Tensor | None,
    bias: Bias | None,
) -> Tokens:
    if q.dim() != 4 or not q.is_floating_point():
        raise ValueError(f"q: expected floats of shape (B, H, Lq, D), found {q.dtype} of {tuple(q.shape)}")
    batch, heads, queries, width = q.shape
    if not _needs_tokens(source):
        for name, value in (("mask", mask), ("segments", segments), ("bias", bias)):
            if value is not None:
                raise ValueError(f"{name}: it is about tokens, and {type(source).__name__} here reads none")
        nothing = q[:, :, :0]
        return Tokens(q, nothing, nothing, None, None, None)
    if k is None or v is None:
        raise ValueError(f"k, v: {type(source).__name__} expected keys and values of tokens, found None")
    for name, x in (("k", k), ("v", v)):
        if x.dim() != 4 or x.shape[0] != batch or x.dtype != q.dtype:
            raise ValueError(
                f"{name}: expected {q.dtype} of shape (B={batch}, Hkv, Lk, ...), found {x.dtype} of {tuple(x.shape)}"
            )
    if k.shape[:3] != v.shape[:3] or k.shape[3] != width:
        raise ValueError(
            f"k, v: expected (B, Hkv, Lk, D={width}) and (B, Hkv, Lk, E), found {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(f"k: expected a number of heads that divides H={heads}, found Hkv={k.shape[1]}")
    keys = k.shape[2]
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, keys)):
        raise ValueError(f"mask: expected bool of shape {(batch, keys)}, found {mask.dtype} of {tuple(mask.shape)}")
    if segments is not None:
        if queries != keys:
            raise ValueError(f"segments: expected as many queries as keys, found Lq={queries} and Lk={keys}")
        if segments.is_floating_point() or segments.shape != (batch, queries):
            raise ValueError(
                f"segments: expected integers of shape {(batch, queries)}, found {segments.dtype} of "
                f"{tuple(segments.shape)}"
            )
    if bias is not None and not callable(bias):
        bias = _check_bias(bias, (batch, heads, queries, keys))
    return Tokens(q, k, v, mask, segments, bias)


def _check_bias(bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(bias, Tensor) or not bias.is_floating_point():
        raise TypeError(f"bias: expected floats or a callable, found {getattr(bias, 'dtype', type(bias).__name__)}")
    wide = bias.reshape((1,) * (4 - bias.dim()) + bias.shape)
    if wide.dim() != 4 or any(size not in (1, full) for size, full in zip(wide.shape, shape, strict=True)):
        raise ValueError(f"bias: expected a shape that broadcasts to {shape}, found {tuple(bias.shape)}")
    return wide
