"""What a Block Transformer is to transformers: how its parts start, and which tables grow with the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.embedder import ProjectionEmbedder
from tokenmix.models.block_transformer.token_decoder import TokenDecoder
from tokenmix.models.initialise import is_loaded


class BlockTransformerPreTrainedModel(MixerPreTrainedModel):
    """Base of `BlockTransformerModel` and `BlockTransformerForCausalLM`."""

    config: Any
    config_class: Any = BlockTransformerConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Bridge and projection as published, N(0, 1 / inputs) without bias; all else as the base does."""
        super()._init_weights(module)
        if isinstance(module, TokenDecoder):
            _draw(module.bridge.weight, module.bridge.in_features**-0.5)
            if module.start is not None:
                _draw(module.start, self.config.initializer_range)
        if isinstance(module, ProjectionEmbedder):
            _draw(module.projection.weight, (self.config.hidden_size * self.config.block_length) ** -0.5)

    def get_input_embeddings(self) -> nn.Module:
        """The token decoder's embedding; the embedder has one of its own."""
        blocks: Any = self.base_model.blocks
        embeddings: nn.Module = blocks.scatter.embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        blocks: Any = self.base_model.blocks
        blocks.scatter.embed_tokens = value

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """As transformers', for the embedder's table too."""
        resized: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        blocks: Any = self.base_model.blocks
        embedder = blocks.gather
        if embedder.embed_tokens.num_embeddings != resized.num_embeddings:
            mean = kwargs.get("mean_resizing", True)
            embedder.embed_tokens = self._get_resized_embeddings(
                embedder.embed_tokens, resized.num_embeddings, mean_resizing=mean
            )
        return resized


def _draw(parameter: Tensor, std: float) -> None:
    if not is_loaded(parameter):
        parameter.normal_(0.0, std)
