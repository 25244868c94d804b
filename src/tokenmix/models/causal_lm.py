"""A language model whose layers are any causal mixers, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.cache import CACHE_ARGUMENT
from tokenmix.models.cached_generation import CachedGeneration
from tokenmix.models.config import MixerConfig
from tokenmix.models.head import MixerHead
from tokenmix.models.inputs import input_shape, last_tokens, token_layout, token_places
from tokenmix.models.labels import check_next_labels, next_token_loss, predictable
from tokenmix.stack_state import StackState


class MixerForCausalLM(CachedGeneration, MixerHead, GenerationMixin):
    """Predicts the next token: a `MixerModel` of causal mixers, and a linear layer over the vocabulary.

    It trains with `Trainer`, runs with `generate` (greedy, sampling, beams, left-padded batches; assisted
    decoding where every mixer keeps all its tokens), and is saved and loaded as any transformers model.
    `tokenmix.models.generate` gives the same tokens with less between the steps.

    Args:
        config: sizes, mixers and pattern.

    Raises:
        ValueError: a mixer in the pattern that is not causal.

    Example:
        >>> model = MixerForCausalLM(MixerConfig(hidden_size=32, mixers={"m": {"mixer": "mamba"}}, pattern="mm"))
        >>> model(torch.tensor([[72, 105]])).logits.shape
        torch.Size([1, 2, 256])
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self._require_causality(True, "a language model")
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        memory = self.stack.init_state(1, device="meta")
        self._is_stateful = any(state.tensors for state in memory.states)  # transformers then refuses assisted decoding
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each token.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, segment_ids, output_hidden_states,
                past_key_values: as in `MixerModel`.
            labels: (B, L) tokens, -100 where there is nothing to predict; shifted here. The first token of a
                document, padding, and the token after padding are not predicted.
            use_cache: return a cache; default the config's choice, but not in training or with labels.
            logits_to_keep: predict after the last n tokens only (0: all), or after the tokens at these indices.
            kwargs: `num_items_in_batch`, Trainer's count of the labels of an update, divides the summed loss, without
                those labels that have no term.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        if labels is not None:
            shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
            check_next_labels(labels, shape, self.config.vocab_size, logits_to_keep)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        read = self._read(
            kwargs,
            input_ids,
            inputs_embeds,
            attention_mask,
            position_ids,
            segment_ids,
            output_hidden_states,
            cache=cache,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        logits = self.lm_head(last_tokens(read.x, logits_to_keep))
        loss = None
        if labels is not None:
            loss = next_token_loss(self, logits, labels, predictable(labels, read.layout), kwargs)
        kept: dict[str, Any] = {CACHE_ARGUMENT: read.cache}
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=read.hidden_states,
            **kept,
        )

    def init_state(self, batch_size: int, *, dtype: torch.dtype | None = None) -> StackState:
        """An empty memory for `batch_size` rows, for `read_last` and `tokenmix.models.generate`."""
        dtype = self.model.embed_tokens.weight.dtype if dtype is None else dtype
        return self.stack.init_state(batch_size, device=self.device, dtype=dtype)

    def read_last(self, input_ids: Tensor, layout: Layout, state: StackState) -> Tensor:
        """(B, hidden_size) features that predict the token after (B, L) tokens, which advance the state."""
        return self.stack(self.model.embed(input_ids, layout, state), layout, state, last_only=True)[:, 0]

    def state_bytes(self, length: int) -> int:
        """Bytes that a state keeps of one row after `length` tokens."""
        return sum(mixer.state_numel(length) for mixer in self.stack.mixers) * self.dtype.itemsize

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """In a packed prompt, places count from the start of each document."""
        segment_ids = model_kwargs.get("segment_ids")
        if segment_ids is None:
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        shape = (segment_ids.shape[0], segment_ids.shape[1])
        layout = token_layout(shape, model_kwargs.get("attention_mask"), None, segment_ids, None)
        return token_places(layout, shape[1], None, segment_ids.device)

    def _update_model_kwargs_for_generation(
        self, outputs: Any, model_kwargs: dict[str, Any], is_encoder_decoder: bool = False, num_new_tokens: int = 1
    ) -> dict[str, Any]:
        """New tokens belong to the last document of their row."""
        kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder, num_new_tokens)
        if kwargs.get("segment_ids") is not None:
            last = kwargs["segment_ids"][:, -1:].expand(-1, num_new_tokens)
            kwargs["segment_ids"] = torch.cat([kwargs["segment_ids"], last], dim=1)
        return kwargs
