"""Tokens in another order, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenmix.layout import Layout


class Aligned(NamedTuple):
    """A layout whose rows begin with their real tokens, and the order that brought it there."""

    layout: Layout
    order: Tensor | None  # (B, L) int64: aligned token i was token order[b, i]; None where nothing moved


def take_tokens(values: Tensor, order: Tensor) -> Tensor:
    """Reorder (B, L, ...) values along L by (B, L) indices."""
    index = order.reshape(order.shape + (1,) * (values.dim() - 2)).expand(order.shape + values.shape[2:])
    return values.gather(1, index)


def put_tokens(values: Tensor, order: Tensor) -> Tensor:
    """Undo `take_tokens`: put (B, L, ...) values back to where `order` took them from."""
    return take_tokens(values, order.argsort(dim=1))


def reversal(counts: Tensor | None, batch: int, length: int, device: torch.device | None = None) -> Tensor:
    """(B, L): the first `counts` tokens of each row from last to first, the others where they are.

    Args:
        counts: (B,) real tokens of each row; None means all.
        batch, length: numbers of rows and of tokens, B and L.
        device: of the order.

    Example:
        >>> reversal(torch.tensor([2]), 1, 3).tolist()
        [[1, 0, 2]]
    """
    place = torch.arange(length, device=device).expand(batch, length)
    last = length - 1 if counts is None else counts[:, None] - 1
    return torch.where(place > last, place, last - place)
