"""How a head group of a registered attention reads: in blocks with `tokenmix.ops.attend`, or densely where it must."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.hf.attention_masks import KINDS
from tokenmix.hf.attention_rules import Reads
from tokenmix.ops.attend import attend
from tokenmix.ops.blocked import Block
from tokenmix.ops.common import without_autocast
from tokenmix.ops.dense import Rule, compute
from tokenmix.ops.sources import Band, Full, Span


class Columns(NamedTuple):
    """Where queries and keys lie, from a mask that is None or a code: the queries are the last of `seen` keys."""

    causal: bool
    queries: int
    seen: int
    window: int | None  # of the model itself, on a side
    real: Tensor | None = None  # (B, seen)
    place: Tensor | None = None  # (B, seen) in the document
    document: Tensor | None = None  # (B, seen)
    packed: bool = True  # whether there may be more than one document a row

    def label(self, reads: Reads) -> Tensor | None:
        """(B, seen) tokens of one number may read one another: documents, or cells in them."""
        if not reads.cells or self.place is None or self.document is None or reads.size is None:
            return self.document
        return self.document * (self.seen + 1) + self.place // reads.size

    def reach(self, reads: Reads) -> int | None:
        """How many keys on a side are read at most, itself included."""
        return min((size for size in (reads.size, self.window) if size is not None), default=None)

    def allowed(self, reads: Reads, device: torch.device) -> Tensor | None:
        """(B|1, 1, Q, seen) what a query may read; None for everything."""
        key = torch.arange(self.seen, device=device)
        distance = key[self.seen - self.queries :, None] - key
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if self.causal:
            allowed = distance >= 0
        reach = self.reach(reads)
        if reach is not None:
            allowed = allowed & (distance < reach) & (distance > -reach)
        allowed = allowed[None, None]
        label = self.label(reads)
        if label is None and reads.cells and reads.size is not None:
            label = (key // reads.size)[None]
        if label is not None:
            allowed = allowed & (label[:, None, self.seen - self.queries :, None] == label[:, None, None, :])
        return allowed if self.real is None else allowed & self.real[:, None, None, :]


def columns(mask: Tensor | None, queries: int, keys: int, causal: bool, window: int | None) -> Columns:
    """What a mask that is None or a code says.

    Args:
        mask: see `tokenmix.hf.attention_masks`.
        queries, keys: their numbers.
        causal: whether the module is causal; only asked where the mask is None.
        window: the model's own window, `config.sliding_window`; only where the code says that it counts.

    Raises:
        ValueError: a causal module with fewer keys than queries, or a window that the config does not have.
    """
    if mask is None:
        if causal and keys < queries:
            raise ValueError(f"attention_mask: expected as many keys as queries without one, found {keys} of {queries}")
        return Columns(causal, queries, queries if causal and queries > 1 else keys, None)
    kind = KINDS[mask.shape[1] - 2]
    if kind.endswith("window"):
        if window is None:
            raise ValueError("config.sliding_window: expected that of the mask, found None")
        window = window + 1 if kind.startswith("all") else window
    else:
        window = None
    code = mask[:, 0, 0]
    place, document = (code - 1).clamp(min=0), mask[:, 1, 0]
    return Columns(
        kind.startswith("causal"), queries, mask.shape[-1], window, code > 0, place, document, packed=kind != "all"
    )


def read_blocks(q: Tensor, k: Tensor, v: Tensor, reads: Reads, at: Columns, scale: float | None) -> Tensor:
    """(B, h, Q, E) of heads that read alike, without a dense mask where they read a window or cells.

    Args:
        q: (B, h, Q, D).
        k, v: (B, h', K, D) and (B, h', K, E) of their key heads.
        reads: what the heads read.
        at: where queries and keys lie.
        scale: of the scores.
    """
    k, v = k[:, :, : at.seen], v[:, :, : at.seen]
    reach = at.reach(reads)
    if reach is None:  # documents are only told of whole rows; where there is one, to read them would cost time
        documents = at.document if at.packed and at.queries == at.seen else None
        return attend(q, k, v, Full(at.causal), mask=at.real, segments=documents, scale=scale)
    if at.queries == at.seen:
        if reads.cells and at.real is None and reads.size is not None:
            return _read_equal_cells(q, k, v, reads.size, at.causal, scale)
        return attend(q, k, v, Band(reach, at.causal), mask=at.real, segments=at.label(reads), scale=scale)
    return _read_last(q, k, v, reads, reach, at, scale)


def _read_equal_cells(q: Tensor, k: Tensor, v: Tensor, size: int, causal: bool, scale: float | None) -> Tensor:
    """Cells that start at the first token, folded into the batch."""
    batch, _, length, _ = q.shape
    spare = -length % size

    def fold(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, spare)).unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)

    mask = None
    if spare and not causal:
        mask = torch.arange(length + spare, device=q.device).view(-1, size).repeat(batch, 1) < length
    y = attend(fold(q), fold(k), fold(v), Full(causal), mask=mask, scale=scale)
    return y.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :length]


def _read_last(q: Tensor, k: Tensor, v: Tensor, reads: Reads, reach: int, at: Columns, scale: float | None) -> Tensor:
    """Few queries at the end of many keys, of which the last ones are all that is read."""
    queries = at.queries
    if not at.causal:  # as many keys on the other side: a module that is not causal has no cache
        raise ValueError(f"query: expected as many as keys for a window that looks ahead, found {queries} of {at.seen}")
    kept = min(at.seen, queries + reach - 1)
    if queries == 1 and reads.cells and at.place is None and reads.size is not None:
        kept = min(kept, (at.seen - 1) % reads.size + 1)
    k, v = k[:, :, at.seen - kept :], v[:, :, at.seen - kept :]
    real = None if at.real is None else at.real[:, at.seen - kept :]
    label = at.label(reads)
    label = None if label is None else label[:, at.seen - kept :]
    if queries == 1:
        if label is not None and real is not None:
            real = real & (label == label[:, -1:])
        return attend(q, k, v, Full(), mask=real, scale=scale)
    if queries > 2 * reach:  # a long chunk: the band in blocks, with idle queries for the keys before it
        idle = F.pad(q, (0, 0, kept - queries, 0))
        return attend(idle, k, v, Band(reach), mask=real, segments=label, scale=scale)[:, :, kept - queries :]
    index = torch.arange(kept - queries, kept, device=q.device)[None]
    within = torch.full_like(index, reach - 1)
    if reads.cells and at.place is not None and reads.size is not None:
        within = within.minimum(at.place[:, -queries:] % reads.size)
    return attend(q, k, v, Span(index - within, (index + 1).expand_as(within)), mask=real, scale=scale)


# ---------------------------------------------------------------------- dense


def read_dense(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float) -> Tensor:
    """(B, h, Q, E) with a mask of every pair, (B|1, h|1, Q, K), and what is added to the scores."""
    return compute(Block(q, k, v, allowed, bias), Rule("softmax", scale, sums=False))[0].to(q.dtype)


def read_with_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None,
    bias: Tensor | None,
    scale: float,
    *,
    softcap: float | None,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """(B, h, Q, E) and the weights (B, h, Q, K), which are all there at once: as eager attention.

    Args:
        q, k, v, allowed, bias, scale: as for `read_dense`.
        softcap: c of c * tanh(score / c).
        dropout: share of the weights that is dropped.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    with without_autocast(q.device):
        scores = q.to(dtype) * scale @ k.to(dtype).transpose(2, 3)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias.to(dtype)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        nothing = (scores == -torch.inf).all(-1, keepdim=True)
        weights = scores.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
        weights = F.dropout(weights, dropout)
        return (weights @ v.to(dtype)).to(q.dtype), weights.to(q.dtype)
