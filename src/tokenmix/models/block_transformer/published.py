"""The sizes of the Block Transformer's paper."""

from __future__ import annotations

from typing import Any

from tokenmix.models.neox import neox_attention

# the paper's table: layers of either decoder, width, heads
_SIZES = {
    "5M": (3, 256, 8),
    "19M": (3, 512, 8),
    "85M": (6, 768, 12),
    "302M": (12, 1024, 16),
    "805M": (8, 2048, 16),
    "1.2B": (12, 2048, 16),
}


def published(size: str) -> dict[str, Any]:
    """Fields of a `BlockTransformerConfig` for a published setting.

    Raises:
        ValueError: another size.

    Example:
        >>> published("19M")["hidden_size"]
        512

    Source:
        Ho et al. 2024, arXiv 2406.02657, and the authors' configs.
    """
    if size not in _SIZES:
        raise ValueError(f"size: expected one of {', '.join(_SIZES)}, found {size!r}")
    layers, width, heads = _SIZES[size]
    mixer = neox_attention(width // heads, heads)
    return {
        "vocab_size": 50304,
        "hidden_size": width,
        "block_mixers": {"a": mixer},
        "num_block_layers": layers,
        "token_mixers": {"a": mixer},
        "num_token_layers": layers,
        "feed_forward": "gelu",
        "feed_forward_bias": True,
        "parallel_residual": True,
        "norm": "layernorm",
        "random_offset": size in ("5M", "19M", "85M"),
        "initializer_range": 0.02,
        "initialize_mixers": False,
        "rescale_residual": False,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
