"""MossFormer's attention inside groups of tokens: squared ReLU, no softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.ops.attend import attend
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.sources import Cells, Full, Source, Span
from tokenmix.state import MixerState, chunk_places


def read_near(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, group: int, causal: bool, state: MixerState | None = None
) -> Tensor:
    """y_i = sum over j of the group of token i of relu(q_i . k_j / g)^2 v_j, over j up to i if causal.

    Args:
        q, k: (B, L, key_size).
        v: (B, L, width).
        layout: aligned, as `TokenMixer.mix` has it.
        group: g, tokens a group, counted from the start of each document.
        causal: whether tokens read the past alone.
        state: with the rings "near_k" and "near_v" of `group` tokens, advanced here; if causal.

    Returns:
        (B, L, width), float32 or better.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> read_near(x, x, x, Layout(), group=2, causal=False).flatten().tolist()
        [2.25, 9.0, 60.75]
    """
    length, kind, device = v.shape[1], v.dtype, v.device
    q, k, v = (at_least_float32(x)[:, None] for x in (q, k, v))
    if state is None:
        label = layout.remember(("group", group, length, device), None, lambda: _label(layout, length, group, device))
        return _read(q, k, v, Cells(label, causal), group, layout.mask, layout.segments)
    if length == 1 and layout.mask is None and layout.segments is None:
        keys, values = _keep(k, v, kind, layout, state)
        key = ("open group", group)
        mask = layout.remember(key, state.counters, lambda: state.ages(group) <= state.place[:, None] % group)
        return _read(q, keys, values, Full(), group, mask)
    y = _read_chunk(q, k, v, layout, group, state)
    _keep(k, v, kind, layout, state)
    return y


def _read(
    q: Tensor, k: Tensor, v: Tensor, source: Source, group: int, mask: Tensor | None, segments: Tensor | None = None
) -> Tensor:
    y = attend(q, k, v, source, mask=mask, segments=segments, score="relu2", scale=1 / group)
    return y[:, 0]


def _label(layout: Layout, length: int, group: int, device: torch.device) -> Tensor:
    number = chunk_places(length, layout, None, device) // group
    return number[0] if number.shape[0] == 1 else number


def _keep(k: Tensor, v: Tensor, kind: torch.dtype, layout: Layout, state: MixerState) -> tuple[Tensor, Tensor]:
    """Write a chunk into the rings; what they hold."""
    counts = layout.counts()
    keys = state.overwrite("near_k", k.to(kind), counts)
    return keys.to(k.dtype), state.overwrite("near_v", v.to(kind), counts).to(v.dtype)


def _read_chunk(q: Tensor, k: Tensor, v: Tensor, layout: Layout, group: int, state: MixerState) -> Tensor:
    """A chunk behind the last group - 1 tokens."""
    kept, length = group - 1, q.shape[2]
    k = torch.cat([state.in_order("near_k").to(k.dtype), k], dim=2)
    v = torch.cat([state.in_order("near_v").to(v.dtype), v], dim=2)
    key = ("group", group, length)
    if length <= group:
        span = layout.remember(("span", *key), state.counters, lambda: _span(layout, length, group, state))
        return _read(q, k, v, span, group, None)
    make = ("kept", *key), state.counters, lambda: _wide_label(layout, length, group, state)
    label, mask = layout.remember(*make)
    idle = q.new_zeros(*q.shape[:2], kept, q.shape[3])  # a long chunk: groups apart, with idle queries for kept tokens
    return _read(torch.cat([idle, q], dim=2), k, v, Cells(label, causal=True), group, mask)[:, kept:]


def _first(layout: Layout, length: int, group: int, state: MixerState) -> Tensor:
    """(B, L): where the group of each token begins, counted from group - 1 tokens before the chunk."""
    index = group - 1 + torch.arange(length, device=state.place.device)
    return index - chunk_places(length, layout, state) % group


def _span(layout: Layout, length: int, group: int, state: MixerState) -> Span:
    first = _first(layout, length, group, state)
    return Span(first, (group + torch.arange(length, device=first.device)).expand_as(first))


def _wide_label(layout: Layout, length: int, group: int, state: MixerState) -> tuple[Tensor, Tensor]:
    """Labels (B, group - 1 + L) of groups, by where they begin, and which kept tokens are of the group still open."""
    first = _first(layout, length, group, state)
    begun = group - 1 - state.place[:, None] % group  # (B, 1)
    kept = torch.arange(group - 1, device=begun.device) >= begun
    mask = torch.cat([kept, torch.ones_like(first, dtype=torch.bool)], dim=1)
    return torch.cat([torch.where(kept, begun, -1), first], dim=1), mask
