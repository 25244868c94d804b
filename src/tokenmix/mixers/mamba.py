"""Mamba: a selective state-space model."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive, register_mixer, set_parameter
from tokenmix.mixers.reach import interval_reach
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.precision import at_least_float32
from tokenmix.ops.selective_scan import selective_scan
from tokenmix.routed.base import per_token, token_modality
from tokenmix.state import MixerState, document_starts


@register_mixer("mamba")
class Mamba(TokenMixer):
    """A recurrence whose step size, input and output depend on the token, a decay for each channel and state.

        [x, z] = W_in u,   x = silu(conv(x)),   [d, B, C] = W_x x,   dt = softplus(W_dt d + b_dt),   A = -exp(A_log)
        h_t = exp(dt_t A) h_(t-1) + (dt_t x_t) B_t^T,   y_t = h_t C_t + D x_t,   out = W_out (y * silu(z))

    Parameter names are those of published checkpoints, so their layers load with `load_state_dict`.

    Args:
        dim: width of the features.
        state_size: N, numbers kept for each channel.
        conv_kernel: taps of the convolution.
        expand: inner width is expand * dim.
        dt_rank: rank of the step size; default ceil(dim / 16).
        bias: biases on the input and output projections.
        conv_bias: bias on the convolution.
        dt_min, dt_max, dt_floor: the step size at the start is log-uniform between the first two.

    Raises:
        ValueError: sizes below 1.

    Example:
        >>> mixer = Mamba(32)
        >>> mixer.state_numel(1) == 64 * 16 + 3 * 64
        True

    Source:
        Gu and Dao 2023, arXiv 2312.00752, section 3 and appendix; names and initialisation as in mamba_ssm.
    """

    paper = "Gu and Dao 2023, arXiv 2312.00752"
    causal = "always"
    cost = "L"
    lora_targets = ("in_proj", "x_proj", "out_proj")
    residual_projection = "out_proj"

    def __init__(
        self,
        dim: int,
        state_size: int = 16,
        *,
        conv_kernel: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
    ) -> None:
        super().__init__(dim)
        for name, value in (("state_size", state_size), ("conv_kernel", conv_kernel), ("expand", expand)):
            check_positive(name, value)
        self.dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        check_positive("dt_rank", self.dt_rank)
        check_dt_range(dt_min, dt_max, dt_floor)
        self.inner, self.state_size, self.conv_kernel = expand * dim, state_size, conv_kernel
        self.dt_range = (dt_min, dt_max, dt_floor)
        self.in_proj = nn.Linear(dim, 2 * self.inner, bias=bias)
        self.conv1d = nn.Conv1d(self.inner, self.inner, conv_kernel, groups=self.inner, bias=conv_bias)
        self.x_proj = nn.Linear(self.inner, self.dt_rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner, state_size))
        self.D = nn.Parameter(torch.empty(self.inner))
        self.out_proj = nn.Linear(self.inner, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A = -1..-N for each channel, D = 1, softplus(b_dt) log-uniform, the rest as torch draws it."""
        for projection in (self.in_proj, self.conv1d, self.x_proj, self.out_proj):
            projection.reset_parameters()
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        set_parameter(self.dt_proj.bias, draw_dt_bias(self.inner, *self.dt_range, device=self.D.device))
        states = torch.arange(1, self.state_size + 1, dtype=torch.float32, device=self.D.device)
        set_parameter(self.A_log, states.log().expand(self.inner, -1))
        nn.init.ones_(self.D)

    @torch.no_grad()
    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """Only v and o: for the first channels, whose convolution starts as the identity."""
        weights = weights.repeated()
        channels = weights.v.shape[0]
        if channels > self.inner:
            return ()
        self.in_proj.weight[:channels].copy_(weights.v)
        if self.in_proj.bias is not None and weights.v_bias is not None:
            self.in_proj.bias[:channels].copy_(weights.v_bias)
        self.conv1d.weight[:channels] = 0
        self.conv1d.weight[:channels, :, -1] = 1
        if self.conv1d.bias is not None:
            self.conv1d.bias[:channels] = 0
        self.out_proj.weight[:, :channels].copy_(weights.o)
        if self.out_proj.bias is not None and weights.o_bias is not None:
            self.out_proj.bias.copy_(weights.o_bias)
        return ("v", "o")

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        starts = document_starts(layout, state)
        inner, gate = per_token(self.in_proj, x, layout).chunk(2, dim=-1)  # (B, L, inner)
        before = None if state is None else state.recent("conv").to(inner.dtype)
        if state is not None:
            state.roll("conv", inner, layout.counts())
        weight = self.conv1d.weight[:, 0]
        u = depthwise_conv(inner, weight, self.conv1d.bias, starts=starts, state=before, silu=True)
        sizes = [self.dt_rank, self.state_size, self.state_size]
        low_rank, b, c = per_token(self.x_proj, u, layout).split(sizes, dim=-1)
        dt, dt_bias = self._step_size(low_rank, layout)
        y, last = selective_scan(
            u,
            dt,
            -at_least_float32(self.A_log).exp(),
            b,
            c,
            D=self.D,
            z=gate,
            dt_bias=dt_bias,
            softplus=True,
            starts=starts,
            mask=layout.mask,
            state=None if state is None else state.get("ssm"),
        )
        if state is not None:
            state.put("ssm", last)
        return per_token(self.out_proj, y, layout)

    def _step_size(self, low_rank: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """Steps before the softplus; their bias apart where it is the same for all tokens."""
        if isinstance(self.dt_proj, nn.Linear):
            return F.linear(low_rank, self.dt_proj.weight), self.dt_proj.bias
        routed: Any = self.dt_proj
        bias = F.embedding(token_modality(layout), at_least_float32(routed.bias))  # in float32, as the scan adds it
        return at_least_float32(routed(low_rank, layout, add_bias=False)) + bias, None

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """The last inputs of the convolution, and h in float32."""
        batch, device, wide = state.batch_size, state.seen.device, torch.promote_types(dtype, torch.float32)
        state.put("conv", torch.zeros(batch, self.conv_kernel - 1, self.inner, dtype=dtype, device=device))
        state.put("ssm", torch.zeros(batch, self.inner, self.state_size, dtype=wide, device=device))

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        return interval_reach(layout, length, None, 0)


def check_dt_range(low: float, high: float, floor: float) -> None:
    """Refuse step sizes that are not positive or not in order."""
    if not (0 < low <= high and floor > 0):
        raise ValueError(
            "dt_min: expected 0 < dt_min <= dt_max and dt_floor > 0, "
            f"found dt_min={low}, dt_max={high}, dt_floor={floor}"
        )


def draw_dt_bias(size: int, low: float, high: float, floor: float, device: torch.device | None = None) -> Tensor:
    """(size,) biases whose softplus is log-uniform between `low` and `high`, at least `floor`."""
    dt = torch.empty(size, device=device).uniform_(math.log(low), math.log(high)).exp().clamp(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
