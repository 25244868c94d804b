"""MossFormer's attention to everything: linear, over the whole document or over its earlier groups."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.layout import Layout
from tokenmix.ops.chunked_scan import chunked_scan, linear_attention
from tokenmix.ops.precision import at_least_float32
from tokenmix.state import MixerState, chunk_places, document_starts


def read_document(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """y_i = sum over the T tokens j of the document of token i of q_i . k_j / T v_j.

    Args:
        q, k: (B, L, key_size).
        v: (B, L, width).
        layout: aligned, as `TokenMixer.mix` has it.

    Returns:
        (B, L, width), float32 or better.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> read_document(x, x, x, Layout(segments=torch.tensor([[0, 0, 1]]))).flatten().tolist()
        [2.5, 5.0, 27.0]
    """
    q, k, v = (at_least_float32(x) for x in (q, k, v))
    q, starts = q / document_lengths(layout, v.shape[1]), document_starts(layout)
    heads = [x[:, :, None] for x in (q, k, v)]
    y, _ = linear_attention(*heads, causal=False, normalize=False, starts=starts, mask=layout.mask)
    return y[:, :, 0]


def document_lengths(layout: Layout, length: int) -> int | Tensor:
    """Tokens of the document of each token: a number, or (B, 1 or L, 1), at least 1.

    Example:
        >>> document_lengths(Layout(segments=torch.tensor([[0, 1, 1]])), 3).flatten().tolist()
        [1, 2, 2]
    """
    counts = layout.counts()
    if layout.segments is None:
        return length if counts is None else counts.clamp(min=1)[:, None, None]
    return layout.remember(("document lengths", length), None, lambda: _count(layout, length))


def _count(layout: Layout, length: int) -> Tensor:
    starts = document_starts(layout)
    if starts is None:
        raise ValueError("layout: expected segments, found none")
    number = starts.long().cumsum(1)  # (B, L), from 1; 0 in rows of padding alone
    real = torch.ones_like(number) if layout.mask is None else layout.mask.long()
    counts = number.new_zeros(number.shape[0], length + 1).scatter_add_(1, number, real)
    return counts.gather(1, number).clamp(min=1)[..., None]


# ---------------------------------------------------------------------- the earlier groups


class GroupOrder(NamedTuple):
    """An order in which the tokens of a group read before any of them is written, 2 L places long."""

    read: Tensor  # (B or 1, L) the place where a token reads
    write: Tensor  # (B or 1, L) the place where it is written
    starts: Tensor | None  # (B, 2 L) where what was written is forgotten
    reopened: Tensor  # (B or 1, L) tokens of the group that an earlier chunk left open
    left_open: Tensor  # (B or 1, L) tokens of the group that this chunk leaves open
    closes: Tensor  # (B or 1,) whether the reopened group is complete now
    stays: Tensor  # (B or 1,) whether it is the one that is left open


def read_earlier_groups(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, group: int, state: MixerState | None = None
) -> Tensor:
    """y_i = sum over the tokens j of all groups before that of token i of q_i . k_j / g v_j.

    Groups are those of `read_near`, in the same document. Nothing is subtracted: the first group reads exactly 0.

    Args:
        q, k: (B, L, key_size).
        v: (B, L, width).
        layout: aligned, as `TokenMixer.mix` has it.
        group: g, tokens a group.
        state: with "groups", the sum over complete groups, and "open", over the tokens of the last one; advanced here.

    Returns:
        (B, L, width), float32 or better.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0], [4.0], [5.0]]])
        >>> read_earlier_groups(x, x, x, Layout(), group=2).flatten().tolist()
        [0.0, 0.0, 7.5, 10.0, 75.0]
    """
    length = v.shape[1]
    q, k, v = at_least_float32(q) / group, at_least_float32(k), at_least_float32(v)
    if layout.mask is not None:
        k = k.masked_fill(~layout.mask[..., None], 0)
    make = lambda: order_groups(layout, length, group, state, v.device)  # noqa: E731  # for the line below
    order = layout.remember(("groups", length, group), None if state is None else state.counters, make)
    if state is None:
        return _scan(q, k, v, order, None)[0]
    if length == 1:
        return _step(q, k, v, order, layout.mask, state)
    groups, open_ = state.get("groups"), state.get("open")
    closed = groups + open_ * order.closes[:, None, None, None]
    last = k * order.left_open[..., None]
    y, total = _scan(q, k - last, v, order, closed)
    first = q[:, :group] @ groups[:, 0].transpose(1, 2)  # the reopened group does not read itself
    near = torch.where(order.reopened[:, :group, None], first, y[:, :group])
    state.put("open", (v.transpose(1, 2) @ last)[:, None] + open_ * order.stays[:, None, None, None])
    state.put("groups", total)
    return torch.cat([near, y[:, group:]], dim=1)


def order_groups(layout: Layout, length: int, group: int, state: MixerState | None, device: torch.device) -> GroupOrder:
    """The order of `read_earlier_groups`.

    Example:
        >>> order = order_groups(Layout(), 5, 2, None, torch.device("cpu"))
        >>> order.read.tolist(), order.write.tolist()
        ([[0, 1, 4, 5, 8]], [[2, 3, 6, 7, 9]])
    """
    place, starts = chunk_places(length, layout, state, device), document_starts(layout, state)
    index = torch.arange(length, device=device)
    begins = place % group == 0
    first = torch.where(begins, index, 0).cummax(1).values
    end = F.pad(torch.where(begins, index, length)[:, 1:], (0, 1), value=length)
    end = end.flip(1).cummin(1).values.flip(1)
    read, write = index + first, index + end
    wide = None
    if starts is not None:
        wide = starts.new_zeros(starts.shape[0], 2 * length).scatter(1, read.expand_as(starts), starts)
    # which groups are not whole: that of the last token, and one that an earlier chunk began
    counts = layout.counts()
    last = torch.full_like(place[:, :1], length - 1) if counts is None else counts[:, None] - 1
    ends = index == last
    reopened = (begins.cumsum(1) == 0) & (index <= last)
    whole = (place % group == group - 1) & (index <= last)
    left_open = (end > last) & (index <= last) & ~(whole & ends).any(1, keepdim=True)
    closes = (reopened & whole).any(1)
    stays = ~(begins & (index <= last)).any(1) & ~closes
    return GroupOrder(read, write, wide, reopened, left_open, closes, stays)


def _scan(q: Tensor, k: Tensor, v: Tensor, order: GroupOrder, state: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = (_spread(x, place)[:, :, None] for x, place in ((v, order.write), (k, order.write), (q, order.read)))
    values, keys, queries = wide
    y, total = chunked_scan(values, None, keys, queries, starts=order.starts, state=state)
    return y[:, :, 0].gather(1, _wide_index(order.read, v)), total


def _step(q: Tensor, k: Tensor, v: Tensor, order: GroupOrder, mask: Tensor | None, state: MixerState) -> Tensor:
    """One token."""
    groups, open_ = state.get("groups"), state.get("open")
    if order.starts is not None:
        kept = ~order.starts[:, :1, None, None]
        groups, open_ = groups * kept, open_ * kept
    y = q @ groups[:, 0].transpose(1, 2)
    open_ = open_ + (v.transpose(1, 2) * k)[:, None]
    closes = ~order.left_open if mask is None else mask & ~order.left_open
    closes = closes[..., None, None]  # (B or 1, 1, 1, 1)
    state.put("groups", groups + open_ * closes)
    state.put("open", open_ * ~closes)
    return y


def _spread(x: Tensor, place: Tensor) -> Tensor:
    """(B, L, D) to (B, 2 L, D), zero where no token is."""
    return x.new_zeros(x.shape[0], 2 * x.shape[1], x.shape[2]).scatter(1, _wide_index(place, x), x)


def _wide_index(place: Tensor, like: Tensor) -> Tensor:
    return place[..., None].expand(like.shape)
