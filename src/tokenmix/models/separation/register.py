"""Make the separator known to transformers."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, AutoModel
from transformers.models.auto import modeling_auto

from tokenmix.models.separation.config import SeparatorConfig
from tokenmix.models.separation.model import MixerForSpeechSeparation


def register_separator() -> None:
    """Register the configuration and the model with the Auto classes.

    Example:
        >>> register_separator()
        >>> config = SeparatorConfig(encoder_size=8, hidden_size=8, mixers={"g": {"mixer": "gam"}}, pattern="g")
        >>> type(AutoModel.from_config(config)).__name__
        'MixerForSpeechSeparation'
    """
    AutoConfig.register(SeparatorConfig.model_type, SeparatorConfig, exist_ok=True)
    AutoModel.register(SeparatorConfig, MixerForSpeechSeparation, exist_ok=True)
    names: Any = modeling_auto.MODEL_MAPPING_NAMES
    names[SeparatorConfig.model_type] = MixerForSpeechSeparation.__name__
