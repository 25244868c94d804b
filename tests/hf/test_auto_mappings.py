"""Swapped classes leave the Auto classes whole: they can still be listed, as transformers does in its own messages."""

import pytest
from transformers import AutoModelForCausalLM, AutoModelForCTC, Wav2Vec2Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tokenmix.hf.classes import register_models
from tokenmix.models import FITConfig


def test_auto_classes_can_be_listed_after_a_family_was_swapped() -> None:
    register_models(Wav2Vec2Config)
    assert not any(kind.startswith("tokenmix_") for kind in CONFIG_MAPPING_NAMES)
    assert len(list(AutoModelForCTC._model_mapping)) > 5
    assert any(config.__name__ == "TokenmixWav2Vec2Config" for config in AutoModelForCTC._model_mapping)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForCTC.from_config(FITConfig(hidden_size=16, latent_size=16))
    assert len(list(AutoModelForCausalLM._model_mapping)) > 50
