"""Mixture-of-Transformers: text, pictures and speech in one sequence, parameters for each."""

from tokenmix.models.mixture_of_transformers.causal_lm import MixtureOfTransformersForCausalLM
from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig
from tokenmix.models.mixture_of_transformers.grammar import ModalityGrammar
from tokenmix.models.mixture_of_transformers.model import MixtureOfTransformersModel

__all__ = [
    "MixtureOfTransformersConfig",
    "MixtureOfTransformersForCausalLM",
    "MixtureOfTransformersModel",
    "ModalityGrammar",
]
