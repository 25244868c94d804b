"""What every model of ours is to transformers: how it starts, how it loads, what stays in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenmix.blocks import MixerBlock, Stack
from tokenmix.mixer import TokenMixer
from tokenmix.models.config import MixerConfig
from tokenmix.models.initialise import initialise_mixer, rescale_residual
from tokenmix.models.safe_loading import SafeLoading
from tokenmix.models.stack import FLOAT32_PATTERNS, present_patterns


class MixerPreTrainedModel(SafeLoading, PreTrainedModel):
    """Base of `MixerModel` and of its heads: initialisation, safe loading, and what is kept in float32."""

    config: MixerConfig
    config_class = MixerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RecomputedBlock"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _keep_in_fp32_modules_strict = list(FLOAT32_PATTERNS)

    def post_init(self) -> None:
        """As transformers', and keep in float32 only what is there."""
        super().post_init()
        self._keep_in_fp32_modules_strict = present_patterns(self)  # type: ignore[assignment]  # transformers' own is a set

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: transformers then asks `_init_weights` of mixers without parameters of their own too.

        See `tokenmix.models.initialise.initialise_mixer`.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Mixers draw their parameters as published, over what the generic rule drew for their parts."""
        if isinstance(module, TokenMixer):
            initialise_mixer(module)
            return
        super()._init_weights(module)
        if isinstance(module, MixerBlock) and self.config.rescale_residual:
            rescale_residual(module, self._branches_beside(module) ** -0.5)

    def _branches_beside(self, block: nn.Module) -> int:
        """Residual branches of the stack that a block is in."""
        for stack in self.modules():
            if isinstance(stack, Stack) and any(layer is block for layer in stack.layers):
                layers: Any = stack.layers
                return sum(1 if layer.feed_forward is None else 2 for layer in layers)
        return 1 if getattr(block, "feed_forward", None) is None else 2
