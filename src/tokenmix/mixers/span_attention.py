"""Causal attention in which the tokens of some modalities read their own span to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.attention_weights import AttentionShape
from tokenmix.layout import Layout, put_tokens
from tokenmix.mixer import register_mixer
from tokenmix.mixers.attention import Attention
from tokenmix.mixers.reach import interval_reach
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Span
from tokenmix.state import MixerState, chunk_places


@register_mixer("span_attention")
class SpanAttention(Attention):
    """Attention that is causal, but for spans: there every token reads the whole span, as in Transfusion.

    A span is a run of tokens of one of the modalities `spans` (a picture's patches), inside one document. Two pictures
    that touch are one span: put a token of another modality between them. All other tokens read earlier ones only.

    With a state, a chunk must hold each of its spans whole (on the CPU another one is refused); outside of them any
    split will do. A mixer with spans reads the future, so `is_causal` is False.

    Args:
        dim: width of the features.
        heads: H, number of query heads.
        spans: modalities whose runs are read whole.
        kv_heads, head_dim, rope, rope_base, rope_frequencies, rope_scale, qk_norm, norm_eps, bias: see
            `HeadGroupAttention`.

    Raises:
        ValueError: no span modality, or what `Attention` refuses; with a state, a chunk that goes on with a span of the
            one before.

    Example:
        >>> mixer = SpanAttention(8, heads=2, spans=[1])
        >>> layout = Layout(modality=torch.tensor([[0, 1, 1, 0]]))
        >>> mixer.reach(layout, 4)[0].int().tolist()
        [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]

    Source:
        Zhou et al. 2024 (Transfusion), arXiv 2408.11039, section 3.1.
    """

    paper = "Zhou et al. 2024, arXiv 2408.11039"
    causal = "never"  # type: ignore[assignment]  # the base class leaves the choice
    needs = ("modality",)

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        spans: Sequence[int] = (1,),
        kv_heads: int | None = None,
        head_dim: int | None = None,
        rope: bool = False,
        rope_base: float = 10000.0,
        rope_frequencies: Sequence[float] | None = None,
        rope_scale: float = 1.0,
        qk_norm: bool = False,
        norm_eps: float = 1e-6,
        bias: bool = False,
    ) -> None:
        if not spans or any(isinstance(m, bool) or not isinstance(m, int) or m < 0 for m in spans):
            raise ValueError(f"spans: expected numbers of modalities, found {spans!r}")
        super().__init__(
            dim,
            heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            causal=False,
            rope=rope,
            rope_base=rope_base,
            rope_frequencies=rope_frequencies,
            rope_scale=rope_scale,
            qk_norm=qk_norm,
            norm_eps=norm_eps,
            bias=bias,
        )
        self.spans = tuple(spans)
        self.step, self.ordered, self.equivariance = 1, True, ()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads, positions and norms."""
        options = super().options_like(attention)
        options.pop("causal")
        return options

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        aligned, order = layout.aligned()
        ends = self._ends(aligned, length)
        if order is None:
            keys = torch.arange(length, device=ends.device)
        else:  # places of tokens among the real ones of their row
            keys = put_tokens(torch.arange(length, device=ends.device).expand(order.shape), order)[:, None]
            ends = put_tokens(ends, order)
        return interval_reach(layout, length, None, None) & (keys < ends[..., None])

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """Growing keys and values, and the modality of the last token."""
        super().fill_state(state, dtype)
        state.put("modality", torch.full((state.batch_size,), -1.0, device=state.seen.device))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        source = self._source_of(q, layout, None)
        return attend(q, k, v, source, mask=layout.mask, segments=layout.segments)

    def _attend_with_state(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, state: MixerState) -> Tensor:
        self._check_spans(layout, state)
        keys, values = state.append("k0", k).to(q.dtype), state.append("v0", v).to(q.dtype)
        return attend(q, keys, values, self._source_of(q, layout, state))

    def _source_of(self, q: Tensor, layout: Layout, state: MixerState | None) -> Span:
        """The keys from the document's first to the span's last, or to the token itself."""
        length = q.shape[2]
        seen: Tensor | int = 0 if state is None else state.seen[:, None]
        index = torch.arange(length, device=q.device) + seen
        first = index - chunk_places(length, layout, state, q.device)
        ends = self._ends(layout, length) + seen
        return Span(first.expand(ends.shape), ends)

    def _ends(self, layout: Layout, length: int) -> Tensor:
        """(B, L) of an aligned chunk: one behind the last token that each token may read."""
        modality = layout.modality
        if modality is None:
            raise ValueError(f"layout: SpanAttention needs modality, found only {list(layout.fields())}")
        return layout.remember(("spans", self.spans), modality, lambda: span_ends(modality, self.spans, layout))

    def _check_spans(self, layout: Layout, state: MixerState) -> None:
        modality, before = layout.modality, state.get("modality")
        if modality is None:
            return
        first, last = modality[:, 0], modality[:, -1]
        real = torch.ones_like(first, dtype=torch.bool)
        if layout.mask is not None:
            real = layout.mask[:, 0]
            last = modality.gather(1, (layout.mask.sum(1) - 1).clamp(min=0)[:, None])[:, 0]
        if modality.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere looking would wait
            goes_on = real & (first == before) & _among(first, self.spans)
            starts = state.starts(layout)
            if starts is not None:
                goes_on = goes_on & ~starts[:, 0]
            if bool(goes_on.any()):
                raise ValueError(
                    f"x: with a state expected chunks that hold each span whole, found a chunk that goes on with the "
                    f"span of modality {int(first[goes_on][0])} that the last one ended in"
                )
        state.put("modality", torch.where(real, last.to(before.dtype), before))


def span_ends(modality: Tensor, spans: Sequence[int], layout: Layout) -> Tensor:
    """One behind the last token that each token may read, in aligned rows.

    Args:
        modality: (B, L) integers.
        spans: modalities whose runs are read whole.
        layout: of which mask and segments end runs.

    Returns:
        (B, L) int64.

    Example:
        >>> span_ends(torch.tensor([[0, 1, 1, 0]]), [1], Layout()).tolist()
        [[1, 3, 3, 4]]
    """
    length = modality.shape[1]
    closes = modality[:, 1:] != modality[:, :-1]  # whether a run ends behind token i
    if layout.segments is not None:
        closes = closes | (layout.segments[:, 1:] != layout.segments[:, :-1])
    if layout.mask is not None:
        closes = closes | ~layout.mask[:, 1:]
    closes = F.pad(closes, (0, 1), value=True)
    index = torch.arange(1, length + 1, device=modality.device)
    ends = torch.where(closes, index, length).flip(1).cummin(1).values.flip(1)
    return torch.where(_among(modality, spans), ends, index)


def _among(modality: Tensor, spans: Sequence[int]) -> Tensor:
    found = modality == spans[0]
    for number in spans[1:]:
        found = found | (modality == number)
    return found
