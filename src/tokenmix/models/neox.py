"""GPT-NeoX (Pythia) in our names: its layers are attention and feed-forward side by side, on one input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import GPTNeoXConfig

from tokenmix.models.config_fields import plain_rope, require_settings

_PARTS = {
    "attention.dense": "mixer.o_proj",
    "mlp.dense_h_to_4h": "feed_forward.up_proj",
    "mlp.dense_4h_to_h": "feed_forward.down_proj",
    "input_layernorm": "mixer_norm",
    "post_attention_layernorm": "feed_forward_norm",
}
_BUFFERS = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")  # of old checkpoints


def describe_neox(config: GPTNeoXConfig) -> dict[str, Any]:
    """Fields of a `MixerConfig` for the layers of a GPT-NeoX.

    Raises:
        ValueError: a setting that has no counterpart here.

    Example:
        >>> fields = describe_neox(GPTNeoXConfig(hidden_size=64, num_attention_heads=4))
        >>> fields["parallel_residual"], fields["mixers"]["a"]["rope_frequencies"]
        (True, [1.0, 0.01])
    """
    require_settings(config, hidden_act="gelu", attention_dropout=0.0, hidden_dropout=0.0)
    rope = plain_rope(config)
    width = config.hidden_size // config.num_attention_heads
    mixer = neox_attention(
        width, config.num_attention_heads, float(rope.get("partial_rotary_factor", 1.0)), float(rope["rope_theta"])
    )
    return {
        "mixers": {"a": {**mixer, "bias": config.attention_bias}},
        "pattern": "a",
        "feed_forward": "gelu",
        "intermediate_size": config.intermediate_size,
        "feed_forward_bias": True,
        "parallel_residual": config.use_parallel_residual,
        "norm": "layernorm",
        "norm_eps": config.layer_norm_eps,
    }


def neox_attention(head_dim: int, heads: int, rotary: float = 0.25, base: float = 10000.0) -> dict[str, Any]:
    """The description of its attention, where a share `rotary` of each head's features turns.

    Example:
        >>> neox_attention(16, 4)["rope_frequencies"]
        [1.0, 0.01]
    """
    pairs = int(head_dim * rotary) // 2
    frequencies = [base ** (-i / pairs) for i in range(pairs)]
    return {"mixer": "attention", "heads": heads, "bias": True, "rope": True, "rope_frequencies": frequencies}


def rename_neox(weights: Mapping[str, Tensor], heads: int, ours: str) -> dict[str, Tensor]:
    """The layers of a GPT-NeoX under our names.

    Args:
        weights: named as in `GPTNeoXModel`: `layers.0.attention.dense.weight`, `final_layer_norm.bias`, ...; embeddings
            are left out.
        heads: number of heads, whose queries, keys and values stand together in one matrix, head by head.
        ours: prefix of our names, such as "model.stack.".

    Raises:
        ValueError: a name that such a model does not have.

    Example:
        >>> import torch
        >>> found = rename_neox({"layers.0.attention.query_key_value.bias": torch.arange(12)}, 2, "stack.")
        >>> found["stack.layers.0.mixer.k_proj.bias"].tolist()
        [2, 3, 8, 9]
    """
    renamed = {}
    for name, value in weights.items():
        found = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if name.startswith("embed_in.") or name.endswith(_BUFFERS) or name.startswith("rotary_emb."):
            continue
        if name.startswith("final_layer_norm."):
            renamed[f"{ours}norm.{name.rpartition('.')[2]}"] = value
        elif found is not None and found[2] == "attention.query_key_value":
            parts = value.unflatten(0, (heads, 3, -1))
            for i, part in enumerate("qkv"):
                renamed[f"{ours}layers.{found[1]}.mixer.{part}_proj.{found[3]}"] = parts[:, i].flatten(0, 1)
        elif found is not None and found[2] in _PARTS:
            renamed[f"{ours}layers.{found[1]}.{_PARTS[found[2]]}.{found[3]}"] = value
        else:
            raise ValueError(f"state_dict: expected names of a GPT-NeoX, found {name!r}")
    return renamed
