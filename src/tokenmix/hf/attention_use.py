"""Giving a model a registered attention, and making sure that it follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from tokenmix.hf.attention import registered_attention
from tokenmix.hf.attention_rules import FIELD


@torch.no_grad()
def use_attention(
    model: PreTrainedModel, name: str, inputs: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, int]:
    """Set a model's attention to a registered name, or raise: never a model that quietly stays as it was.

    transformers' `set_attn_implementation` logs a warning where a model cannot follow, and some models accept a name
    and never call its function. This sets the name, runs the model once on a small input, counts which modules called
    the function, and for a decoder checks that a later token changes no earlier output.

    Args:
        model: a pretrained model of transformers.
        name: what `register_attention` registered.
        inputs: keyword arguments of a forward to try; default a few tokens, or noise where a model sees or hears.
        **options: of the attention, such as `window`; kept in `config.tokenmix_attention`, and with it in config.json.

    Returns:
        How often each module called the attention in that forward.

    Raises:
        TypeError: no transformers model. ValueError: an unknown name or option, a model that does not go through
            transformers' attention interface, or one that lets a token read a later one. The model is then as it was.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from tokenmix.hf import register_attention
        >>> register_attention()
        >>> sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
        >>> use_attention(model, "ls_attention", window=8)
        {'model.layers.0.self_attn': 1, 'model.layers.1.self_attn': 1}
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a transformers PreTrainedModel, found {type(model).__name__}")
    spec = registered_attention(name)
    who = type(model).__name__
    if not type(model)._can_set_attn_implementation():
        raise ValueError(
            f"model: {who} does not go through transformers' attention interface; tokenmix.hf.swap_mixers replaces "
            "modules instead, where it knows the family"
        )
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [(config, config._attn_implementation, getattr(config, FIELD, None)) for config in configs]
    training = model.training
    try:
        for config in configs:
            setattr(config, FIELD, {**(getattr(config, FIELD, None) or {}), name: options})
            whole = dict(spec.of(config).options)  # refuses options that do not fit
            if spec.kind != "groups":  # all of them, so that another process needs no registration of its own
                setattr(config, FIELD, {**getattr(config, FIELD), name: whole})
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise ValueError(f"model: {who} did not take {name!r}, and stays {model.config._attn_implementation!r}")
        with _counted(model, name) as calls:
            model.eval()
            tried = dict(small_inputs(model) if inputs is None else inputs)
            output = model(**tried)
        if not calls:
            raise ValueError(f"model: {who} took the name {name!r} and never called its attention")
        _check_all_called(model, calls)
        _check_causality(model, tried, output[0])
    except Exception:
        for config, implementation, stated in before:
            config._attn_implementation_internal = implementation
            if stated is not None:
                setattr(config, FIELD, stated)
            elif hasattr(config, FIELD):
                delattr(config, FIELD)
        raise
    finally:
        model.train(training)
    return calls


@contextmanager
def _counted(model: nn.Module, name: str) -> Any:
    """Calls of the attention by module."""
    mapping: dict[str, Callable[..., Any]] = AttentionInterface._global_mapping  # type: ignore[assignment]  # it holds functions
    function = mapping[name]
    names = {id(module): path for path, module in model.named_modules()}
    calls: dict[str, int] = {}

    def counting(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = names.get(id(module), type(module).__name__)
        calls[path] = calls.get(path, 0) + 1
        return function(module, *args, **kwargs)

    AttentionInterface.register(name, counting)
    try:
        yield calls
    finally:
        AttentionInterface.register(name, function)


def small_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Something small that a model of text, images or sound can read.

    Raises:
        ValueError: a model that takes something else.
    """
    config, device = model.config, model.device
    tokens = (
        torch.arange(3, 12, device=device)[None] % config.get_text_config().vocab_size if _reads_tokens(model) else None
    )
    given: dict[str, Tensor] = {}
    match model.main_input_name:
        case "input_ids":
            given = {} if tokens is None else {"input_ids": tokens}
        case "pixel_values":
            sides = config.image_size if isinstance(config.image_size, (tuple, list)) else [config.image_size] * 2
            given = {"pixel_values": torch.randn(1, config.num_channels, *sides, device=device, dtype=model.dtype)}
        case "input_values":
            given = {"input_values": torch.randn(1, 4000, device=device, dtype=model.dtype)}
        case "input_features" if hasattr(config, "num_mel_bins"):
            shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
            given = {"input_features": torch.randn(shape, device=device, dtype=model.dtype)}
    if not given:
        raise ValueError(
            f"inputs: expected some, since {type(model).__name__} reads {model.main_input_name!r}, found None"
        )
    if config.is_encoder_decoder and tokens is not None:
        given["decoder_input_ids"] = tokens
    return given


def _reads_tokens(model: PreTrainedModel) -> bool:
    return model.main_input_name == "input_ids" or bool(model.config.is_encoder_decoder)


def _check_all_called(model: PreTrainedModel, calls: Mapping[str, int]) -> None:
    """Refuse a model in which only some of the modules of one class called the attention."""
    kinds = {type(module) for name, module in model.named_modules() if name in calls}
    silent = [name for name, module in model.named_modules() if type(module) in kinds and name not in calls]
    if silent:
        raise ValueError(f"model: {', '.join(silent)} of {type(model).__name__} never called the attention, others did")


def _check_causality(model: PreTrainedModel, inputs: dict[str, Any], before: Tensor) -> None:
    """For decoders: the last token must not change what stands before it."""
    pair = bool(model.config.is_encoder_decoder)
    name = "decoder_input_ids" if pair else "input_ids"
    causal = pair or any(getattr(module, "is_causal", False) is True for module in model.modules())
    if name not in inputs or not causal or before.dim() != 3 or inputs[name].shape[1] < 2:
        return
    changed = inputs[name].clone()
    changed[:, -1] = (changed[:, -1] + 1) % model.config.get_text_config().vocab_size
    after: Tensor = model(**{**inputs, name: changed})[0]
    moved = float((after[:, :-1] - before[:, :-1]).abs().max())
    if moved > (0 if before.device.type == "cpu" else 1e-3):  # kernels elsewhere need not repeat themselves to the bit
        raise ValueError(
            f"model: with this attention a later token changes earlier outputs of {type(model).__name__} by {moved:.2g}"
        )
