"""Attention over the edges of a graph: a softmax for each receiver, without a dense mask or padding to the hubs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix.ops.common import again
from tokenmix.ops.precision import at_least_float32

CHUNK = 2**17  # numbers gathered at a time on a CPU, about what its caches hold; elsewhere 128 times as many


def edge_softmax(scores: Tensor, receiver: Tensor, num_nodes: int) -> Tensor:
    """Softmax over the edges that end in the same node.

        w_e = exp(s_e) / sum over edges f with receiver_f = receiver_e of exp(s_f)

    The largest score of a node is subtracted first, so large scores do not overflow. An edge of score -inf weighs 0,
    also where a node has no other. Duplicate edges count as often as they are listed.

    Args:
        scores: (E, H) floats.
        receiver: (E,) integers from 0 to num_nodes - 1, in any order.
        num_nodes: number of nodes.

    Returns:
        (E, H) weights, in float32 or better.

    Raises:
        ValueError, TypeError: input of another shape, type or range; the message names the argument.

    Example:
        >>> edge_softmax(torch.zeros(3, 1), torch.tensor([0, 0, 2]), 3).flatten().tolist()
        [0.5, 0.5, 1.0]

    Source: Velickovic et al. 2018 (1710.10903), equation 3.
    """
    if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(f"scores: expected floats of shape (E, H), found {_describe(scores)}")
    _check_ends("receiver", receiver, scores.shape[0], num_nodes)
    return _softmax(scores, receiver.long(), num_nodes)


def attend_edges(
    q: Tensor, k: Tensor, v: Tensor, edges: Tensor, *, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Each node reads the senders of its incoming edges.

        s_e = scale * q_receiver . k_sender + bias_e
        y_i = sum over edges e that end in i of softmax_e(s_e) v_sender

    A node without edges gives 0, and an edge that is listed twice counts twice. Edges are read in pieces, so that
    besides q, k and v only E * H numbers are kept, and the work is E * H * D, however large the largest degree.
    Edges sorted by receiver are read fastest. Scores, softmax and sums are in float32 or better.

    Args:
        q: (N, H, D) queries of the receivers.
        k: (M, H, D) keys of the senders; M = N in a graph of one kind of node.
        v: (M, H, C) values.
        edges: (2, E) integers, sender (row of k and v) and receiver (row of q).
        bias: (E, H) floats, added to the scores; -inf hides an edge.
        scale: factor of the products; default 1 / sqrt(D).

    Returns:
        (N, H, C), in the dtype of q.

    Raises:
        ValueError, TypeError: input of another shape, type or range; the message names the argument.

    Example:
        >>> x = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> edges = torch.tensor([[0, 1, 2], [1, 2, 2]])
        >>> attend_edges(torch.zeros_like(x), x, x, edges).flatten().tolist()
        [0.0, 1.0, 4.0]

    Source: Shi et al. 2021 (2009.03509), equations 3 and 4; the graph form of Vaswani et al. 2017 (1706.03762).
    """
    _check_inputs(q, k, v, edges, bias)
    sender, receiver = edges.long()
    scale = q.shape[2] ** -0.5 if scale is None else scale
    if torch.compiler.is_compiling():  # the pieces are a loop that a compiler would unroll
        return _plain(q, k, v, bias, sender, receiver, scale)
    y: Tensor = _EdgeAttention.apply(q, k, v, bias, sender, receiver, scale)
    return y


# ---------------------------------------------------------------------- the work


def _softmax(scores: Tensor, receiver: Tensor, num_nodes: int) -> Tensor:
    scores = at_least_float32(scores)
    highest = scores.new_full((num_nodes, scores.shape[1]), -torch.inf)
    highest = highest.scatter_reduce(0, receiver[:, None].expand_as(scores), scores.detach(), "amax")
    highest = highest.masked_fill(highest == -torch.inf, 0.0)
    weights = (scores - highest.index_select(0, receiver)).exp()
    total = torch.zeros_like(highest).index_add(0, receiver, weights)
    total = total.masked_fill(total == 0, 1.0)  # only hidden edges
    return weights / total.index_select(0, receiver)


def _plain(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sender: Tensor, receiver: Tensor, scale: float
) -> Tensor:
    """All edges at once, in operations that can be differentiated any number of times."""
    scores = (at_least_float32(q)[receiver] * at_least_float32(k)[sender]).sum(-1) * scale
    weights = _softmax(scores if bias is None else scores + bias.to(scores.dtype), receiver, len(q))
    y = weights.new_zeros(len(q), *v.shape[1:])
    return y.index_add(0, receiver, weights[..., None] * at_least_float32(v)[sender]).to(q.dtype)


class _EdgeAttention(torch.autograd.Function):
    """The same in pieces of edges, forwards and backwards."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        sender: Tensor,
        receiver: Tensor,
        scale: float,
    ) -> Tensor:
        wide = at_least_float32(q).dtype
        scores = q.new_empty(len(sender), q.shape[1], dtype=wide)
        for piece in _pieces(q, v, len(sender)):
            products = _rows(q, receiver[piece], wide) * _rows(k, sender[piece], wide)
            scores[piece] = products.sum(-1) * scale
        weights = _softmax(scores if bias is None else scores + bias.to(scores.dtype), receiver, len(q))
        y = q.new_zeros(len(q), *v.shape[1:], dtype=wide)
        for piece in _pieces(q, v, len(sender)):
            y.index_add_(0, receiver[piece], weights[piece, :, None] * _rows(v, sender[piece], wide))
        ctx.scale, ctx.wide = scale, wide
        ctx.save_for_backward(q, k, v, bias, sender, receiver, weights, y)
        return y.to(q.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, sender, receiver, weights, y = ctx.saved_tensors
        scale, wide = ctx.scale, ctx.wide
        if torch.is_grad_enabled():  # the gradients will be differentiated
            inputs = (q, k, v) if bias is None else (q, k, v, bias)

            def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
                return _plain(q, k, v, bias, sender, receiver, scale)

            found = again(plain, inputs, ctx.needs_input_grad[: len(inputs)], (grad,))
            return *found, *[None] * (7 - len(found))
        grad = grad.to(wide)
        mean = (grad * y).sum(-1)  # (N, H): sum over edges of w_e * (grad . v_sender)
        grads = [torch.zeros_like(x, dtype=wide) for x in (q, k, v)]
        grad_scores = torch.empty_like(weights)
        for piece in _pieces(q, v, len(sender)):
            ends, starts = receiver[piece], sender[piece]
            above, weight = grad.index_select(0, ends), weights[piece, :, None]
            along = (above * _rows(v, starts, wide)).sum(-1)
            slope = weights[piece] * (along - mean.index_select(0, ends))
            grad_scores[piece] = slope
            slope = slope[..., None] * scale
            grads[0].index_add_(0, ends, slope * _rows(k, starts, wide))
            grads[1].index_add_(0, starts, slope * _rows(q, ends, wide))
            grads[2].index_add_(0, starts, weight * above)
        given = (x.to(like.dtype) for x, like in zip(grads, (q, k, v), strict=True))
        return *given, None if bias is None else grad_scores.to(bias.dtype), None, None, None


def _rows(x: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    return x.index_select(0, index).to(dtype)


def _pieces(q: Tensor, v: Tensor, edges: int) -> list[slice]:
    size = CHUNK if q.device.type == "cpu" else 128 * CHUNK
    size = max(1, size // max(1, q.shape[1] * max(q.shape[2], v.shape[2])))
    return [slice(low, min(low + size, edges)) for low in range(0, edges, size)]


# ---------------------------------------------------------------------- checks


def _check_inputs(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, bias: Tensor | None) -> None:
    for name, x, letters in (("q", q, "(N, H, D)"), ("k", k, "(M, H, D)"), ("v", v, "(M, H, C)")):
        if not isinstance(x, Tensor) or x.dim() != 3 or not x.is_floating_point():
            raise ValueError(f"{name}: expected floats of shape {letters}, found {_describe(x)}")
    if k.shape[1:] != q.shape[1:] or v.shape[:2] != k.shape[:2]:
        raise ValueError(
            f"k, v: expected (M, H={q.shape[1]}, D={q.shape[2]}) and (M, H, C), found {tuple(k.shape)} and "
            f"{tuple(v.shape)}"
        )
    if not isinstance(edges, Tensor) or edges.dim() != 2 or edges.shape[0] != 2:
        raise ValueError(f"edges: expected integers of shape (2, E), found {_describe(edges)}")
    _check_ends("senders of edges", edges[0], edges.shape[1], len(k))
    _check_ends("receivers of edges", edges[1], edges.shape[1], len(q))
    if bias is not None and (not bias.is_floating_point() or bias.shape != (edges.shape[1], q.shape[1])):
        raise ValueError(f"bias: expected floats of shape {(edges.shape[1], q.shape[1])}, found {_describe(bias)}")


def _check_ends(name: str, ends: Tensor, edges: int, nodes: int) -> None:
    if not isinstance(ends, Tensor) or ends.is_floating_point() or ends.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, found {_describe(ends)}")
    if ends.shape != (edges,):
        raise ValueError(f"{name}: expected shape {(edges,)}, found {tuple(ends.shape)}")
    if edges and not torch.compiler.is_compiling():
        low, high = (int(x) for x in ends.aminmax())
        if low < 0 or high >= nodes:
            raise ValueError(f"{name}: expected numbers from 0 to {nodes - 1}, found {low if low < 0 else high}")


def _describe(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
