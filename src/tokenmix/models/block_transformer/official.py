"""Block Transformers from the authors' checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenmix.models.block_transformer.causal_lm import BlockTransformerForCausalLM
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.checkpoints import build_with_weights
from tokenmix.models.neox import neox_attention, rename_neox


def from_official(weights: Mapping[str, Tensor], heads: int, **options: Any) -> BlockTransformerForCausalLM:
    """The language model of a checkpoint that the authors' code saved: lookup or projection embedder, prefix decoder.

    Args:
        weights: what the weight file holds: `embedder.embeddings.weight`, `block_decoder.gpt_neox.layers...`.
        heads: number of heads, which weights do not tell.
        options: other fields of `BlockTransformerConfig`, such as `eos_token_id`.

    Returns:
        A model in eval mode with a copy of the weights.

    Raises:
        ValueError: weights that do not fit such a model.

    Source:
        Names of itsnamgyu/block-transformer.
    """
    theirs = dict(weights)
    if "embedder.embeddings.weight" not in theirs or "token_decoder.expansion_layer.weight" not in theirs:
        raise ValueError(
            "weights: expected 'embedder.embeddings.weight' and 'token_decoder.expansion_layer.weight' in them, found "
            f"{list(theirs)[:3]}, ..."
        )
    table, expansion = theirs.pop("embedder.embeddings.weight"), theirs.pop("token_decoder.expansion_layer.weight")
    width, projection = expansion.shape[1], theirs.pop("embedder.projection_layer.weight", None)
    named = {
        "model.blocks.gather.embed_tokens.weight": table,
        "model.blocks.scatter.bridge.weight": expansion[:, :, 0],
        "model.blocks.scatter.bridge.bias": theirs.pop("token_decoder.expansion_layer.bias"),
        "model.blocks.scatter.embed_tokens.weight": theirs.pop("token_decoder.gpt_neox.embed_in.weight"),
        "lm_head.weight": theirs.pop("token_decoder.embed_out.weight"),
    }
    token_width = named["lm_head.weight"].shape[1]
    block_length = width // table.shape[1]
    if projection is not None:  # (D, D, L_B), a convolution
        block_length = projection.shape[2]
        named["model.blocks.gather.projection.weight"] = projection.permute(0, 2, 1).flatten(1)
        named["model.blocks.gather.projection.bias"] = theirs.pop("embedder.projection_layer.bias")
    counts = {}
    for theirs_part, ours in (("block_decoder", "process"), ("token_decoder", "scatter.stack")):
        start = f"{theirs_part}.gpt_neox."
        part = {name.removeprefix(start): theirs.pop(name) for name in list(theirs) if name.startswith(start)}
        counts[theirs_part] = len({name.split(".")[1] for name in part if name.startswith("layers.")})
        named |= rename_neox(part, heads, f"model.blocks.{ours}.")
    if theirs or not all(counts.values()):
        raise ValueError(
            f"weights: expected none but those of a Block Transformer, found {sorted(theirs)[:5]} and layers {counts}"
        )
    config = BlockTransformerConfig(
        **{
            "vocab_size": table.shape[0],
            "block_length": block_length,
            "hidden_size": width,
            "token_hidden_size": token_width,
            "embedder": "lookup" if projection is None else "projection",
            "expansion": expansion.shape[0] // token_width,
            "block_mixers": {"a": neox_attention(width // heads, heads)},
            "num_block_layers": counts["block_decoder"],
            "token_mixers": {"a": neox_attention(token_width // heads, heads)},
            "num_token_layers": counts["token_decoder"],
            "feed_forward": "gelu",
            "intermediate_size": named["model.blocks.process.layers.0.feed_forward.up_proj.weight"].shape[0],
            "token_intermediate_size": named["model.blocks.scatter.stack.layers.0.feed_forward.up_proj.weight"].shape[
                0
            ],
            "feed_forward_bias": True,
            "parallel_residual": True,
            "norm": "layernorm",
            **options,
        }
    )
    return build_with_weights(BlockTransformerForCausalLM, config, named).eval()
