"""The Block Transformer as a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.gather_scatter import has_earlier
from tokenmix.groups import group_tokens
from tokenmix.layout import Layout
from tokenmix.models.block_transformer.base import BlockTransformerPreTrainedModel
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.model import BlockTransformerModel
from tokenmix.models.block_transformer.state import BlockTransformerState
from tokenmix.models.cache import CACHE_ARGUMENT, take_cache
from tokenmix.models.cached_generation import CachedGeneration
from tokenmix.models.inputs import input_shape, last_tokens, refuse_misspelt, token_layout
from tokenmix.models.labels import check_next_labels, next_token_loss, predictable


class BlockTransformerForCausalLM(CachedGeneration, BlockTransformerPreTrainedModel, GenerationMixin):
    """Predicts the next token from blocks before and the tokens of its block: `BlockTransformerModel` and a head.

    It trains with `Trainer`, runs with `generate` (greedy, sampling, beams, left-padded batches), and is saved and
    loaded as any transformers model. `tokenmix.models.generate` gives the same tokens with less between the steps. A
    cache holds one entry a block, and the present block.

    Nothing predicts the first block of a document: there the logits are 0 (every token as likely as any other) and the
    loss has no term (it is NaN where no row is longer than a block). Trainer's label_smoothing_factor looks at logits
    and knows nothing of that: leave it at 0. `generate` lets every prompt end with a block, so the first block of a
    prompt may have empty places, which training with `config.random_offset` makes the model know;
    `model.prompt_positions` are the `position_ids` with which a call sees what `generate` sees.

    Args:
        config: sizes, mixers and patterns.

    Example:
        >>> model = BlockTransformerForCausalLM(BlockTransformerConfig(hidden_size=64)).eval()
        >>> model(torch.tensor([[72, 101, 108, 108, 111]])).logits.shape
        torch.Size([1, 5, 256])
        >>> model.generate(torch.tensor([[72, 105]]), max_new_tokens=7, pad_token_id=0).shape
        torch.Size([1, 9])

    Source:
        Ho et al. 2024, arXiv 2406.02657.
    """

    _tied_weights_keys = {"lm_head.weight": "model.blocks.scatter.embed_tokens.weight"}
    _is_stateful = True  # transformers then refuses assisted decoding: a block cannot be taken back token by token

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__(config)
        self.model = BlockTransformerModel(config)
        self.lm_head = nn.Linear(self.model.token_decoder.width, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each token.

        Args:
            input_ids, attention_mask, position_ids, cache, segment_ids, past_key_values: as in `BlockTransformerModel`.
            labels: (B, L) tokens, -100 where there is nothing to predict; shifted here. The first block of a document,
                padding, and the token after padding are not predicted.
            use_cache: return a cache; default the config's choice, but not in training or with labels.
            logits_to_keep: predict after the last n tokens only (0: all), or after the tokens at these indices.
            kwargs: `num_items_in_batch`, Trainer's count of the labels of an update, divides the summed loss, without
                those labels that have no term.

        Raises:
            ValueError, TypeError: inputs that do not fit together; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        rows, length = input_shape(input_ids, None, self.config.hidden_size)
        columns = None if cache is None else int(cache.get_seq_length())
        layout = token_layout((rows, length), attention_mask, position_ids, segment_ids, columns)
        if labels is not None:
            if columns:
                raise ValueError("labels: expected none with a cache that has read tokens, found both")
            check_next_labels(labels, (rows, length), self.config.vocab_size, logits_to_keep)
            use_cache = bool(use_cache)
        if cache is None and not use_cache:
            layout = self.model.training_layout(layout, rows, length)
        outputs = self.model(
            input_ids=input_ids,
            layout=layout,
            cache=cache,
            use_cache=use_cache,
            last_only=isinstance(logits_to_keep, int) and logits_to_keep == 1,
            return_dict=True,
        )
        logits = self.lm_head(last_tokens(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = next_token_loss(self, logits, labels, self._predicted(labels, layout), kwargs)
        kept: dict[str, Any] = {CACHE_ARGUMENT: getattr(outputs, CACHE_ARGUMENT)}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **kept)

    @classmethod
    def from_vanilla(cls, model: PreTrainedModel, **options: Any) -> BlockTransformerForCausalLM:
        """A model that starts from a vanilla one; see `tokenmix.models.block_transformer.uptraining.from_vanilla`."""
        from tokenmix.models.block_transformer.uptraining import from_vanilla

        return from_vanilla(model, **options)

    @classmethod
    def from_official(cls, weights: Mapping[str, Tensor], heads: int, **options: Any) -> BlockTransformerForCausalLM:
        """The authors' checkpoint; see `tokenmix.models.block_transformer.official.from_official`."""
        from tokenmix.models.block_transformer.official import from_official

        return from_official(weights, heads, **options)

    def prompt_positions(self, attention_mask: Tensor) -> Tensor:
        """(B, L) places that `generate` gives to prompts; see `BlockTransformerModel.prompt_positions`."""
        return self.model.prompt_positions(attention_mask)

    def init_state(self, batch_size: int, *, dtype: torch.dtype | None = None) -> BlockTransformerState:
        """An empty memory for `batch_size` rows, for `read_last` and `tokenmix.models.generate`."""
        return self.model.init_state(batch_size, dtype=dtype)

    def read_last(self, input_ids: Tensor, layout: Layout, state: BlockTransformerState) -> Tensor:
        """(B, width) features that predict the token after (B, L) tokens, which advance the state."""
        if state.length == 0:
            mask = torch.ones_like(input_ids) if layout.mask is None else layout.mask
            layout = Layout(mask=layout.mask, positions=self.prompt_positions(mask))
        return self.model.read(input_ids, state, layout, last_only=True)[:, -1]

    def state_bytes(self, length: int) -> int:
        """Bytes that a state keeps at most of one row of `length` tokens: whole blocks, and one that is being read."""
        config, decoder = self.config, self.model.token_decoder
        entries = -(-length // config.block_length) * config.block_embeddings  # the first block may have empty places
        inside = decoder.prefix + config.block_length - 1
        numbers = sum(mixer.state_numel(entries) for mixer in self.model.block_stack.mixers)
        return (numbers + sum(mixer.state_numel(inside) for mixer in decoder.stack.mixers)) * self.dtype.itemsize

    def _predicted(self, labels: Tensor, layout: Layout) -> Tensor:
        """Labels with -100 at all that no block before says anything of."""
        groups = group_tokens(layout, labels.shape[0], labels.shape[1], self.config.block_length)
        known = has_earlier(groups.layout, groups.count, 1, labels.device)
        known = known[:, :, None].expand(labels.shape[0], groups.count, groups.size)
        return predictable(labels, layout).masked_fill(~groups.collect(known), -100)

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        """Every prompt ends with a block."""
        mask = model_kwargs.get("attention_mask")
        return self.prompt_positions(torch.ones_like(inputs_tensor) if mask is None else mask)
