"""The selective scan in plain torch, for any device and float64: `tokenmix.ops.selective_scan` calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix.ops.common import without_autocast

_BUFFER = 1 << 19  # numbers in one buffer of states: a chunk of time that stays in the cache


def loop_scan(
    dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) keep_t h_(t-1) + u_t B_t^T;  y_t = h_t C_t.

    Time runs in chunks whose states live in reused buffers; the backward pass recomputes a chunk from the state it
    started with, so that (B, L, C, N) never exists.

    Args:
        dt: (B, L, C) step sizes.
        u: (B, L, C) dt x.
        A: (C, N). B, C: (B, L, N).
        keep: (B, L), 0 where the past is forgotten, else 1; None for 1.
        state: (B, C, N) or None.

    Returns:
        y (B, L, C), and the state (B, C, N) after the last token.
    """
    return (_step if dt.shape[1] == 1 else _chunks)(dt, u, A, B, C, keep, state)


def _step(
    dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One token: u is dt x."""
    h = u.transpose(1, 2) * B  # (B, C, N)
    if state is not None:
        decay = (dt.transpose(1, 2) * A).exp()
        if keep is not None:
            decay = decay * keep[..., None]
        h = torch.addcmul(h, decay, state)
    return (h * C).sum(2)[:, None], h


def _chunks(
    dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Many tokens: time first and channels last, so that every step and every sum runs over contiguous numbers."""
    rows, length, channels = dt.shape
    size = rows * channels * A.shape[1]
    steps = max(1, min(64, length, _BUFFER // size))
    state = dt.new_zeros(rows, A.shape[1], channels) if state is None else state.transpose(1, 2)
    dt, u, B, C = (tensor.transpose(0, 1).contiguous() for tensor in (dt, u, B, C))  # (L, B, ...)
    keep = None if keep is None else keep.t().contiguous()
    y, state, _ = _scan(dt, u, A.t().contiguous(), B, C, keep, state, steps)
    return y.transpose(0, 1), state.transpose(1, 2).contiguous()


@torch.library.custom_op("tokenmix::selective_scan", mutates_args=())
def _scan(
    dt: Tensor, u: Tensor, A: Tensor, B: Tensor, C: Tensor, keep: Tensor | None, state: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The whole scan as one operator, so that torch.compile does not unroll it.

    dt, u (L, B, C), A (N, C), B, C (L, B, N), keep (L, B), state (B, N, C).
    Returns y, the last state, and the state at the start of each chunk of `steps` tokens.
    """
    decay, hidden = u.new_empty(steps, *state.shape), u.new_empty(steps + 1, *state.shape)
    y, entries = torch.empty_like(u), u.new_empty(-(-len(u) // steps), *state.shape)
    last = state
    for chunk, entry in enumerate(entries.unbind()):
        now = slice(chunk * steps, (chunk + 1) * steps)
        entry.copy_(last)
        count = _fill(decay, hidden, entry, dt[now], u[now], A, B[now], None if keep is None else keep[now])
        with without_autocast(u.device):
            torch.matmul(C[now].unsqueeze(2), hidden[1 : count + 1], out=y[now].unsqueeze(2))  # (k, B, 1, C)
        last = hidden[count]
    return y, last.clone(), entries


def _fill(
    decay: Tensor, hidden: Tensor, entry: Tensor, dt: Tensor, u: Tensor, A: Tensor, B: Tensor, keep: Tensor | None
) -> int:
    """Fill decay[t] and hidden[t + 1] for the k tokens of a chunk, hidden[0] with the state before it; return k."""
    count = len(u)
    torch.mul(dt.unsqueeze(2), A, out=decay[:count]).exp_()  # (k, B, N, C)
    if keep is not None:
        decay[:count].mul_(keep[:, :, None, None])
    torch.mul(u.unsqueeze(2), B.unsqueeze(3), out=hidden[1 : count + 1])
    states = hidden.unbind()
    states[0].copy_(entry)
    for before, after, factor in zip(states[:count], states[1 : count + 1], decay.unbind(), strict=False):
        after.addcmul_(factor, before)
    return count


@torch.library.custom_op("tokenmix::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    dt: Tensor,
    u: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    keep: Tensor | None,
    entries: Tensor,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of dt, u, A, B, C and the first state, a chunk at a time from the last to the first.

    With g_t the gradient of h_t: g_t = grad_y_t C_t + decay_(t+1) g_(t+1), and r_t = g_t decay_t h_(t-1) is the
    gradient of dt_t A.
    """
    decay, hidden, grad = (u.new_empty(steps + extra, *grad_state.shape) for extra in (0, 1, 0))
    grad_dt, grad_u, grad_B, grad_C = (torch.empty_like(tensor) for tensor in (dt, u, B, C))
    grad_A, carry = torch.zeros_like(A), grad_state.clone()
    for chunk in reversed(range(len(entries))):
        now = slice(chunk * steps, (chunk + 1) * steps)
        count = _fill(decay, hidden, entries[chunk], dt[now], u[now], A, B[now], None if keep is None else keep[now])
        a, g = decay[:count], grad[:count]
        torch.mul(grad_y[now].unsqueeze(2), C[now].unsqueeze(3), out=g)  # (k, B, N, C)
        factors, grads = a.unbind(), g.unbind()
        grads[-1].add_(carry)
        for t in range(count - 2, -1, -1):
            grads[t].addcmul_(factors[t + 1], grads[t + 1])
        torch.mul(factors[0], grads[0], out=carry)
        with without_autocast(u.device):
            torch.matmul(hidden[1 : count + 1], grad_y[now].unsqueeze(3), out=grad_C[now].unsqueeze(3))
            torch.matmul(g, u[now].unsqueeze(3), out=grad_B[now].unsqueeze(3))
            torch.matmul(B[now].unsqueeze(2), g, out=grad_u[now].unsqueeze(2))
        r = a.mul_(g).mul_(hidden[:count])
        grad_A += torch.mul(r, dt[now].unsqueeze(2), out=g).sum((0, 1))
        torch.sum(r.mul_(A), 2, out=grad_dt[now])
    return grad_dt, grad_u, grad_A, grad_B, grad_C, carry


@_scan.register_fake
def _scan_shapes(_: Tensor, u: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *__, state, steps = rest
    return torch.empty_like(u), state.new_empty(state.shape), u.new_empty(-(-u.shape[0] // steps), *state.shape)


@_scan_backward.register_fake
def _scan_backward_shapes(_: Tensor, grad_state: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return *(torch.empty_like(tensor) for tensor in rest[:5]), grad_state.new_empty(grad_state.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    dt, u, A, B, C, keep, _, steps = inputs
    ctx.save_for_backward(dt, u, A, B, C, keep, output[2])
    ctx.steps = steps


def _backward(ctx: Any, grad_y: Tensor, grad_state: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    grads = _scan_backward(grad_y.contiguous(), grad_state.contiguous(), *ctx.saved_tensors, ctx.steps)
    return *grads[:5], None, grads[5], None


_scan.register_autograd(_backward, setup_context=_save)
