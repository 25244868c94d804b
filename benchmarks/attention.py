"""Windowed attention, LS-attention layers, and GAM blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.modules import module_pair
from benchmarks.rows import Pair, Row, function_pair, lower
from tokenmix.blocks import MixerBlock
from tokenmix.mixers.attention import LSAttention
from tokenmix.mixers.gam import GAM
from tokenmix.ops.attend import attend
from tokenmix.ops.sources import Band

WIDTH = 64


def band_mask(length: int, window: int) -> Tensor:
    """(L, L) bool: i - w < j <= i, as transformers makes it; as floats SDPA would be about 1.35 x as fast."""
    place = torch.arange(length)
    gap = place[:, None] - place
    return (gap >= 0) & (gap < window)


def ours(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    return attend(q, k, v, Band(window))


def exact(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """In float64, 512 queries at a time."""
    parts = []
    for first in range(0, q.shape[2], 512):
        last, low = min(first + 512, q.shape[2]), max(0, first - window + 1)
        query, key = torch.arange(first, last)[:, None], torch.arange(low, last)
        hidden = (key > query) | (key <= query - window)
        scores = q[:, :, first:last] @ k[:, :, low:last].mT * q.shape[-1] ** -0.5
        parts.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, :, low:last])
    return torch.cat(parts, 2)


def window_pair(length: int, window: int, heads: int = 4, train: bool = False, peer: str = "sdpa") -> Pair:
    generator = torch.Generator().manual_seed(0)
    qkv = [torch.randn(1, heads, length, WIDTH, generator=generator) for _ in range(3)]
    theirs: Callable[..., Tensor]
    wider, notes = None, ""
    if peer == "sdpa":
        theirs = partial(F.scaled_dot_product_attention, attn_mask=band_mask(length, window))
    else:
        from local_attention import LocalAttention

        theirs = LocalAttention(
            window_size=window, causal=True, exact_windowsize=True, autopad=True, use_rotary_pos_emb=False, dim=WIDTH
        )
        wider, notes = partial(exact, window=window + 1), "theirs reads one key more"
    mine, right = partial(ours, window=window), partial(exact, window=window)
    return function_pair(mine, theirs, right, qkv, "y q k v", train, wider, notes=notes)


class MultiHead(nn.Module):
    """A plain layer of causal multi-head attention on torch's fused kernel."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)), with the norm and feed-forward of `MixerBlock`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = nn.RMSNorm(dim), MultiHead(dim, heads)
        self.norm, self.up, self.down = nn.RMSNorm(dim), nn.Linear(dim, 4 * dim, False), nn.Linear(4 * dim, dim, False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.down(F.gelu(self.up(self.norm(x))))


def layer_pair(length: int, long_heads: int = 2, train: bool = False) -> Pair:
    torch.manual_seed(0)
    mine = LSAttention(512, heads=8, long_heads=long_heads, window=64)
    return module_pair(mine, MultiHead(512, 8), torch.randn(1, length, 512), train=train)


def gam_pair(length: int) -> Pair:
    """2048 tokens a step, or one row where it is longer."""
    torch.manual_seed(0)
    mine = MixerBlock(GAM(512, slots=512), feed_forward="gelu")
    x = torch.randn(max(1, 2048 // length), length, 512)
    return module_pair(mine, TransformerBlock(512, 8), x)


BAND, LOCAL = "SDPA with a band mask", "local-attention"


def band_flops(length: int, window: int, heads: int, products: int) -> float:
    """Of so many matrix products over the band alone: 2 forward (q k and w v), and 5 more backward."""
    pairs = length * window - window * (window - 1) / 2
    return products * 2.0 * heads * WIDTH * pairs


def window_rows(window: int, length: int, heads: int, aims: dict[str, tuple[float | None, float | None]]) -> list[Row]:
    """Forward, and forward + backward, against both peers."""
    rows = []
    for train, what in ((False, "forward"), (True, "forward + backward")):
        for peer, name, needs in (("sdpa", BAND, ()), ("local", LOCAL, ("local_attention",))):
            target = aims[peer][train]
            build = partial(window_pair, window=window, heads=heads, train=train, peer=peer)
            kind = "train" if train else "forward"
            text = f"windowed attention, w {window}, {what}"
            few = 3 if length > 8192 and peer == "sdpa" else 5
            lengths = (256, 512, 1024, 2048, 4096, 8192) if (window, peer) == (256, "sdpa") else ()
            row = Row(f"window/{kind}/{window}", text, name, build, length, target, None, needs, few, lengths=lengths)
            if (window, peer) == (256, "sdpa"):  # the stretch: 60 % of the rate of matrix products
                row = replace(row, flops=partial(band_flops, window=window, heads=heads, products=7 if train else 2))
            rows.append(row)
    return rows


MULTI = "multi-head layer on SDPA"
local = (2.2, 2.0)
ROWS = [
    *window_rows(128, 1024, 4, {"sdpa": (None, None), "local": local}),
    *window_rows(64, 4096, 4, {"sdpa": (None, None), "local": local}),
    *window_rows(256, 4096, 4, {"sdpa": (8, 6.5), "local": local}),
    *window_rows(512, 8192, 2, {"sdpa": (None, None), "local": local}),
    *window_rows(128, 16384, 4, {"sdpa": (45, 30), "local": local}),
    Row("ls_attention/forward", "LS-attention, 2 long and 6 short heads, forward", MULTI, layer_pair, 2048, lower(33)),
    Row("ls_attention/forward", "LS-attention, 2 long and 6 short heads, forward", MULTI, layer_pair, 8192, lower(55),
        lower(65), lengths=(256, 512, 1024, 2048, 4096, 8192)),
    Row("ls_attention/forward/1+7", "LS-attention, 1 long and 7 short heads, forward", MULTI,
        partial(layer_pair, long_heads=1), 8192, None, lower(65)),
    Row("ls_attention/train", "LS-attention, 2 long and 6 short heads, forward + backward", MULTI,
        partial(layer_pair, train=True), 2048),
    *(Row("gam/block", "GAM block, forward + backward", "transformer block on SDPA", gam_pair, length, target, stretch)
      for length, target, stretch in ((256, 1.03, 1.1), (1024, 1.15, None), (2048, 1.4, None), (8192, 2.5, None))),
]  # fmt: skip
