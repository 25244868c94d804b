"""What the models of a Mixture-of-Transformers are to transformers: how routed parameters start."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.initialise import is_loaded
from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig
from tokenmix.routed import RoutedLinear, RoutedNorm


class MixtureOfTransformersPreTrainedModel(MixerPreTrainedModel):
    """Base of `MixtureOfTransformersModel` and of its head: initialisation of routed parameters."""

    config: MixtureOfTransformersConfig
    config_class = MixtureOfTransformersConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Routed layers outside the mixers start as others do, each modality apart."""
        if isinstance(module, (RoutedLinear, RoutedNorm)):
            if not is_loaded(module.weight):
                _start(module, self.config.initializer_range)
            if module.bias is not None and not is_loaded(module.bias):
                module.bias.zero_()
            return
        super()._init_weights(module)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: ids say the modality, so that a vocabulary grows in the configuration."""
        if not args and not kwargs:
            return self.get_input_embeddings()
        raise ValueError(
            "resize_token_embeddings: expected the vocabulary of the configuration, whose ids tell the modality; for "
            "another, build a model with other `modalities`"
        )


def _start(module: RoutedLinear | RoutedNorm, std: Any) -> None:
    if isinstance(module, RoutedNorm):
        module.weight.fill_(1.0)
    else:
        module.weight.normal_(std=std)
