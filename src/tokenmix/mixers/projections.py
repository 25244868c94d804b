"""What mixers with query, key, value and output projections share."""

from __future__ import annotations

from typing import Any

from tokenmix.attention_weights import AttentionWeights
from tokenmix.mixer import check_divides, check_positive, copy_linear


def width_of_heads(dim: int, heads: int, head_dim: int | None) -> int:
    """Width of a head: what is given, or an even share of the features.

    Raises:
        ValueError, TypeError: heads or a width that is no positive integer, heads that do not divide dim.

    Example:
        >>> width_of_heads(32, 4, None), width_of_heads(32, 4, 5)
        (8, 5)
    """
    check_positive("heads", heads)
    if head_dim is None:
        check_divides("heads", heads, "dim", dim)
        return dim // heads
    check_positive("head_dim", head_dim)
    return head_dim


def copy_projections(mixer: Any, weights: AttentionWeights) -> tuple[str, ...]:
    """Set `q_proj`, `k_proj`, `v_proj` and `o_proj` to those of an attention of the same sizes, and say so."""
    for name in ("q", "k", "v", "o"):
        copy_linear(getattr(mixer, f"{name}_proj"), getattr(weights, name), getattr(weights, f"{name}_bias"))
    return ("q", "k", "v", "o")


def take_heads(mixer: Any, weights: AttentionWeights) -> tuple[str, ...]:
    """`copy_projections`, each query head with a key and value head of its own; nothing for heads of other sizes."""
    if (mixer.heads, mixer.head_dim) != (weights.shape.heads, weights.shape.head_dim):
        return ()
    return copy_projections(mixer, weights.repeated())
