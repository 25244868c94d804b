"""A stack of any mixers whose other parameters are those of each token's modality, as a Hugging Face model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.cache import take_cache
from tokenmix.models.inputs import call_layout, can_look, check_token_shape, check_tokens, input_shape, refuse_misspelt
from tokenmix.models.mixture_of_transformers.base import MixtureOfTransformersPreTrainedModel
from tokenmix.models.mixture_of_transformers.config import MixtureOfTransformersConfig
from tokenmix.models.mixture_of_transformers.features import FeatureModality
from tokenmix.models.model import MixerModel
from tokenmix.routed.base import token_modality
from tokenmix.stack_state import StackState


class MixtureOfTransformersModel(MixtureOfTransformersPreTrainedModel, MixerModel):
    """Features of text, pictures, speech in one sequence: embeddings, routed layers, routed final norm.

    Everything that a layer does to a token by itself (norms, projections, feed-forward) has parameters for each
    modality; what mixes tokens is one for all, in the order of the sequence:

        h_t = x_t + norm_m(W_O,m mix(W_m x)_t),   y_t = h_t + norm_m(feed_forward_m(h_t)),   m the modality of token t

    Tokens are sorted by modality once a call. With mixers such as Mamba-2, in the place of attention, this is
    Mixture-of-Mamba: convolutions and decays are shared, projections are not.

    Args:
        config: modalities, sizes, mixers and pattern.

    Example:
        >>> config = MixtureOfTransformersConfig(
        ...     hidden_size=32,
        ...     mixers={"a": {"mixer": "attention", "heads": 4, "rope": True}},
        ...     modalities={"text": {"vocab_size": 100}, "image": {"vocab_size": 256}},
        ... )
        >>> MixtureOfTransformersModel(config)(torch.tensor([[5, 7, 101, 300]])).last_hidden_state.shape
        torch.Size([1, 4, 32])

    Source:
        Liang et al. 2024, arXiv 2411.04996; Liang et al. 2025 (Mixture-of-Mamba), arXiv 2501.16295.
    """

    def __init__(self, config: MixtureOfTransformersConfig) -> None:
        super().__init__(config)
        noisy = config.continuous("diffusion")
        self.features = nn.ModuleDict(
            {
                name: FeatureModality(config.specs[name]["input_size"], config.hidden_size, diffusion=name in noisy)
                for name in config.continuous()
            }
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        layout: Layout | None = None,
        past_key_values: Cache | None = None,
        modality_ids: Tensor | None = None,
        features: Tensor | None = None,
        noise_level: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Features of the tokens after the last layer.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache, segment_ids,
                output_hidden_states, layout, past_key_values: as in `MixerModel`.
            modality_ids: (B, L) numbers of modalities; default what the ids tell. Needed with `inputs_embeds`.
            features: (B, L, F) of continuous tokens, read where a token is one, F at least the widest `input_size`.
            noise_level: (B, L) from 0 (clean, the default) to 1, of features of objective "diffusion".

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        layout = call_layout(layout, shape, attention_mask, position_ids, segment_ids, cache)
        layout = self.with_modality(layout, input_ids, modality_ids)
        if input_ids is not None:
            check_tokens("input_ids", input_ids, self.embed_tokens.num_embeddings)
            inputs_embeds = self.read_features(self.embed_tokens(input_ids), layout, features, noise_level)
        elif features is not None:
            raise ValueError("features: expected them with input_ids, found inputs_embeds")
        outputs: BaseModelOutputWithPast = super().forward(
            inputs_embeds=inputs_embeds,
            layout=layout,
            cache=cache,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        return outputs

    def with_modality(self, layout: Layout, input_ids: Tensor | None, modality_ids: Tensor | None = None) -> Layout:
        """The layout with the modality of each token.

        Raises:
            ValueError, TypeError: none told and no ids to tell it, another shape, or a number out of range.
        """
        if modality_ids is None:
            if layout.modality is not None:
                return layout
            if input_ids is None:
                raise ValueError("modality_ids: expected them with inputs_embeds, found None")
            return dataclasses.replace(layout, modality=self.config.modality_of(input_ids))
        check_token_shape("modality_ids", modality_ids)
        if can_look(modality_ids):
            low, high = (int(x) for x in modality_ids.aminmax())
            if low < 0 or high >= len(self.config.specs):
                raise ValueError(f"modality_ids: expected 0 to {len(self.config.specs) - 1}, found {low} to {high}")
        return dataclasses.replace(layout, modality=modality_ids)

    def embed(self, input_ids: Tensor, layout: Layout, state: StackState | None = None) -> Tensor:
        """As `MixerModel.embed`, for a layout with modalities.

        The first token behind others may be one that was drawn, the last of what `tokenmix.models.generate` gave: a
        continuous one has features of 0, as in `generate`.

        Raises:
            ValueError: other continuous tokens, whose features `forward` alone takes.
        """
        size, features = self.config.feature_size, None
        if size and state is not None and state.length > 0:
            self._refuse_missing(layout, first=1)
            features = torch.zeros(*input_ids.shape, size, device=input_ids.device)
        return self.read_features(super().embed(input_ids, layout, state), layout, features)

    def read_features(
        self, x: Tensor, layout: Layout, features: Tensor | None, noise_level: Tensor | None = None
    ) -> Tensor:
        """(B, L, d) embeddings, with the features of continuous tokens added.

        Raises:
            ValueError: features of another shape, given to a model that reads none, or missing where a token is
                continuous (looked for on the CPU alone).
        """
        if features is None:
            self._refuse_missing(layout)
            return x
        self.check_features(x.shape[0], x.shape[1], features, noise_level)
        if noise_level is None:
            noise_level = torch.zeros(x.shape[:2], device=x.device)
        for name, number in self.config.continuous().items():
            here = (token_modality(layout) == number)[..., None]
            module: Any = self.features[name]
            x = x + module.read(features.masked_fill(~here, 0), noise_level) * here
        return x

    def _refuse_missing(self, layout: Layout, first: int = 0) -> None:
        """Without features a continuous token, from a column on, would be read as if all patches were the same."""
        modality = token_modality(layout)
        for name, number in self.config.continuous().items():
            here = modality == number if layout.mask is None else (modality == number) & layout.mask
            here = here[:, first:]
            if can_look(here) and bool(here.any()):
                expected = f"(B, L, F >= {self.config.specs[name]['input_size']})"
                raise ValueError(f"features: expected shape {expected} for the tokens of {name!r}, found None")

    def check_features(
        self, rows: int, length: int, features: Tensor, noise_level: Tensor | None, noise: Tensor | None = None
    ) -> None:
        """Refuse features, levels or noise that do not fit (rows, length) tokens.

        Raises:
            ValueError: another shape, or features for a model that reads none.
        """
        size = self.config.feature_size
        if not size:
            raise ValueError("features: expected none, as no modality of the configuration is continuous, found some")
        if features.dim() != 3 or features.shape[:2] != (rows, length) or features.shape[2] < size:
            expected = (rows, length, f"F >= {size}")
            raise ValueError(f"features: expected shape {expected}, found {tuple(features.shape)}")
        for name, value, shape in (
            ("noise_level", noise_level, (rows, length)),
            ("noise", noise, tuple(features.shape)),
        ):
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, found {tuple(value.shape)}")
