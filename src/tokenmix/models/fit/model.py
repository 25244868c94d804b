"""Tokens in groups and latents that see all groups, interleaved, as a Hugging Face model without a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tokenmix.layout import Layout, put_tokens, take_tokens
from tokenmix.models.cache import CACHE_ARGUMENT, MixerCache, prepare_whole, take_cache
from tokenmix.models.fit.base import FITPreTrainedModel
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.grouping import FITGroups, find_groups
from tokenmix.models.fit.reading import read_tokens
from tokenmix.models.fit.stages import build_stages, run_stages
from tokenmix.models.fit.state import FITState, StageState
from tokenmix.models.inputs import call_layout, check_tokens, input_shape, refuse_misspelt


@dataclass
class FITOutput(BaseModelOutputWithPast):
    """What `FITModel` gives: `last_hidden_state` (B, L, hidden_size), the cache where there is one, and the latents.

    Attributes:
        latents: (B, t, m, latent_size) of the row's groups, those of packed documents in the order of their numbers,
            zero for a group without tokens; None with a cache, and
            where no layer is global.
        latent_mask: (B, t) bool, which groups hold a token; None where all do.
    """

    latents: Tensor | None = None
    latent_mask: Tensor | None = None


class FITModel(FITPreTrainedModel):
    """Features of tokens and of latents: local layers see a group of tokens, global layers the latents of all groups.

        x = embed(tokens) + place in the group;  latents = table
        in each stage:  x = local(x) in each group
                        latents += CrossAttention(LN(latents), LN(x)) in each group;  latents = global(latents)
                        x_k += CrossAttention(LN(x_k), LN(latents_(k - shift))), unless it is the last stage
        x = LN(x);  latents = LN(latents)

    With config.causal the shift is 1: tokens of group k see their group's past and, through the latents, all groups
    before, and group 0 sees latents that are zero. Groups begin with the first token of each document, wherever padding
    stands; a document may end anywhere in a group. Global layers of the last stage change the latents alone.

    Args:
        config: sizes, layers and mixers.
        latent_output: whether the latents are an output; without it, what only they depend on is not built: the last
            stage's global layers and the latents' final norm (as in `FITForCausalLM`).

    Example:
        >>> config = FITConfig(hidden_size=32, latent_size=48, group_size=4, latents=2, causal=False)
        >>> outputs = FITModel(config)(torch.tensor([[72, 101, 108, 108, 111]]))
        >>> outputs.last_hidden_state.shape, outputs.latents.shape
        (torch.Size([1, 5, 32]), torch.Size([1, 2, 2, 48]))
        >>> images = FITModel(FITConfig(input_size=12, hidden_size=32, latent_size=48, group_size=4, causal=False))
        >>> images(inputs_embeds=torch.zeros(1, 16, 12)).last_hidden_state.shape
        torch.Size([1, 16, 32])

    Source:
        Chen and Li 2023, arXiv 2305.12689. The authors' code (google-research/pix2seq) is followed: the queries of
        cross-attentions are normalised, group 0 reads zeros that went through the norm, and features, but not tokens,
        go through a stem with a norm. Its groups all are full; here any may be short.
    """

    def __init__(self, config: FITConfig, latent_output: bool = True) -> None:
        super().__init__(config)
        config.check_mixers()
        if config.input_size is not None:
            self.main_input_name = "inputs_embeds"
            self.stem = nn.Linear(config.input_size, config.hidden_size)
            self.stem_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        else:
            self.embed_tokens = nn.Embedding(int(config.vocab_size or 0), config.hidden_size)
        self.embed_positions = nn.Embedding(config.group_size, config.hidden_size)
        self.stages = build_stages(config, latent_output)
        self.embed_latents: nn.Embedding | None = None
        self.latent_norm: nn.LayerNorm | None = None
        if any(stage.exchange is not None for stage in self._stages()):
            self.embed_latents = nn.Embedding(config.max_groups * config.latents, config.latent_size)
            if latent_output:
                self.latent_norm = nn.LayerNorm(config.latent_size, eps=config.norm_eps)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        # what a state must fit: groups, latents, and the layers that read them
        sizes = (config.group_size, config.latents, config.hidden_size, config.latent_size)
        self._owner = (*sizes, config.layers, str(config.local_mixer), str(config.latent_mixer))
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
        layout: Layout | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> FITOutput:
        """Features of the tokens and of the latents after the last stage.

        Args:
            input_ids: (B, L) tokens.
            attention_mask: (B, L) or, with a cache, (B, tokens read + L): 1 for real tokens, 0 for padding, which may
                stand anywhere.
            position_ids: (B, L) or (1, L) places, of which the first of a document, modulo group_size, says where in a
                group it stands; default from 0 on. With a cache, only those of a row's first tokens count.
            cache: a cache to continue, of any kind of transformers'; it is advanced in place.
            inputs_embeds: features instead of `input_ids`: (B, L, input_size) where the configuration has an
                `input_size`, else (B, L, hidden_size).
            use_cache: return a cache (and no latents); default False.
            segment_ids: the document that each token of a packed row belongs to; not with a cache.
            layout: where the tokens live, instead of `attention_mask`, `position_ids` and `segment_ids`.
            past_key_values: the name of `cache` before transformers 5.24.

        Raises:
            ValueError, TypeError: inputs that do not fit together, more tokens in a document than max_groups *
                group_size, or a cache for a model that is not causal; the message says which.
        """
        cache = take_cache(cache, past_key_values)
        refuse_misspelt(kwargs, type(self).__name__)
        rows, length = self.input_shape(input_ids, inputs_embeds)
        layout = call_layout(layout, (rows, length), attention_mask, position_ids, segment_ids, cache)
        if not self.config.causal and (use_cache or cache is not None):
            raise ValueError(f"{'use_cache' if cache is None else CACHE_ARGUMENT}: expected none with causal=False")
        x = self.embed(input_ids, inputs_embeds)
        if cache is None and not use_cache:
            return self._run(x, layout)
        cache = MixerCache() if cache is None else cache
        memory = prepare_whole(cache, self, x)
        state: Any = memory.state
        x = self.read(x, state, layout)
        memory.advance(length, layout.mask)
        kept: dict[str, Any] = {CACHE_ARGUMENT: cache}
        return FITOutput(last_hidden_state=x, **kept)

    def input_shape(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> tuple[int, int]:
        """(B, L) of a call's tokens.

        Raises:
            ValueError, TypeError: both or neither, another shape or type, or tokens for a model of features.
        """
        size = self.config.input_size
        if size is None:
            shape = input_shape(input_ids, inputs_embeds, self.config.hidden_size)
            if not shape[0] * shape[1]:
                raise ValueError(f"input_ids: expected at least one row and one token, found {shape}")
            return shape
        found = tuple(inputs_embeds.shape) if isinstance(inputs_embeds, Tensor) else "none"
        if input_ids is not None or inputs_embeds is None or inputs_embeds.dim() != 3 or found[-1] != size:
            more = "" if input_ids is None else ", and input_ids"
            raise ValueError(f"inputs_embeds: expected shape (B, L, input_size={size}), found {found}{more}")
        return inputs_embeds.shape[0], inputs_embeds.shape[1]

    def embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """(B, L, hidden_size): tokens without their places."""
        if input_ids is not None:
            check_tokens("input_ids", input_ids, self.embed_tokens.num_embeddings)
            return self.embed_tokens(input_ids)
        x: Any = inputs_embeds
        return x if self.config.input_size is None else self.stem_norm(self.stem(x))

    def _run(self, x: Tensor, layout: Layout) -> FITOutput:
        rows, length, _ = x.shape
        groups = find_groups(layout, rows, length, self.config.group_size, x.device)
        latents = self._first_latents(groups, rows)
        grid = groups.tokens.spread(x + self.embed_positions(groups.place))
        grid, latents = run_stages(self.stages, grid, latents, groups.tokens, groups.filled)
        mask = groups.tokens.layout.mask
        if latents is not None:
            latents = None if self.latent_norm is None else self.latent_norm(latents)
        if latents is not None and mask is not None:
            latents = latents.masked_fill(~mask[:, :, None, None], 0)
        x = groups.tokens.collect(self.norm(grid))
        return FITOutput(last_hidden_state=x, latents=latents, latent_mask=None if latents is None else mask)

    def _first_latents(self, groups: FITGroups, rows: int) -> Tensor | None:
        """(B, t, m, D_l) rows of the table."""
        limit, index = self.config.max_groups, groups.index
        alone = groups.tokens.places is None  # then the count is known without a look at tensors
        count = groups.tokens.count if alone else int(index.max()) + 1
        if count > limit:
            raise ValueError(
                f"input_ids: expected at most max_groups={limit} groups of {self.config.group_size} tokens in a "
                f"document, found {count}"
            )
        table = self._table()
        return None if table is None else table[index].expand(rows, -1, -1, -1)

    def _table(self) -> Tensor | None:
        """(t, m, D_l) what latents start from."""
        if self.embed_latents is None:
            return None
        return self.embed_latents.weight.view(self.config.max_groups, self.config.latents, -1)

    # ------------------------------------------------------------------ with a state

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FITState:
        """An empty memory for `batch_size` rows, for `read`.

        Raises:
            ValueError: a model that is not causal.
        """
        if not self.config.causal:
            raise ValueError("init_state: expected a model with causal=True, found causal=False")
        device, dtype = device or self.device, dtype or self.embed_positions.weight.dtype
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        shape = (batch_size, self.config.latents, self.config.latent_size)
        stages = [
            StageState(
                None if stage.local is None else stage.local.init_state(batch_size, **options),
                None if stage.latent is None or not stage.exchanges else stage.latent.init_state(batch_size, **options),
                torch.zeros(shape, device=device, dtype=self.embed_positions.weight.dtype) if stage.exchanges else None,
            )
            for stage in self._stages()
        ]
        state = FITState(stages, batch_size, self.config.group_size, self.config.latents, device)
        state.owner, state.dtype = self._owner, dtype
        return state

    def read(self, x: Tensor, state: FITState, layout: Layout | None = None) -> Tensor:
        """Read tokens, in any split, and advance the state in place.

        Args:
            x: (B, L, hidden_size) tokens of `embed`.
            state: from `init_state`.
            layout: `mask` of padding anywhere, and `positions`, which count for rows that have read nothing.

        Returns:
            (B, L, hidden_size) features after the last stage.

        Raises:
            ValueError: another number of rows, packed rows, or more tokens than max_groups * group_size.
        """
        rows, length, _ = x.shape
        layout = Layout() if layout is None else layout
        layout.validate(rows, length, x.device)
        if layout.segments is not None:
            raise ValueError("segment_ids: expected one document a row with a cache, found packed rows")
        FITState.check(state, self._owner, rows)
        layout, order = layout.aligned(streamed=True)
        x = x if order is None else take_tokens(x, order)
        counts = layout.counts()
        sizes = torch.full_like(state.seen, length) if counts is None else counts
        if layout.positions is not None:
            offset = layout.positions[:, 0].long() % self.config.group_size
            begins = torch.where((state.seen == 0) & (sizes > 0), offset, state.place)
            self._check_length(state, begins + sizes)
            state.place = begins
        else:
            self._check_length(state, state.place + sizes)
        places = (state.place[:, None] + torch.arange(length, device=x.device)) % self.config.group_size
        x = x + self.embed_positions(places)
        y = self.norm(read_tokens(self.stages, self._table(), x, sizes, state))
        return y if order is None else put_tokens(y, order)

    def _check_length(self, state: FITState, ends: Tensor) -> None:
        """Refuse rows that would end (B,) places from the start of their groups."""
        limit = self.config.max_groups
        needed = state.groups * state.group_size + ends
        if int(needed.max()) > limit * state.group_size:
            raise ValueError(
                f"input_ids: expected at most max_groups={limit} groups of {state.group_size} tokens in a document, "
                f"found {-(-int(needed.max()) // state.group_size)}"
            )

    @property
    def is_causal(self) -> bool:
        """Whether tokens see the past only."""
        causal: bool = self.config.causal
        return causal
