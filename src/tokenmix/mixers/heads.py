"""Softmax attention whose head groups differ in how far they read, and how it reads a state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_divides, check_positive
from tokenmix.mixers.decoding import read_and_write
from tokenmix.mixers.logits import max_logits
from tokenmix.mixers.projections import copy_projections
from tokenmix.mixers.reach import interval_reach
from tokenmix.mixers.rotary import RotaryTable, check_rope, rotary_table, turn
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Full, HeadSplit
from tokenmix.routed.base import per_token
from tokenmix.state import MixerState, chunk_places


class HeadGroup(NamedTuple):
    """Consecutive heads that read alike: the last `window` tokens, or all where it is None."""

    heads: int
    window: int | None


class HeadGroupAttention(TokenMixer):
    """Softmax attention whose head groups differ in how far they read; the named mixers are made of it.

        o_h = softmax(q_h k_h^T / sqrt(e) over the tokens that head h may read) v_h,   y = [o_1 ... o_H] W_o

    Args:
        dim: width of the features.
        groups: the head groups, in order.
        kv_heads: number of key and value heads (grouped-query attention); each head group is whole groups of queries.
        head_dim: e, width of a head; default dim / heads.
        causal: read only the past.
        rope: rotary positions on queries and keys.
        rope_base: base of the rotary frequencies.
        rope_frequencies: angles a place instead of those of `rope_base`, for the first pairs of features (scaled or
            partial rotary positions of published models).
        rope_scale: factor of rotated queries and keys.
        qk_norm: RMS norm of each head's queries and keys, before they are rotated.
        norm_eps: added to the variance there.
        bias: biases on the projections.
        monitor: keep the largest |q.k| / sqrt(e) of each head of the last call without a state in `max_logit`
            (heads,).

    Raises:
        ValueError, TypeError: sizes below 1 or that do not divide, a rope with odd heads or without a positive base.
    """

    causal = "optional"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    residual_projection = "o_proj"

    def __init__(
        self,
        dim: int,
        groups: list[HeadGroup],
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        rope: bool = False,
        rope_base: float = 10000.0,
        rope_frequencies: Sequence[float] | None = None,
        rope_scale: float = 1.0,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        bias: bool = False,
        monitor: bool = False,
    ) -> None:
        super().__init__(dim, is_causal=causal)
        heads = sum(group.heads for group in groups)
        if head_dim is None:
            check_divides("heads", heads, "dim", dim)
            head_dim = dim // heads
        check_positive("head_dim", head_dim)
        if kv_heads is None:
            kv_heads = heads
        check_divides("kv_heads", kv_heads, "heads", heads)
        if any(group.heads % (heads // kv_heads) for group in groups):
            raise ValueError(
                f"kv_heads: expected head groups that are multiples of heads / kv_heads = {heads // kv_heads}, found "
                f"{[group.heads for group in groups]}"
            )
        check_rope(rope, rope_base, rope_frequencies, head_dim)
        if norm_eps <= 0:
            raise ValueError(f"norm_eps: expected a positive number, found {norm_eps}")
        for group in groups:
            if group.window is not None:
                check_positive("window", group.window)
        self.groups = [group for group in groups if group.heads]
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.rope, self.rope_base, self.rope_scale, self.monitor = rope, rope_base, rope_scale, monitor
        self.rope_frequencies = None if rope_frequencies is None else tuple(rope_frequencies)
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, self.kv_heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, self.kv_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.q_norm = nn.RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, eps=norm_eps) if qk_norm else None
        self.max_logit: Tensor | None = None
        windows = [group.window for group in self.groups]
        self.cost = "L^2" if None in windows else "L*w"
        self.ordered = causal or rope or any(window is not None for window in windows)
        self.equivariance = () if self.ordered else ("permutation",)

    def reset_parameters(self) -> None:
        """Draw the projections as `torch.nn.Linear` does; norms start at 1."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            projection.reset_parameters()
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                norm.reset_parameters()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads, positions and norms."""
        options: dict[str, Any] = {
            "heads": attention.heads,
            "head_dim": attention.head_dim,
            "causal": attention.causal,
            "bias": attention.bias,
        }
        if attention.kv_heads != attention.heads:
            options["kv_heads"] = attention.kv_heads
        if attention.rope_frequencies is not None:
            options |= {"rope": True, "rope_frequencies": list(attention.rope_frequencies)}
            if attention.rope_scale != 1:
                options["rope_scale"] = attention.rope_scale
        if attention.qk_norm_eps is not None:
            options |= {"qk_norm": True, "norm_eps": attention.qk_norm_eps}
        return options

    @torch.no_grad()
    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """All of it, for as many heads of the same width."""
        shape = weights.shape
        if (self.heads, self.head_dim) != (shape.heads, shape.head_dim):
            return ()
        if self.kv_heads != shape.kv_heads:
            weights = weights.repeated()
            if self.kv_heads != weights.shape.kv_heads:
                return ()
        for name, norm in (("q", self.q_norm), ("k", self.k_norm)):
            published = getattr(weights, f"{name}_norm")
            if norm is not None and published is not None:
                norm.weight.copy_(published)
        return copy_projections(self, weights)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        q, k, v = (self._split(per_token(project, x, layout)) for project in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = per_token(self.q_norm, q, layout), per_token(self.k_norm, k, layout)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, heads, L, e)
        if self.rope:
            table = self._rotary_table(q, layout, state)
            q, k = turn(q, table), turn(k, table)
        self.max_logit = None
        if state is None:
            y = self._attend(q, k, v, layout)
            if self.monitor:
                self.max_logit = max_logits(q, k, [g.window for g in self._per_head()], self.is_causal, layout)
        else:
            y = self._attend_with_state(q, k, v, layout, state)
        return per_token(self.o_proj, y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1), layout)

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """Growing keys and values for full heads, rings of `window` of them for windowed heads (none for window 1)."""
        for i, group in enumerate(self.groups):
            heads = group.heads * self.kv_heads // self.heads
            for name in (f"k{i}", f"v{i}"):
                if group.window is None:
                    state.grow(name, heads, self.head_dim, dtype)
                else:
                    state.ring(name, heads, group.window if group.window > 1 else 0, self.head_dim, dtype)

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        windows = [group.window for group in self.groups]
        before = None if None in windows else max(w for w in windows if w is not None) - 1
        return interval_reach(layout, length, before, 0 if self.is_causal else before)

    def max_logit_by_window(self) -> dict[str, float]:
        """The largest logit of the last monitored call among the heads of each window ("all" for full heads).

        Raises:
            ValueError: without `monitor=True`, or before the first call.
        """
        if self.max_logit is None:
            raise ValueError("monitor: expected monitor=True and a call without a state, found no logits")
        per_group = self.max_logit.split([group.heads for group in self.groups])
        return {str(g.window or "all"): float(v.max()) for g, v in zip(self.groups, per_group, strict=True)}

    def extra_repr(self) -> str:
        """Heads and windows."""
        return ", ".join(f"{g.heads} heads of window {g.window or 'all'}" for g in self.groups)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim)

    def _rotary_table(self, q: Tensor, layout: Layout, state: MixerState | None) -> RotaryTable:
        """Computed once for all layers of like frequencies."""
        positions = layout.positions
        if positions is None:
            positions = chunk_places(q.shape[2], layout, state, q.device)
        options = (self.rope_base, self.rope_frequencies, self.rope_scale)
        key = ("rotary", *options, q.shape[3], q.dtype, q.device)
        return layout.remember(key, positions, lambda: rotary_table(positions, q, *options))

    def _per_head(self) -> list[HeadGroup]:
        return [group for group in self.groups for _ in range(group.heads)]

    def _source(self, group: HeadGroup) -> Full | Band:
        return Full(self.is_causal) if group.window is None else Band(group.window, self.is_causal)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        source: Any = self._source(self.groups[0])
        if len(self.groups) > 1:
            source = HeadSplit(tuple((group.heads, self._source(group)) for group in self.groups))
        # padding comes after the real tokens of a row, where a causal head does not look
        mask = None if self.is_causal else layout.mask
        return attend(q, k, v, source, mask=mask, segments=layout.segments)

    def _attend_with_state(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, state: MixerState) -> Tensor:
        first = state.length == 0
        if first:
            starts = state.starts(layout)  # in a stream a document is a run of equal numbers
            runs = layout if starts is None else dataclasses.replace(layout, segments=starts.cumsum(1))
            y = self._attend(q, k, v, runs)
        if len(self.groups) == 1:
            part = read_and_write(self.groups[0].window, "0", q, k, v, layout, state, not first)
            return y if part is None else part
        sizes = [group.heads for group in self.groups]
        kv_sizes = [heads * self.kv_heads // self.heads for heads in sizes]
        pieces = zip(q.split(sizes, dim=1), k.split(kv_sizes, dim=1), v.split(kv_sizes, dim=1), strict=True)
        parts = [
            read_and_write(group.window, f"{i}", *piece, layout, state, not first)
            for i, (group, piece) in enumerate(zip(self.groups, pieces, strict=True))
        ]
        return y if first else torch.cat([part for part in parts if part is not None], dim=1)
