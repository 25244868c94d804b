"""FIT's groups: those that hold a token, and which row of the table of latents each starts from."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from tokenmix.groups import TokenGroups, group_tokens
from tokenmix.layout import Layout
from tokenmix.state import chunk_places


@dataclasses.dataclass(frozen=True, eq=False)
class FITGroups:
    """The groups of a batch.

    Attributes:
        tokens: where each token stands. Its layout's mask says which groups hold a token.
        filled: (B, t, n) bool, which places hold a token; None where all do.
        index: (B or 1, t) int64, each group's number in its document; 0 for one without tokens.
        place: (B or 1, L) int64, each token's place in its group; 0 at padding.

    Example:
        >>> groups = find_groups(Layout(segments=torch.tensor([[0, 0, 0, 1]])), batch=1, length=4, size=2)
        >>> groups.filled.tolist(), groups.index.tolist()
        ([[[True, True], [True, False], [True, False]]], [[0, 1, 0]])
    """

    tokens: TokenGroups
    filled: Tensor | None
    index: Tensor
    place: Tensor


def find_groups(
    layout: Layout, batch: int, length: int, size: int, device: torch.device | str | None = None
) -> FITGroups:
    """Cut the documents of each row into groups of n = size tokens, without the empty ones that could follow.

    Args:
        layout, batch, length, size: as in `tokenmix.groups.group_tokens`.
        device: where the result is, for a layout without tensors.

    Raises:
        ValueError: positions that do not go up by one within a document.
    """
    groups = group_tokens(layout, batch, length, size)
    if groups.places is None:
        count = -(-length // size)
        filled = None
        if length % size:
            filled = (torch.arange(count * size, device=device) < length).view(1, count, size).expand(batch, -1, -1)
        tokens = TokenGroups(size, count, length, None, Layout())
        place = torch.arange(length, device=device)[None] % size
        return FITGroups(tokens, filled, torch.arange(count, device=device)[None], place)
    padding = groups.places == groups.count * size
    count = max(int(groups.places.masked_fill(padding, -1).max()) // size + 1, 1)
    segments = groups.layout.segments
    places = groups.places.masked_fill(padding, count * size)
    tokens = TokenGroups(size, count, length, places, Layout())
    filled = tokens.filled()
    used = None if filled is None else filled.any(2)  # between documents one may be empty
    inner = Layout(
        mask=None if used is None or bool(used.all()) else used,
        segments=None if segments is None else segments[:, :count],
    )
    index = chunk_places(count, Layout(segments=inner.segments), None, places.device)
    if inner.mask is not None:
        index = index.expand(batch, -1).masked_fill(~inner.mask, 0)
    return FITGroups(
        dataclasses.replace(tokens, layout=inner),
        None if filled is None or bool(filled.all()) else filled,
        index,
        places % size,
    )
