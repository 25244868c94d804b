"""What a Block Transformer is to transformers: how its parts start, and which tables grow with the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenmix.mixer import TokenMixer
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.embedder import ProjectionEmbedder
from tokenmix.models.block_transformer.token_decoder import TokenDecoder
from tokenmix.models.initialise import is_loaded, rescale_weight


class BlockTransformerPreTrainedModel(MixerPreTrainedModel):
    """Base of `BlockTransformerModel` and `BlockTransformerForCausalLM`."""

    config: Any
    config_class: Any = BlockTransformerConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Bridge and projection as published, N(0, 1 / inputs) without bias; all else as the base does."""
        if not isinstance(module, TokenMixer) or self.config.initialize_mixers:
            super()._init_weights(module)
        if isinstance(module, TokenDecoder):
            _draw(module.bridge.weight, module.bridge.in_features**-0.5)
            if module.start is not None:
                _draw(module.start, self.config.initializer_range)
            if self.config.rescale_residual:
                crosses: Any = module.crosses
                for cross in crosses:
                    rescale_weight(cross.o_proj, self._branches_beside(module.stack.layers[0]) ** -0.5)
        if isinstance(module, ProjectionEmbedder):
            _draw(module.projection.weight, (self.config.hidden_size * self.config.block_length) ** -0.5)

    def _branches_beside(self, block: nn.Module) -> int:
        """With those of the cross-attentions, which stand beside the token decoder's layers."""
        decoder: Any = self.base_model.blocks.scatter
        crosses = len(decoder.crosses) if any(layer is block for layer in decoder.stack.layers) else 0
        return super()._branches_beside(block) + crosses

    def enable_input_require_grads(self) -> None:
        """As transformers', for the embedder's table too (adapters under reentrant checkpointing)."""
        super().enable_input_require_grads()
        blocks: Any = self.base_model.blocks
        self._embedder_hook = blocks.gather.embed_tokens.register_forward_hook(_require_grad)

    def disable_input_require_grads(self) -> None:
        """See `enable_input_require_grads`."""
        super().disable_input_require_grads()
        self._embedder_hook.remove()

    def get_input_embeddings(self) -> nn.Module:
        """The token decoder's embedding; the embedder has one of its own."""
        blocks: Any = self.base_model.blocks
        embeddings: nn.Module = blocks.scatter.embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        blocks: Any = self.base_model.blocks
        blocks.scatter.embed_tokens = value

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As transformers', for the embedder's table too."""
        resized: nn.Embedding = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        blocks: Any = self.base_model.blocks
        embedder = blocks.gather
        if embedder.embed_tokens.num_embeddings != resized.num_embeddings:
            embedder.embed_tokens = self._get_resized_embeddings(
                embedder.embed_tokens, resized.num_embeddings, mean_resizing=mean_resizing
            )
        return resized


def _require_grad(*call: Any) -> None:
    """A hook: of a module, its inputs, and its output."""
    call[-1].requires_grad_(True)


def _draw(parameter: Tensor, std: float) -> None:
    if not is_loaded(parameter):
        parameter.normal_(0.0, std)
