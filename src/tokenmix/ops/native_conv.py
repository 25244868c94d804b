"""The causal depthwise convolution as a native kernel, registered with torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix import kernels
from tokenmix.kernels import native
from tokenmix.ops.common import again


def native_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, starts: Tensor | None, silu: bool
) -> Tensor:
    """See `tokenmix.ops.conv.depthwise_conv`: causal, one filter (C, K) a channel, float32 on the CPU."""
    y: Tensor = kernels.call(_run, _conv, x, weight, bias, state, starts, silu)
    return y


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, starts: Tensor | None, silu: bool
) -> Tensor:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    conv = _arguments(x, weight, bias, state, starts, silu)
    conv.y = native.address(y)
    native.run(kernels.library().tm_conv_forward, conv)
    return y


_conv = torch.library.custom_op("tokenmix::native_conv", _run, mutates_args=())


@torch.library.custom_op("tokenmix::native_conv_backward", mutates_args=())
def _conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    starts: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and state."""
    conv = _arguments(x, weight, bias, state, starts, silu)
    grad = grad.contiguous()
    grad_x, grad_weight, grad_bias, grad_state = _backward_shapes(grad, x, weight, bias, state)
    taps = x.new_empty(weight.shape[1], weight.shape[0])
    outputs = (grad, grad_x, taps, grad_bias, None if state is None else grad_state)
    native.run(kernels.library().tm_conv_backward, conv, native.ConvGrads(*map(native.address, outputs)))
    grad_weight.copy_(taps.t())
    return grad_x, grad_weight, grad_bias, grad_state


def _arguments(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, starts: Tensor | None, silu: bool
) -> Any:
    x, weight = native.rows(x), weight.t().contiguous()  # (K, C)
    rest = tuple(None if tensor is None else tensor.contiguous() for tensor in (bias, state, starts))
    taps = weight.shape[0]
    conv = native.Conv(
        *map(native.address, (x, weight, *rest)),
        None,
        *(*x.shape, taps, *x.stride()[:2]),
        int(silu),
        native.threads(x.numel() * taps),
    )
    return native.holding(conv, x, weight, *rest)


@_conv.register_fake
def _shape(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@_conv_backward.register_fake
def _backward_shapes(
    grad: Tensor, x: Tensor, weight: Tensor, *rest: Tensor | bool | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like, state = torch.contiguous_format, rest[1]
    grad_state = torch.empty_like(state, memory_format=like) if isinstance(state, Tensor) else x.new_empty(0)
    grad_weight = torch.empty_like(weight, memory_format=like)
    return torch.empty_like(grad, memory_format=like), grad_weight, x.new_empty(len(weight)), grad_state


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001  # torch passes it by name
    x, weight, bias, state, starts, silu = inputs
    ctx.save_for_backward(x, weight, bias, state, starts)
    ctx.silu = silu


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, state, starts = ctx.saved_tensors
    if torch.is_grad_enabled():  # the gradients will be differentiated, which the kernel cannot
        from tokenmix.ops.conv import depthwise_conv

        def plain(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> Tensor:
            return depthwise_conv(x, weight, bias, starts=starts, state=state, silu=ctx.silu)

        return *again(plain, (x, weight, bias, state), ctx.needs_input_grad, (grad,)), None, None
    grad_x, grad_weight, grad_bias, grad_state = _conv_backward(grad, x, weight, bias, state, starts, ctx.silu)
    return grad_x, grad_weight, None if bias is None else grad_bias, None if state is None else grad_state, None, None


_conv.register_autograd(_backward, setup_context=_save)
