"""Embedder, block decoder and token decoder, as a Hugging Face model without a head."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.blocks import Stack
from tokenmix.gather_scatter import GatherProcessScatter
from tokenmix.layout import Layout
from tokenmix.models.block_transformer.base import BlockTransformerPreTrainedModel
from tokenmix.models.block_transformer.config import BlockTransformerConfig
from tokenmix.models.block_transformer.embedder import build_embedder
from tokenmix.models.block_transformer.reading import read_first, read_on, read_whole
from tokenmix.models.block_transformer.state import BlockTransformerState
from tokenmix.models.block_transformer.token_decoder import TokenDecoder
from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache, prepare_whole, take_cache
from tokenmix.models.inputs import call_layout, can_look, check_tokens, input_shape, refuse_misspelt, token_places


class BlockTransformerModel(BlockTransformerPreTrainedModel):
    """Features that predict the next token: blocks are read by one stack of mixers, their tokens by another.

        b_i = embed(x_i1 ... x_iL_B)           c_1 ... c_N = block_decoder(b_1 ... b_N)
        h_(i+1),j = token_decoder(c_i, x_(i+1),1 ... x_(i+1),(j-1))

    It is a `GatherProcessScatter` with shift=1: the tokens of a block read what the block decoder made of the blocks
    before. So token k of block i reaches the predictions of the later tokens of its block and of all tokens of later
    blocks, and nothing else. Nothing predicts the first block of a document: its features are zero.

    Blocks begin with the first token of each document, wherever padding stands; `position_ids` that begin with p leave
    the first p mod L_B places of the first block empty. `prompt_positions` gives those with which prompts of any
    length end with a block.

    Args:
        config: sizes, mixers and patterns.

    Example:
        >>> model = BlockTransformerModel(BlockTransformerConfig(hidden_size=64))
        >>> model(torch.tensor([[72, 101, 108, 108, 111]])).last_hidden_state.shape
        torch.Size([1, 5, 64])

    Source:
        Ho et al. 2024, arXiv 2406.02657.
    """

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__(config)
        config.check_mixers()
        self.blocks = GatherProcessScatter(
            build_embedder(config), config.build_block_stack(), TokenDecoder(config), shift=1
        )
        decoder = self.token_decoder
        # what a state must fit: blocks, and how the token decoder reads them
        self._owner = (config.block_length, config.block_embeddings, decoder.kind, decoder.vectors, decoder.width)
        self.post_init()

    @property
    def block_stack(self) -> Stack:
        """The block decoder."""
        stack: Any = self.blocks.process
        return stack

    @property
    def token_decoder(self) -> TokenDecoder:
        """The token decoder, with its bridge."""
        decoder: Any = self.blocks.scatter
        return decoder

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        segment_ids: Tensor | None = None,
        layout: Layout | None = None,
        past_key_values: Cache | None = None,
        last_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Features that predict the token after each token.

        Args:
            input_ids: (B, L) tokens.
            attention_mask: (B, L) or, with a cache, (B, tokens read + L): 1 for real tokens, 0 for padding, which may
                stand anywhere in a first call, and not after that.
            position_ids: (B, L) or (1, L) places, of which the first of a document says where in a block it stands;
                default from 0 on, and with `config.random_offset` in training a random start for each row. With a
                cache that has read tokens they are not needed.
            cache: a cache to continue, of any kind of transformers'; it is advanced in place.
            use_cache: return a cache; default the config's choice, but not in training.
            segment_ids: the document that each token of a packed row belongs to; not with a cache.
            layout: where the tokens live, instead of `attention_mask`, `position_ids` and `segment_ids`.
            past_key_values: the name of `cache` before transformers 5.24.
            last_only: with a cache, give the features of the last token only: the token decoder then reads no more of
                a prompt than its last block.

        Raises:
            ValueError, TypeError: inputs that do not fit together, more tokens than `max_position_embeddings`, or a
                cache to continue whose rows stand at different places of their blocks; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        rows, length = input_shape(input_ids, None, self.config.hidden_size)
        tokens: Any = input_ids
        check_tokens("input_ids", tokens, self.config.vocab_size)
        if not rows * length:
            raise ValueError(f"input_ids: expected at least one row and one token, found {(rows, length)}")
        layout = call_layout(layout, (rows, length), attention_mask, position_ids, segment_ids, cache)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and layout.segments is None
        if cache is None and use_cache:
            cache = MixerCache()
        if cache is None:
            self._check_context(layout, length)
            x = read_whole(self.blocks, tokens, self.training_layout(layout, rows, length))
        else:
            memory = prepare_whole(cache, self, self.token_decoder.bridge.weight.new_empty(rows, 0))
            state: Any = memory.state
            x = self.read(tokens, state, layout, last_only=last_only)
            memory.advance(length, layout.mask)
        kept: dict[str, Any] = {CACHE_ARGUMENT: cache}
        return BaseModelOutputWithPast(last_hidden_state=x, **kept)

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BlockTransformerState:
        """An empty memory for `batch_size` rows, for `read`."""
        device = self.device if device is None else device
        memory = self.block_stack.init_state(batch_size, device=device, dtype=dtype)
        return BlockTransformerState(memory, self.config.block_length, self.config.block_embeddings, self._owner)

    def read(
        self, input_ids: Tensor, state: BlockTransformerState, layout: Layout | None = None, *, last_only: bool = False
    ) -> Tensor:
        """Read tokens, in any split, and advance the state in place.

        Args:
            input_ids: (B, L) tokens.
            state: from `init_state`.
            layout: of a first call: padding anywhere, and `positions`.
            last_only: give the features of the last token only.

        Returns:
            (B, L or 1, width) features that predict the next token; zero where no whole block is behind.

        Raises:
            ValueError: a state to continue whose rows stand at different places of their blocks, padding after the
                first call, packed rows, or more tokens than `max_position_embeddings`.
        """
        layout = Layout() if layout is None else layout
        BlockTransformerState.check(state, self._owner, input_ids.shape[0])
        if not input_ids.numel():
            raise ValueError(f"input_ids: expected at least one row and one token, found {tuple(input_ids.shape)}")
        if layout.segments is not None:
            raise ValueError("segment_ids: expected one document a row with a cache, found packed rows")
        if state.length and layout.mask is not None:
            raise ValueError("attention_mask: expected no padding after the first tokens of a cache, found some")
        self._check_context(layout, input_ids.shape[1], state.length)
        if state.length == 0:
            return read_first(self.blocks, input_ids, state, layout, last_only)
        x = read_on(self.blocks, input_ids, state)
        return x[:, -1:] if last_only else x

    def prompt_positions(self, attention_mask: Tensor) -> Tensor:
        """(B, L) places of prompts, such that every row ends with a block: the first block takes the empty places.

        Args:
            attention_mask: (B, L), 1 for real tokens and 0 for padding.

        Example:
            >>> model = BlockTransformerModel(BlockTransformerConfig(hidden_size=64, block_length=4))
            >>> model.prompt_positions(torch.tensor([[0, 1, 1], [1, 1, 1]])).tolist()
            [[0, 2, 3], [1, 2, 3]]
        """
        Layout.from_padding_mask(attention_mask)  # refuses what is no mask
        places = attention_mask.long().cumsum(1)
        offset = -places[:, -1:] % self.config.block_length
        return (places - 1 + offset).masked_fill(attention_mask == 0, 0)

    def training_layout(self, layout: Layout, rows: int, length: int) -> Layout:
        """In training with `config.random_offset`, the layout with a random start in the first block of each row."""
        if not (self.training and self.config.random_offset) or layout.positions is not None:
            return layout
        places = token_places(layout, length, None, self.device).expand(rows, length)
        return dataclasses.replace(
            layout, positions=places + torch.randint(self.config.block_length, (rows, 1), device=self.device)
        )

    def _check_context(self, layout: Layout, length: int, before: int = 0) -> None:
        limit = self.config.max_position_embeddings
        if limit is None or before + length <= limit:
            return
        layout = dataclasses.replace(layout, positions=None)
        places = token_places(layout, length, None, self.device)
        found = before + int(places.max()) + 1 if can_look(places) else 0
        if found > limit:
            raise ValueError(
                f"input_ids: expected at most max_position_embeddings={limit} tokens a document, found {found}"
            )
