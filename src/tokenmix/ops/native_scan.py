"""The selective scan as native kernels, registered with torch: autograd, torch.compile and torch.export see through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native

CHUNK = 32  # tokens between two states that the backward pass starts from


def native_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    starts: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """See `tokenmix.ops.selective_scan`, for float32 on the CPU.

    Returns:
        y (B, L, C), and the state (B, C, N) after the last token.
    """
    given = (x, dt, A, B, C, D, z, dt_bias, state)
    keep = kernels.wants_gradients(*given)
    y, last, _ = kernels.call(_run, _scan, *given, mask, starts, softplus, keep)
    return y, last


def _run(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    mask: Tensor | None,
    starts: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and the states before each chunk (B, chunks, N, C), if they are to be kept."""
    y, last, entries = _scan_shapes(x, dt, A, B, C, D, z, dt_bias, state, mask, starts, softplus, keep)
    scan = _arguments(x, dt, A, B, C, D, z, dt_bias, state, mask, starts, softplus=softplus)
    scan.y, scan.last = native.address(y), native.address(last)
    scan.entries = native.address(entries) if keep else None
    kernel = kernels.library().tm_scan_forward
    if x.shape[1] == 1 and not keep:  # one token: `last` is read and written
        last.zero_() if state is None else last.copy_(state)
        kernel = kernels.library().tm_scan_step
    native.run(kernel, scan)
    return y, last, entries


_scan = torch.library.custom_op("tokenmix::native_scan", _run, mutates_args=())


@torch.library.custom_op("tokenmix::native_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_last: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    mask: Tensor | None,
    starts: Tensor | None,
    entries: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, dt, A, B, C, D, z, dt_bias and the first state."""
    outputs = _backward_shapes(grad_y, grad_last, x, dt, A, B, C, D, z)
    scan = _arguments(x, dt, A, B, C, D, z, dt_bias, None, mask, starts, softplus=softplus)
    scan.entries = native.address(entries)
    grad_y, grad_last = grad_y.contiguous(), grad_last.contiguous()
    grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D, grad_z, grad_bias, grad_state = outputs
    ordered = (grad_y, grad_last, grad_x, grad_dt, None if z is None else grad_z, grad_A, grad_B, grad_C, grad_D)
    grads = native.ScanGrads(*map(native.address, (*ordered, grad_bias, grad_state)))
    native.run(kernels.library().tm_scan_backward, scan, grads)
    return outputs


def _arguments(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    *rest: Tensor | None,
    softplus: bool,
) -> Any:
    """What both passes read, without their outputs; the rest is dt_bias, state, mask and starts."""
    x, dt, B, C = map(native.rows, (x, dt, B, C))
    z = None if z is None else native.rows(z)
    D, *rest_ = (None if tensor is None else tensor.contiguous() for tensor in (D, *rest))
    tensors = (x, dt, A.contiguous(), B, C, D, z, *rest_)
    (rows, length, channels), states = x.shape, A.shape[1]
    scan = native.Scan(
        *map(native.address, tensors),
        *(None, None, None),
        *(rows, length, channels, states, CHUNK),
        *x.stride()[:2],
        *dt.stride()[:2],
        *B.stride()[:2],
        *C.stride()[:2],
        *((0, 0) if z is None else z.stride()[:2]),
        int(softplus),
        native.threads(rows * length * channels * states),
    )
    return native.holding(scan, *tensors)


@_scan.register_fake
def _scan_shapes(x: Tensor, _: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    (rows, length, channels), states = x.shape, A.shape[1]
    chunks = -(-length // CHUNK) if rest[-1] else 0
    y, last = x.new_empty(rows, length, channels), x.new_empty(rows, channels, states)
    return y, last, x.new_empty(rows, chunks, states, channels)


@_scan_backward.register_fake
def _backward_shapes(_: Tensor, grad_last: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    x, dt, A, B, C, __, z = rest[:7]
    like = torch.contiguous_format
    grads = [torch.empty_like(tensor, memory_format=like) for tensor in (x, dt, A, B, C)]
    grad_z = x.new_empty(0) if z is None else torch.empty_like(z, memory_format=like)
    channels = x.shape[2]
    bias, state = x.new_empty(channels), torch.empty_like(grad_last, memory_format=like)
    return *grads, x.new_empty(channels), grad_z, bias, state


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, dt, A, B, C, D, z, dt_bias, state, mask, starts, softplus, _ = inputs
    ctx.save_for_backward(x, dt, A, B, C, D, z, dt_bias, state, mask, starts, output[2])
    ctx.softplus = softplus


def _backward(ctx: Any, grad_y: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *saved, entries = ctx.saved_tensors
    if entries.shape[1] == 0:  # traced where no gradients were wanted
        entries = _scan(*saved, ctx.softplus, True)[2]
    D, z, dt_bias, state = saved[5:9]
    del saved[8]
    *grads, grad_D, grad_z, grad_bias, grad_state = _scan_backward(grad_y, grad_last, *saved, entries, ctx.softplus)
    optional = [
        grad if there else None
        for grad, there in ((grad_D, D is not None), (grad_z, z is not None), (grad_bias, dt_bias is not None))
    ]
    return *grads, *optional, None if state is None else grad_state, None, None, None, None


_scan.register_autograd(_backward, setup_context=_save)
