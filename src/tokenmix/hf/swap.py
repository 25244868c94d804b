"""Swapping the attention of chosen layers of a pretrained model for any mixer."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenmix.hf.adapter import MixerAttention
from tokenmix.hf.classes import SwappedConfig, SwappedModel, change_class, swapped_config_class
from tokenmix.hf.families import Family, family_of, read_attention
from tokenmix.hf.layer_keys import expand_keys, layer_key, split_key
from tokenmix.mixer import TokenMixer, build_mixer, get_mixer
from tokenmix.models.stack import keep_float32

VERSION = 1  # of what config.json says about swapped layers
_ONE_WAY = "read both sides before the swap, and only earlier tokens after it, because these mixers are causal"
_NOTHING_FITS = (
    "start as drawn: no weights of the attention have the size that these mixers' options ask for (heads, head_dim, "
    "expand, ...); options that are left out fit where any do, and init='random' says that nothing is to be carried"
)


def swap_mixers(
    model: PreTrainedModel,
    layers: Mapping[str, str | Mapping[str, Any]],
    init: Literal["attention", "random"] = "attention",
) -> PreTrainedModel:
    """Replace the self-attention of chosen layers by mixers.

    Options that are left out are those that fit the attention: its heads, rotary angles, norms, biases and window,
    and whether it is causal. `save_pretrained` keeps the swap; `from_pretrained` of the Auto classes restores it after
    `import tokenmix.hf`, and fails without.

    A model that reads both sides (BERT, ViT, the encoder of a pair) becomes one-way where the mixer is always causal,
    as "mamba2" is: a warning names these layers.

    Dropout of attention weights, where the model has it, is not done by mixers. Attention weights
    (`output_attentions`) are returned for the layers that still have attention.

    Args:
        model: a pretrained model of transformers: Llama, Mistral, Qwen2, Qwen3, Gemma, GPT-NeoX, GPT-2, OPT, BERT,
            RoBERTa, XLM-RoBERTa, ESM, ModernBERT, ViT, wav2vec2, HuBERT, Whisper or BART, with any head.
        layers: a mixer's name, or its description, for "2" (a layer, counted from 0), "4-7" (both ends included) or
            "all"; in a model with an encoder and a decoder for "encoder.2", "decoder.4-7", "encoder.all".
        init: "attention" carries q, k, v and o over where the mixer has a place for them (exactly for `attention`,
            and for `ls_attention` and `sliding_window` as far as a window reaches); "random" draws the mixer as its
            paper does. `carried_weights` tells what was carried; a warning names layers whose mixers have a place for
            them, but of another size.

    Returns:
        The same model, changed in place; its class and its config's class are now those of swapped models.

    Raises:
        TypeError, ValueError: another model, a layer or a mixer that is not there (with the nearest name), options
            that the mixer refuses, or a mixer that reads the future in a decoder. The model is then unchanged.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
        >>> model = swap_mixers(model, {"0": {"mixer": "ls_attention", "window": 8}, "1-2": {"mixer": "mamba2"}})
        >>> type(model).__name__, list(model.config.tokenmix["layers"])
        ('TokenmixLlamaForCausalLM', ['0', '1', '2'])
    """
    family = family_of(model)
    if init not in ("attention", "random"):
        raise ValueError(f"init: expected 'attention' or 'random', found {init!r}")
    stacks = _stacks(model, family)
    wanted = named_layers(model, layers)
    before = dict((getattr(model.config, "tokenmix", None) or {}).get("layers", {}))
    taken = sorted(set(wanted) & set(before))
    if taken:
        raise ValueError(f"layers: {', '.join(taken)} swapped already; swap a model as it was loaded")
    made: dict[str, tuple[MixerAttention, dict[str, Any]]] = {}
    one_way, empty = [], []
    for key, spec in wanted.items():  # all of them, before the first is put in its place
        stack, index = split_key(key)
        adapter, whole, causal = _make(model, family, stacks[stack][index], index, spec, init)
        made[key] = adapter, whole
        if adapter.mixer.is_causal and not causal:
            one_way.append(key)
        if init == "attention" and _takes_attention(adapter.mixer) and not adapter.carried:
            empty.append(key)
    names = {key: whole["mixer"] for key, (_, whole) in made.items()}
    _warn({key: names[key] for key in one_way}, _ONE_WAY)
    _warn({key: names[key] for key in empty}, _NOTHING_FITS)
    config: Any = copy.deepcopy(model.config)
    if not isinstance(config, SwappedConfig):
        config.__class__ = swapped_config_class(type(config))
    config.tokenmix = {"version": VERSION, "layers": {**before, **{key: spec for key, (_, spec) in made.items()}}}
    old = model.config
    for module in model.modules():
        if getattr(module, "config", None) is old:
            module.config = config
    for key, (adapter, _) in made.items():
        stack, index = split_key(key)
        _put(stacks[stack][index], family, adapter)
    _change_classes(model)
    # weights are saved under the names that they have now, also where a family's own checkpoints have others
    model._weight_conversions = []  # type: ignore[assignment]
    return model


def named_layers(model: PreTrainedModel, layers: Mapping[str, Any]) -> dict[str, Any]:
    """One entry a layer of a model; refuses keys of layers that it does not have.

    Raises:
        TypeError, ValueError: a model of no known family, or keys that name no layer of it.
    """
    stacks = _stacks(model, family_of(model))
    return expand_keys(layers, {name: len(stack) for name, stack in stacks.items()})


def install_mixers(model: PreTrainedModel, swapped: Mapping[str, Any] | None) -> None:
    """Build the mixers that a config tells, in a model that is being made; their weights are drawn or loaded later.

    Raises:
        ValueError: a description of a later version.
    """
    if not swapped:
        return
    if swapped.get("version") != VERSION:
        raise ValueError(f"config.tokenmix: expected version {VERSION}, found {swapped.get('version')!r}")
    family = family_of(model)
    stacks = _stacks(model, family)
    for key, spec in swapped["layers"].items():
        stack, index = split_key(key)
        attention = stacks[stack][index].get_submodule(family.attention)
        if isinstance(attention, MixerAttention):
            continue
        weight = next(attention.parameters())
        with torch.device(weight.device):
            mixer = build_mixer(spec, model.config.hidden_size)
        _put(stacks[stack][index], family, MixerAttention(_in_type(mixer, weight.dtype), index))
    _change_classes(model, but=model)


def swapped_mixers(model: nn.Module) -> dict[str, TokenMixer]:
    """The mixers of a swapped model, by layer: {"2": mixer}.

    Example:
        >>> swapped_mixers(nn.Linear(2, 2))
        {}
    """
    return {key: adapter.mixer for key, adapter in _adapters(model).items()}


def carried_weights(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Which of "q", "k", "v" and "o" `swap_mixers` carried over, by layer; empty for layers that were loaded.

    Example:
        >>> carried_weights(nn.Linear(2, 2))
        {}
    """
    return {key: adapter.carried for key, adapter in _adapters(model).items()}


def lora_targets(model: nn.Module) -> list[str]:
    """Names of the swapped mixers' projections, for `peft.LoraConfig(target_modules=...)`.

    PEFT's default targets are names of attention's projections; it passes over mixers without a word.

    Raises:
        ValueError: a model without swapped mixers.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
        >>> model = swap_mixers(LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)), {"0": "mamba2"})
        >>> lora_targets(model)
        ['model.layers.0.self_attn.mixer.in_proj', 'model.layers.0.self_attn.mixer.out_proj']
    """
    names = [
        f"{name}.mixer.{target}"
        for name, module in model.named_modules()
        if isinstance(module, MixerAttention)
        for target in module.mixer.lora_targets
    ]
    if not names:
        raise ValueError("model: expected one with swapped mixers that LoRA can adapt, found none")
    return names


# ---------------------------------------------------------------------- parts


def _stacks(model: PreTrainedModel, family: Family) -> dict[str, nn.ModuleList]:
    """The lists of layers, by prefix of their keys.

    Raises:
        ValueError: a model of the family that is built otherwise.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, path in family.stacks.items():
        try:
            stack: Any = functools.reduce(getattr, path.split("."), model.base_model)
            stack[0].get_submodule(family.attention)
        except (AttributeError, IndexError):
            continue
        found[name] = stack
    if not found:
        raise ValueError(
            f"model: expected layers at {' or '.join(family.stacks.values())} with {family.attention!r} inside, found "
            f"none in {type(model).__name__}"
        )
    return found


def _make(
    model: PreTrainedModel,
    family: Family,
    layer: nn.Module,
    index: int,
    spec: str | Mapping[str, Any],
    init: str,
) -> tuple[MixerAttention, dict[str, Any], bool]:
    """The mixer for one layer, its whole description, and whether the attention in its place was causal."""
    if not isinstance(spec, (str, Mapping)):
        raise TypeError(f"layers: expected a mixer's name or its description for layer {index}, found {spec!r}")
    weights = read_attention(model, family, layer)
    given = {"mixer": spec} if isinstance(spec, str) else dict(spec)
    if "mixer" not in given:
        raise ValueError(f"layers: expected a key 'mixer' with the mixer's name, found keys {sorted(given)}")
    whole = {"mixer": given["mixer"], **get_mixer(given["mixer"]).options_like(weights.shape), **given}
    with torch.device(weights.q.device):
        mixer = build_mixer(whole, model.config.hidden_size)
    if weights.shape.causal and not mixer.is_causal:
        raise ValueError(f"layers: a decoder needs causal mixers, found {given}, which reads the future")
    needs = [field for field in mixer.needs if field not in ("mask", "segments", "positions")]
    if needs:
        raise ValueError(
            f"layers: mixer {given['mixer']!r} needs {', '.join(needs)}, which a transformers layer has not"
        )
    adapter = MixerAttention(_in_type(mixer, weights.q.dtype), index).train(model.training)
    adapter.carried = mixer.take_attention(weights) if init == "attention" else ()
    return adapter, whole, weights.shape.causal


def _warn(mixers: Mapping[str, str], what: str) -> None:
    """Say what a user may not have meant, once for all layers (names of mixers by layer)."""
    if mixers:
        which = ", ".join(dict.fromkeys(mixers.values()))
        warnings.warn(f"layers: {', '.join(mixers)} ({which}) {what}", stacklevel=3)


def _takes_attention(mixer: TokenMixer) -> bool:
    return type(mixer).take_attention is not TokenMixer.take_attention


def _in_type(mixer: TokenMixer, dtype: torch.dtype) -> TokenMixer:
    """The mixer in the model's type, except for what is kept in float32."""
    mixer = mixer.to(dtype)
    keep_float32(mixer)
    return mixer


def _put(layer: nn.Module, family: Family, adapter: MixerAttention) -> None:
    parent, _, name = family.attention.rpartition(".")
    setattr(layer.get_submodule(parent), name, adapter)
    if family.output is not None:  # the mixer has its own output projection
        parent, _, name = family.output.rpartition(".")
        setattr(layer.get_submodule(parent), name, nn.Identity())


def _change_classes(model: PreTrainedModel, but: PreTrainedModel | None = None) -> None:
    """Give the model, and every model inside it that holds a mixer, its swapped class."""
    for part in list(model.modules()):
        mixers = [module.mixer for module in part.modules() if isinstance(module, MixerAttention)]
        if not isinstance(part, PreTrainedModel) or not mixers:
            continue
        if part is not but:
            change_class(part)
        # transformers then refuses assisted decoding, which wants a memory that goes back
        part._is_stateful = part._is_stateful or any(_keeps_a_summary(mixer) for mixer in mixers)


def _keeps_a_summary(mixer: TokenMixer) -> bool:
    if not mixer.is_causal:
        return False
    return any(tensor.numel() for tensor in mixer.init_state(1, device="meta").tensors.values())


def _adapters(model: nn.Module) -> dict[str, MixerAttention]:
    """Adapters by layer key."""
    adapters = {name: module for name, module in model.named_modules() if isinstance(module, MixerAttention)}
    whole = next((module for module in model.modules() if isinstance(module, SwappedModel)), None)
    if whole is None:
        return {}
    places = [split_key(key) for key in whole.config.tokenmix["layers"]]
    found = {}
    for name, adapter in adapters.items():  # in the order of the model, not of the keys in config.json
        for stack, index in places:
            if adapter.layer_idx == index and stack in ("", *name.split(".")):
                found[layer_key(stack, index)] = adapter
    return found
