"""Tokens in consecutive groups of one size: blocks of a text, frames of a signal, patches of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.layout import Layout, put_tokens, take_tokens
from tokenmix.mixer import check_positive
from tokenmix.state import chunk_places, document_starts


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """Where each token of a batch stands among groups of `size` places.

    Every document begins a group of its own, at the place that its first position gives, and has place for the
    token after its last; so a group holds tokens of one document, and its places are filled without holes.

    Attributes:
        size: places a group, n.
        count: groups a row, t, of which the last ones may be empty.
        length: L, tokens a row.
        places: (B, L) int64, the place of each token in the row's t * n places; those of padding are past the end.
            None where token i stands at place i.
        layout: of the groups: `mask` (B, t), where a group holds anything or is its document's next; `segments`
            (B, t), its document.

    Example:
        >>> groups = group_tokens(Layout.from_lengths([5, 2]), batch=2, length=5, size=4)
        >>> groups.spread(torch.tensor([[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]])).tolist()
        [[[1, 2, 3, 4], [5, 0, 0, 0]], [[6, 7, 0, 0], [0, 0, 0, 0]]]
    """

    size: int
    count: int
    length: int
    places: Tensor | None
    layout: Layout

    def spread(self, values: Tensor) -> Tensor:
        """(B, L, ...) values of tokens to (B, t, n, ...), zero at empty places."""
        rows, rest = values.shape[0], values.shape[2:]
        total = self.count * self.size
        if self.places is None:
            grid = F.pad(values, (0, 0) * len(rest) + (0, total - self.length))
        else:
            grid = values.new_zeros(rows, total + 1, *rest)  # the last place takes the padding
            index = self.places.reshape(rows, self.length, *(1,) * len(rest)).expand_as(values)
            grid = grid.scatter(1, index, values)[:, :-1]
        return grid.reshape(rows, self.count, self.size, *rest)

    def collect(self, values: Tensor, ahead: int = 0) -> Tensor:
        """(B, t, n, ...) values of places to (B, L, ...): those `ahead` places behind each token, zero at padding."""
        rows, rest = values.shape[0], values.shape[3:]
        flat = values.reshape(rows, self.count * self.size, *rest)
        if self.places is None:
            return flat[:, ahead : ahead + self.length]
        flat = torch.cat([flat, flat.new_zeros(rows, 1, *rest)], dim=1)
        index = (self.places + ahead).clamp(max=self.count * self.size)
        return take_tokens(flat, index)

    def filled(self) -> Tensor | None:
        """(B, t, n) bool, which places hold a token; None where all do, but for the last of each row."""
        if self.places is None:
            return None
        return self.spread(torch.ones_like(self.places, dtype=torch.bool))


def group_tokens(layout: Layout, batch: int, length: int, size: int) -> TokenGroups:
    """Cut the documents of each row into groups.

    Args:
        layout: where the tokens live. Padding may stand anywhere and takes no place. `positions` count places: a
            document whose first token has position p leaves the first p mod `size` places of its first group empty;
            from there on they must go up by one.
        batch, length: B and L.
        size: n.

    Raises:
        ValueError: positions that do not go up by one within a document. TypeError: a size that is no integer.

    Example:
        >>> packed = Layout(segments=torch.tensor([[0, 0, 0, 1, 1]]))
        >>> group_tokens(packed, batch=1, length=5, size=3).spread(torch.tensor([[1, 2, 3, 4, 5]])).tolist()
        [[[1, 2, 3], [0, 0, 0], [4, 5, 0]]]
    """
    check_positive("size", size)
    layout.validate(batch, length)
    return layout.remember(("groups", batch, length, size), None, lambda: _group(layout, batch, length, size))


def _group(layout: Layout, batch: int, length: int, size: int) -> TokenGroups:
    if layout.mask is None and layout.segments is None and layout.positions is None:
        return TokenGroups(size, length // size + 1, length, None, Layout())
    aligned, order = layout.aligned()
    position = aligned.positions
    if position is None:
        position = chunk_places(length, aligned, None, None if aligned.mask is None else aligned.mask.device)
    position = position.long().expand(batch, length)
    real = torch.ones_like(position, dtype=torch.bool) if aligned.mask is None else aligned.mask
    starts = document_starts(aligned)
    if starts is None:
        starts = F.pad(torch.zeros_like(real[:, 1:]), (1, 0), value=True) & real
    _check_positions(position, starts, real)
    begins = starts | (real & (position % size == 0))  # tokens that open a group
    full = F.pad(starts[:, 1:] & (position[:, :-1] % size == size - 1), (1, 0))  # an empty one stands before them
    group = (begins.long() + full.long()).cumsum(1) - 1
    last = group.masked_fill(~real, -1).amax(1)  # (B,)
    ends = torch.where(real, position, -1).gather(1, (real.sum(1) - 1).clamp(min=0)[:, None])[:, 0]
    used = last + 1 + (ends % size == size - 1).long() * (ends >= 0).long()  # with the place after the last token
    count = max(int(used.max()), 1)
    places = torch.where(real, group * size + position % size, count * size)
    mask = torch.arange(count, device=places.device) < used[:, None]
    segments = None
    if aligned.segments is not None:
        document = starts.long().cumsum(1)
        segments = torch.zeros(batch, count + 1, dtype=torch.int64, device=places.device)
        segments = segments.scatter_reduce(1, torch.where(real, group, count), document, "amax")[:, :-1]
        segments = segments.cummax(1).values
    if order is not None:
        places = put_tokens(places, order)
    return TokenGroups(size, count, length, places, Layout(mask=None if bool(mask.all()) else mask, segments=segments))


def _check_positions(position: Tensor, starts: Tensor, real: Tensor) -> None:
    wrong = real[:, 1:] & ~starts[:, 1:] & (position.diff(dim=1) != 1)
    if bool(wrong.any()):
        row, place = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            "positions: expected places that go up by one within a document (segments tell documents apart), found "
            f"{position[row, place : place + 2].tolist()} in row {row}"
        )
    if bool((position[real] < 0).any()):
        raise ValueError(f"positions: expected places from 0 on, found {int(position[real].min())}")
