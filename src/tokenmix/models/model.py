"""Embeddings, a stack of any mixers, and the final norm, as a Hugging Face model without a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.blocks import StackState
from tokenmix.layout import Layout
from tokenmix.models.base import MixerPreTrainedModel
from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache, advance_stack, prepare_stack, take_cache
from tokenmix.models.config import MixerConfig
from tokenmix.models.inputs import call_layout, check_tokens, chosen_states, input_shape, refuse_misspelt, token_places


class MixerModel(MixerPreTrainedModel):
    """Features of tokens: embedding, a stack of any mixers, final norm.

    The heads share it: each keeps it under the name `model`, so a checkpoint of one loads into another, and into
    `AutoModel`.

    Args:
        config: sizes, mixers and pattern. The mixers may be causal or not.

    Example:
        >>> import torch
        >>> model = MixerModel(MixerConfig(hidden_size=32, mixers={"m": {"mixer": "mamba"}}, pattern="mm"))
        >>> model(torch.tensor([[72, 105]])).last_hidden_state.shape
        torch.Size([1, 2, 32])
    """

    def __init__(self, config: MixerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.max_position_embeddings is not None:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.stack = config.build_stack()
        self.post_init()

    @property
    def is_causal(self) -> bool:
        """Whether no layer reads the future, so that tokens can be read in chunks, with a cache."""
        return all(mixer.is_causal for mixer in self.stack.mixers)

    @property
    def reads_chunks(self) -> bool:
        """Whether every layer can go on from a cache."""
        return all(mixer.step == 1 for mixer in self.stack.mixers)

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
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Features of the tokens after the last layer.

        Args:
            input_ids: (B, L) tokens.
            attention_mask: (B, L) or, with a cache, (B, tokens read + L): 1 for real tokens, 0 for padding,
                which may stand anywhere.
            position_ids: (B, L) or (1, L) places; default the count of real tokens. Without a mask and a
                cache, places that do not go up by one mark the documents packed in a row.
            cache: a cache to continue, of any kind of transformers'; it is advanced in place.
            inputs_embeds: (B, L, hidden_size) features instead of `input_ids`.
            use_cache: return a cache; default the config's choice, but not in training or for mixers that read
                the future.
            segment_ids: the document that each token of a packed row belongs to; shape as `attention_mask`.
            output_hidden_states: also return the features before and after each layer; an index, or a list of them, for
                some, with None in the place of others (0 and [] ask for none, as in transformers).
            layout: where the tokens live, all told (grids, coordinates and edges too), instead of
                `attention_mask`, `position_ids` and `segment_ids`.
            past_key_values: the name of `cache` before transformers 5.24.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        chosen = chosen_states(output_hidden_states, len(self.stack.layers) + 1)
        shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
        layout = call_layout(layout, shape, attention_mask, position_ids, segment_ids, cache)
        if input_ids is not None:
            check_tokens("input_ids", input_ids, self.embed_tokens.num_embeddings)
            inputs_embeds = self.embed_tokens(input_ids)
        x: Any = inputs_embeds
        cache = self._cache(cache, use_cache)
        state = None if cache is None else prepare_stack(cache, self.stack, like=x)
        x = self._add_places(x, layout, state)
        states: list[Tensor] | None = None if chosen is None else []
        x = self.stack(x, layout, state, hidden_states=states)
        if cache is not None:
            advance_stack(cache, x.shape[1], layout.mask)
        kept: dict[str, Any] = {CACHE_ARGUMENT: cache}
        if states is not None and chosen is not None:
            kept["hidden_states"] = tuple(s if wanted else None for s, wanted in zip(states, chosen, strict=True))
        return BaseModelOutputWithPast(last_hidden_state=x, **kept)

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache to advance, where there is one."""
        if cache is None and use_cache is None:
            use_cache = self.config.use_cache and not self.training and self.reads_chunks
        if cache is None and not use_cache:
            return None
        for letter, mixer in zip(self.stack.letters, self.stack.mixers, strict=True):
            if mixer.step != 1:
                raise ValueError(
                    f"{'use_cache' if cache is None else CACHE_ARGUMENT}: expected none, found one for mixer "
                    f"{letter!r}: {self.config.mixers[letter]}, which reads the future and cannot go on from a cache"
                )
        return MixerCache() if cache is None else cache

    def embed(self, input_ids: Tensor, layout: Layout, state: StackState | None = None) -> Tensor:
        """(B, L, hidden_size): what the first layer reads of (B, L) tokens that follow those in the state."""
        return self._add_places(self.embed_tokens(input_ids), layout, state)

    def _add_places(self, x: Tensor, layout: Layout, state: StackState | None) -> Tensor:
        return x + self._place_features(layout, x.shape[1], state) if self.config.position == "learned" else x

    def _place_features(self, layout: Layout, length: int, state: StackState | None) -> Tensor:
        """(B or 1, L, hidden_size) learned embeddings of the tokens' places in their documents."""
        weight = self.embed_positions.weight
        places = token_places(layout, length, None if state is None else state.states[0], weight.device)
        last = int(places.max())
        if last >= weight.shape[0]:
            raise ValueError(
                f"input_ids: expected at most max_position_embeddings={weight.shape[0]} tokens in a document, "
                f"found {last + 1}"
            )
        features: Tensor = self.embed_positions(places)
        return features
