"""Make FIT known to transformers."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

from tokenmix.models.fit.causal_lm import FITForCausalLM
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.model import FITModel


def register_fit() -> None:
    """Register the configuration and the models with the Auto classes, and by name for Trainer and the pipelines.

    Example:
        >>> register_fit()
        >>> type(AutoConfig.for_model("fit", hidden_size=32)).__name__
        'FITConfig'
    """
    AutoConfig.register(FITConfig.model_type, FITConfig, exist_ok=True)
    AutoModel.register(FITConfig, FITModel, exist_ok=True)
    AutoModelForCausalLM.register(FITConfig, FITForCausalLM, exist_ok=True)
    modeling_auto.MODEL_MAPPING_NAMES[FITConfig.model_type] = FITModel.__name__
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[FITConfig.model_type] = FITForCausalLM.__name__
