"""The dense kernel: every source ends here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.ops.blocked import Block
from tokenmix.ops.common import without_autocast

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu2": lambda scores: scores.relu().square(),
    "relu": torch.relu,
    "none": lambda scores: scores,
}


class Rule(NamedTuple):
    """How scores become weights."""

    score: str
    scale: float
    sums: bool  # whether the log-sum-exp of the scores is wanted too


def mix_channels(q: Tensor, k: Tensor, v: Tensor, real: Tensor, rule: Rule) -> Tensor:
    """(N, H, n, D) three times, (N, 1, n, 1) -> (N, H, n, D), 0 for documents without a real token."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k = (x.masked_fill(~real, 0.0).to(dtype) for x in (q, k))
    with without_autocast(q.device):
        scores = q.transpose(2, 3) @ k * rule.scale  # (N, H, D, D)
        weights = scores.softmax(-1) if rule.score == "softmax" else PLAIN[rule.score](scores)
        y = v.to(dtype) @ weights.transpose(2, 3)
    return y.masked_fill(~real.any(2, keepdim=True), 0.0)


def compute(x: Block, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """(N, H, n, E), and (N, H, n, 1) log-sum-exp of the scores if the rule wants it."""
    if rule.score != "softmax" or rule.sums or x.k.shape[2] == 0:
        with without_autocast(x.q.device):
            return compute_plainly(x, rule)
    mask, nothing = x.allowed, None
    if x.bias is not None:
        # kernels of the CPU add a float32 bias to activations of any dtype; others want one dtype
        bias = x.bias.to(x.q.dtype) if x.q.device.type != "cpu" or x.q.dtype == torch.float64 else x.bias.float()
        mask = bias if x.allowed is None else bias.masked_fill(~x.allowed, -torch.inf)
        nothing = (mask == -torch.inf).all(-1, keepdim=True)
        mask = mask.masked_fill(nothing, 0.0)
    elif mask is not None and not x.covered:
        nothing = ~mask.any(-1, keepdim=True)
        mask = mask | nothing  # kernels differ in what they make of a row that reads nothing
    y = fused(x.q, x.k, x.v, mask, rule.scale)
    return y if nothing is None else y.masked_fill(nothing, 0.0), None


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, is_causal: bool = False) -> Tensor:
    """(N, H, n, E) from torch's softmax attention; `mask` leaves every query a key."""
    width, value_width = q.shape[3], v.shape[3]
    if width < value_width:  # the fused kernels want one width; zeros change no score
        q, k = (F.pad(x, (0, value_width - width)) for x in (q, k))
    elif width > value_width:
        v = F.pad(v, (0, width - value_width))
    grouped = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}  # a traced comparison is not a bool
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale, **grouped)
    return y[..., :value_width] if width > value_width else y


def compute_plainly(x: Block, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """As `compute`, by matrix products: every score, its sums, and derivatives of any order."""
    dtype = torch.promote_types(x.q.dtype, torch.float32)
    count, heads, queries, _ = x.q.shape
    kv_heads, keys = x.k.shape[1:3]
    rows = heads // kv_heads * queries
    q = x.q.to(dtype).reshape(count, kv_heads, rows, x.q.shape[3])  # query heads of a group, one after another
    scores = (q * rule.scale @ x.k.to(dtype).transpose(2, 3)).view(count, heads, queries, keys)
    if x.bias is not None:
        scores = scores + x.bias.to(dtype)
    if x.allowed is not None:
        scores = scores.masked_fill(~x.allowed, -torch.inf)
    hidden = scores == -torch.inf
    total = None
    if rule.score == "softmax":
        nothing = hidden.all(-1, keepdim=True)
        scores = scores.masked_fill(nothing, 0.0)
        total = scores.logsumexp(-1, keepdim=True)
        weights = (scores - total).exp().masked_fill(nothing, 0.0)
        total = total.masked_fill(nothing, -torch.inf)
    else:
        weights = PLAIN[rule.score](scores.masked_fill(hidden, 0.0))
    y = weights.view(count, kv_heads, rows, keys) @ x.v.to(dtype)
    return y.view(count, heads, queries, x.v.shape[3]), total if rule.sums else None
