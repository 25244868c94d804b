"""Where the attention of each family of transformers' models lives, and how to read its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenmix.attention_weights import AttentionShape, AttentionWeights

Projection = tuple[Tensor, Tensor | None]  # weight (out, in), bias (out,)
_STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # their angles do not depend on the length of the input


@dataclasses.dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        stacks: path of each list of layers from the base model, by the prefix of its layer keys ("" for a single one).
        attention: path of the self-attention inside a layer; called with features, it returns (features, weights).
        read: from the layer and the attention to q, k, v and o as (weight, bias).
        output: path in a layer of a projection that follows the attention and belongs to it; a mixer has its own.
        rotary: path of the module that makes rotary angles, from the base model.
        scaled: whether `attention.scaling` is the whole factor of the scores.
    """

    stacks: dict[str, str]
    attention: str
    read: Callable[[nn.Module, nn.Module], tuple[Projection, Projection, Projection, Projection]]
    output: str | None = None
    rotary: str | None = None
    scaled: bool = True


def _linear(module: Any) -> Projection:
    """Weight (out, in) and bias of a Linear, or of GPT-2's Conv1D, which keeps its transpose."""
    weight = module.weight if isinstance(module, nn.Linear) else module.weight.t()
    return weight.detach(), None if module.bias is None else module.bias.detach()


def _separate(q: str, k: str, v: str, o: str, outside: bool = False) -> Any:
    def read(layer: nn.Module, attention: nn.Module) -> tuple[Projection, ...]:
        inside = (_linear(attention.get_submodule(name)) for name in (q, k, v))
        return (*inside, _linear((layer if outside else attention).get_submodule(o)))

    return read


def _fused(qkv: str, o: str, by_head: bool = False) -> Any:
    """q, k and v in one matrix: all of q first, or (GPT-NeoX) head by head."""

    def read(_: nn.Module, attention: Any) -> tuple[Projection, ...]:
        weight, bias = _linear(attention.get_submodule(qkv))
        width = _first(attention, "head_dim", "head_size")

        def part(x: Tensor | None, i: int) -> Tensor | None:
            if x is None:
                return None
            return x.unflatten(0, (-1, 3, width))[:, i].flatten(0, 1) if by_head else x.chunk(3)[i]

        inside: Any = [(part(weight, i), part(bias, i)) for i in range(3)]
        return (*inside, _linear(attention.get_submodule(o)))

    return read


_LLAMA = Family({"": "layers"}, "self_attn", _separate("q_proj", "k_proj", "v_proj", "o_proj"), rotary="rotary_emb")
_BERT = Family(
    {"": "encoder.layer"},
    "attention.self",
    _separate("query", "key", "value", "attention.output.dense", outside=True),
    output="attention.output.dense",
)
_OUT_PROJ = _separate("q_proj", "k_proj", "v_proj", "out_proj")
_ENCODER_DECODER = {"encoder": "encoder.layers", "decoder": "decoder.layers"}
_SPEECH = Family({"": "encoder.layers"}, "attention", _OUT_PROJ)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gpt_neox": Family(
        {"": "layers"}, "attention", _fused("query_key_value", "dense", by_head=True), rotary="rotary_emb"
    ),
    "gpt2": Family({"": "h"}, "attn", _fused("c_attn", "c_proj")),
    "opt": Family({"": "decoder.layers"}, "self_attn", _OUT_PROJ),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "esm": dataclasses.replace(_BERT, rotary="rotary_embeddings", scaled=False),
    "modernbert": Family({"": "layers"}, "attn", _fused("Wqkv", "Wo"), rotary="rotary_emb"),
    "vit": Family({"": "layers"}, "attention", _separate("q_proj", "k_proj", "v_proj", "o_proj")),
    "wav2vec2": _SPEECH,
    "hubert": _SPEECH,
    "whisper": Family(_ENCODER_DECODER, "self_attn", _OUT_PROJ),
    "bart": Family(_ENCODER_DECODER, "self_attn", _OUT_PROJ),
}


def family_of(model: PreTrainedModel) -> Family:
    """The family of a model.

    Raises:
        TypeError: not a transformers model. ValueError: a family that is not known here.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a transformers PreTrainedModel, found {type(model).__name__}")
    kind = model.config.model_type.removeprefix("tokenmix_")
    if kind not in FAMILIES:
        raise ValueError(f"model: expected one of {', '.join(FAMILIES)}, found model_type {kind!r}")
    return FAMILIES[kind]


def read_attention(model: PreTrainedModel, family: Family, layer: nn.Module) -> AttentionWeights:
    """The weights of a layer's attention.

    Raises:
        ValueError: rotary angles that change with the length of the input.
    """
    attention: Any = layer.get_submodule(family.attention)
    (q, q_bias), (k, k_bias), (v, v_bias), (o, o_bias) = family.read(layer, attention)
    width = int(_first(attention, "head_dim", "attention_head_size", "head_size"))
    q_norm: Any = getattr(attention, "q_norm", None)
    frequencies, rope_scale = _rope(model, family, attention)
    shape = AttentionShape(
        dim=q.shape[1],
        heads=q.shape[0] // width,
        kv_heads=k.shape[0] // width,
        head_dim=width,
        causal=bool(attention.is_causal),
        bias=any(bias is not None for bias in (q_bias, k_bias, v_bias, o_bias)),
        window=getattr(attention, "sliding_window", getattr(model.config, "sliding_window", None)),
        rope_frequencies=frequencies,
        rope_scale=rope_scale,
        qk_norm_eps=None if q_norm is None else float(q_norm.variance_epsilon),
    )
    norms = {}
    if q_norm is not None:
        norms = {"q_norm": q_norm.weight.detach(), "k_norm": attention.k_norm.weight.detach()}
    # ours is 1 / sqrt(width), and so is that of an attention that does not tell
    factor = getattr(attention, "scaling", width**-0.5) * width**0.5 if family.scaled else 1.0
    if abs(factor - 1) > 1e-9:
        if norms:
            norms["q_norm"] = norms["q_norm"] * factor
        else:
            q, q_bias = q * factor, None if q_bias is None else q_bias * factor
    return AttentionWeights(q, k, v, o, shape, q_bias=q_bias, k_bias=k_bias, v_bias=v_bias, o_bias=o_bias, **norms)


def _rope(model: PreTrainedModel, family: Family, attention: Any) -> tuple[tuple[float, ...] | None, float]:
    """Angles a place of an attention, and the factor of what is rotated."""
    rotary: Any = model.base_model
    for name in () if family.rotary is None else family.rotary.split("."):
        rotary = getattr(rotary, name)
    if family.rotary is None or rotary is None:
        return None, 1.0
    prefix = ""
    if not hasattr(rotary, "inv_freq"):  # one set of angles for each kind of layer
        prefix = model.config.layer_types[attention.layer_idx] + "_"
    kind = getattr(rotary, "rope_type", "default")
    kind = kind.get(prefix.removesuffix("_"), "default") if isinstance(kind, dict) else kind
    if kind not in _STATIC_ROPE:
        raise ValueError(f"model: expected rotary positions of a type among {_STATIC_ROPE}, found {kind!r}")
    angles = getattr(rotary, f"{prefix}inv_freq").tolist()
    return tuple(angles), float(getattr(rotary, f"{prefix}attention_scaling", 1.0))


def _first(module: Any, *names: str) -> Any:
    return next(getattr(module, name) for name in names if hasattr(module, name))
