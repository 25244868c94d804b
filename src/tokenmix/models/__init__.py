"""Hugging Face models whose layers are any mixers; importing this registers them with the Auto classes."""

from tokenmix.models.block_transformer import (
    BlockTransformerConfig,
    BlockTransformerForCausalLM,
    BlockTransformerModel,
)
from tokenmix.models.cache import MixerCache
from tokenmix.models.causal_lm import MixerForCausalLM
from tokenmix.models.checkpoints import from_mamba_ssm, from_transformers, rename_mamba_ssm
from tokenmix.models.config import MixerConfig
from tokenmix.models.fit import FITConfig, FITForCausalLM, FITModel
from tokenmix.models.generation import generate
from tokenmix.models.hybrid_graph import HybridGraphConfig, HybridGraphModel
from tokenmix.models.large_gt import LargeGTConfig, LargeGTForNodeClassification, LargeGTModel
from tokenmix.models.masked_lm import MixerForMaskedLM
from tokenmix.models.mixture_of_transformers import (
    MixtureOfTransformersConfig,
    MixtureOfTransformersForCausalLM,
    MixtureOfTransformersModel,
    ModalityGrammar,
)
from tokenmix.models.model import MixerModel
from tokenmix.models.question_answering import MixerForQuestionAnswering
from tokenmix.models.register import register_models
from tokenmix.models.safe_loading import SafeLoading
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

register_models()

__all__ = [
    "BlockTransformerConfig",
    "BlockTransformerForCausalLM",
    "BlockTransformerModel",
    "FITConfig",
    "FITForCausalLM",
    "FITModel",
    "HybridGraphConfig",
    "HybridGraphModel",
    "ImageTokeniser",
    "ImageTokeniserConfig",
    "LargeGTConfig",
    "LargeGTForNodeClassification",
    "LargeGTModel",
    "MixerCache",
    "MixerConfig",
    "MixerForCTC",
    "MixerForCausalLM",
    "MixerForMaskedLM",
    "MixerForQuestionAnswering",
    "MixerForSequenceClassification",
    "MixerForSpeechSeparation",
    "MixerForTokenClassification",
    "MixerModel",
    "MixtureOfTransformersConfig",
    "MixtureOfTransformersForCausalLM",
    "MixtureOfTransformersModel",
    "ModalityGrammar",
    "SafeLoading",
    "SambaASRConfig",
    "SambaASRForConditionalGeneration",
    "SeparatorConfig",
    "SpeechConfig",
    "SpeechModel",
    "SpeechTokeniser",
    "SpeechTokeniserConfig",
    "from_mamba_ssm",
    "from_transformers",
    "generate",
    "rename_mamba_ssm",
]
