"""One vector for a row of tokens, whatever its padding."""

from __future__ import annotations

import torch
from torch import Tensor

POOLINGS = ("last", "mean", "first")


def pool(x: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """The last real token of each row, the mean of the real tokens, or the first.

    Args:
        x: (B, L, dim) features.
        mask: (B, L) bool, True where a token is real; padding may stand anywhere. None where all are.
        pooling: "last", "mean" or "first".

    Returns:
        (B, dim); zero for a row without real tokens.

    Raises:
        ValueError: unknown pooling.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [9.0]]])
        >>> mask = torch.tensor([[True, True, False]])
        >>> [pool(x, mask, name).item() for name in ("last", "mean", "first")]
        [2.0, 1.5, 1.0]
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: expected one of {POOLINGS}, found {pooling!r}")
    if mask is None:
        return x[:, -1] if pooling == "last" else x[:, 0] if pooling == "first" else x.mean(1)
    x = x.masked_fill(~mask[..., None], 0)
    if pooling == "mean":
        return x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(x.shape[1], device=x.device)
    if pooling == "last":
        index = torch.where(mask, places, -1).amax(1).clamp(min=0)
    else:
        index = torch.where(mask, places, x.shape[1]).amin(1).clamp(max=x.shape[1] - 1)
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
