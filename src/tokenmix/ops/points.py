"""Points in space: nearest neighbours, and farthest point sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.ops import native_points
from tokenmix.ops.common import check_positive

_BLOCK = 1 << 22  # distances that plain torch holds at once


def nearest_neighbours(
    coords: Tensor,
    count: int,
    *,
    mask: Tensor | None = None,
    query: Tensor | None = None,
    include_self: bool = True,
) -> Tensor:
    """The `count` nearest points of every point, or of every query, within its row.

    index_i = the j of smallest sum_a (query_ia - coords_ja)^2, the lower j first where two are equal. The squares are
    computed in float64 from the differences, so that clouds far from the origin lose nothing. On the CPU, up to three
    coordinates in float32 or less go through a tree of points in C, in O(L log L); everything else compares every
    pair, in blocks.

    Args:
        coords: (L, k) or (B, L, k) floating point.
        count: neighbours of a point.
        mask: (L,) or (B, L) bool, True where a point is real; the others are nobody's neighbours.
        query: (M, k) or (B, M, k) places that ask; default the points themselves.
        include_self: whether a point may be a neighbour of itself. It is at distance 0, though not the first where a
            point of a lower index lies at the same place.

    Returns:
        (L, count) or (B, L, count) int64, M in place of L where there are queries, nearest first; -1 behind the last
        one where there are fewer points, and everywhere for a padded point. It fits `tokenmix.ops.sources.Neighbours`.

    Raises:
        ValueError, TypeError: another shape or dtype; a coordinate that is not finite, with its row and point.

    Example:
        >>> nearest_neighbours(torch.tensor([[0.0], [1.0], [3.0]]), 2).tolist()
        [[0, 1], [1, 0], [2, 1]]
        >>> nearest_neighbours(torch.tensor([[0.0], [1.0], [3.0]]), 3, include_self=False).tolist()
        [[1, 2, -1], [0, 2, -1], [1, 0, -1]]

    Source:
        Friedman, Bentley and Finkel 1977, "An algorithm for finding best matches in logarithmic expected time".
    """
    rows, mask = _check_points(coords, mask)
    check_positive("count", count)
    if query is not None:
        _check_query(query, coords)
        if not include_self:
            raise ValueError("include_self: expected True where there are queries, which are not points, found False")
        query = query.detach() if query.dim() == 3 else query.detach()[None]
    found: Tensor = kernels.call(_nearest, _nearest_operator, rows, count, mask, query, include_self)
    return found if coords.dim() == 3 else found[0]


def farthest_points(
    coords: Tensor, count: int, *, mask: Tensor | None = None, start: int | str = "first", seed: int = 0
) -> Tensor:
    """Points spread over a cloud: each is the one that is farthest from all before it.

    p_0 = start;  p_(n+1) = argmax_j min_(m <= n) |x_j - x_(p_m)|^2, over points not yet chosen, the lowest j where some
    are equal. No point is chosen twice, though others at the same place may be, once there is nothing else.
    Distances are those of `nearest_neighbours`.

    Args:
        coords: (L, k) or (B, L, k) floating point.
        count: points to choose in a row.
        mask: (L,) or (B, L) bool, True where a point is real.
        start: "first" (the first real point of a row), "random" (a real one, drawn for each row), or its index.
        seed: of "random".

    Returns:
        (count,) or (B, count) int64 in the order of choice; -1 behind the last one where a row has fewer points.

    Raises:
        ValueError, TypeError: another shape or dtype, a start that is no real point, or a coordinate that is not
            finite, with its row and point.

    Example:
        >>> farthest_points(torch.tensor([[0.0], [1.0], [5.0], [2.5]]), 3).tolist()
        [0, 2, 3]

    Source:
        Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Eldar et al. 1997.
    """
    rows, mask = _check_points(coords, mask)
    check_positive("count", count)
    first = _first_points(rows, mask, start, seed)
    found: Tensor = kernels.call(_farthest, _farthest_operator, rows, count, mask, first)
    return found if coords.dim() == 3 else found[0]


def _nearest(coords: Tensor, count: int, mask: Tensor | None, query: Tensor | None, include_self: bool) -> Tensor:
    _check_finite("coords", coords, mask)
    if query is not None:
        _check_finite("query", query, None)
    if native_points.fits(coords, count) and (query is None or native_points.fits(query, count)):
        return native_points.run_nearest(coords, count, mask, query, include_self)
    asking = coords if query is None else query
    found = coords.new_full((*asking.shape[:2], count), -1, dtype=torch.int64)
    for row, (points, asked) in enumerate(zip(coords.double(), asking.double(), strict=True)):
        real = torch.arange(len(points), device=coords.device) if mask is None else mask[row].nonzero().flatten()
        if query is None:
            found[row, real] = _search(points[real], points[real], real, count, not include_self)
        else:
            found[row] = _search(points[real], asked, real, count, False)
    return found


def _search(points: Tensor, asking: Tensor, names: Tensor, count: int, skip_self: bool) -> Tensor:
    """Every pair, a block of queries at a time: (M, count) of `names`."""
    found = names.new_full((len(asking), count), -1)
    most = min(count, len(points) - int(skip_self))
    if most <= 0:
        return found
    step = max(1, _BLOCK // len(points))
    for low in range(0, len(asking), step):
        block = _distances(asking[low : low + step], points)
        if skip_self:
            block.diagonal(low).fill_(torch.inf)
        places = smallest(block, most)
        found[low : low + step, :most] = names[places]
    return found


def smallest(values: Tensor, count: int) -> Tensor:
    """Where the `count` smallest of each row are, smallest first, and the first of equal ones.

    Args:
        values: (M, L) without NaN.
        count: 1 to L.

    Returns:
        (M, count) int64.

    Example:
        >>> smallest(torch.tensor([[2.0, 1.0, 2.0, 0.0]]), 3).tolist()
        [[3, 1, 0]]
    """
    most = min(count + 1, values.shape[1])
    found = values.topk(most, dim=1, largest=False)
    places = found.indices[:, :count].sort(dim=1).values
    if most > count:  # where the next one is as small, which of them topk took is not known
        tied = (found.values[:, count - 1] == found.values[:, count]).nonzero().flatten()
        if len(tied):
            places[tied] = _first_of_equal(values[tied], found.values[tied, count - 1, None], count)
    order = values.gather(1, places).sort(dim=1, stable=True).indices
    return places.gather(1, order)


def _first_of_equal(values: Tensor, largest: Tensor, count: int) -> Tensor:
    """(M, count) in their own order: all below `largest`, and the first that equal it."""
    below, equal = values < largest, values == largest
    equal &= equal.cumsum(1) <= count - below.sum(1, keepdim=True)
    return (below | equal).nonzero()[:, 1].view(-1, count)


def _distances(asking: Tensor, points: Tensor) -> Tensor:
    """Squared distances (..., M, L), summed coordinate by coordinate as the kernel does."""
    total = (asking[..., :, None, 0] - points[..., None, :, 0]).square_()
    for axis in range(1, points.shape[-1]):
        total += (asking[..., :, None, axis] - points[..., None, :, axis]).square_()
    return total


def _farthest(coords: Tensor, count: int, mask: Tensor | None, start: Tensor) -> Tensor:
    _check_finite("coords", coords, mask)
    if native_points.fits(coords):
        return native_points.run_farthest(coords, count, mask, start)
    points, rows = coords.to(torch.float64, copy=True), torch.arange(len(coords), device=coords.device)
    far = points.new_full(coords.shape[:2], torch.inf)
    if mask is not None:
        far.masked_fill_(~mask, -1.0)
        points.masked_fill_(~mask[..., None], 0.0)
    found = start.new_full((len(coords), count), -1)
    for step in range(min(count, coords.shape[1])):
        found[:, step] = start
        place = start.clamp(min=0)
        far = torch.minimum(far, _distances(points[rows, place][:, None], points)[:, 0])
        far[rows, place] = -1.0
        top, start = far.max(dim=1).values, far.argmax(dim=1)
        start = torch.where(top >= 0, start, -1)
    return found


_nearest_operator = torch.library.custom_op("tokenmix::nearest_neighbours", _nearest, mutates_args=())
_farthest_operator = torch.library.custom_op("tokenmix::farthest_points", _farthest, mutates_args=())


@_nearest_operator.register_fake
def _nearest_shape(coords: Tensor, count: int, *rest: Tensor | bool | None) -> Tensor:
    asking = coords if rest[1] is None else rest[1]
    return coords.new_empty((*asking.shape[:2], count), dtype=torch.int64)  # type: ignore[union-attr]  # a tensor


@_farthest_operator.register_fake
def _farthest_shape(coords: Tensor, count: int, *_: Tensor | None) -> Tensor:
    return coords.new_empty((len(coords), count), dtype=torch.int64)


def _first_points(coords: Tensor, mask: Tensor | None, start: int | str, seed: int) -> Tensor:
    """(B,) int64; -1 for a row without points."""
    rows, length = coords.shape[:2]
    real = torch.ones(rows, length, dtype=torch.bool, device=coords.device) if mask is None else mask
    if isinstance(start, bool) or not isinstance(start, int | str):
        raise TypeError(f"start: expected 'first', 'random' or an index, found {start!r}")
    if isinstance(start, int):
        if not 0 <= start < length:
            raise ValueError(f"start: expected an index from 0 to {length - 1}, found {start}")
        if not bool(real[:, start].all()):
            row = int((~real[:, start]).nonzero()[0, 0])
            raise ValueError(f"start: expected a real point in every row, found {start}, which is padding in row {row}")
        return torch.full((rows,), start, device=coords.device)
    if start not in ("first", "random"):
        raise ValueError(f"start: expected 'first', 'random' or an index, found {start!r}")
    if not length:
        return torch.full((rows,), -1, device=coords.device)
    amount = real.sum(1)
    if start == "random":
        drawn = torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        nth = (drawn.to(coords.device) * amount).long()
    else:
        nth = torch.zeros_like(amount)
    places = (real.cumsum(1) <= nth[:, None]).sum(1)  # of the real point that has `nth` before it
    return torch.where(amount > 0, places, -1)


def _check_points(coords: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Both with rows."""
    if not isinstance(coords, Tensor) or not coords.is_floating_point():
        found = getattr(coords, "dtype", type(coords).__name__)
        raise TypeError(f"coords: expected a floating point tensor, found {found}")
    if coords.dim() not in (2, 3) or coords.shape[-1] < 1:
        raise ValueError(f"coords: expected shape (L, k) or (B, L, k) with k >= 1, found {tuple(coords.shape)}")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask: expected a bool tensor, found {getattr(mask, 'dtype', type(mask).__name__)}")
        if mask.shape != coords.shape[:-1]:
            raise ValueError(f"mask: expected shape {tuple(coords.shape[:-1])}, found {tuple(mask.shape)}")
    if coords.dim() == 3:
        return coords.detach(), mask
    return coords.detach()[None], None if mask is None else mask[None]


def _check_query(query: Tensor, coords: Tensor) -> None:
    if not isinstance(query, Tensor) or not query.is_floating_point():
        raise TypeError(
            f"query: expected a floating point tensor, found {getattr(query, 'dtype', type(query).__name__)}"
        )
    shape = tuple(coords.shape)
    if query.dim() != coords.dim() or (*query.shape[:-2], query.shape[-1]) != (*shape[:-2], shape[-1]):
        expected = ", ".join(map(str, (*shape[:-2], "M", shape[-1])))
        raise ValueError(f"query: expected shape ({expected}), found {tuple(query.shape)}")


def _check_finite(name: str, coords: Tensor, mask: Tensor | None) -> None:
    """Padding may hold anything."""
    bad = ~coords.isfinite().all(dim=2)
    if mask is not None:
        bad &= mask
    if bool(bad.any()):
        row, point = (int(place) for place in bad.nonzero()[0])
        values = coords[row, point].tolist()
        raise ValueError(f"{name}: expected finite numbers, found {values} at point {point} of row {row}")
