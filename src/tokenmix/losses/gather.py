"""The tokens of all processes, with gradients back to each."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenmix.ops.precision import at_least_float32


class Gathered(NamedTuple):
    """A side of the joined batch of all processes.

    Attributes:
        tokens: (rows of all processes, longest length, d).
        mask: the same without d, bool.
    """

    tokens: Tensor
    mask: Tensor


def processes(group: dist.ProcessGroup | None = None) -> int:
    """How many processes train together; 1 where torch.distributed is not in use.

    Example:
        >>> processes()
        1
    """
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_tokens(tokens: Tensor, mask: Tensor | None, group: dist.ProcessGroup | None = None) -> Gathered:
    """Join the rows of all processes, in their order, padded to the longest length.

    The gradient of a row is the sum of those of all processes, in float32.

    Args:
        tokens: (B, T, d); B and T may differ between processes.
        mask: (B, T) bool; None where all tokens are real.
        group: of processes; by default all.
    """
    if mask is None:
        mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
    sizes = _all(torch.tensor(tokens.shape[:2], device=tokens.device), group)
    most, longest = sizes.max(0).values.tolist()
    counts = sizes[:, 0].tolist()
    rows, length = tokens.shape[:2]
    mask = F.pad(mask, (0, longest - length, 0, most - rows))
    tokens = F.pad(tokens, (0, 0, 0, longest - length, 0, most - rows))
    return Gathered(
        _real_rows(_AllGather.apply(tokens, group), counts), _real_rows(_all(mask.byte(), group).bool(), counts)
    )


def gather_ids(ids: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Join the (B,) integers of all processes, in their order."""
    counts = _all(torch.tensor(len(ids), device=ids.device), group).tolist()
    padded = F.pad(ids.long(), (0, max(counts) - len(ids)))
    return _real_rows(_all(padded, group), counts)


def row_range(rows: int, device: torch.device, group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """The first row of this process in the joined batch, and the rows of all."""
    counts = _all(torch.tensor(rows, device=device), group).tolist()
    return sum(counts[: dist.get_rank(group)]), sum(counts)


def _real_rows(padded: Tensor, counts: list[int]) -> Tensor:
    return torch.cat([part[:count] for part, count in zip(padded, counts, strict=True)])


def _all(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """(processes, ...), equal in shape."""
    found = tensor.new_empty(dist.get_world_size(group), *tensor.shape)
    dist.all_gather(list(found.unbind(0)), tensor.contiguous(), group)
    return found


class _AllGather(torch.autograd.Function):
    """Sent as they are; what comes back is float32, and so are the gradients that are summed."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, ctx.dtype = group, tensor.dtype
        return at_least_float32(_all(tensor, group))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)  # not every backend can reduce and scatter
        return grad[dist.get_rank(ctx.group)].to(ctx.dtype), None
