"""Attention, sliding-window attention and LS-attention: full heads, windowed heads, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenmix.attention_weights import AttentionShape
from tokenmix.layout import Layout
from tokenmix.mixer import check_divides, check_positive, register_mixer
from tokenmix.mixers.heads import HeadGroup, HeadGroupAttention
from tokenmix.mixers.reach import document_places, interval_reach
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Span
from tokenmix.state import MixerState, chunk_places


@register_mixer("attention")
class Attention(HeadGroupAttention):
    """Multi-head attention: every token reads every token, or every earlier one.

        y = [softmax(q_h k_h^T / sqrt(e)) v_h]_h W_o

    Args:
        dim: width of the features.
        heads: H, number of query heads.
        kv_heads: number of key and value heads; fewer than `heads` is grouped-query attention.
        group: causal in whole groups of so many consecutive tokens of a document: a token reads its own group to
            the end, and earlier ones (the latents of FIT, several embeddings a block). With more than 1 a token reads
            the future, so `is_causal` is False, and a state is read in whole groups.
        head_dim, causal, rope, rope_base, rope_frequencies, rope_scale, qk_norm, norm_eps, bias, monitor: see
            `HeadGroupAttention`.

    Raises:
        ValueError: heads that do not divide dim, kv_heads that do not divide heads, a group of more than one token
            where it is not causal; with a state, a chunk that is not made of whole groups.

    Example:
        >>> import torch
        >>> Attention(32, heads=4, kv_heads=2)(torch.zeros(1, 5, 32)).shape
        torch.Size([1, 5, 32])

    Source:
        Vaswani et al. 2017, arXiv 1706.03762; grouped queries: Ainslie et al. 2023, arXiv 2305.13245;
        rotary positions: Su et al. 2021, arXiv 2104.09864, in the half-split form of Llama's code.
    """

    paper = "Vaswani et al. 2017, arXiv 1706.03762"
    cost = "L^2"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        group: int = 1,
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
        check_positive("heads", heads)
        check_positive("group", group)
        if group > 1 and (not causal or monitor):
            raise ValueError(f"group: expected 1 where causal=False or monitor=True, found {group}")
        super().__init__(
            dim,
            [HeadGroup(heads, None)],
            kv_heads=kv_heads,
            head_dim=head_dim,
            causal=causal,
            rope=rope,
            rope_base=rope_base,
            rope_frequencies=rope_frequencies,
            rope_scale=rope_scale,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            bias=bias,
            monitor=monitor,
        )
        self.group = group
        if group > 1:
            self.is_causal, self.step = False, group

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        if self.group == 1:
            return super().reach(layout, length)
        group = document_places(layout, length) // self.group
        return interval_reach(layout, length, None, self.group - 1) & (group[:, None, :] <= group[:, :, None])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        if self.group == 1:
            return super()._attend(q, k, v, layout)
        return attend(q, k, v, self._groups(q, layout, None), mask=layout.mask, segments=layout.segments)

    def _attend_with_state(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, state: MixerState) -> Tensor:
        if self.group == 1:
            return super()._attend_with_state(q, k, v, layout, state)
        counts = torch.tensor(q.shape[2]) if layout.mask is None else layout.mask.sum(1)
        several = layout.segments is not None or state.packed
        if bool((counts % self.group).any()) or several:
            raise ValueError(
                f"x: with a state expected one document of whole groups of {self.group} tokens, found "
                f"{counts.tolist()} tokens a row{' in several documents' if several else ''}"
            )
        keys, values = state.append("k0", k).to(q.dtype), state.append("v0", v).to(q.dtype)
        return attend(q, keys, values, self._groups(q, layout, state))

    def _groups(self, q: Tensor, layout: Layout, state: MixerState | None) -> Span:
        """The keys from the document's first to the last of each query's group."""
        length = q.shape[2]
        place = chunk_places(length, layout, state, q.device)
        index = torch.arange(length, device=q.device) + (0 if state is None else state.seen[:, None])
        first = index - place
        last = first + (place // self.group + 1) * self.group
        return Span(first, last if state is not None else last.clamp(max=length))


@register_mixer("sliding_window")
class SlidingWindow(HeadGroupAttention):
    """Attention to the last `window` tokens, the token itself included; not causal: as many on each side.

        o_i = softmax over i - w < j <= i of (q_i . k_j / sqrt(e)) v_j

    Args:
        dim: width of the features.
        heads: number of query heads.
        window: w, keys that a query sees on a side, itself included.
        kv_heads, head_dim, causal, rope, rope_base, rope_frequencies, rope_scale, qk_norm, norm_eps, bias, monitor: see
            `HeadGroupAttention`.

    Raises:
        ValueError: a window below 1, or heads that do not divide.

    Example:
        >>> SlidingWindow(32, heads=4, window=8).state_numel(1000) == 2 * 8 * 32
        True

    Source:
        Beltagy et al. 2020 (Longformer), arXiv 2004.05150, section 3.
    """

    paper = "Beltagy et al. 2020, arXiv 2004.05150"
    cost = "L*w"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        window: int = 128,
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
        check_positive("heads", heads)
        check_positive("window", window)
        super().__init__(
            dim,
            [HeadGroup(heads, window)],
            kv_heads=kv_heads,
            head_dim=head_dim,
            causal=causal,
            rope=rope,
            rope_base=rope_base,
            rope_frequencies=rope_frequencies,
            rope_scale=rope_scale,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            bias=bias,
            monitor=monitor,
        )
        self.window = window

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads, positions and norms, and its window where it has one."""
        window = {} if attention.window is None else {"window": attention.window}
        return super().options_like(attention) | window


@register_mixer("ls_attention")
class LSAttention(HeadGroupAttention):
    """Long-short attention: most heads read a short window, the others everything.

    Heads are ordered [short..., long...], all of one width, with one output projection:

        o_h,i = softmax over i - w < j <= i (short) or j <= i (long) of (q_h,i . k_h,j / sqrt(e)) v_h,j

    The author's mask gives w keys and his FlashAttention call w + 1; here `window` is always w keys,
    the token itself included. The default of heads // 6 long heads and w = 64 is ours; the author's own
    settings are in `PRESETS`. State: long heads keep every token, short heads the last w.

    Args:
        dim: width of the features.
        heads: H, all heads.
        long_heads: heads without a window; default max(1, heads // 6), in whole groups of queries.
        window: w, keys that a short head sees, itself included.
        kv_heads: number of key and value heads; short and long heads must be whole groups of queries.
        head_dim, causal, rope, rope_base, rope_frequencies, rope_scale, qk_norm, norm_eps, bias, monitor: see
            `HeadGroupAttention`.

    Raises:
        ValueError: more long heads than heads, a window below 1, or heads that do not divide dim.

    Example:
        >>> LSAttention(48, heads=6, window=8)
        LSAttention(
          5 heads of window 8, 1 heads of window all
          ...

    Source:
        Hajra 2025, arXiv 2505.15548; defaults and presets from the author's code.
    """

    paper = "Hajra 2025, arXiv 2505.15548"
    cost = "L^2"
    PRESETS = {
        "small": {"heads": 6, "head_dim": 32, "long_heads": 1, "window": 50},  # 6 layers, dim 192, PG-19, L 2048
        "large": {"heads": 12, "head_dim": 64, "long_heads": 1, "window": 100},  # 12 layers, dim 768, OpenWebText, 8192
    }

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        long_heads: int | None = None,
        window: int = 64,
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
        check_positive("heads", heads)
        check_positive("window", window)
        queries = 1  # a key head
        if kv_heads is not None:
            check_divides("kv_heads", kv_heads, "heads", heads)
            queries = heads // kv_heads
        if long_heads is None:
            long_heads = queries * max(1, heads // queries // 6)
        if not 0 <= long_heads <= heads:
            raise ValueError(f"long_heads: expected 0 to heads={heads}, found {long_heads}")
        super().__init__(
            dim,
            [HeadGroup(heads - long_heads, window), HeadGroup(long_heads, None)],
            kv_heads=kv_heads,
            head_dim=head_dim,
            causal=causal,
            rope=rope,
            rope_base=rope_base,
            rope_frequencies=rope_frequencies,
            rope_scale=rope_scale,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            bias=bias,
            monitor=monitor,
        )
        self.window, self.long_heads = window, long_heads

    @classmethod
    def from_preset(cls, preset: str, dim: int, **options: Any) -> LSAttention:
        """One of the author's settings: "small" or "large".

        Example:
            >>> LSAttention.from_preset("small", dim=192).window
            50
        """
        if preset not in cls.PRESETS:
            raise ValueError(f"preset: expected one of {sorted(cls.PRESETS)}, found {preset!r}")
        return cls(dim, **{**cls.PRESETS[preset], **options})
