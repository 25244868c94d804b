"""How many tokens each row has read, and where in its document it stands: immutable, so that layers can share it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tokenmix.layout import Layout


class Counters:
    """What a state has counted. It never changes: reading tokens makes another one.

    The layers of a stack read the same tokens, so their states share one `Counters`, and whatever follows from it in
    a call (the counters after it, the places of its tokens) is computed by the first layer and remembered in the
    call's `Layout`.

    Attributes:
        seen: (B,) int64, real tokens read so far.
        place: (B,) int64, real tokens read so far of the document that the row is in.
        segment: (B,) int64, number of the last document (0 before the first token).
        length: the largest `seen`, as a Python integer.
        shortest: at most the smallest `place`, as a Python integer.
        uniform: True as long as every row has seen the same number of tokens.
        packed: True once a chunk came with segments.

    Example:
        >>> Counters.start(2).after(3, Layout()).seen.tolist()
        [3, 3]
    """

    def __init__(
        self,
        seen: Tensor,
        place: Tensor,
        segment: Tensor,
        *,
        length: int = 0,
        shortest: int = 0,
        uniform: bool = True,
        packed: bool = False,
    ) -> None:
        self.seen, self.place, self.segment = seen, place, segment
        self.length, self.shortest, self.uniform, self.packed = length, shortest, uniform, packed

    @classmethod
    def start(cls, batch_size: int, device: torch.device | str | None = None) -> Counters:
        """Before the first token."""
        zero = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return cls(zero, zero, zero)

    def after(self, length: int, layout: Layout) -> Counters:
        """The counters after an aligned chunk of `length` tokens."""
        return layout.remember(("after", length), self, lambda: self._after(length, layout))

    def places(self, length: int, layout: Layout) -> Tensor:
        """(B, L) int64: how many tokens of its document stand before each token of an aligned chunk."""
        return layout.remember(("places", length), self, lambda: self._places(length, layout))

    def starts(self, layout: Layout) -> Tensor | None:
        """(B, L) bool: first tokens of documents in an aligned chunk; None where the chunk holds no new document."""
        segments = layout.segments
        if segments is None:
            return None
        return layout.remember(("starts",), self, lambda: self._starts(segments.long(), layout.mask))

    def reordered(self, index: Tensor) -> Counters:
        """Those of the rows `index`."""
        index = index.to(self.seen.device)
        other = self.changed(
            seen=self.seen.index_select(0, index),
            place=self.place.index_select(0, index),
            segment=self.segment.index_select(0, index),
        )
        return other.measured()

    def cropped(self, length: int) -> Counters:
        """After all but the first `length` tokens of each row were forgotten."""
        seen = self.seen.clamp(max=length)
        return self.changed(seen=seen, place=self.place - (self.seen - seen)).measured()

    def measured(self) -> Counters:
        """With its Python integers read from its tensors."""
        length = int(self.seen.max())
        return self.changed(length=length, shortest=int(self.place.min()), uniform=bool((self.seen == length).all()))

    def changed(self, **values: Tensor | int | bool) -> Counters:
        """A copy in which some attributes have other values."""
        other = copy.copy(self)
        for name, value in values.items():
            setattr(other, name, value)
        return other

    def _after(self, length: int, layout: Layout) -> Counters:
        counts, segments = layout.counts(), layout.segments
        read: int | Tensor = length if counts is None else counts
        seen = self.seen + read
        if segments is None:
            place = seen if self.place is self.seen else self.place + read
            other = self.changed(seen=seen, place=place, shortest=self.shortest + length)
        else:
            last = torch.full_like(seen, length - 1) if counts is None else (counts - 1).clamp(min=0)
            place = self.places(length, layout).gather(1, last[:, None])[:, 0] + 1
            segment = segments.long().gather(1, last[:, None])[:, 0]
            if counts is not None:
                place = torch.where(counts > 0, place, self.place)
                segment = torch.where(counts > 0, segment, self.segment)
            other = self.changed(seen=seen, place=place, segment=segment, shortest=0, packed=True)
        return other.changed(length=self.length + length) if counts is None else other.measured()

    def _places(self, length: int, layout: Layout) -> Tensor:
        if layout.segments is None:
            if length == 1:
                return self.place[:, None]
            return torch.arange(length, device=self.place.device) + self.place[:, None]
        index = torch.arange(length, device=layout.segments.device).expand(layout.segments.shape)
        return count_from(index, self.starts(layout), self.place[:, None])

    def _starts(self, segments: Tensor, mask: Tensor | None) -> Tensor:
        before = torch.where(self.seen > 0, self.segment, segments[:, 0])
        starts = torch.cat([before[:, None], segments[:, :-1]], dim=1) != segments
        return starts if mask is None else starts & mask


class Counted:
    """What has `counters`, and shows what they say.

    Attributes:
        counters: see `Counters`.
    """

    counters: Counters

    @property
    def seen(self) -> Tensor:
        """(B,) int64, real tokens read so far."""
        return self.counters.seen

    @property
    def place(self) -> Tensor:
        """(B,) int64, real tokens read so far of the document that the row is in."""
        return self.counters.place

    @property
    def segment(self) -> Tensor:
        """(B,) int64, number of the last document (0 before the first token)."""
        return self.counters.segment

    @property
    def length(self) -> int:
        """The largest `seen`."""
        return self.counters.length

    @length.setter
    def length(self, value: int) -> None:
        self.counters = self.counters.changed(length=value)

    @property
    def uniform(self) -> bool:
        """True as long as every row has seen the same number of tokens."""
        return self.counters.uniform

    @property
    def packed(self) -> bool:
        """True once a chunk came with segments."""
        return self.counters.packed


def chunk_places(length: int, layout: Layout, state: Counted | None, device: torch.device | None = None) -> Tensor:
    """(B, L) or (1, L) int64: how many tokens of its document stand before each token of an aligned chunk.

    Example:
        >>> chunk_places(4, Layout(segments=torch.tensor([[0, 0, 1, 1]])), None).tolist()
        [[0, 1, 0, 1]]
    """
    if state is not None:
        return state.counters.places(length, layout)
    return layout.remember(("places", length, device), None, lambda: _places_alone(length, layout, device))


def document_starts(layout: Layout, state: Counted | None = None) -> Tensor | None:
    """(B, L) bool: first tokens of the documents of an aligned layout; None for one document a row.

    With a state, a chunk that goes on with the state's document does not start one.
    """
    if state is not None:
        return state.counters.starts(layout)
    if layout.segments is None:
        return None
    segments = layout.segments
    before = torch.cat([segments[:, :1] - 1, segments[:, :-1]], dim=1)
    starts = before != segments
    return starts if layout.mask is None else starts & layout.mask


def _places_alone(length: int, layout: Layout, device: torch.device | None) -> Tensor:
    if layout.segments is None:
        return torch.arange(length, device=device)[None]
    index = torch.arange(length, device=layout.segments.device).expand(layout.segments.shape)
    return count_from(index, document_starts(layout), torch.zeros_like(index[:, :1]))


def count_from(index: Tensor, starts: Tensor | None, carried: Tensor) -> Tensor:
    """(B, L) places: counted from the document's first token, or on from `carried` (B, 1) where it began earlier.

    Example:
        >>> starts = torch.tensor([[False, False, True, False]])
        >>> count_from(torch.arange(4)[None], starts, torch.tensor([[7]])).tolist()
        [[7, 8, 0, 1]]
    """
    if starts is None:
        return index + carried
    first = torch.where(starts, index, -1).cummax(dim=1).values  # -1: the document began in an earlier chunk
    return torch.where(first >= 0, index - first, index + carried)
