"""Tokens sorted by modality, once for all layers, and matrix products whose weights a token's modality chooses."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.ops.common import again, check_positive

ALIGNMENT = 16  # bytes that a row of a grouped product's operands must be a multiple of


class Route:
    """Tokens sorted by modality: one stable sort, which all layers share.

    Sorted token i was token `order[i]`, and `inverse` undoes it; both are None where the tokens came sorted. The tokens
    of one modality lie together, so a weight that only they have meets one slice, and no mask is ever indexed with.

    Slices need the number of tokens of each modality on the host (`sizes`): on a GPU that is one transfer a forward, at
    the first slice. In bfloat16 on a GPU where torch's grouped product runs, it reads `ends` where they are, and
    nothing is transferred. Compiled code of other types cuts slices inside an operation of its own, which transfers
    `ends`.

    Args:
        ids: (T,) int64 modalities of the sorted tokens.
        ends: (n,) int32, where the tokens of each modality end.
        order, inverse: (T,) int64, or None.

    Example:
        >>> route = route_tokens(torch.tensor([[1, 0, 1]]), 3)
        >>> route.order.tolist(), route.sizes
        ([1, 0, 2], [1, 2, 0])
    """

    def __init__(self, ids: Tensor, ends: Tensor, order: Tensor | None, inverse: Tensor | None) -> None:
        self.ids, self.ends, self.order, self.inverse = ids, ends, order, inverse
        self._sizes: list[int] | None = None
        self._sorted: Route | None = None

    @property
    def sizes(self) -> list[int]:
        """Tokens of each modality, on the host."""
        if self._sizes is None:
            self._sizes = _sizes(self.ends)
        return self._sizes

    @property
    def count(self) -> int:
        """n, modalities."""
        return self.ends.shape[0]

    def sorted(self) -> Route:
        """The route of the tokens after `take`: nothing has to move."""
        if self.order is None:
            return self
        if self._sorted is None:
            self._sorted = Route(self.ids, self.ends, None, None)
            self._sorted._sizes = self._sizes
        return self._sorted

    def take(self, x: Tensor) -> Tensor:
        """(..., d) of the tokens in their order -> (T, d), sorted."""
        flat = x.reshape(-1, x.shape[-1])
        return flat if self.order is None else _Permute.apply(flat, self.order, self.inverse)

    def put(self, x: Tensor, like: Tensor) -> Tensor:
        """(T, d) sorted -> (..., d) in the order and the shape of `like` (..., any)."""
        flat = x if self.order is None else _Permute.apply(x, self.inverse, self.order)
        return flat.view(*like.shape[:-1], x.shape[-1])


def route_tokens(modality: Tensor, count: int) -> Route:
    """Sort tokens by modality; those of one modality keep their order.

    Args:
        modality: (...) integers from 0 to count - 1, one a token.
        count: n, modalities; one that no token belongs to gets an empty slice.

    Raises:
        ValueError, TypeError: no integers, or (where looking costs nothing) one out of range.

    Example:
        >>> route = route_tokens(torch.tensor([2, 0, 2]), 3)
        >>> route.take(torch.tensor([[5.0], [6.0], [7.0]])).flatten().tolist(), route.ends.tolist()
        ([6.0, 5.0, 7.0], [1, 1, 3])
    """
    check_positive("count", count)
    if modality.is_floating_point() or modality.dtype == torch.bool:
        raise TypeError(f"modality: expected integers, found {modality.dtype}")
    flat = modality.reshape(-1).long()
    if flat.device.type == "cpu" and not torch.compiler.is_compiling() and len(flat):
        low, high = (int(x) for x in flat.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"modality: expected 0 to {count - 1}, found {low if low < 0 else high}")
    ids, order = flat.sort(stable=True)
    ends = torch.searchsorted(ids, torch.arange(count, device=flat.device), right=True).int()
    if count == 1:
        return Route(ids, ends, None, None)
    place = torch.arange(len(flat), device=flat.device)
    return Route(ids, ends, order, torch.empty_like(order).scatter_(0, order, place))


def routed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, route: Route) -> Tensor:
    """y_t = W_m(t) x_t + b_m(t), where m(t) is the modality of token t.

    A modality without tokens gets gradients of 0.

    Args:
        x: (T, in), sorted by `route.take`.
        weight: (n, out, in). bias: (n, out), or None.
        route: of the tokens.

    Returns:
        (T, out).

    Raises:
        ValueError: sizes that do not fit together.

    Example:
        >>> route = route_tokens(torch.tensor([0, 1]), 2)
        >>> routed_linear(torch.ones(2, 1), torch.tensor([[[2.0]], [[3.0]]]), None, route).flatten().tolist()
        [2.0, 3.0]

    Source:
        Liang et al. 2024 (Mixture-of-Transformers), arXiv 2411.04996, algorithm 1; its authors' code indexes with a
        boolean mask for each modality in every layer.
    """
    if weight.dim() != 3 or weight.shape[0] != route.count or x.dim() != 2 or x.shape[1] != weight.shape[2]:
        raise ValueError(
            f"weight: expected ({route.count}, out, in={x.shape[-1]}) for x of shape {tuple(x.shape)}, found "
            f"{tuple(weight.shape)}"
        )
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if _grouped(x, weight):
        y: Tensor = F.grouped_mm(x.contiguous(), weight.transpose(1, 2), offs=route.ends)
    elif torch.compiler.is_compiling():
        y = _routed_matmul(x, weight, route.ends)
    else:
        y = _Slices.apply(x, weight, route.sizes)
    return y if bias is None else y + bias[route.ids]


class _Slices(torch.autograd.Function):
    """A product a slice, each written where it belongs: nothing is joined, forward or backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
        """(T, in), (n, out, in) -> (T, out)."""
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        y = x.new_empty(x.shape[0], weight.shape[1])
        for part, w, out in zip(x.split(sizes), weight.unbind(), y.split(sizes), strict=True):
            torch.mm(part, w.t(), out=out)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of x and of the weights; by way of plain products where they are differentiated again."""
        (x, weight), sizes, needed = ctx.saved_tensors, ctx.sizes, ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():
            dx, dw = again(lambda x, w: _joined(x, w, sizes), (x, weight), needed, grads)
            return dx, dw, None
        grad = grads[0].contiguous()
        dx = torch.empty_like(x) if needed[0] else None
        dw = torch.empty_like(weight) if needed[1] else None
        for m, (part, g) in enumerate(zip(x.split(sizes), grad.split(sizes), strict=True)):
            if dx is not None:
                torch.mm(g, weight[m], out=dx.split(sizes)[m])
            if dw is not None:
                torch.mm(g.t(), part, out=dw[m])
        return dx, dw, None


def _joined(x: Tensor, weight: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([F.linear(part, w) for part, w in zip(x.split(sizes), weight.unbind(), strict=True)])


def _grouped(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped product serves: bfloat16 on a GPU where it runs, rows of whole vectors."""
    if not x.is_cuda or x.dtype != torch.bfloat16 or weight.dtype != x.dtype:
        return False
    rows = (weight.shape[1] * weight.element_size(), weight.shape[2] * weight.element_size())
    return all(row % ALIGNMENT == 0 for row in rows) and _runs_grouped(x.device.index)


@torch.compiler.assume_constant_result
@functools.cache
def _runs_grouped(device: int | None) -> bool:
    """A small grouped product on a GPU, once: what is known by its name may still not run there."""
    place = torch.device("cuda", device or 0)
    x, weight = (torch.zeros(*size, dtype=torch.bfloat16, device=place) for size in ((8, 16), (1, 16, 16)))
    try:
        F.grouped_mm(x, weight, offs=torch.full((1,), 8, dtype=torch.int32, device=place))
    except (AttributeError, RuntimeError):
        return False
    return True


# Under torch.compile, slices of sizes that only the data tells would break the graph: one operation does them all.


@torch.library.custom_op("tokenmix::routed_matmul", mutates_args=())
def _routed_matmul(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """(T, in), (n, out, in), (n,) -> (T, out)."""
    y = x.new_empty(x.shape[0], weight.shape[1])
    for part, w, out in zip(*_cut(ends, x), weight.unbind(), *_cut(ends, y), strict=True):
        torch.mm(part, w.t(), out=out)
    return y


@torch.library.custom_op("tokenmix::routed_matmul_weight", mutates_args=())
def _routed_matmul_weight(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """The gradient of the weights, (n, out, in), from (T, in) and (T, out)."""
    weight = x.new_empty(ends.shape[0], grad.shape[1], x.shape[1])
    for part, g, out in zip(*_cut(ends, x), *_cut(ends, grad), weight.unbind(), strict=True):
        torch.mm(g.t(), part, out=out)
    return weight


def _cut(ends: Tensor, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    sizes = _sizes(ends)
    return [tensor.split(sizes) for tensor in tensors]


def _sizes(ends: Tensor) -> list[int]:
    return [high - low for low, high in itertools.pairwise([0, *ends.tolist()])]


@_routed_matmul.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:  # noqa: ARG001  # the shape does not depend on them
    return x.new_empty(x.shape[0], weight.shape[1])


@_routed_matmul_weight.register_fake
def _(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(ends.shape[0], grad.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001  # torch passes it
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight, ends = ctx.saved_tensors
    grad = grad.contiguous()
    return _routed_matmul(grad, weight.transpose(1, 2), ends), _routed_matmul_weight(x, grad, ends), None


_routed_matmul.register_autograd(_backward, setup_context=_keep)


class _Permute(torch.autograd.Function):
    """Rows in another order; backward is the inverse order, and no sum over rows as that of a general gather is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """(T, d) rows -> x[order]."""
        ctx.save_for_backward(order, inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        order, inverse = ctx.saved_tensors
        return _Permute.apply(grads[0], inverse, order), None, None
