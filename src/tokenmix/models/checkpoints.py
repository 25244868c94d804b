"""From published language models to ours: Llama, GPT-NeoX, Mamba and Mamba-2, weights kept."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.config import MixerConfig
from tokenmix.models.config_fields import plain_rope, require_settings
from tokenmix.models.neox import describe_neox, rename_neox

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
_LLAMA_NAMES = {
    r"^model\.embed_tokens\.": "model.embed_tokens.",
    r"^model\.layers\.(\d+)\.self_attn\.": r"model.stack.layers.\1.mixer.",
    r"^model\.layers\.(\d+)\.mlp\.": r"model.stack.layers.\1.feed_forward.",
    r"^model\.layers\.(\d+)\.input_layernorm\.": r"model.stack.layers.\1.mixer_norm.",
    r"^model\.layers\.(\d+)\.post_attention_layernorm\.": r"model.stack.layers.\1.feed_forward_norm.",
    r"^model\.norm\.": "model.stack.norm.",
}
_MAMBA_NAMES = {
    r"^backbone\.embeddings?\.": "model.embed_tokens.",  # mamba_ssm: embedding, transformers: embeddings
    r"^backbone\.layers\.(\d+)\.mixer\.": r"model.stack.layers.\1.mixer.",
    r"^backbone\.layers\.(\d+)\.norm\.": r"model.stack.layers.\1.mixer_norm.",
    r"^backbone\.norm_f\.": "model.stack.norm.",
}
_SSM_OPTIONS = {
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "dt_rank": "dt_rank",
    "headdim": "head_dim",
    "ngroups": "groups",
    "chunk_size": "chunk",
    "bias": "bias",
    "conv_bias": "conv_bias",
    "norm_before_gate": "norm_before_gate",
    "dt_limit": "dt_limit",
    "dt_min": "dt_min",
    "dt_max": "dt_max",
    "dt_init_floor": "dt_floor",
}


def from_transformers(model: PreTrainedModel) -> MixerForCausalLM:
    """The same language model as a stack of mixers: same weights, logits equal to rounding (about 1e-6 in float32).

    Args:
        model: a `LlamaForCausalLM`, `GPTNeoXForCausalLM`, `MambaForCausalLM` or `Mamba2ForCausalLM`.

    Returns:
        A model with a copy of the weights, of the same type, on the same device, in the same mode.

    Raises:
        TypeError: another model.
        ValueError: a setting that has no counterpart here, such as scaled rotary positions.

    Example:
        >>> theirs = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1)).eval()
        >>> ours = from_transformers(theirs)
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> torch.allclose(ours(tokens).logits, theirs(tokens).logits, atol=1e-4)
        True
    """
    describe = _DESCRIPTIONS.get(type(model))
    if describe is None:
        known = ", ".join(cls.__name__ for cls in _DESCRIPTIONS)
        raise TypeError(f"model: expected one of {known}, found {type(model).__name__}")
    config = MixerConfig(**_shared(model.config), **describe(model.config))
    ours = build_with_weights(MixerForCausalLM, config, _our_names(model))
    ours.generation_config = copy.deepcopy(model.generation_config)
    return ours.train(model.training)


def from_mamba_ssm(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> MixerForCausalLM:
    """The language model of a checkpoint that mamba_ssm saved: its `config.json` and its weights.

    Args:
        config: what the json file holds: d_model, n_layer, ssm_cfg and so on.
        state_dict: what the weight file holds.

    Returns:
        A model in eval mode with a copy of the weights.

    Raises:
        ValueError: a setting that has no counterpart here, or weights that do not fit.

    Example:
        >>> config = {"d_model": 16, "n_layer": 1, "ssm_cfg": {"layer": "Mamba1"}}
        >>> theirs = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1)).state_dict()
        >>> from_mamba_ssm(config, theirs).config.mixers
        {'m': {'mixer': 'mamba'}}

    Source:
        Configuration and names of state-spaces/mamba 2.2.
    """
    if config.get("d_intermediate") or config.get("attn_layer_idx"):
        raise ValueError("config: expected a model of Mamba layers only, found d_intermediate or attn_layer_idx")
    options = dict(config.get("ssm_cfg") or {})
    layer = options.pop("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise ValueError(f"ssm_cfg: expected layer 'Mamba1' or 'Mamba2', found {layer!r}")
    unknown = sorted(set(options) - set(_SSM_OPTIONS))
    if unknown:
        raise ValueError(f"ssm_cfg: expected options among {sorted(_SSM_OPTIONS)}, found {unknown}")
    mixer = {_SSM_OPTIONS[name]: value for name, value in options.items()}
    if mixer.get("dt_rank") == "auto":
        del mixer["dt_rank"]
    weights = rename_mamba_ssm(state_dict)
    described = MixerConfig(
        vocab_size=weights["model.embed_tokens.weight"].shape[0],  # padded to a multiple of 8 or 16
        hidden_size=config["d_model"],
        num_hidden_layers=config["n_layer"],
        mixers={"m": {"mixer": "mamba" if layer == "Mamba1" else "mamba2", **mixer}},
        pattern="m",
        feed_forward=None,
        norm="rmsnorm" if config.get("rms_norm", True) else "layernorm",
        tie_word_embeddings=config.get("tie_embeddings", True),
    )
    return build_with_weights(MixerForCausalLM, described, weights).eval()


def build_with_weights(cls: type[ModelT], config: PreTrainedConfig, weights: Mapping[str, Tensor]) -> ModelT:
    """A model of a class with a copy of exactly these weights.

    Raises:
        ValueError: weights that are missing, left over, or of another shape.

    Example:
        >>> config = MixerConfig(hidden_size=8, mixers={"m": {"mixer": "mamba"}}, pattern="m")
        >>> model = MixerForCausalLM(config)
        >>> copied = build_with_weights(MixerForCausalLM, config, model.state_dict())
        >>> torch.equal(copied.lm_head.weight, model.lm_head.weight)
        True
    """
    with torch.device("meta"):
        model = cls(config)
    try:
        model.load_state_dict({name: value.detach().clone() for name, value in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ValueError(f"state_dict: expected the weights of this configuration, found {error}") from error
    model.tie_weights()
    return model


def rename_mamba_ssm(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Mamba or Mamba-2 language model under our names, for `load_state_dict`.

    Args:
        state_dict: as saved by mamba_ssm (`backbone.embedding.weight`) or by transformers
            (`backbone.embeddings.weight`).

    Returns:
        The same tensors; the output layer is the embedding where the file leaves it out.

    Raises:
        ValueError: a name that such a model does not have.

    Example:
        >>> sorted(rename_mamba_ssm({"backbone.embedding.weight": torch.zeros(8, 4)}))
        ['lm_head.weight', 'model.embed_tokens.weight']
    """
    renamed = _rename(state_dict, _MAMBA_NAMES)
    if "model.embed_tokens.weight" not in renamed:
        raise ValueError(f"state_dict: expected 'backbone.embedding.weight' in it, found {list(state_dict)[:3]}, ...")
    renamed.setdefault("lm_head.weight", renamed["model.embed_tokens.weight"])
    return renamed


def _our_names(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights of a published model under the names of a `MixerForCausalLM`."""
    weights: dict[str, Tensor] = model.state_dict()
    if not isinstance(model, GPTNeoXForCausalLM):
        return _rename(weights, _LLAMA_NAMES if isinstance(model, LlamaForCausalLM) else _MAMBA_NAMES)
    head = weights.pop("lm_head.weight", weights.pop("embed_out.weight", None))
    if head is None:
        raise ValueError("model: expected an output layer lm_head or embed_out, found none")
    layers = {name.removeprefix("gpt_neox."): value for name, value in weights.items()}
    renamed = rename_neox(layers, model.config.num_attention_heads, "model.stack.")
    return {**renamed, "model.embed_tokens.weight": layers["embed_in.weight"], "lm_head.weight": head}


def _rename(state_dict: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Names rewritten by the one pattern that fits each; `lm_head` stays.

    Raises:
        ValueError: a name that fits no pattern.
    """
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in names.items():
            new, count = re.subn(pattern, replacement, name)
            if count:
                renamed[new] = value
                break
        else:
            if not name.startswith("lm_head."):
                raise ValueError(f"state_dict: expected names that fit {list(names)} or 'lm_head.', found {name!r}")
            renamed[name] = value
    return renamed


def _shared(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings that the three families have under the same names."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "initializer_range", "tie_word_embeddings")
    tokens = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {name: getattr(config, name) for name in (*names, *tokens)}


def _llama(config: LlamaConfig) -> dict[str, Any]:
    require_settings(config, hidden_act="silu", attention_dropout=0.0)
    rope = plain_rope(config)
    mixer = {
        "mixer": "attention",
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "rope": True,
        "rope_base": float(rope["rope_theta"]),
        "bias": config.attention_bias,
    }
    return {
        "mixers": {"a": mixer},
        "pattern": "a",
        "feed_forward": "swiglu",
        "intermediate_size": config.intermediate_size,
        "feed_forward_bias": config.mlp_bias,
        "norm_eps": config.rms_norm_eps,
    }


def _mamba(config: MambaConfig) -> dict[str, Any]:
    require_settings(config, hidden_act="silu")
    mixer = {
        "mixer": "mamba",
        "state_size": config.state_size,
        "conv_kernel": config.conv_kernel,
        "expand": config.expand,
        "dt_rank": config.time_step_rank,
        "bias": config.use_bias,
        "conv_bias": config.use_conv_bias,
    }
    return {"mixers": {"m": mixer}, "pattern": "m", "feed_forward": None, "norm_eps": config.layer_norm_epsilon}


def _mamba2(config: Mamba2Config) -> dict[str, Any]:
    require_settings(config, hidden_act="silu")
    mixer = {
        "mixer": "mamba2",
        "state_size": config.state_size,
        "head_dim": config.head_dim,
        "expand": config.expand,
        "groups": config.n_groups,
        "conv_kernel": config.conv_kernel,
        "chunk": config.chunk_size,
        "bias": config.use_bias,
        "conv_bias": config.use_conv_bias,
        "norm_eps": config.layer_norm_epsilon,
    }
    if tuple(config.time_step_limit) != (0.0, math.inf):
        mixer["dt_limit"] = list(config.time_step_limit)
    return {"mixers": {"m": mixer}, "pattern": "m", "feed_forward": None, "norm_eps": config.layer_norm_epsilon}


_DESCRIPTIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    LlamaForCausalLM: _llama,
    GPTNeoXForCausalLM: describe_neox,
    MambaForCausalLM: _mamba,
    Mamba2ForCausalLM: _mamba2,
}
