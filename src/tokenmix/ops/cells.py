"""Bringing tokens of one label together, and back."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Bucket(NamedTuple):
    """Groups of like size."""

    row: Tensor  # (N,) the row of a group
    place: Tensor  # (N, n) places in the row; the first member's again in unused places
    used: Tensor | None  # (N, n) bool; None where all are


class Plan(NamedTuple):
    """How tokens are brought together by label."""

    buckets: list[Bucket]
    back: Tensor  # (B * L,) where each token lies in the buckets, laid end to end


def gather(x: Tensor, flat: Tensor) -> Tensor:
    """(B, h, L, D), (N, n) places in B * L -> (N, h, n, D)."""
    rows = x.transpose(1, 2).flatten(0, 1)  # (B * L, h, D)
    return rows.index_select(0, flat.flatten()).unflatten(0, flat.shape).transpose(1, 2)


def scatter(results: list[Tensor], plan: Plan, batch: int) -> Tensor:
    """Results of the buckets, (N, h, n, E) each, -> (B, h, L, E)."""
    flat = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in results])
    return flat.index_select(0, plan.back).unflatten(0, (batch, -1)).transpose(1, 2)


_plans = WeakIdKeyDictionary()  # label -> ((version, batch), segments, version of segments, plan)


@torch.compiler.disable
def cells_plan(label: Tensor, segments: Tensor | None, batch: int) -> Plan:
    """The order that brings tokens of one row, document and label together; kept until a tensor changes or goes."""
    if label.is_inference() or (segments is not None and segments.is_inference()):
        return _make_plan(label.expand(batch, -1), segments)  # such tensors do not tell when they change
    now = (label._version, batch, None if segments is None else segments._version)
    version, kept_segments, plan = _plans.get(label, (None, None, None))
    if version == now and (None if kept_segments is None else kept_segments()) is segments:
        return plan
    plan = _make_plan(label.expand(batch, -1), segments)
    _plans[label] = (now, None if segments is None else weakref.ref(segments), plan)
    return plan


def _make_plan(label: Tensor, segments: Tensor | None) -> Plan:
    batch, length = label.shape
    order = label.argsort(dim=1, stable=True)
    if segments is not None:
        order = order.gather(1, segments.gather(1, order).argsort(dim=1, stable=True))
    first = torch.ones_like(order, dtype=torch.bool)  # the first token of a group, in that order
    first[:, 1:] = False
    for x in (label,) if segments is None else (label, segments):
        x = x.gather(1, order)
        first[:, 1:] |= x[:, 1:] != x[:, :-1]

    order, token = order.flatten(), torch.arange(batch * length, device=label.device)
    start = first.flatten().nonzero().flatten()  # (groups,)
    counts = torch.diff(start, append=start.new_tensor([batch * length]))
    scale = (counts - 0.5).log2().ceil()  # groups of one bucket differ by less than a factor of 2
    buckets, base, total = [], torch.empty_like(start), 0
    for level in scale.unique():
        group = (scale == level).nonzero().flatten()
        count = counts[group]
        width = int(count.max())
        slot = torch.arange(width, device=label.device)
        used = slot < count[:, None]
        place = order[start[group][:, None] + torch.where(used, slot, 0)]
        buckets.append(Bucket(start[group] // max(length, 1), place, None if bool(used.all()) else used))
        base[group] = total + torch.arange(len(group), device=label.device) * width
        total += len(group) * width
    member = first.flatten().cumsum(0) - 1  # the group of each token, in that order
    back = torch.empty_like(order)
    back[order + token // max(length, 1) * length] = base[member] + token - start[member]
    return Plan(buckets, back)
