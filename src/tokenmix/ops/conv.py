"""Short convolutions along L, one filter a channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tokenmix import kernels
from tokenmix.ops import cuda
from tokenmix.ops.common import check_axes, check_tensor
from tokenmix.ops.native_conv import native_conv
from tokenmix.ops.precision import at_least_float32


def depthwise_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    starts: Tensor | None = None,
    state: Tensor | None = None,
    causal: bool = True,
    silu: bool = False,
) -> Tensor:
    """Mix each channel with its neighbours in time.

    y_t = bias + sum_i weight[:, K - 1 - i] x_(t - i), i = 0 .. K - 1, if causal;
    y_t = bias + sum_j weight[:, j] x_(t + j - (K - 1) / 2), j = 0 .. K - 1, if not.

    With `silu`, silu(y) is returned. Nothing is transposed: K shifted additions in (B, L, C), by a native kernel
    (`tokenmix.kernels`) on the CPU if causal or without `starts`, with one filter a channel, and not in float64. Tokens
    of other documents count as 0.

    Args:
        x: (B, L, C) input; zero at padding.
        weight: (C, K) one filter a channel, or (B, L, C, K) predicted for each token.
        bias: (C,).
        starts: (B, L) bool, first tokens of documents: no tap reaches across them.
        state: (B, K - 1, C) inputs before the first token, oldest first; default 0. Only if causal.
        causal: whether taps reach back only; if not, they are centred, and K is odd.
        silu: whether silu is applied to the result.

    Returns:
        (B, L, C), in the type of x. Sums run in float32 or better.

    Raises:
        TypeError, ValueError: an argument of another type, shape or device; an even K, or a state, if not causal.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)
        >>> depthwise_conv(x, torch.tensor([[10.0, 1.0]])).flatten().tolist()
        [1.0, 12.0, 23.0]

    Source:
        The short convolution of Mamba: Gu and Dao, 2023, arXiv 2312.00752. Predicted filters: Wu et al., "Pay Less
        Attention with Lightweight and Dynamic Convolutions", 2019, arXiv 1901.10430.
    """
    _check(x, weight, bias, starts, state, causal)
    kind, x = x.dtype, at_least_float32(x)
    weight = weight.to(x.dtype)
    bias, state = (None if tensor is None else tensor.to(x.dtype) for tensor in (bias, state))
    if causal and weight.dim() == 2 and kernels.serves(x):
        return native_conv(x, weight, bias, state, starts, silu).to(kind)
    if not causal and weight.dim() == 2 and starts is None and kernels.serves(x):
        ahead = weight.shape[1] // 2  # a centred filter is one that looks back from later on
        return native_conv(F.pad(x, (0, 0, 0, ahead)), weight, bias, None, None, silu)[:, ahead:].to(kind)
    plain = causal and weight.dim() == 2 and starts is None and state is None
    if plain and 2 <= weight.shape[1] <= 4 and x.shape[2] % 8 == 0 and cuda.conv.serves(x):
        return cuda.conv(x, weight, bias, silu).to(kind)
    length, taps = x.shape[1], weight.shape[-1]
    left, right = (taps - 1, 0) if causal else (taps // 2, taps // 2)
    wide = F.pad(x, (0, 0, left, right)) if state is None else torch.cat([state, x], dim=1)
    document = None if starts is None else F.pad(starts, (left, right)).cumsum(1)  # (B, left + L + right)
    y = x * weight[..., left]
    if bias is not None:
        y = y + bias
    for tap in range(taps):
        if tap == left:
            continue
        there = wide[:, tap : tap + length]
        if document is not None:
            other = document[:, tap : tap + length] != document[:, left : left + length]
            there = there.masked_fill(other[..., None], 0)
        y = y.addcmul_(there, weight[..., tap])
    return (F.silu(y) if silu else y).to(kind)


def _check(
    x: Tensor, weight: Tensor, bias: Tensor | None, starts: Tensor | None, state: Tensor | None, causal: bool
) -> None:
    check_axes("x", x, "(B, L, C)", 3)
    rows, length, channels = x.shape
    predicted = isinstance(weight, Tensor) and weight.dim() == 4
    axes = "(B, L, C, K)" if predicted else "(C, K)"
    check_axes("weight", weight, axes, 4 if predicted else 2)
    taps = weight.shape[-1]
    sizes = (rows, length, channels, taps) if predicted else (channels, taps)
    check_tensor("weight", weight, axes, sizes, x.device)
    if bias is not None:
        check_tensor("bias", bias, "(C,)", (channels,), x.device)
    if starts is not None:
        check_tensor("starts", starts, "(B, L)", (rows, length), x.device, kind="bool")
    if not causal and taps % 2 == 0:
        raise ValueError(f"weight: expected an odd number of taps K if not causal, found {taps}")
    if state is not None:
        if not causal:
            raise ValueError("state: expected None for a convolution that is not causal, found a tensor")
        check_tensor("state", state, "(B, K - 1, C)", (rows, taps - 1, channels), x.device)
