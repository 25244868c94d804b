"""Make our models known to transformers: to the Auto classes, and by name to Trainer and the pipelines."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto

from tokenmix.models.block_transformer import (
    BlockTransformerConfig,
    BlockTransformerForCausalLM,
    BlockTransformerModel,
)
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.config import MixerConfig
from tokenmix.models.fit import FITConfig, FITForCausalLM, FITModel
from tokenmix.models.hybrid_graph import HybridGraphConfig, HybridGraphModel
from tokenmix.models.large_gt import LargeGTConfig, LargeGTModel
from tokenmix.models.masked_lm import MixerForMaskedLM
from tokenmix.models.mixture_of_transformers import (
    MixtureOfTransformersConfig,
    MixtureOfTransformersForCausalLM,
    MixtureOfTransformersModel,
)
from tokenmix.models.model import MixerModel
from tokenmix.models.question_answering import MixerForQuestionAnswering
from tokenmix.models.separation import MixerForSpeechSeparation, SeparatorConfig
from tokenmix.models.sequence_classification import MixerForSequenceClassification
from tokenmix.models.speech import (
    MixerForCTC,
    SambaASRConfig,
    SambaASRForConditionalGeneration,
    SpeechConfig,
    SpeechModel,
)
from tokenmix.models.token_classification import MixerForTokenClassification
from tokenmix.models.tokenisers import ImageTokeniser, ImageTokeniserConfig, SpeechTokeniser, SpeechTokeniserConfig

# the Auto class of each model, and the dictionary in which Trainer (label smoothing), the pipelines and transformers'
# tests look the name of its class up: registration alone does not fill it
_Rows = tuple[tuple[Any, type[PreTrainedModel], dict[str, Any]], ...]
_MODELS: _Rows = (
    (AutoModel, MixerModel, modeling_auto.MODEL_MAPPING_NAMES),
    (AutoModelForCausalLM, MixerForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    (AutoModelForMaskedLM, MixerForMaskedLM, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    (
        AutoModelForSequenceClassification,
        MixerForSequenceClassification,
        modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ),
    (
        AutoModelForTokenClassification,
        MixerForTokenClassification,
        modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    ),
    (
        AutoModelForQuestionAnswering,
        MixerForQuestionAnswering,
        modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    ),
)


_BLOCK_MODELS: _Rows = (
    (AutoModel, BlockTransformerModel, modeling_auto.MODEL_MAPPING_NAMES),
    (AutoModelForCausalLM, BlockTransformerForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
)
_FIT_MODELS: _Rows = (
    (AutoModel, FITModel, modeling_auto.MODEL_MAPPING_NAMES),
    (AutoModelForCausalLM, FITForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
)
_MIXTURES: _Rows = (
    (AutoModel, MixtureOfTransformersModel, modeling_auto.MODEL_MAPPING_NAMES),
    (AutoModelForCausalLM, MixtureOfTransformersForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
)
_SPEECH_MODELS: _Rows = (
    (AutoModel, SpeechModel, modeling_auto.MODEL_MAPPING_NAMES),
    (AutoModelForCTC, MixerForCTC, modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES),
)
_SAMBA_MODELS: _Rows = (
    (
        AutoModelForSpeechSeq2Seq,
        SambaASRForConditionalGeneration,
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    ),
)
_SEPARATORS: _Rows = ((AutoModel, MixerForSpeechSeparation, modeling_auto.MODEL_MAPPING_NAMES),)
_IMAGE_TOKENISERS: _Rows = ((AutoModel, ImageTokeniser, modeling_auto.MODEL_MAPPING_NAMES),)
_SPEECH_TOKENISERS: _Rows = ((AutoModel, SpeechTokeniser, modeling_auto.MODEL_MAPPING_NAMES),)
_LARGE_GT: _Rows = ((AutoModel, LargeGTModel, modeling_auto.MODEL_MAPPING_NAMES),)
_HYBRID_GRAPHS: _Rows = ((AutoModel, HybridGraphModel, modeling_auto.MODEL_MAPPING_NAMES),)
_FAMILIES: tuple[tuple[Any, _Rows], ...] = (
    (MixerConfig, _MODELS),
    (BlockTransformerConfig, _BLOCK_MODELS),
    (FITConfig, _FIT_MODELS),
    (MixtureOfTransformersConfig, _MIXTURES),
    (SpeechConfig, _SPEECH_MODELS),
    (SambaASRConfig, _SAMBA_MODELS),
    (SeparatorConfig, _SEPARATORS),
    (HybridGraphConfig, _HYBRID_GRAPHS),
    (LargeGTConfig, _LARGE_GT),
    (ImageTokeniserConfig, _IMAGE_TOKENISERS),
    (SpeechTokeniserConfig, _SPEECH_TOKENISERS),
)


def register_models() -> None:
    """Register the configurations, the models and their heads; `import tokenmix.models` does it."""
    for config, models in _FAMILIES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        for auto, model, names in models:
            auto.register(config, model, exist_ok=True)
            names[config.model_type] = model.__name__
