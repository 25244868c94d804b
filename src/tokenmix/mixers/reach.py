"""Closed forms of which tokens one layer can read, for the mixers' `reach`."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.layout import Layout, put_tokens
from tokenmix.state import chunk_places


def interval_reach(layout: Layout, length: int, before: int | None, after: int | None) -> Tensor:
    """Tokens of the same document from `before` places back to `after` places ahead.

    Args:
        layout: where the tokens live.
        length: L.
        before, after: how far; None means to the end of the document.

    Returns:
        (B, L, L) bool, False at padding; B is 1 for a layout without fields of a token.

    Example:
        >>> interval_reach(Layout(), 3, before=1, after=0).int().tolist()
        [[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]
    """
    place = document_places(layout, length)
    back = place[:, :, None] - place[:, None, :]  # how far token j lies behind token i
    reach = torch.ones_like(back, dtype=torch.bool)
    if before is not None:
        reach &= back <= before
    if after is not None:
        reach &= back >= -after
    if layout.segments is not None:
        reach = reach & (layout.segments[:, :, None] == layout.segments[:, None, :])
    if layout.mask is not None:
        reach = reach & layout.mask[:, :, None] & layout.mask[:, None, :]
    return reach


def document_places(layout: Layout, length: int) -> Tensor:
    """(B, L) or (1, L) int64: real tokens of its document before each token, wherever the padding stands.

    Example:
        >>> document_places(Layout(mask=torch.tensor([[False, True, True]])), 3)[0, 1:].tolist()
        [0, 1]
    """
    aligned, order = layout.aligned()
    place = chunk_places(length, aligned, None)
    return place if order is None else put_tokens(place.expand(order.shape), order)
