"""Tokens in another order, and back."""

from __future__ import annotations

from torch import Tensor


def take_tokens(values: Tensor, order: Tensor) -> Tensor:
    """Reorder (B, L, ...) values along L by (B, L) indices."""
    index = order.reshape(order.shape + (1,) * (values.dim() - 2)).expand(order.shape + values.shape[2:])
    return values.gather(1, index)


def put_tokens(values: Tensor, order: Tensor) -> Tensor:
    """Undo `take_tokens`: put (B, L, ...) values back to where `order` took them from."""
    return take_tokens(values, order.argsort(dim=1))
