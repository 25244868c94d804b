"""Classes of models whose attention was swapped: `TokenmixLlamaForCausalLM` for `LlamaForCausalLM`, and so on.

They have a `model_type` of their own, so that a checkpoint loads as what it is, or not at all. They are made when they
are first needed, and are attributes of this module.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from tokenmix.hf.families import FAMILIES
from tokenmix.mixer import TokenMixer
from tokenmix.models.initialise import initialise_mixer
from tokenmix.models.safe_loading import CODE_FIELDS, SafeLoading
from tokenmix.models.stack import FLOAT32_PATTERNS, present_patterns

PREFIX = "tokenmix_"
_NOTICE = "heads, and tokenmix mixers in the place of some attention: import tokenmix.hf, then load with an Auto class"
_CONFIGS: dict[type[PreTrainedConfig], type[PreTrainedConfig]] = {}  # by the family's own class
_MODELS: dict[type[PreTrainedModel], type[PreTrainedModel]] = {}
_REGISTERED: set[type[PreTrainedConfig]] = set()


class SwappedModel(SafeLoading):
    """What a model whose attention was swapped has beyond its family: it builds, draws and keeps its mixers."""

    _keep_in_fp32_modules_strict = list(FLOAT32_PATTERNS)

    def post_init(self: Any) -> None:
        """Put the mixers in their places before weights are drawn and tied, and names looked up."""
        from tokenmix.hf.swap import install_mixers

        install_mixers(self, self.config.tokenmix)
        super().post_init()
        absent = set(FLOAT32_PATTERNS) - present_patterns(self)
        self._keep_in_fp32_modules_strict = set(self._keep_in_fp32_modules_strict) - absent

    @torch.no_grad()
    def _init_weights(self: Any, module: nn.Module) -> None:
        if isinstance(module, TokenMixer):
            initialise_mixer(module)
        else:
            super()._init_weights(module)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: see `tokenmix.models.initialise.initialise_mixer`."""
        return False

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        """False: states of mixers change their shapes from step to step."""
        return False


class SwappedConfig:
    """What a configuration has beyond its family: the field `tokenmix`, which tells the swapped layers.

    In config.json the number of heads is a sentence that begins with it. The stock class of the family wants an
    integer there, so it fails to load the checkpoint, where it would otherwise draw the missing attention at random.
    """

    def to_diff_dict(self: Any) -> dict[str, Any]:
        """What config.json says; `to_dict`, which others compute with, keeps the number."""
        output: dict[str, Any] = super().to_diff_dict()  # type: ignore[misc]  # the mixin stands before a PreTrainedConfig
        name = _heads_field(type(self))
        if self.tokenmix:
            output[name] = f"{getattr(self, name)} {_NOTICE}"
        return output


def swapped_config_class(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """The configuration class of swapped models of a family."""
    if base in _CONFIGS:
        return _CONFIGS[base]
    heads = _heads_field(base)

    def __post_init__(self: Any, **kwargs: Any) -> None:
        register_models(base)
        given = getattr(self, heads)
        if isinstance(given, str):
            if not re.fullmatch(rf"\d+ {re.escape(_NOTICE)}", given):
                raise ValueError(f"{heads}: expected an integer, found {given!r}")
            setattr(self, heads, int(given.split()[0]))
        base.__post_init__(self, **{name: value for name, value in kwargs.items() if name not in CODE_FIELDS})

    members = {
        "__doc__": f"{base.__name__} of a model with some attention swapped by `tokenmix.hf.swap_mixers`.",
        "__annotations__": {"tokenmix": dict[str, Any] | None, heads: int | str},
        "__post_init__": __post_init__,
        "model_type": PREFIX + base.model_type,
        "tokenmix": None,
        heads: getattr(base, heads),
    }
    made: type[PreTrainedConfig] = strict(_new_class((SwappedConfig, base), members))
    _CONFIGS[base] = made
    return made


def _heads_field(config_class: type[Any]) -> str:
    """What the family calls its number of heads (the encoder's, in a pair)."""
    return str(config_class.attribute_map.get("num_attention_heads", "num_attention_heads"))


def swapped_model_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of swapped models for a class of transformers."""
    if base in _MODELS:
        return _MODELS[base]
    stock_config: Any = base.config_class
    config_class = swapped_config_class(stock_config)
    float32 = [*(base._keep_in_fp32_modules_strict or ()), *SwappedModel._keep_in_fp32_modules_strict]
    members = {
        "__doc__": f"{base.__name__} with some attention swapped by `tokenmix.hf.swap_mixers`.",
        "__annotations__": {"config": config_class},
        "config_class": config_class,
        "_keep_in_fp32_modules_strict": float32,
    }
    _MODELS[base] = _new_class((SwappedModel, base), members)
    return _MODELS[base]


def _new_class(bases: tuple[type, type], members: dict[str, Any]) -> Any:
    """A class, as an attribute of this module, where pickle looks for it."""
    name = f"Tokenmix{bases[1].__name__}"
    made = type(name, bases, {"__module__": __name__, **members})
    setattr(sys.modules[__name__], name, made)
    return made


def change_class(model: PreTrainedModel) -> None:
    """Make a model, in place, one of the swapped class of its class."""
    if not isinstance(model, SwappedModel):
        model.__class__ = swapped_model_class(type(model))
    # transformers finds what a model can record by the name of its class
    dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(model)), type(model)._can_record_outputs)


def register_models(base: type[PreTrainedConfig]) -> None:
    """Register the swapped class of every Auto class of a family: when its configuration is first made."""
    if base in _REGISTERED:
        return
    _REGISTERED.add(base)
    config_class = swapped_config_class(base)
    for name, value in list(vars(modeling_auto).items()):
        auto_class: Any = value
        mapping = getattr(auto_class, "_model_mapping", None)
        if isinstance(auto_class, type) and mapping is not None:
            model_class = mapping.get(base, None)
            # some Auto classes give a class of another family, whose configuration has this one inside
            if getattr(model_class, "config_class", None) is base:
                auto_class.register(config_class, swapped_model_class(model_class), exist_ok=True)  # type: ignore[attr-defined]  # an Auto class
        elif re.fullmatch(r"MODEL_.*MAPPING_NAMES", name) and isinstance(value.get(base.model_type), str):
            # Trainer and pipelines look the names of classes up there
            value[config_class.model_type] = f"Tokenmix{value[base.model_type]}"


def register_configs() -> None:
    """Register the configuration class of every family, so that AutoConfig reads their checkpoints."""
    for kind in FAMILIES:
        config_class = swapped_config_class(CONFIG_MAPPING[kind])
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def __getattr__(name: str) -> Any:
    """A class by its name, for pickle: `TokenmixLlamaForCausalLM`."""
    if name.startswith("Tokenmix"):
        import transformers

        base: Any = getattr(transformers, name.removeprefix("Tokenmix"), None)
        if isinstance(base, type) and issubclass(base, PreTrainedModel):
            return swapped_model_class(base)
        if isinstance(base, type) and issubclass(base, PreTrainedConfig):
            return swapped_config_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
