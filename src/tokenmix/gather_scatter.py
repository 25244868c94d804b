"""Tokens to slots, any mixer over the slots, and back to tokens: what Block Transformer and FIT have in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.state import chunk_places


class Scattered(NamedTuple):
    """What a `GatherProcessScatter` gives.

    Attributes:
        tokens: (B, t, n, ...) what its scatter made of the tokens.
        slots: (B, t, m, d) the slots after the process, not shifted.
    """

    tokens: Any
    slots: Tensor


class GatherProcessScatter(nn.Module):
    """Tokens in groups -> a few slots a group -> a mixer over the slots of all groups -> tokens.

        s = gather(x, s_0);   s = process(s_1 ... s_t);   y_k = scatter(x_k, s_(k - shift))

    With shift=1 and a causal process it is causal, whatever happens inside a group: the tokens of group k read the
    slots of earlier groups alone, though a slot has read its whole group. That is the causality of Block
    Transformer and of FIT's autoregressive form.

    Args:
        gather: (x, slots or None) -> (B, t, m, d); reads each group by itself.
        process: a `tokenmix.blocks.Stack`, or anything that is called alike, over the (B, t * m, d) slots in order.
        scatter: (x, slots) -> anything; group k of the slots is what group k of the tokens may read.
        shift: how many groups the slots move on before they are read; 0 for both ways.

    Raises:
        ValueError, TypeError: a shift below 0.

    Example:
        >>> class Sum(nn.Module):
        ...     def forward(self, x, slots):
        ...         return x.sum(2, keepdim=True)
        >>> class Read(nn.Module):
        ...     def forward(self, x, slots):
        ...         return slots.expand_as(x)
        >>> class Keep(nn.Module):
        ...     def forward(self, x, layout, state):
        ...         return x
        >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 2, 1)
        >>> GatherProcessScatter(Sum(), Keep(), Read(), shift=1)(x).tokens.flatten().tolist()
        [0.0, 0.0, 3.0, 3.0]
    """

    def __init__(self, gather: nn.Module, process: nn.Module, scatter: nn.Module, *, shift: int = 0) -> None:
        super().__init__()
        if isinstance(shift, bool) or not isinstance(shift, int):
            raise TypeError(f"shift: expected an integer of at least 0, found {shift!r}")
        if shift < 0:
            raise ValueError(f"shift: expected an integer of at least 0, found {shift}")
        self.gather, self.process, self.scatter, self.shift = gather, process, scatter, shift

    def forward(self, x: Tensor, layout: Layout | None = None, slots: Tensor | None = None) -> Scattered:
        """Run the three.

        Args:
            x: (B, t, n, ...) tokens by group.
            layout: of the groups: `mask` (B, t) and `segments` (B, t), as `tokenmix.groups.group_tokens` gives it.
            slots: (B, t, m, d) what the gather starts from, where it starts from something.
        """
        layout = Layout() if layout is None else layout
        slots = self.processed(self.gather(x, slots), layout)
        return Scattered(self.scatter(x, shift_groups(slots, self.shift, layout)), slots)

    def processed(self, slots: Tensor, layout: Layout, state: Any = None, **options: Any) -> Tensor:
        """(B, t, m, d) slots after the process; with a state, those that follow what it has read.

        Args:
            slots: (B, t, m, d).
            layout: of the groups.
            state: of the process.
            options: other keywords of the process.
        """
        rows, count, each, dim = slots.shape
        flat = slots.reshape(rows, count * each, dim)
        if each > 1:
            mask, segments = layout.mask, layout.segments
            layout = Layout(
                mask=None if mask is None else mask.repeat_interleave(each, dim=1),
                segments=None if segments is None else segments.repeat_interleave(each, dim=1),
            )
        y: Tensor = self.process(flat, layout, state, **options)
        return y.view(rows, -1, each, dim)


def shift_groups(slots: Tensor, shift: int, layout: Layout) -> Tensor:
    """(B, t, ...) slots moved on by `shift` groups; zero in the first `shift` groups of each document.

    Example:
        >>> shift_groups(torch.tensor([[1, 2, 3, 4]]), 1, Layout(segments=torch.tensor([[0, 0, 1, 1]]))).tolist()
        [[0, 1, 0, 3]]
    """
    if shift == 0:
        return slots
    padding = (0, 0) * (slots.dim() - 2)
    moved = F.pad(slots, (*padding, shift, 0))[:, : slots.shape[1]]
    if layout.segments is None:
        return moved
    later = has_earlier(layout, slots.shape[1], shift, slots.device)
    return moved.masked_fill(~later.reshape(*later.shape, *(1,) * (slots.dim() - 2)), 0)


def has_earlier(layout: Layout, count: int, shift: int, device: torch.device) -> Tensor:
    """(B or 1, t) bool: which groups have one of their document `shift` groups before them.

    Example:
        >>> has_earlier(Layout(), 3, 1, torch.device("cpu")).tolist()
        [[False, True, True]]
    """
    return chunk_places(count, layout, None, device) >= shift
