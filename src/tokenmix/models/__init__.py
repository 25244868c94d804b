"""Hugging Face models whose layers are any mixers; importing this registers them with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tokenmix.models.cache import MixerCache
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.checkpoints import from_mamba_ssm, from_transformers, rename_mamba_ssm
from tokenmix.models.config import MixerConfig

AutoConfig.register(MixerConfig.model_type, MixerConfig, exist_ok=True)
AutoModelForCausalLM.register(MixerConfig, MixerForCausalLM, exist_ok=True)
# Trainer shifts labels for label smoothing only for the class names that it finds here
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MixerConfig.model_type] = MixerForCausalLM.__name__

__all__ = [
    "MixerCache",
    "MixerConfig",
    "MixerForCausalLM",
    "from_mamba_ssm",
    "from_transformers",
    "rename_mamba_ssm",
]
