"""The recurrence of Mamba: a decay for each channel and each number of its state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix import kernels
from tokenmix.ops import cuda
from tokenmix.ops.common import check_axes, check_tensor
from tokenmix.ops.loop_scan import loop_scan
from tokenmix.ops.native_scan import native_scan
from tokenmix.ops.precision import at_least_float32


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    softplus: bool = False,
    starts: Tensor | None = None,
    mask: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the selective state space recurrence along L.

    h_t = exp(dt_t A) * h_(t-1) + (dt_t x_t) B_t^T;  y_t = (h_t C_t + D x_t) * silu(z_t).

    The states of all tokens, (B, L, C, N), never exist: the backward pass computes them again, a chunk at a time.
    A native kernel serves on the CPU (`tokenmix.kernels`), that of mamba-ssm on CUDA where it runs and neither starts
    nor a state are given; plain torch serves everywhere else, and float64.

    Args:
        x: (B, L, C) input.
        dt: (B, L, C) step sizes, positive; before `dt_bias` and softplus, if `softplus`.
        A: (C, N) rates, negative.
        B: (B, L, N) how a token is written to the state.
        C: (B, L, N) how the state is read.
        D: (C,) weight of the input itself in the output.
        z: (B, L, C) gate of the output; default none.
        dt_bias: (C,) added to dt, in float32 or better.
        softplus: whether the step sizes are softplus(dt + dt_bias).
        starts: (B, L) bool, first tokens of documents: what came before them is forgotten.
        mask: (B, L) bool, False at padding: the state passes it unchanged, and the output there is 0.
        state: (B, C, N) state before the first token; default 0.

    Returns:
        y: (B, L, C), in the type of x.
        state: (B, C, N) after the last token, float32 (float64 for a float64 x).

    Raises:
        TypeError, ValueError: an argument of another type, shape or device.

    Example:
        >>> x, one = torch.ones(1, 3, 2), torch.ones(1, 3, 1)
        >>> y, state = selective_scan(x, x, torch.tensor([[-1.0], [-2.0]]), one, one)
        >>> y[0, :, 0]
        tensor([1.0000, 1.3679, 1.5032])

    Source:
        Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, arXiv 2312.00752.
        B is discretised by Euler's rule (dt B), as in the authors' code, not by the zero-order hold of their paper.
    """
    _check(x, dt, A, B, C, D, z, dt_bias, starts, mask, state)
    u = at_least_float32(x)
    dt, A, B, C = (tensor.to(u.dtype) for tensor in (dt, A, B, C))
    D, z, dt_bias, state = (None if tensor is None else tensor.to(u.dtype) for tensor in (D, z, dt_bias, state))
    if mask is not None and starts is not None:
        starts = starts & mask
    if kernels.serves(x):
        y, last = native_scan(u, dt, A, B, C, D, z, dt_bias, state, mask, starts, softplus)
        return y.to(x.dtype), last
    if starts is None and state is None and cuda.scan.serves(u):
        y, last = cuda.scan(u, dt, A, B, C, D, z, dt_bias, softplus, mask)
        return y.to(x.dtype), last
    if dt_bias is not None:
        dt = dt + dt_bias
    if softplus:
        dt = F.softplus(dt)
    if mask is not None:
        u, dt, B, C = (tensor.masked_fill(~mask[..., None], 0) for tensor in (u, dt, B, C))
    keep = None if starts is None else (~starts).to(u.dtype)  # 0 where the past is forgotten
    y, last = loop_scan(dt, dt * u, A, B, C, keep, state)
    if D is not None:
        y = torch.addcmul(y, u, D)
    if z is not None:
        y = y * F.silu(z if mask is None else z.masked_fill(~mask[..., None], 0))
    return y.to(x.dtype), last


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    starts: Tensor | None,
    mask: Tensor | None,
    state: Tensor | None,
) -> None:
    check_axes("x", x, "(B, L, C)", 3)
    check_axes("A", A, "(C, N)", 2)
    (rows, length, channels), size = x.shape, A.shape[1]
    check_tensor("dt", dt, "(B, L, C)", (rows, length, channels), x.device)
    check_tensor("A", A, "(C, N)", (channels, size), x.device)
    check_tensor("B", B, "(B, L, N)", (rows, length, size), x.device)
    check_tensor("C", C, "(B, L, N)", (rows, length, size), x.device)
    for name, value in (("D", D), ("dt_bias", dt_bias)):
        if value is not None:
            check_tensor(name, value, "(C,)", (channels,), x.device)
    if z is not None:
        check_tensor("z", z, "(B, L, C)", (rows, length, channels), x.device)
    if starts is not None:
        check_tensor("starts", starts, "(B, L)", (rows, length), x.device, kind="bool")
    if mask is not None:
        check_tensor("mask", mask, "(B, L)", (rows, length), x.device, kind="bool")
    if state is not None:
        check_tensor("state", state, "(B, C, N)", (rows, channels, size), x.device)
