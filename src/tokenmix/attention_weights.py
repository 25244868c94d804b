"""What an attention is made of, for mixers that take its place: shapes and weights."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from torch import Tensor


class AttentionShape(NamedTuple):
    """The sizes and habits of an attention, as far as a mixer in its place may want them.

    Args:
        dim: width of the features.
        heads: query heads. kv_heads: key and value heads. head_dim: e, width of a head.
        causal: whether tokens read only the past.
        bias: whether any of the projections has a bias.
        window: keys that a query sees on a side, itself included; None for all.
        rope_frequencies: angle a place, for each rotated pair of features; None without rotary positions.
        rope_scale: multiplies rotated queries and keys (YaRN's attention factor).
        qk_norm_eps: what is added to the variance where queries and keys are normalised; None where they are not.
    """

    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    bias: bool = False
    window: int | None = None
    rope_frequencies: tuple[float, ...] | None = None
    rope_scale: float = 1.0
    qk_norm_eps: float | None = None


@dataclasses.dataclass(frozen=True)
class AttentionWeights:
    """The weights of an attention, one matrix a projection, as `torch.nn.Linear` keeps them.

    Scores are q . k / sqrt(head_dim): a model that scales otherwise has the rest in `q`, or in `q_norm`.

    Args:
        q: (heads * head_dim, dim). k, v: (kv_heads * head_dim, dim). o: (dim, heads * head_dim).
        q_bias, k_bias, v_bias, o_bias: a number a row, or None.
        q_norm, k_norm: (head_dim,) weights of the norms of queries and keys, or None.
        shape: the sizes.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    shape: AttentionShape
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None

    def repeated(self) -> AttentionWeights:
        """The same attention with a key and value head of its own for each query head."""
        shape = self.shape
        times = shape.heads // shape.kv_heads
        if times == 1:
            return self

        def repeat(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            return x.unflatten(0, (shape.kv_heads, shape.head_dim)).repeat_interleave(times, dim=0).flatten(0, 1)

        names = ("k", "v", "k_bias", "v_bias")
        changes = {name: repeat(getattr(self, name)) for name in names}
        return dataclasses.replace(self, shape=shape._replace(kv_heads=shape.heads), **changes)  # type: ignore[arg-type]  # k and v stay tensors
