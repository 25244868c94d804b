"""Reading tokens block by block, from a state: prompts, chunks and single tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokenmix.gather_scatter import GatherProcessScatter, has_earlier, shift_groups
from tokenmix.groups import TokenGroups, group_tokens
from tokenmix.layout import Layout
from tokenmix.models.block_transformer.embedder import Blocks
from tokenmix.models.block_transformer.state import BlockTransformerState
from tokenmix.models.block_transformer.token_decoder import TokenDecoder


def read_whole(blocks: GatherProcessScatter, ids: Tensor, layout: Layout) -> Tensor:
    """(B, L, width) features after the tokens of whole rows, without a state."""
    groups = group_tokens(layout, ids.shape[0], ids.shape[1], _decoder(blocks).block_length)
    return collect(blocks(Blocks(groups.spread(ids), groups.filled()), groups.layout).tokens, groups)


def read_first(
    blocks: GatherProcessScatter, ids: Tensor, state: BlockTransformerState, layout: Layout, last_only: bool
) -> Tensor:
    """(B, L or 1, width) features after the first tokens of a state, wherever their padding stands."""
    decoder = _decoder(blocks)
    rows, length = ids.shape
    groups = group_tokens(layout, rows, length, decoder.block_length)
    grid, filled = groups.spread(ids), groups.filled()
    used = groups.layout.counts()
    whole = torch.full((rows,), groups.count - 1, device=ids.device) if used is None else (used - 1).clamp(min=0)
    state.count(length if layout.mask is None else layout.mask.sum(1))
    places = _next_places(groups, whole).tolist()
    standing = {place for place in places if place >= 0} or {0}  # a row without tokens stands where the others do
    place = standing.pop()
    if standing:  # rows that this state cannot continue
        state.places = places
        x = read_whole(blocks, ids, layout)
        return x[:, -1:] if last_only else x
    state.tokens = _pick(grid, whole)[:, :place]
    state.filled = None if filled is None else _pick(filled, whole)[:, :place]
    if groups.count == 1:
        return decoder.bridge.weight.new_zeros(rows, 1 if last_only else length, decoder.width)
    mask = torch.arange(groups.count - 1, device=ids.device) < whole[:, None]
    read = Blocks(grid[:, :-1], None if filled is None else filled[:, :-1])
    real = Layout(mask=None if bool(mask.all()) else mask)
    embeds = blocks.gather(read, None)
    shorten = last_only and embeds.shape[2] == 1  # what is said of earlier blocks is not needed then
    slots = blocks.processed(embeds, real, state.block, **{"last_only": True} if shorten else {})  # (B, N - 1, m, D)
    state.has_known = None if bool((whole > 0).all()) else whole > 0
    x = _begin(decoder, slots[:, 0] if shorten else _pick(slots, (whole - 1).clamp(min=0)), state)
    if place:
        x = _read_tokens(decoder, state.tokens, 0, state)[:, -1:]
    if last_only:
        return x if layout.mask is None else x.masked_fill(~layout.mask[:, -1:, None], 0)
    slots = torch.cat([slots, torch.zeros_like(slots[:, :1])], dim=1)
    return collect(decoder(Blocks(grid), shift_groups(slots, 1, groups.layout)), groups)


def read_on(blocks: GatherProcessScatter, ids: Tensor, state: BlockTransformerState) -> Tensor:
    """(B, L, width) features after tokens without padding that follow those of the state."""
    decoder, parts = _decoder(blocks), []
    if state.places is not None:
        raise ValueError(
            "input_ids: with a cache expected rows that stand at one place of their blocks, found places "
            f"{state.places} of {decoder.block_length}; begin with "
            "position_ids=model.prompt_positions(attention_mask), as generate does"
        )
    state.count(ids.shape[1])
    while ids.shape[1]:
        place = state.place
        piece, ids = ids[:, : decoder.block_length - place], ids[:, decoder.block_length - place :]
        state.tokens = torch.cat([state.tokens, piece], dim=1)
        if state.filled is not None:
            state.filled = torch.cat([state.filled, torch.ones_like(piece, dtype=torch.bool)], dim=1)
        whole = state.place == decoder.block_length
        unread = piece[:, :-1] if whole else piece  # what a block's last token says is said by the block
        if unread.shape[1]:
            parts.append(_read_tokens(decoder, unread, place, state))
        if whole:
            filled = None if state.filled is None else state.filled[:, None]
            slots = blocks.processed(blocks.gather(Blocks(state.tokens[:, None], filled), None), Layout(), state.block)
            state.tokens, state.filled, state.has_known = state.tokens[:, :0], None, None
            parts.append(_begin(decoder, slots[:, 0], state))
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def collect(x: Tensor, groups: TokenGroups) -> Tensor:
    """(B, N, L_B, width) that predict each place to (B, L, width) that predict the token after each."""
    if groups.layout.segments is not None:
        known = has_earlier(groups.layout, groups.count, 1, x.device)
        x = x.masked_fill(~known[:, :, None, None], 0)
    return groups.collect(x, ahead=1)


def _decoder(blocks: GatherProcessScatter) -> TokenDecoder:
    decoder: Any = blocks.scatter
    return decoder


def _begin(decoder: TokenDecoder, slots: Tensor, state: BlockTransformerState) -> Tensor:
    """(B, 1, width) that predict the first token of the block after (B, m, D)."""
    state.known = decoder.expand(slots)
    x, state.token = decoder.begin(state.known)
    return _where_known(x, state)


def _read_tokens(decoder: TokenDecoder, tokens: Tensor, place: int, state: BlockTransformerState) -> Tensor:
    if state.known is None or state.token is None:
        return decoder.bridge.weight.new_zeros(*tokens.shape, decoder.width)
    return _where_known(decoder.read(tokens, place, state.known, state.token), state)


def _where_known(x: Tensor, state: BlockTransformerState) -> Tensor:
    return x if state.has_known is None else x.masked_fill(~state.has_known[:, None, None], 0)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, ...): of each row of (B, N, ...) the entry at its (B,) index."""
    rest = values.shape[2:]
    return values.gather(1, index.reshape(-1, 1, *(1,) * len(rest)).expand(-1, 1, *rest))[:, 0]


def _next_places(groups: TokenGroups, whole: Tensor) -> Tensor:
    """(B,) the place of each row's next token in its block; -1 for a row without tokens."""
    if groups.places is None:
        return torch.full_like(whole, groups.length % groups.size)
    last = groups.places.masked_fill(groups.places == groups.count * groups.size, -1).amax(1)
    return torch.where(last < 0, -1, last + 1 - whole * groups.size)
