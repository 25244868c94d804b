"""Linear attention."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, register_mixer
from tokenmix.mixers.projections import take_heads, width_of_heads
from tokenmix.mixers.reach import interval_reach
from tokenmix.ops.chunked_scan import linear_attention
from tokenmix.routed.base import per_token
from tokenmix.state import MixerState, document_starts

FEATURE_MAPS = {
    "elu": lambda x: F.elu(x) + 1,
    "relu": F.relu,
    "softmax": lambda x: x.softmax(-1),
}


@register_mixer("linear_attention")
class LinearAttention(TokenMixer):
    """Attention without the softmax: a sum of outer products that any later token can read.

        S_t = S_(t-1) + v_t phi(k_t)^T,   z_t = z_(t-1) + phi(k_t),   o_t = S_t phi(q_t) / (z_t . phi(q_t))

    Not causal: the sums run over the whole document.

    Args:
        dim: width of the features.
        heads: number of heads.
        head_dim: width of a head; default dim / heads.
        feature_map: phi: "elu" (elu(x) + 1, the paper's), "relu", or "softmax" over a head's features.
        causal: read only the past.
        bias: biases on the projections.

    Raises:
        ValueError: heads that do not divide dim, or an unknown feature map.

    Example:
        >>> LinearAttention(32, heads=4).state_numel(10) == LinearAttention(32, heads=4).state_numel(1000)
        True

    Source:
        Katharopoulos et al. 2020, arXiv 2006.16236, equations 8, 18 to 20.
    """

    paper = "Katharopoulos et al. 2020, arXiv 2006.16236"
    causal = "optional"
    cost = "L"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    residual_projection = "o_proj"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        head_dim: int | None = None,
        feature_map: Literal["elu", "relu", "softmax"] = "elu",
        causal: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__(dim, is_causal=causal)
        head_dim = width_of_heads(dim, heads, head_dim)
        if feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map: expected one of {sorted(FEATURE_MAPS)}, found {feature_map!r}")
        self.heads, self.head_dim, self.feature_map = heads, head_dim, feature_map
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.equivariance = () if causal else ("permutation",)

    def reset_parameters(self) -> None:
        """Draw the projections as `torch.nn.Linear` does."""
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            projection.reset_parameters()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads."""
        return {
            "heads": attention.heads,
            "head_dim": attention.head_dim,
            "causal": attention.causal,
            "bias": attention.bias,
        }

    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """All of it but rotary positions, for as many heads of the same width."""
        return take_heads(self, weights)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        phi = FEATURE_MAPS[self.feature_map]
        q, k, v = (
            per_token(project, x, layout).unflatten(-1, (self.heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y, last = linear_attention(
            phi(q),
            phi(k),
            v,
            causal=self.is_causal,
            starts=document_starts(layout, state),
            mask=layout.mask,
            state=None if state is None else state.get("sums"),
        )
        if state is not None and last is not None:
            state.put("sums", last)
        return per_token(self.o_proj, y.flatten(2), layout)

    def fill_state(self, state: MixerState, dtype: torch.dtype) -> None:
        """The sums S and, as one more row, z."""
        shape = (state.batch_size, self.heads, self.head_dim + 1, self.head_dim)
        wide = torch.promote_types(dtype, torch.float32)
        state.put("sums", torch.zeros(shape, dtype=wide, device=state.seen.device))

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        return interval_reach(layout, length, None, 0 if self.is_causal else None)
