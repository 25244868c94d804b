"""Nearest neighbours and farthest points as native kernels: what `tokenmix.ops.points` calls where they serve."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native

_MOST_COUNT = 256  # neighbours that the kernel keeps sorted by moving them one by one
_MOST_POINTS = 2**31 - 1  # its index is 32 bits wide


def fits(coords: Tensor, count: int = 1) -> bool:
    """Whether the kernels serve: up to three coordinates on the CPU that float32 holds, and few enough neighbours."""
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    if coords.dtype not in kinds or not 1 <= coords.shape[2] <= 3 or coords.shape[1] > _MOST_POINTS:
        return False
    return count <= _MOST_COUNT and kernels.serves(coords)


def run_nearest(coords: Tensor, count: int, mask: Tensor | None, query: Tensor | None, include_self: bool) -> Tensor:
    """(B, L, k) points, (B, M, k) queries or None for the points themselves -> (B, M or L, count) int64."""
    coords = coords.float().contiguous()
    mask = None if mask is None else mask.contiguous()
    query = None if query is None else query.float().contiguous()
    rows, length, dims = coords.shape
    queries = length if query is None else query.shape[1]
    index = torch.empty(rows, queries, count, dtype=torch.int64)
    arguments = native.Nearest(
        *map(native.address, (coords, mask, query, index)),
        *(rows, length, queries, dims, count, int(not include_self)),
        native.threads(rows * queries * count * 32),
    )
    native.run(kernels.library().tm_nearest_neighbours, arguments)
    return index


def run_farthest(coords: Tensor, count: int, mask: Tensor | None, start: Tensor) -> Tensor:
    """(B, L, k) points, (B,) int64 first ones -> (B, count) int64."""
    coords, start = coords.float().contiguous(), start.contiguous()
    mask = None if mask is None else mask.contiguous()
    rows, length, dims = coords.shape
    index = torch.empty(rows, count, dtype=torch.int64)
    arguments = native.Farthest(
        *map(native.address, (coords, mask, start, index)),
        *(rows, length, dims, count, native.threads(rows * length * count)),
    )
    native.run(kernels.library().tm_farthest_points, arguments)
    return index
