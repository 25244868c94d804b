"""How heads read and write the keys and values that a state keeps: all of them, or rings of the last ones."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Full, Span
from tokenmix.state import MixerState, chunk_places


def read_and_write(
    window: int | None, name: str, q: Tensor, k: Tensor, v: Tensor, layout: Layout, state: MixerState, read: bool
) -> Tensor | None:
    """One head group: keep the chunk's keys and values, and read with its queries unless it is the first chunk."""
    if window is None:
        keys, values = state.append(f"k{name}", k), state.append(f"v{name}", v)
        return _attend_all(q, keys, values, layout, state) if read else None
    if window == 1:
        return attend(q, k, v, Band(1)) if read else None
    step = q.shape[2] == 1 and layout.mask is None and layout.segments is None
    y = _attend_recent(q, k, v, window, name, layout, state) if read and not step else None
    counts = layout.counts()
    keys, values = state.overwrite(f"k{name}", k, counts), state.overwrite(f"v{name}", v, counts)
    return _attend_ring(q, keys, values, layout, state) if read and step else y


def _attend_all(q: Tensor, keys: Tensor, values: Tensor, layout: Layout, state: MixerState) -> Tensor:
    """Read every earlier token of the document: slots place by place."""
    length = q.shape[2]
    keys, values = keys.to(q.dtype), values.to(q.dtype)  # under autocast the state may be wider
    if state.uniform and not state.packed and layout.segments is None and layout.mask is None:
        return attend(q, keys, values, Full(causal=length > 1))
    return attend(
        q, keys, values, layout.remember(("span", length), state.counters, lambda: _span(layout, state, length))
    )


def _span(layout: Layout, state: MixerState, length: int) -> Span:
    """The slots of growing tensors that each token of a chunk reads: those of its document so far, and its own."""
    index = state.seen[:, None] + torch.arange(length, device=state.seen.device)
    return Span(index - chunk_places(length, layout, state), index + 1)


def _attend_ring(q: Tensor, keys: Tensor, values: Tensor, layout: Layout, state: MixerState) -> Tensor:
    """Read the ring in whose slots the last tokens are, the query's own too; their order does not matter."""
    size, mask = keys.shape[2], None
    keys, values = keys.to(q.dtype), values.to(q.dtype)
    if state.counters.shortest < size - 1:  # slots may be empty, or of an earlier document
        if state.uniform and not state.packed:
            keys, values = keys[:, :, : state.length + 1], values[:, :, : state.length + 1]
        else:
            mask = layout.remember(("ring", size), state.counters, lambda: state.ages(size) <= state.place[:, None])
    return attend(q, keys, values, Full(), mask=mask)


def _attend_recent(
    q: Tensor, k: Tensor, v: Tensor, window: int, name: str, layout: Layout, state: MixerState
) -> Tensor:
    """Read the last `window` tokens of the document: those kept in the state, then those of the chunk."""
    kept, length = window - 1, q.shape[2]
    keys = torch.cat([state.in_order(f"k{name}").to(k.dtype), k], dim=2)
    values = torch.cat([state.in_order(f"v{name}").to(v.dtype), v], dim=2)
    places = chunk_places(length, layout, state)
    if length <= 2 * window:
        index = kept + torch.arange(length, device=q.device)
        low = index - places.clamp(max=kept)
        return attend(q, keys, values, Span(low, (index + 1).expand_as(low)))
    # a long chunk: the band in blocks, with idle queries for the kept keys
    idle = q.new_zeros(q.shape[0], q.shape[1], kept, q.shape[3])
    mask = torch.cat([state.recent_mask(kept), torch.ones_like(places, dtype=torch.bool)], dim=1)
    documents = (places == 0).cumsum(1)
    documents = torch.cat([torch.zeros_like(documents[:, :1]).expand(-1, kept), documents], dim=1)
    band = attend(torch.cat([idle, q], dim=2), keys, values, Band(window), mask=mask, segments=documents)
    return band[:, :, kept:]
