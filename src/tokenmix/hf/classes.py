"""Classes of models whose attention was swapped: `TokenmixLlamaForCausalLM` for `LlamaForCausalLM`, and so on.

They have a `model_type` of their own, so that a checkpoint loads as what it is, or not at all. They are made when they
are first needed, and are attributes of this module.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
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
from tokenmix.models.safe_loading import SafeLoading

PREFIX = "tokenmix_"
_KEPT_LAYER_TYPES = "tokenmix_layer_types"  # what `layer_types` was, in config.json


class SwappedModel(SafeLoading):
    """What a model whose attention was swapped has beyond its family: it builds, draws and keeps its mixers."""

    _keep_in_fp32_modules_strict = [r"\.A_log$", r"\.D$", r"\.dt_bias$"]

    def post_init(self: Any) -> None:
        """Put the mixers in their places before weights are drawn and tied, and names looked up."""
        from tokenmix.hf.swap import install_mixers

        install_mixers(self, self.config.tokenmix)
        super().post_init()  # type: ignore[misc]  # the mixin stands before a PreTrainedModel

    @torch.no_grad()
    def _init_weights(self: Any, module: nn.Module) -> None:
        if isinstance(module, TokenMixer):
            initialise_mixer(module)
        else:
            super()._init_weights(module)  # type: ignore[misc]  # see post_init

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: see `tokenmix.models.initialise.initialise_mixer`."""
        return False

    def _valid_auto_compile_criteria(self, *args: Any, **kwargs: Any) -> bool:
        """False: states of mixers change their shapes from step to step."""
        return False


class SwappedConfig:
    """What a configuration has beyond its family: the field `tokenmix`, which tells the swapped layers.

    In config.json `layer_types` names them too, with names that transformers refuses: the stock class of the family
    then fails to load the checkpoint, where it would draw the missing attention at random.
    """

    def to_dict(self: Any) -> dict[str, Any]:
        """As JSON."""
        output: dict[str, Any] = super().to_dict()  # type: ignore[misc]  # the mixin stands before a PreTrainedConfig
        swapped = (output.get("tokenmix") or {}).get("layers", {})
        if swapped:
            output[_KEPT_LAYER_TYPES] = output.get("layer_types")
            output["layer_types"] = [f"tokenmix:{key}:{spec['mixer']}" for key, spec in swapped.items()]
        return output

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """From JSON."""
        values = dict(config_dict)
        if _KEPT_LAYER_TYPES in values:
            kept = values.pop(_KEPT_LAYER_TYPES)
            values.pop("layer_types", None)
            if kept is not None:
                values["layer_types"] = kept
        return super().from_dict(values, **kwargs)  # type: ignore[misc]  # see to_dict


@functools.cache
def swapped_config_class(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """The configuration class of swapped models of a family."""

    def __post_init__(self: Any, **kwargs: Any) -> None:
        register_models(base)
        base.__post_init__(self, **kwargs)

    members = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} of a model with some attention swapped by `tokenmix.hf.swap_mixers`.",
        "__annotations__": {"tokenmix": dict[str, Any] | None},
        "__post_init__": __post_init__,
        "model_type": PREFIX + base.model_type,
        "tokenmix": None,
    }
    name = f"Tokenmix{base.__name__}"
    made = strict(type(name, (SwappedConfig, base), members))
    setattr(sys.modules[__name__], name, made)
    return made  # type: ignore[no-any-return]  # strict is untyped


@functools.cache
def swapped_model_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The class of swapped models for a class of transformers."""
    name = f"Tokenmix{base.__name__}"
    config_class = swapped_config_class(base.config_class)  # type: ignore[arg-type]  # every model class has one
    members = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with some attention swapped by `tokenmix.hf.swap_mixers`.",
        "__annotations__": {"config": config_class},
        "config_class": config_class,
        "_keep_in_fp32_modules_strict": [
            *(base._keep_in_fp32_modules_strict or ()),
            *SwappedModel._keep_in_fp32_modules_strict,
        ],
    }
    made = type(name, (SwappedModel, base), members)
    setattr(sys.modules[__name__], name, made)
    return made


def change_class(model: PreTrainedModel) -> None:
    """Make a model, in place, one of the swapped class of its class."""
    if not isinstance(model, SwappedModel):
        model.__class__ = swapped_model_class(type(model))
    # transformers finds what a model can record by the name of its class
    dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(model)), type(model)._can_record_outputs)


@functools.cache
def register_models(base: type[PreTrainedConfig]) -> None:
    """Register the swapped class of every Auto class of a family: when its configuration is first made."""
    config_class = swapped_config_class(base)
    for auto_class in vars(modeling_auto).values():
        mapping = getattr(auto_class, "_model_mapping", None)
        if mapping is None or not isinstance(auto_class, type):
            continue
        model_class = mapping.get(base, None)
        # some Auto classes give a class of another family, whose own configuration has this one inside
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel) and model_class.config_class is base:
            auto_class.register(config_class, swapped_model_class(model_class), exist_ok=True)
    names: Mapping[str, Any] = {
        key: value for key, value in vars(modeling_auto).items() if key.endswith("_MAPPING_NAMES")
    }
    for mapping_names in names.values():  # Trainer and pipelines look class names up there
        name = mapping_names.get(base.model_type)
        if isinstance(name, str):
            mapping_names[config_class.model_type] = f"Tokenmix{name}"


def register_configs() -> None:
    """Register the configuration class of every family, so that AutoConfig reads their checkpoints."""
    for kind in FAMILIES:
        config_class = swapped_config_class(CONFIG_MAPPING[kind])
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def __getattr__(name: str) -> Any:
    """A class by its name, for pickle: `TokenmixLlamaForCausalLM`."""
    if name.startswith("Tokenmix"):
        import transformers

        base = getattr(transformers, name.removeprefix("Tokenmix"), None)
        if isinstance(base, type) and issubclass(base, PreTrainedModel):
            return swapped_model_class(base)
        if isinstance(base, type) and issubclass(base, PreTrainedConfig):
            return swapped_config_class(base)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
