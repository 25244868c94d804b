"""Reading tokens from a state, in any split: prompts, chunks and single tokens.

A row fills its present group, then reads whole groups at once, then begins the next. Rows do so each at their own pace:
a row that has nothing to do in a step takes part in it as padding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.gather_scatter import GatherProcessScatter
from tokenmix.layout import Layout
from tokenmix.models.fit.exchange import GroupedTokens
from tokenmix.models.fit.stages import FITStage
from tokenmix.models.fit.state import FITState, StageState, forget_rows


class _Part(NamedTuple):
    """Consecutive tokens of each row: `size` (B,) from `start` (B,) on; (B, c, D) features of them."""

    x: Tensor
    start: Tensor
    size: Tensor


def read_tokens(stages: nn.ModuleList, table: Tensor | None, x: Tensor, sizes: Tensor, state: FITState) -> Tensor:
    """(B, L, D) features after the first `sizes` (B,) tokens of each row of (B, L, D), which advance the state.

    Args:
        stages: the model's.
        table: (t, m, D_l) what the latents of each group start from.
        x: what the first layer reads, real tokens first in each row.
        sizes: real tokens a row.
        state: of as many rows.
    """
    n = state.group_size
    fill = torch.where((state.place > 0) | (sizes < n), torch.minimum(sizes, n - state.place), 0)
    whole = (sizes - fill) // n
    parts, start = [], torch.zeros_like(sizes)
    for size, read in ((fill, _read_on), (whole * n, _read_groups), (sizes - fill - whole * n, _read_on)):
        longest = int(size.max())
        if longest:
            piece = _cut(x, start, longest)
            parts.append(_Part(read(stages, table, piece, size, state), start, size))
            start = start + size
    state.count(sizes)
    return _join(parts, x)


def _read_on(stages: nn.ModuleList, table: Tensor | None, x: Tensor, sizes: Tensor, state: FITState) -> Tensor:
    """(B, c, D): tokens that stay in the present group of their row, and may fill it."""
    length, n = x.shape[1], state.group_size
    places = state.place[:, None] + torch.arange(length, device=x.device)
    real = torch.arange(length, device=x.device) < sizes[:, None]
    layout = Layout(mask=None if bool(real.all()) else real)
    slots = torch.where(real, places, n)  # padding goes past the end
    for stage, memory in _pairs(stages, state):
        if stage.local is not None:
            x = stage.local(x, layout, memory.local)
        if stage.exchanges:
            kept = x.new_zeros(x.shape[0], n, x.shape[2]) if memory.x is None else _usable(memory.x)
            kept = torch.cat([kept, kept[:, :1]], dim=1)
            memory.x = kept.scatter(1, slots[..., None].expand_as(x), x.to(kept.dtype))[:, :n]
            x = _exchange(stage).scatter(GroupedTokens(x[:, None]), _known(memory)[:, None])[:, 0]
    filled = torch.cat([state.filled, state.filled[:, :1]], dim=1)
    state.filled = filled.scatter(1, slots, True)[:, :n]
    state.place = state.place + sizes
    closing = state.place == n
    if bool(closing.any()):
        _close(stages, table, closing, state)
    return x


def _close(stages: nn.ModuleList, table: Tensor | None, closing: Tensor, state: FITState) -> None:
    """Make latents of the (B,) groups that are whole now, and let their rows begin the next."""
    mask, latents = None if bool(closing.all()) else closing[:, None], None
    if table is not None:
        latents = table[state.groups.clamp(max=len(table) - 1)][:, None]  # (B, 1, m, D_l)
    filled = None if bool(state.filled.all()) else state.filled[:, None]
    for stage, memory in _pairs(stages, state):
        if stage.exchanges and memory.x is not None:
            exchange = _exchange(stage)
            latents = exchange.gather(GroupedTokens(memory.x[:, None], filled), latents)
            latents = exchange.processed(latents, Layout(mask=mask), memory.latent)
            memory.known = torch.where(closing[:, None, None], latents[:, 0], _known(memory))
        if stage.local is not None and memory.local is not None:
            device = memory.local.seen.device
            fresh = stage.local.init_state(state.batch_size, device=device, dtype=state.dtype)
            if mask is None:
                fresh.reserve(state.group_size)
                memory.local = fresh
            else:
                forget_rows(memory.local, fresh, closing)
    state.groups = state.groups + closing.long()
    state.place = state.place.masked_fill(closing, 0)
    state.filled = state.filled & ~closing[:, None]


def _read_groups(stages: nn.ModuleList, table: Tensor | None, x: Tensor, sizes: Tensor, state: FITState) -> Tensor:
    """(B, k * n, D): whole groups of rows that stand at the start of one."""
    n, rows = state.group_size, x.shape[0]
    counts = sizes // n  # (B,)
    tokens = GroupedTokens(x.view(rows, -1, n, x.shape[2]))
    order = torch.arange(tokens.x.shape[1], device=x.device)
    real = order < counts[:, None]
    layout, latents = Layout(mask=None if bool(real.all()) else real), None
    if table is not None:
        latents = table[(state.groups[:, None] + order).clamp(max=len(table) - 1)]  # (B, k, m, D_l)
    for stage, memory in _pairs(stages, state):
        tokens = stage.run_local(tokens)
        if stage.exchanges:
            exchange = _exchange(stage)
            latents = exchange.processed(exchange.gather(tokens, latents), layout, memory.latent)
            before = torch.cat([_known(memory)[:, None], latents], dim=1)  # (B, k + 1, m, D_l)
            tokens = GroupedTokens(exchange.scatter(tokens, before[:, :-1]))
            memory.known = before[torch.arange(rows, device=x.device), counts]
    state.groups = state.groups + counts
    return tokens.x.flatten(1, 2)


def _pairs(stages: nn.ModuleList, state: FITState) -> list[tuple[FITStage, StageState]]:
    pairs: Any = list(zip(stages, state.stages, strict=True))
    return pairs


def _exchange(stage: FITStage) -> GatherProcessScatter:
    exchange: Any = stage.exchange
    return exchange


def _known(memory: StageState) -> Tensor:
    known: Any = memory.known
    return _usable(known)


def _usable(kept: Tensor) -> Tensor:
    """What was kept, copied where inference mode has ended since: autograd could not use it."""
    return kept.clone() if kept.is_inference() and not torch.is_inference_mode_enabled() else kept


def _cut(x: Tensor, start: Tensor, longest: int) -> Tensor:
    """(B, longest, D): tokens of each row from `start` on."""
    if longest == x.shape[1] and not bool(start.any()):
        return x
    index = start[:, None] + torch.arange(longest, device=x.device)
    return x.gather(1, index.clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2]))


def _join(parts: list[_Part], like: Tensor) -> Tensor:
    """(B, L, D) of all parts; zero where none has a token."""
    if len(parts) == 1 and parts[0].x.shape[1] == like.shape[1]:
        return parts[0].x
    length = like.shape[1]
    y = like.new_zeros(like.shape[0], length + 1, like.shape[2])  # the last place takes what is no token
    for part in parts:
        order = torch.arange(part.x.shape[1], device=like.device)
        index = torch.where(order < part.size[:, None], part.start[:, None] + order, length)
        y = y.scatter(1, index[..., None].expand_as(part.x), part.x.to(y.dtype))
    return y[:, :length]
