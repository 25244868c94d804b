"""FIT as a language model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout
from tokenmix.models.cache import CACHE_ARGUMENT, take_cache
from tokenmix.models.cached_generation import CachedGeneration
from tokenmix.models.fit.base import FITPreTrainedModel
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.model import FITModel
from tokenmix.models.fit.state import FITState
from tokenmix.models.inputs import last_tokens, refuse_misspelt, token_layout
from tokenmix.models.labels import check_next_labels, next_token_loss, predictable


class FITForCausalLM(CachedGeneration, FITPreTrainedModel, GenerationMixin):
    """Predicts the next token: a causal `FITModel`, and a linear layer over the vocabulary (the paper's FIT-AR).

    It trains with `Trainer`, runs with `generate` (greedy, sampling, beams, left-padded batches), and is saved and
    loaded as any transformers model. A cache holds the states of the local layers in the present group, that group's
    tokens, and the states of the global layers over the latents of the groups behind, which are made when a group is
    whole; so memory grows with latents, not with tokens.

    Nobody reads the latents after the last stage, so its global layers, if the configuration has any, and the latents'
    final norm are not built: every parameter gets a gradient, but for the rows of the table of latents that belong to
    groups which are the last of their documents, or are beyond.

    Args:
        config: sizes, layers and mixers.

    Raises:
        ValueError: a configuration that is not causal, or has no vocabulary.

    Example:
        >>> config = FITConfig(hidden_size=32, latent_size=48, group_size=4, latents=2)
        >>> model = FITForCausalLM(config).eval()
        >>> model(torch.tensor([[72, 101, 108, 108, 111]])).logits.shape
        torch.Size([1, 5, 256])
        >>> model.generate(torch.tensor([[72, 105]]), max_new_tokens=7, pad_token_id=0).shape
        torch.Size([1, 9])

    Source:
        Chen and Li 2023, arXiv 2305.12689; tied embedding and output bias as in the authors' code.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _is_stateful = True  # transformers then refuses assisted decoding: a group cannot be taken back token by token

    def __init__(self, config: FITConfig) -> None:
        super().__init__(config)
        if not config.causal or config.vocab_size is None:
            found = f"causal={config.causal}, vocab_size={config.vocab_size}"
            raise ValueError(f"config: a language model expected causal=True and a vocab_size, found {found}")
        self.model = FITModel(config, latent_output=False)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.output_bias)
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
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each token.

        Args:
            input_ids, attention_mask, position_ids, cache, inputs_embeds, segment_ids, past_key_values: as in
                `FITModel`.
            labels: (B, L) tokens, -100 where there is nothing to predict; shifted here. The first token of a document,
                padding, and the token after padding are not predicted.
            use_cache: return a cache; default the config's choice, but not in training, with labels or packed rows.
            logits_to_keep: predict after the last n tokens only (0: all), or after the tokens at these indices.
            kwargs: `num_items_in_batch`, Trainer's count of the labels of an update, divides the summed loss, without
                those labels that have no term.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        shape = self.model.input_shape(input_ids, inputs_embeds)
        columns = None if cache is None else int(cache.get_seq_length())
        layout = token_layout(shape, attention_mask, position_ids, segment_ids, columns)
        if labels is not None:
            check_next_labels(labels, shape, self.config.vocab_size, logits_to_keep)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None and layout.segments is None
        outputs = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            layout=layout,
            cache=cache,
            use_cache=use_cache,
            return_dict=True,
        )
        logits = self.lm_head(last_tokens(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = next_token_loss(self, logits, labels, predictable(labels, layout), kwargs)
        kept: dict[str, Any] = {CACHE_ARGUMENT: getattr(outputs, CACHE_ARGUMENT)}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **kept)

    def init_state(self, batch_size: int, *, dtype: torch.dtype | None = None) -> FITState:
        """An empty memory for `batch_size` rows, for `read_last`."""
        return self.model.init_state(batch_size, dtype=dtype)

    def read_last(self, input_ids: Tensor, layout: Layout, state: FITState) -> Tensor:
        """(B, hidden_size) features that predict the token after (B, L) tokens, which advance the state."""
        return self.model.read(self.model.embed(input_ids, None), state, layout)[:, -1]
