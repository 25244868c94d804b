"""Inputs and sources that the tests of attend share."""

import torch
from attend_reference import attend_reference

from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band, Cells, Full, HeadSplit, Neighbours, Span, Union

BATCH, HEADS = 2, 4


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def qkv(length, keys=None, kv_heads=HEADS, width=4, value_width=4):
    keys = length if keys is None else keys
    q = random(BATCH, HEADS, length, width, seed=1)
    k = random(BATCH, kv_heads, keys, width, seed=2)
    v = random(BATCH, kv_heads, keys, value_width, seed=3)
    return q, k, v


def distance_bias(query, key):
    """One slope a head, (HEADS, *index shape)."""
    slope = torch.tensor([0.1, -0.2, 0.3, 0.4], dtype=torch.float64)
    distance = (query - key).double()
    return slope.view(-1, *[1] * distance.dim()) * distance + (query % 3).double() * (key % 5).double() * 0.1


def shared_bias(query, key):
    return ((query - key).double() * 0.1)[None]


def compare(q, k, v, source, extra=(), **options):
    """Values and gradients in float64, and values in float32, against the loops."""
    leaves = [x for x in (q, k, v, *extra) if x is not None]
    if isinstance(options.get("bias"), torch.Tensor):
        leaves.append(options["bias"])
    for x in leaves:
        x.requires_grad_()
    found = attend(q, k, v, source, **options)
    expected = attend_reference(q, k, v, source, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = random(*found.shape, seed=9)
    for x, y in zip(gradients(found, weight, leaves), gradients(expected, weight, leaves), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)
    if not extra:
        single = [None if x is None else x.detach().float() for x in (q, k, v)]
        torch.testing.assert_close(attend(*single, source, **options).double(), expected, rtol=1e-5, atol=1e-5)


def gradients(y, weight, leaves):
    found = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def neighbours(length):
    index = integers(length + 3, BATCH, length, 5, seed=4) - 3
    index = index.clamp(min=-1)
    index[0, 2] = -1  # a query that reads nothing
    return Neighbours(index)


def span(length):
    low, size = integers(length, BATCH, length, seed=5), integers(5, BATCH, length, seed=6)
    return Span(low, low + size)


SOURCES = {
    "full": (13, lambda length: Full()),
    "full causal": (13, lambda length: Full(causal=True)),
    "band": (13, lambda length: Band(3)),
    "band two-sided": (13, lambda length: Band(3, causal=False)),
    "band dilated": (13, lambda length: Band(2, dilation=3)),
    "band dilated two-sided": (13, lambda length: Band(2, causal=False, dilation=3)),
    "cells": (13, lambda length: Cells(integers(5, BATCH, length, seed=7))),
    "cells causal": (13, lambda length: Cells(integers(5, length, seed=7), causal=True)),
    "neighbours": (13, neighbours),
    "span": (13, span),
    "union": (13, lambda length: Union((Band(2), Cells(torch.arange(length) % 4), span(length)))),
    "heads": (13, lambda length: HeadSplit([(2, Band(2)), (1, Full(causal=True)), (1, span(length))])),
    "union of heads": (13, lambda length: Union([Band(1), HeadSplit([(2, span(length)), (2, neighbours(length))])])),
}
OPTIONS = {
    "plain": (),
    "mask": ("mask",),
    "segments": ("segments",),
    "bias tensor": ("bias tensor",),
    "bias callable": ("bias callable",),
    "all": ("mask", "segments", "bias tensor"),
    "all, callable": ("mask", "segments", "bias callable"),
}


def make_options(names, length):
    options = {}
    if "mask" in names:
        options["mask"] = integers(3, BATCH, length, seed=8) > 0
        options["mask"][0, :3] = False
    if "segments" in names:
        options["segments"] = integers(2, BATCH, length, seed=10).cumsum(1) // 3
    if "bias tensor" in names:
        options["bias"] = random(1, HEADS, length, length, seed=11)
    if "bias callable" in names:
        options["bias"] = distance_bias
    return options
