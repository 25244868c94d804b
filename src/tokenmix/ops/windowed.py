"""Windowed softmax attention on the CPU: a native kernel, or torch's flash kernel on overlapping keys and values.

A piece of a row is one call of the kernel: its blocks lie on the batch axis, and their keys and values overlap in
memory, so that nothing is copied and nothing but the band is computed. The backward pass is the kernel's own; gradients
of keys that several blocks read are added up. Source: Dao et al. 2022 (2205.14135) for the kernel; Beltagy et al. 2020
(2004.05150) for bands as overlapping blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tokenmix import kernels
from tokenmix.ops import native_window
from tokenmix.ops.band_pieces import Hidden, Piece, cut
from tokenmix.ops.blocked import Tokens, block
from tokenmix.ops.common import again
from tokenmix.ops.dense import Rule, compute_plainly
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.sources import Band

_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FEWEST, _FEWEST_OF_ALL = 2_000_000, 16_000_000  # multiplications worth the calls for a row, and for all rows
_FORWARD, _BACKWARD = 2**19, 2**19  # numbers that a call may return: they should stay in the cache
_SIZE = 32  # queries of a block, as measured: smaller blocks meet fewer keys, larger ones compute faster
_TOKENS = 16  # of a block, or a multiple: numbers of keys that are none are slow


def _tokens(size: int, group: int) -> int:
    """Tokens of a block of `size` queries, of which each token has `group`."""
    return max(size // group // _TOKENS, 1) * _TOKENS


def _size_backward(window: int) -> int:
    return 32 if window <= 128 else 64 if window <= 512 else 128


def _probe() -> bool:
    """Whether torch's kernel is here and, for a query that reads nothing, gives 0 and finite gradients."""
    try:
        q, k, v = torch.tensor([1.0, 2.0, 3.0], device="cpu").view(3, 1, 1, 1, 1).expand(3, 1, 1, 2, 4)
        hidden = torch.tensor([[0.0, 0.0], [-torch.inf, -torch.inf]], device="cpu")[None, None]
        y, total = _flash(q, k, v, hidden, 0.5)
        found = [*_flash_backward(q, q, k, v, y, total, hidden, 0.5), y]
        return all(bool(torch.isfinite(x).all()) for x in found) and y[0, 0, :, 0].tolist() == [3.0, 0.0]
    except (AttributeError, RuntimeError, TypeError):
        return False


def _flash(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(N, h, n, D), and (N, h, n) log-sum-exp of the scores."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, k, v, 0.0, False, attn_mask=hidden, scale=scale)


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, y: Tensor, total: Tensor, hidden: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return kernel(grad, q, k, v, y, total, 0.0, False, attn_mask=hidden, scale=scale)


SERVES = _probe()


def serves(source: Band, tokens: Tokens) -> bool:
    """Whether `windowed` is right for these tokens, and faster than blocks with their neighbours."""
    q = tokens.q
    if q.device.type != "cpu" or q.dtype not in _TYPES or tokens.bias is not None:
        return False
    native = native_window.fits(q, tokens.v, tokens.mask, tokens.segments, source.window, source.dilation)
    if not (SERVES or native):
        return False
    if q.shape[2] != tokens.k.shape[2] or kernels.transformed():
        return False  # the blocked form says what is wrong, and takes derivatives of every kind
    steps = q.shape[2] // source.dilation
    work = q.shape[1] * steps * min(source.window, steps) * (q.shape[3] + tokens.v.shape[3])
    if native:
        return work * q.shape[0] >= _FEWEST
    return work >= _FEWEST and work * source.dilation * q.shape[0] >= _FEWEST_OF_ALL


def windowed(source: Band, tokens: Tokens, scale: float) -> Tensor:
    """Softmax attention over a band.

    Args:
        source: the band.
        tokens: as many keys as queries; without a bias.
        scale: factor of the scores.

    Returns:
        (B, H, L, E), laid out as (B, L, H, E).
    """
    q, k, v, mask, segments, _ = tokens
    width, value_width = q.shape[3], v.shape[3]
    if width < value_width:  # the kernel wants one width; zeros change no score
        q, k = (torch.nn.functional.pad(x, (0, value_width - width)) for x in (q, k))
    elif width > value_width:
        v = torch.nn.functional.pad(v, (0, width - value_width))
    y, _ = windowed_attention(q, k, v, mask, segments, source.window, source.causal, source.dilation, scale)
    return y[..., :value_width] if width > value_width else y


# ---------------------------------------------------------------------- the operation


@torch.library.custom_op("tokenmix::windowed_attention", mutates_args=())
def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    segments: Tensor | None,
    window: int,
    causal: bool,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(B, H, L, D), and (B, H, L, 1) log-sum-exp of the scores, both laid out with L before H."""
    y, total = _outputs(q)
    if native_window.fits(q, v, mask, segments, window, dilation):
        native_window.run_forward(q, k, v, y, total, window, causal, scale)
        return y, total
    q, k, v = (_features_together(x) for x in (q, k, v))
    size = _tokens(_SIZE, _group(q, k))
    most = max(_FORWARD // (q.shape[1] * size * q.shape[3]), 1)
    for at, pieces in _rows(q, k, mask, segments, window, causal, dilation, size, most):
        row_q, row_y, row_total = (_heads(x[at], k) for x in (q, y, total))
        row_k, row_v = k[at], v[at]
        for piece, hidden in pieces:
            here_y, here_total = piece.queries(row_y), piece.queries(row_total)
            if hidden is None:
                here_y.zero_()
                here_total.zero_()
                continue
            here_q = piece.queries(row_q).flatten(2, 3)  # (number, h, rows * group, D)
            found, found_total = _flash(here_q, piece.read(row_k), piece.read(row_v), hidden, scale)
            here_y.copy_(found.view(here_y.shape))
            here_total.copy_(found_total.reshape(here_total.shape))
    return y, total


@windowed_attention.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _outputs(q)


@torch.library.custom_op("tokenmix::windowed_attention_backward", mutates_args=())
def windowed_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    total: Tensor,
    mask: Tensor | None,
    segments: Tensor | None,
    window: int,
    causal: bool,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; the keys' are summed in float32 or better."""
    if native_window.fits(q, v, mask, segments, window, dilation):
        return native_window.run_backward(grad, q, k, v, y, total, window, causal, scale)
    grad_q = torch.empty_like(q)  # laid out as the inputs are, so that nobody copies them again
    grad_k, grad_v = (torch.empty_like(x, dtype=total.dtype) for x in (k, v))
    q, k, v = (_features_together(x) for x in (q, k, v))
    size = _tokens(_size_backward(window), _group(q, k))
    most = max(_BACKWARD // (2 * k.shape[1] * (window + size) * q.shape[3]), 1)
    for at, pieces in _rows(q, k, mask, segments, window, causal, dilation, size, most):
        rows = [_heads(x[at], k) for x in (grad, q, y, total)]
        row_k, row_v = k[at], v[at]
        row_grads = _heads(grad_q[at], k), grad_k[at], grad_v[at]
        for piece, hidden in pieces:
            here = [piece.queries(x).flatten(2, 3) for x in rows]  # (number, h, rows * group, D)
            keys, values = piece.read(row_k), piece.read(row_v)
            if hidden is None:
                found = torch.zeros_like(here[1]), torch.zeros_like(keys), torch.zeros_like(values)
            else:
                here_grad, here_total = _features_together(here[0]), here[3].squeeze(-1)
                found = _flash_backward(here_grad, here[1], keys, values, here[2], here_total, hidden, scale)
            here_q = piece.queries(row_grads[0])
            here_q.copy_(found[0].reshape(here_q.shape))
            piece.add(row_grads[1], found[1])
            piece.add(row_grads[2], found[2])
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


@windowed_attention_backward.register_fake
def _(_grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.options = inputs[5:]
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:5])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, y, total, mask, segments = ctx.saved_tensors
    window, causal, dilation, scale = ctx.options
    if torch.is_grad_enabled():  # the gradients will be differentiated, which the kernel cannot

        def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            blocks_, restore = block(Band(window, causal, dilation), Tokens(q, k, v, mask, segments, None))
            return restore([compute_plainly(x, Rule("softmax", scale, sums=False))[0] for x in blocks_]).to(grad.dtype)

        return *again(plain, (q, k, v), ctx.needs_input_grad, (grad,)), *[None] * 6
    grads = windowed_attention_backward(grad, q, k, v, y, total, mask, segments, window, causal, dilation, scale)
    return *grads, *[None] * 6


windowed_attention.register_autograd(_differentiate, setup_context=_keep)


# ---------------------------------------------------------------------- rows and pieces


def _rows(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    segments: Tensor | None,
    window: int,
    causal: bool,
    dilation: int,
    size: int,
    most: int,
) -> Iterator[tuple[tuple[int, slice, slice], Iterator[tuple[Piece, Tensor | None]]]]:
    """Where each residue class of each row lies, and its pieces with what is added to their scores."""
    hides = Hidden(window, causal, _group(q, k), at_least_float32(q[:0]).dtype)
    for row in range(q.shape[0]):
        for first in range(dilation):
            place = slice(first, None, dilation)
            cuts = cut(len(range(first, q.shape[2], dilation)), window, causal, size, most)
            row_mask, row_segments = (None if x is None else x[row, place] for x in (mask, segments))
            yield (row, slice(None), place), _with_hidden(cuts, hides, row_mask, row_segments)


def _with_hidden(
    cuts: tuple[Piece, ...], hides: Hidden, mask: Tensor | None, segments: Tensor | None
) -> Iterator[tuple[Piece, Tensor | None]]:
    for piece in cuts:
        yield piece, hides.of(piece, mask, segments)


def _group(q: Tensor, k: Tensor) -> int:
    """Query heads that read the same keys."""
    return q.shape[1] // max(k.shape[1], 1)


def _heads(x: Tensor, k: Tensor) -> Tensor:
    """(H, L, D) -> (Hkv, group, L, D)."""
    return x.unflatten(0, (k.shape[1], -1))


def _features_together(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    batch, heads, length, width = q.shape
    total = q.new_empty(batch, length, heads, 1, dtype=at_least_float32(q[:0]).dtype)
    return q.new_empty(batch, length, heads, width).transpose(1, 2), total.transpose(1, 2)


@register_flop_formula(torch.ops.tokenmix.windowed_attention)
def _flops(q: tuple[int, ...], k: tuple[int, ...], *options: Any, **_: Any) -> int:
    window, causal, dilation = options[3:6]
    return 2 * _products(q, window, causal, dilation, _tokens(_SIZE, q[1] // k[1]))


@register_flop_formula(torch.ops.tokenmix.windowed_attention_backward)
def _flops_backward(_grad: tuple[int, ...], q: tuple[int, ...], k: tuple[int, ...], *options: Any, **_: Any) -> int:
    window, causal, dilation = options[5:8]
    return 5 * _products(q, window, causal, dilation, _tokens(_size_backward(window), q[1] // k[1]))


def _products(q: tuple[int, ...], window: int, causal: bool, dilation: int, size: int) -> int:
    """FLOPs of queries times keys, over the blocks."""
    batch, heads, length, width = q
    lengths = [len(range(first, length, dilation)) for first in range(dilation)]
    pieces = [piece for steps in lengths for piece in cut(steps, window, causal, size, length)]
    return 2 * batch * heads * width * sum(piece.rows * piece.number * piece.keys for piece in pieces)
