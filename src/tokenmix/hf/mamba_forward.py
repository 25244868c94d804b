"""What transformers' Mamba layers compute, on the scans of this library: two functions for nine layers.

Each is the `forward` of a mixer of transformers, with its parameters and its cache. `tokenmix.hf.mamba` puts them in
their places. The layers differ in details that are read from the layer itself: Falcon's and Jamba's norms of dt, B and
C; Falcon-H1's multipliers, and the gate that it has in the place of the norm.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.integrations.accelerate import force_accelerate_hooks

from tokenmix.ops.chunked_scan import ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.selective_scan import selective_scan

Forward = Callable[..., Tensor]
ORIGINALS: dict[type, Forward] = {}  # what `forward` was, of classes that are patched for the whole process
KERNELS = any(importlib.util.find_spec(name) is not None for name in ("mamba_ssm", "kernels"))
_CHUNK = 64  # most tokens in a chunk of Mamba-2: faster on a CPU than the 256 of most configurations, same result


@force_accelerate_hooks(["conv1d", "dt_proj"])
def mamba_forward(
    self: Any,
    hidden_states: Tensor,
    cache: Cache | None = None,
    attention_mask: Tensor | None = None,
    cache_params: Cache | None = None,
    **kwargs: Any,
) -> Tensor:
    """The `forward` of MambaMixer, FalconMambaMixer and JambaMambaMixer.

    Args:
        self: the layer.
        hidden_states: (B, L, dim).
        cache: of transformers 5.24; its convolution and recurrent states of this layer are read and advanced.
        attention_mask: (B, L) or (B, all columns so far), 0 at padding.
        cache_params: `cache`, under its name before 5.24.
        **kwargs: `seq_idx` (B, L) integers, one number for each document packed in a row; the rest is not read.

    Returns:
        (B, L, dim).
    """
    cache = cache_params if cache is None else cache
    if _is_theirs(self, hidden_states, attention_mask, kwargs):
        theirs: Tensor = original_forward(type(self))(self, hidden_states, cache, attention_mask, **kwargs)
        return theirs
    mask, starts = _mask(attention_mask, hidden_states), _starts(kwargs.get("seq_idx"))
    memory = _memory(cache, self.layer_idx)
    inner, gate = self.in_proj(hidden_states).chunk(2, dim=-1)  # (B, L, inner)
    u = _convolve(self, inner, cache, mask, starts)
    low_rank, b, c = self.x_proj(u).split([self.time_step_rank, self.ssm_state_size, self.ssm_state_size], dim=-1)
    if hasattr(self, "dt_layernorm"):
        low_rank, b, c = self.dt_layernorm(low_rank), self.b_layernorm(b), self.c_layernorm(c)
    y, last = selective_scan(
        u,
        F.linear(low_rank, self.dt_proj.weight),
        -at_least_float32(self.A_log).exp(),
        b,
        c,
        D=self.D,
        z=gate,
        dt_bias=self.dt_proj.bias,
        softplus=True,
        starts=starts,
        mask=mask,
        state=memory,
    )
    if cache is not None:
        cache.update_recurrent_state(last, self.layer_idx)
    output: Tensor = self.out_proj(y)
    return output


@force_accelerate_hooks("conv1d")
def mamba2_forward(
    self: Any,
    hidden_states: Tensor,
    cache: Cache | None = None,
    attention_mask: Tensor | None = None,
    cache_params: Cache | None = None,
    **kwargs: Any,
) -> Tensor:
    """The `forward` of Mamba2Mixer and of the layers of Bamba, Granite, Nemotron-H, Zamba2 and Falcon-H1.

    Args:
        self: the layer.
        hidden_states: (B, L, dim).
        cache: as in `mamba_forward`.
        attention_mask: as in `mamba_forward`.
        cache_params: as in `mamba_forward`.
        **kwargs: as in `mamba_forward`.

    Returns:
        (B, L, dim).
    """
    cache = cache_params if cache is None else cache
    if _is_theirs(self, hidden_states, attention_mask, kwargs):
        theirs: Tensor = original_forward(type(self))(self, hidden_states, cache, attention_mask, **kwargs)
        return theirs
    mask, starts = _mask(attention_mask, hidden_states), _starts(kwargs.get("seq_idx"))
    memory = _memory(cache, self.layer_idx)
    if hasattr(self, "mup_vector"):
        projected = self.in_proj(hidden_states * self.ssm_in_multiplier) * self.mup_vector
    else:
        projected = self.in_proj(hidden_states)
    gate, mixed, dt = projected.split([self.intermediate_size, self.conv_dim, self.num_heads], dim=-1)
    mixed = _convolve(self, mixed, cache, mask, starts)
    written = self.n_groups * self.ssm_state_size
    x, b, c = mixed.split([self.intermediate_size, written, written], dim=-1)
    dt = F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias))
    low, high = self.time_step_limit
    if (low, high) != (0.0, math.inf):
        dt = dt.clamp(low, high)
    y, last = ssd(
        at_least_float32(x).unflatten(-1, (self.num_heads, self.head_dim)),
        dt,
        -at_least_float32(self.A_log).exp(),
        b.unflatten(-1, (self.n_groups, self.ssm_state_size)),
        c.unflatten(-1, (self.n_groups, self.ssm_state_size)),
        D=at_least_float32(self.D),
        starts=starts,
        mask=mask,
        state=memory,
        chunk=min(self.chunk_size, _CHUNK),
    )
    if cache is not None:
        cache.update_recurrent_state(last, self.layer_idx)
    y = y.flatten(2)
    y = self.norm(y, gate) if getattr(self, "mamba_rms_norm", True) else y * F.silu(gate)
    output: Tensor = self.out_proj(y.to(hidden_states.dtype))
    return output


for _function in (mamba_forward, mamba2_forward):
    _function.__name__ = "forward"  # the name by which pickle looks for a bound method in its object


def original_forward(kind: type) -> Forward:
    """What transformers has as `forward` of a class of layers, patched or not."""
    for base in kind.__mro__:
        if base in ORIGINALS:
            return ORIGINALS[base]
    found: Forward = kind.forward  # type: ignore[attr-defined]  # of a layer
    return found


def _is_theirs(self: Any, x: Tensor, mask: Tensor | None, kwargs: dict[str, Any]) -> bool:
    """Whether transformers' own path is the one to take: where it has kernels, and for what is not done here."""
    return (
        (KERNELS and x.device.type != "cpu")
        or (mask is not None and mask.dim() != 2)
        or kwargs.get("cu_seqlens") is not None
        or hasattr(getattr(self, "config", None), "_is_quantized")  # dt_proj.weight is then no matrix
    )


def _mask(attention_mask: Tensor | None, x: Tensor) -> Tensor | None:
    """(B, L) bool, of the last L columns: a mask may tell of earlier chunks, too."""
    return None if attention_mask is None else attention_mask[:, -x.shape[1] :].to(torch.bool)


def _starts(documents: Tensor | None) -> Tensor | None:
    """(B, L) bool, tokens whose document is another than that of the token before."""
    if documents is None:
        return None
    return F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))


def _memory(cache: Cache | None, index: int) -> Tensor | None:
    """The recurrent state before these tokens: (B, C, N) or (B, H, P, N)."""
    if cache is None or not cache.has_previous_state(index):
        return None
    layer: Any = cache.layers[index]
    state: Tensor = layer.recurrent_states[0]
    return state.clone() if torch.is_grad_enabled() else state  # the cache is written in place, before backward


def _convolve(self: Any, x: Tensor, cache: Cache | None, mask: Tensor | None, starts: Tensor | None) -> Tensor:
    """Convolution and activation, (B, L, C); the cache's window is read and moved on.

    Padding is zeroed here, after the projection. transformers zeroes it before, so that a bias of the projection
    stays in the window, and real tokens after left padding read it.
    """
    if mask is not None:
        x = x.masked_fill(~mask[..., None], 0)
    before = None
    if cache is not None:
        window = cache.update_conv_state(x.transpose(1, 2), self.layer_idx, conv_kernel_size=self.conv_kernel_size)
        end, taps = window.shape[-1] - x.shape[1], self.conv_kernel_size - 1
        before = window[..., max(0, end - taps) : end]
        before = F.pad(before, (taps - before.shape[-1], 0)).transpose(1, 2)  # (B, K - 1, C)
    silu = self.activation in ("silu", "swish")
    weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
    y = depthwise_conv(x, weight, bias, starts=starts, state=before, silu=silu)
    return y if silu else self.act(y)
