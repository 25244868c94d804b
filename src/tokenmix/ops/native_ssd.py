"""The scan of Mamba-2 and linear attention as native kernels, registered with torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native
from tokenmix.ops.common import again

SPAN = 64  # tokens in a chunk; as in ssd.h


def native_ssd(
    v: Tensor,
    log_decay: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
    scale: Tensor | None = None,
    skip: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S_t = exp(log_decay_t) S_(t-1) + scale_t v_t k_t^T;  y_t = S_t q_t + skip v_t, for float32 on the CPU.

    Args:
        v, log_decay, k, q, starts, mask, state: see `tokenmix.ops.chunked_scan.chunked_scan`.
        scale: (B, L, H), default 1. skip: (H,), default 0.

    Returns:
        y (B, L, H, P), and the state (B, H, P, N) after the last token.
    """
    if starts is not None and mask is not None:
        starts = starts & mask
    keep = kernels.wants_gradients(v, log_decay, k, q, state, scale, skip)
    y, last, _ = _ssd(v, log_decay, scale, skip, k, q, starts, mask, state, keep)
    return y, last


@torch.library.custom_op("tokenmix::native_ssd", mutates_args=())
def _ssd(
    v: Tensor,
    log_decay: Tensor | None,
    scale: Tensor | None,
    skip: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states before each chunk, if they are to be kept."""
    y, last, entries = _ssd_shapes(v, log_decay, scale, skip, k, q, starts, mask, state, keep)
    arguments = _arguments(v, log_decay, scale, skip, k, q, starts, mask, state)
    arguments.y, arguments.last = native.address(y), native.address(last)
    arguments.entries = native.address(entries) if keep else None
    native.run(kernels.library().tm_ssd_forward, arguments)
    return y, last, entries


@torch.library.custom_op("tokenmix::native_ssd_backward", mutates_args=())
def _ssd_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    scale: Tensor | None,
    skip: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    mask: Tensor | None,
    entries: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of v, log_decay, scale, skip (a row each), k, q and the first state."""
    outputs = _backward_shapes(grad_y, grad_last, v, log_decay, scale, skip, k, q)
    arguments = _arguments(v, log_decay, scale, skip, k, q, starts, mask, None)
    arguments.entries = native.address(entries)
    grad_y, grad_last = grad_y.contiguous(), grad_last.contiguous()
    wanted = [
        None if given is None else grad for grad, given in zip(outputs[1:4], (log_decay, scale, skip), strict=True)
    ]
    ordered = (grad_y, grad_last, outputs[0], *wanted, *outputs[4:])
    native.run(kernels.library().tm_ssd_backward, arguments, native.SsdGrads(*map(native.address, ordered)))
    return outputs


def _arguments(
    v: Tensor,
    log_decay: Tensor | None,
    scale: Tensor | None,
    skip: Tensor | None,
    k: Tensor,
    q: Tensor,
    starts: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
) -> Any:
    v, k, q = map(native.rows, (v, k, q))
    given = (log_decay, scale, skip, state, mask, starts)
    rest = tuple(None if tensor is None else tensor.contiguous() for tensor in given)
    (count, length, heads, values), (groups, keys) = v.shape, k.shape[2:]
    arguments = native.Ssd(
        *map(native.address, (v, k, q, *rest)),
        *(None, None, None),
        *(count, length, heads, groups, values, keys),
        *v.stride()[:3],
        *k.stride()[:3],
        *q.stride()[:3],
        native.threads(v.numel() * keys),
    )
    return native.holding(arguments, v, k, q, *rest)


@_ssd.register_fake
def _ssd_shapes(v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    (rows, length, heads, values), keys = v.shape, rest[3].shape[3]
    chunks = -(-length // SPAN) if rest[-1] else 0
    entries = v.new_empty(rows, heads, chunks, -(-keys // 16) * 16, -(-values // 16) * 16)  # as in ssd.h
    return v.new_empty(rows, length, heads, values), v.new_empty(rows, heads, values, keys), entries


@_ssd_backward.register_fake
def _backward_shapes(_: Tensor, grad_last: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    log_decay, scale, skip, k, q = rest[:5]
    like = torch.contiguous_format
    grad_v, grad_k, grad_q, grad_state = (torch.empty_like(t, memory_format=like) for t in (v, k, q, grad_last))
    grad_decay, grad_scale = (
        v.new_empty(0) if tensor is None else torch.empty_like(tensor, memory_format=like)
        for tensor in (log_decay, scale)
    )
    grad_skip = v.new_empty(0) if skip is None else v.new_empty(v.shape[0], v.shape[2])
    return grad_v, grad_decay, grad_scale, grad_skip, grad_k, grad_q, grad_state


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *given, state, _ = inputs
    ctx.save_for_backward(*given, state, output[2])


def _backward(ctx: Any, grad_y: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *saved, state, entries = ctx.saved_tensors  # once: recomputed layers allow no second look
    if torch.is_grad_enabled():  # the gradients will be differentiated, which the kernel cannot
        *given, starts, mask = saved
        plain = partial(_plain, starts=starts, mask=mask)
        found = again(plain, (*given, state), (*ctx.needs_input_grad[:6], ctx.needs_input_grad[8]), (grad_y, grad_last))
        return *found[:6], None, None, found[6], None
    if entries.shape[2] == 0:  # traced where no gradients were wanted
        entries = _ssd(*saved, state, True)[2]
    saved = [*saved, entries]
    grad_v, grad_decay, grad_scale, grad_skip, grad_k, grad_q, grad_state = _ssd_backward(grad_y, grad_last, *saved)
    optional = [
        None if given is None else grad
        for grad, given in zip((grad_decay, grad_scale, grad_skip.sum(0)), saved[1:4], strict=True)
    ]
    return grad_v, *optional, grad_k, grad_q, None, None, None if state is None else grad_state, None


def _plain(
    v: Tensor,
    log_decay: Tensor | None,
    scale: Tensor | None,
    skip: Tensor | None,
    k: Tensor,
    q: Tensor,
    state: Tensor | None,
    starts: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from tokenmix.ops.chunked_scan import chunked_scan

    real = v if mask is None else v.masked_fill(~mask[..., None, None], 0)
    scaled = real if scale is None else real * scale[..., None]
    y, last = chunked_scan(scaled, log_decay, k, q, starts=starts, mask=mask, state=state)
    return y if skip is None else y + skip[:, None] * real, last


_ssd.register_autograd(_backward, setup_context=_save)
