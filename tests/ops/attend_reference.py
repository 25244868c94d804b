"""Attention from its definitions: loops over rows, heads, queries and keys, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.ops.sources import Band, Cells, Full, HeadSplit, Neighbours, Slots, Span, Union


def keys_read(source, row: int, i: int, queries: int, keys: int) -> list[int]:
    """Token keys that query i of a row reads, before mask and segments."""
    if isinstance(source, Neighbours):
        index = source.index if source.index.dim() == 3 else source.index[None].expand(row + 1, -1, -1)
        return [j for j in index[row, i].tolist() if j >= 0]
    if isinstance(source, Cells):
        label = (source.label if source.label.dim() == 1 else source.label[row]).tolist()
    if isinstance(source, Span):
        low, high = (x[row if x.shape[0] > 1 else 0, i].item() for x in (source.low, source.high))
    read = []
    for j in range(keys):
        if isinstance(source, Full):
            seen = j <= keys - queries + i or not source.causal
        elif isinstance(source, Band):
            width = source.window * source.dilation
            seen = (i - width < j <= i) if source.causal else abs(i - j) < width
            seen = seen and (i - j) % source.dilation == 0
        elif isinstance(source, Cells):
            seen = label[i] == label[j] and (j <= i or not source.causal)
        else:
            seen = low <= j < high
        if seen:
            read.append(j)
    return read


def _slots(x: Tensor, row: int, head: int, heads: int, per_slot: int) -> Tensor:
    """The (S, ...) part of x for a row and a query head."""
    lead = x.dim() - per_slot
    if lead == 2:
        x = x[row if x.shape[0] > 1 else 0]
    return x[head // (heads // x.shape[0])] if lead >= 1 else x


def _gathered(source, k, v, row, head, heads, i, queries, options):
    """Keys, values and what is added to the scores, of all that query i reads, one after another."""
    if isinstance(source, Union):
        parts = [_gathered(member, k, v, row, head, heads, i, queries, options) for member in source.sources]
        return tuple(torch.cat(x) for x in zip(*parts, strict=True))
    if isinstance(source, HeadSplit):
        low = 0
        for count, member in source.parts:
            if low <= head < low + count:
                return _gathered(member, k, v, row, head, heads, i, queries, options)
            low += count
    if isinstance(source, Slots):
        key, value = (_slots(x.double(), row, head, heads, 2) for x in (source.k, source.v))
        none = source.log_weight is None
        return key, value, key.new_zeros(len(key)) if none else _slots(source.log_weight.double(), row, head, heads, 1)
    mask, segments, bias = options
    read = keys_read(source, row, i, queries, k.shape[2])
    if mask is not None:
        read = [j for j in read if mask[row, j]]
    if segments is not None:
        read = [j for j in read if segments[row, j] == segments[row, i]]
    kv = head // (heads // k.shape[1])
    added = k.new_zeros(len(read))
    if callable(bias):
        added = bias(torch.tensor(i), torch.tensor(read, dtype=torch.int64)).double()
        added = added[head if len(added) > 1 else 0].expand(len(read))
    elif bias is not None:
        added = bias.double().expand(k.shape[0], heads, queries, k.shape[2])[row, head, i][read]
    return k[row, kv][read], v[row, kv][read], added


def attend_reference(q, k, v, source, mask=None, segments=None, bias=None, score="softmax", scale=None) -> Tensor:
    """As `tokenmix.ops.attend.attend` on the token axis."""
    q, k, v = (None if x is None else x.double() for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    batch, heads, queries, _ = q.shape
    rows = []
    for row in range(batch):
        for head in range(heads):
            for i in range(queries):
                key, value, added = _gathered(source, k, v, row, head, heads, i, queries, (mask, segments, bias))
                scores = key @ q[row, head, i] * scale + added
                hidden = scores == -torch.inf
                if score == "softmax" and bool(hidden.all()):
                    weights = torch.zeros_like(scores.detach())
                elif score == "softmax":
                    weights = scores.softmax(0)
                else:
                    scores = scores.masked_fill(hidden, 0.0)
                    weights = {"relu2": scores.relu() ** 2, "relu": scores.relu(), "none": scores}[score]
                rows.append(weights @ value)
    return torch.stack(rows).view(batch, heads, queries, -1)


def channels_reference(q, k, v, mask=None, segments=None, score="softmax", scale=1.0) -> Tensor:
    """As `attend(..., Full(), axis="channel")`."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, length, width = q.shape
    rows = []
    for row in range(batch):
        for head in range(heads):
            kv = head // (heads // k.shape[1])
            for i in range(length):
                document = [
                    n
                    for n in range(length)
                    if (mask is None or mask[row, n]) and (segments is None or segments[row, n] == segments[row, i])
                ]
                if not document:
                    rows.append(v[row, kv, i] * 0)
                    continue
                scores = torch.zeros(width, width, dtype=torch.float64)
                for n in document:
                    scores = scores + scale * torch.outer(q[row, head, n], k[row, kv, n])
                weights = {
                    "softmax": scores.softmax(1), "relu2": scores.relu() ** 2, "relu": scores.relu(), "none": scores
                }[score]  # fmt: skip
                rows.append(weights @ v[row, kv, i])
    return torch.stack(rows).view(batch, heads, length, width)
