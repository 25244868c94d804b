"""Which queries of a band meet which keys: consecutive blocks of one shape, and what a block hides."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """`number` blocks of `rows` queries, each `rows` further on; every block reads `keys` consecutive keys."""

    query: int  # first query of the first block
    rows: int
    number: int
    key: int  # first key of the first block
    keys: int
    fresh: int  # keys of a block, its last ones, that no block before it reads

    def queries(self, x: Tensor) -> Tensor:
        """(h, group, L, D) -> (number, h, rows, group, D), a view."""
        (heads, groups, _, width), (head, group, token, feature) = x.shape, x.stride()
        shape = self.number, heads, self.rows, groups, width
        strides = self.rows * token, head, token, group, feature
        return x.as_strided(shape, strides, x.storage_offset() + self.query * token)

    def read(self, x: Tensor) -> Tensor:
        """(h, L, D) -> (number, h, keys, D), an overlapping view."""
        return blocks(x, self.key, self.keys, self.rows, self.number)

    def add(self, total: Tensor, x: Tensor) -> None:
        """Add (number, h, keys, D) to what the blocks read of (h, L, D).

        Keys that no earlier piece reads are set instead: `total` may hold anything there.
        """
        high, size = self.keys, self.fresh or self.keys
        while high > 0:  # parts of the blocks that do not overlap
            low = max(high - size, 0)
            part = blocks(total, self.key + low, high - low, self.rows, self.number)
            if high == self.keys and self.fresh:
                part.copy_(x[:, :, low:high])
            else:
                part.add_(x[:, :, low:high])
            high, size = low, self.rows if self.number > 1 else low


@lru_cache(maxsize=256)
def cut(length: int, window: int, causal: bool, rows: int, most: int) -> tuple[Piece, ...]:
    """Cut a row of `length` tokens into pieces of at most `most` blocks.

    Blocks at the ends of the row, whose keys are fewer, are pieces of their own.

    Example:
        >>> cut(10, window=2, causal=True, rows=2, most=3)
        (Piece(query=0, rows=2, number=1, key=0, keys=2, fresh=2),
        Piece(query=2, rows=2, number=3, key=0, keys=4, fresh=2),
        Piece(query=8, rows=2, number=1, key=6, keys=4, fresh=2))
    """
    ahead = 0 if causal else window
    pieces, query, met = [], 0, 0
    while query < length:
        here = min(rows, length - query)
        low, high = max(query - window, 0), min(query + here + ahead, length)
        whole = here == rows and high - low == window + rows + ahead
        number = min((length - ahead - query) // rows, most) if whole else 1
        pieces.append(Piece(query, here, number, low, high - low, high - met))
        query += here * number
        met = high + here * (number - 1)
    return tuple(pieces)


def blocks(x: Tensor, first: int, size: int, step: int, number: int) -> Tensor:
    """(h, L, D) -> (number, h, size, D), a view: block i is the tokens from first + i * step on."""
    (heads, _, width), (head, token, feature) = x.shape, x.stride()
    place = x.storage_offset() + first * token
    return x.as_strided((number, heads, size, width), (step * token, head, token, feature), place)


class Hidden(NamedTuple):
    """What is added to the scores of pieces: 0 for keys that are read, -inf for others."""

    window: int
    causal: bool
    group: int  # query heads that read the same keys; they lie side by side as rows of scores
    dtype: torch.dtype  # of what is added

    def of(self, piece: Piece, mask: Tensor | None, segments: Tensor | None) -> Tensor | None:
        """What the band, the mask (L,) and the segments (L,) of a row hide.

        Returns:
            (number|1, 1, rows * group, keys), one for all blocks where no mask and no other segment meets the piece;
            None if the mask hides all of its keys.
        """
        band = _kept_band if piece.rows * self.group * piece.keys <= 2**15 else _band
        seen, added = band(self, piece.query - piece.key, piece.rows, piece.keys)
        differs = False
        reach = slice(piece.key, piece.key + (piece.number - 1) * piece.rows + piece.keys)
        real = None if mask is None else mask[reach]
        if real is not None and not bool(real.any()):
            return None
        if real is not None and not bool(real.all()):
            seen, differs = seen & _of_keys(real, piece), True
        segment = None if segments is None else segments[reach]
        if segment is not None and bool((segment != segment[0]).any()):
            # (number, 1, rows, 1)
            own = blocks(segment[None, :, None], piece.query - piece.key, piece.rows, piece.rows, piece.number)
            seen, differs = seen & (own == _of_keys(segment, piece)), True
        return self.added(seen) if differs else added

    def added(self, seen: Tensor) -> Tensor:
        """(number, 1, rows, keys) bool -> (number, 1, rows * group, keys)."""
        seen = seen.repeat_interleave(self.group, 2) if self.group > 1 else seen
        return torch.zeros(seen.shape, dtype=self.dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


def _band(hidden: Hidden, offset: int, rows: int, keys: int) -> tuple[Tensor, Tensor]:
    """Which keys a block reads whose first query is `offset` after its first key, and what is added to its scores."""
    key = torch.arange(keys, device="cpu")
    distance = torch.arange(offset, offset + rows, device="cpu")[:, None] - key
    seen = (distance < hidden.window) & (distance >= 0 if hidden.causal else distance > -hidden.window)
    return seen[None, None], hidden.added(seen[None, None])


_kept_band = lru_cache(maxsize=128)(_band)


def _of_keys(x: Tensor, piece: Piece) -> Tensor:
    """(L,) -> (number, 1, 1, keys)."""
    return blocks(x[None, :, None], 0, piece.keys, piece.rows, piece.number).transpose(2, 3)
