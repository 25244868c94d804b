"""Mamba-2: state-space duality."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_divides, check_positive, copy_linear, register_mixer, set_parameter
from tokenmix.mixers.mamba import check_dt_range, draw_dt_bias
from tokenmix.mixers.reach import interval_reach
from tokenmix.ops.chunked_scan import ssd
from tokenmix.ops.conv import depthwise_conv
from tokenmix.ops.precision import at_least_float32
from tokenmix.routed.base import per_token
from tokenmix.state import MixerState, document_starts


class GatedRMSNorm(nn.Module):
    """RMS norm in groups of channels, after or before a SiLU gate.

        norm(y * silu(z)) * w   (before_gate: norm(y) * w * silu(z))

    Args:
        width: channels. groups: groups of width / groups channels share a variance. eps: added to it.
        before_gate: norm first, then gate.
    """

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5, before_gate: bool = False) -> None:
        super().__init__()
        self.groups, self.eps, self.before_gate = groups, eps, before_gate
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """(B, L, width) values and gates to (B, L, width), computed in float32."""
        value, opening = at_least_float32(y), F.silu(at_least_float32(gate))
        if not self.before_gate:
            value = value * opening
        grouped = value.unflatten(-1, (self.groups, -1))
        value = F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps).flatten(-2) * at_least_float32(self.weight)
        if self.before_gate:
            value = value * opening
        return value.to(y.dtype)


@register_mixer("mamba2")
class Mamba2(TokenMixer):
    """A recurrence with one decay a head, computed as matrix products over chunks.

        [z, x, B, C, dt] = W_in u,   (x, B, C) = silu(conv(x, B, C)),   dt = softplus(dt + dt_bias),   A = -exp(A_log)
        S_t = exp(dt_t A) S_(t-1) + dt_t x_t B_t^T,   y_t = S_t C_t + D x_t,   out = W_out norm(y * silu(z))

    Parameter names are those of published checkpoints, so their layers load with `load_state_dict`.

    Args:
        dim: width of the features.
        state_size: N, columns of a head's state.
        head_dim: P, rows of a head's state; divides expand * dim.
        expand: inner width is expand * dim.
        groups: heads in a group share B and C; divides the number of heads.
        conv_kernel: taps of the convolution.
        chunk: tokens a chunk; the result does not depend on it.
        bias: biases on the input and output projections.
        conv_bias: bias on the convolution.
        norm_before_gate: norm first, then gate.
        norm_eps: added to the variance.
        dt_limit: bounds of dt after the softplus.
        dt_min, dt_max, dt_floor: the step size at the start is log-uniform between the first two.

    Raises:
        ValueError: sizes below 1, or head_dim or groups that do not divide.

    Example:
        >>> mixer = Mamba2(32, state_size=16, head_dim=16)
        >>> mixer.state_numel(1) == 64 * 16 + 3 * (64 + 2 * 16)
        True

    Source:
        Dao and Gu 2024, arXiv 2405.21060, section 7; names and initialisation as in mamba_ssm, whose chunk is 256
        (64 is faster on a CPU). Left out of it: D for each channel (`D_has_hdim`), and the gated bypass (`d_ssm`).
    """

    paper = "Dao and Gu 2024, arXiv 2405.21060"
    causal = "always"
    cost = "L"
    lora_targets = ("in_proj", "out_proj")
    residual_projection = "out_proj"

    def __init__(
        self,
        dim: int,
        state_size: int = 128,
        *,
        head_dim: int = 64,
        expand: int = 2,
        groups: int = 1,
        conv_kernel: int = 4,
        chunk: int = 64,
        bias: bool = False,
        conv_bias: bool = True,
        norm_before_gate: bool = False,
        norm_eps: float = 1e-5,
        dt_limit: tuple[float, float] = (0.0, float("inf")),
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
    ) -> None:
        super().__init__(dim)
        sizes = {"state_size": state_size, "expand": expand, "conv_kernel": conv_kernel, "chunk": chunk}
        for name, value in sizes.items():
            check_positive(name, value)
        check_dt_range(dt_min, dt_max, dt_floor)
        if len(dt_limit) != 2 or not 0 <= dt_limit[0] < dt_limit[1]:
            raise ValueError(f"dt_limit: expected two rising bounds of at least 0, found {dt_limit}")
        self.inner = expand * dim
        check_divides("head_dim", head_dim, "expand * dim", self.inner)
        self.heads = self.inner // head_dim
        check_divides("groups", groups, "heads", self.heads)
        self.state_size, self.head_dim, self.groups = state_size, head_dim, groups
        self.conv_kernel, self.chunk = conv_kernel, chunk
        self.dt_limit, self.dt_range = tuple(dt_limit), (dt_min, dt_max, dt_floor)
        self.conv_width = self.inner + 2 * groups * state_size
        self.in_proj = nn.Linear(dim, self.inner + self.conv_width + self.heads, bias=bias)
        self.conv1d = nn.Conv1d(self.conv_width, self.conv_width, conv_kernel, groups=self.conv_width, bias=conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.empty(self.heads))
        self.norm = GatedRMSNorm(self.inner, groups, norm_eps, norm_before_gate)
        self.out_proj = nn.Linear(self.inner, dim, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A uniform between -16 and -1, D = 1, softplus(dt_bias) log-uniform, the rest as torch draws it."""
        for projection in (self.in_proj, self.conv1d, self.out_proj):
            projection.reset_parameters()
        device = self.D.device
        set_parameter(self.dt_bias, draw_dt_bias(self.heads, *self.dt_range, device=device))
        set_parameter(self.A_log, torch.empty(self.heads, device=device).uniform_(1, 16).log())
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm.weight)

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """A state of head_dim x head_dim a head, so that C, B and x have the places of q, k and v."""
        expand, rest = divmod(attention.heads * attention.head_dim, attention.dim)
        if rest:
            return {}
        sizes = {"head_dim": attention.head_dim, "state_size": attention.head_dim}
        return {**sizes, "groups": attention.heads, "expand": expand}

    @torch.no_grad()
    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """q, k and v become C, B and x, and the convolution starts as the identity; o becomes the output projection.

        Without decay, gate, norm and SiLU this is linear attention with the attention's weights; with them it is a
        start from which distillation goes on.

        Source: Wang et al. 2024, "The Mamba in the Llama", arXiv 2408.15237, section 2.
        """
        weights, shape = weights.repeated(), weights.shape
        if (self.heads, self.head_dim, self.state_size) != (shape.heads, shape.head_dim, shape.head_dim):
            return ()
        if self.groups != self.heads:
            return ()
        sizes = [self.inner, self.inner, self.inner, self.inner, self.heads]  # z, x, B, C, dt
        _, x, b, c, _ = self.in_proj.weight.split(sizes)
        x.copy_(weights.v)
        b.copy_(weights.k)
        c.copy_(weights.q)
        if self.in_proj.bias is not None:
            _, *places, _ = self.in_proj.bias.split(sizes)
            for place, bias in zip(places, (weights.v_bias, weights.k_bias, weights.q_bias), strict=True):
                place.zero_() if bias is None else place.copy_(bias)
        self.conv1d.weight.zero_()[:, :, -1] = 1
        if self.conv1d.bias is not None:
            self.conv1d.bias.zero_()
        copy_linear(self.out_proj, weights.o, weights.o_bias)
        return ("q", "k", "v", "o")

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        starts = document_starts(layout, state)
        z, inner, dt = per_token(self.in_proj, x, layout).split([self.inner, self.conv_width, self.heads], dim=-1)
        before = None if state is None else state.recent("conv").to(inner.dtype)
        if state is not None:
            state.roll("conv", inner, layout.counts())
        weight = self.conv1d.weight[:, 0]
        inner = depthwise_conv(inner, weight, self.conv1d.bias, starts=starts, state=before, silu=True)
        width = self.groups * self.state_size
        u, b, c = inner.split([self.inner, width, width], dim=-1)
        y, last = ssd(
            u.unflatten(-1, (self.heads, self.head_dim)),
            F.softplus(at_least_float32(dt) + at_least_float32(self.dt_bias)).clamp(*self.dt_limit),
            -at_least_float32(self.A_log).exp(),
            b.unflatten(-1, (self.groups, self.state_size)),
            c.unflatten(-1, (self.groups, self.state_size)),
            D=at_least_float32(self.D),
            starts=starts,
            mask=layout.mask,
            state=None if state is None else state.get("ssm"),
            chunk=self.chunk,
        )
        if state is not None:
            state.put("ssm", last)
        return per_token(self.out_proj, self.norm(y.flatten(2), z).to(x.dtype), layout)

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """The last inputs of the convolution, and S in float32."""
        batch, device, wide = state.batch_size, state.seen.device, torch.promote_types(dtype, torch.float32)
        state.put("conv", torch.zeros(batch, self.conv_kernel - 1, self.conv_width, dtype=dtype, device=device))
        state.put("ssm", torch.zeros(batch, self.heads, self.head_dim, self.state_size, dtype=wide, device=device))

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        return interval_reach(layout, length, None, 0)
