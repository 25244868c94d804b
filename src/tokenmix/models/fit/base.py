"""What a FIT is to transformers: how its parts start."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.exchange import NormedCrossAttention
from tokenmix.models.fit.stages import FITStage
from tokenmix.models.initialise import rescale_weight


class FITPreTrainedModel(MixerPreTrainedModel):
    """Base of `FITModel` and `FITForCausalLM`."""

    config: Any
    config_class: Any = FITConfig

    def get_input_embeddings(self) -> nn.Module:
        """The embedding; of a model of features, the layer that reads them."""
        base: Any = self.base_model
        module: nn.Module = base.embed_tokens if self.config.input_size is None else base.stem
        return module

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        setattr(self.base_model, "embed_tokens" if self.config.input_size is None else "stem", value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the base does; the last projection of a cross-attention starts smaller, as that of any branch."""
        super()._init_weights(module)
        if isinstance(module, NormedCrossAttention) and self.config.rescale_residual:
            rescale_weight(module.o_proj, self._branches(latent=self._is_latent(module)) ** -0.5)

    def _branches_beside(self, block: nn.Module) -> int:
        """Residual branches that are added to what a block adds to: tokens, or latents."""
        return self._branches(latent=self._is_latent(block))

    def _stages(self) -> list[FITStage]:
        return [module for module in self.modules() if isinstance(module, FITStage)]

    def _is_latent(self, part: nn.Module) -> bool:
        """Whether a block or a cross-attention adds to latents."""
        exchanges = [stage.exchange for stage in self._stages() if stage.exchange is not None]
        parts = (
            inner for exchange in exchanges for top in (exchange.gather, exchange.process) for inner in top.modules()
        )
        return any(inner is part for inner in parts)

    def _branches(self, *, latent: bool) -> int:
        count = 0
        for stage in self._stages():
            stack = stage.latent if latent else stage.local
            blocks: Any = [] if stack is None else stack.layers
            count += sum(1 if block.feed_forward is None else 2 for block in blocks)
            count += int(stage.exchange is not None if latent else stage.exchanges)
        return max(count, 1)
