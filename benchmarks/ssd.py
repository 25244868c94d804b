"""The scan of Mamba-2 in its dual form."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from benchmarks.rows import Pair, Row, function_pair
from tokenmix import kernels
from tokenmix.ops.chunked_scan import ssd

HEADS, WIDTH, STATES = 16, 64, 128


def inputs(length: int) -> list[Tensor]:
    """x, dt, A, B, C, D as at the start of a Mamba-2 layer; one group."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, HEADS, WIDTH, generator=generator)
    dt = torch.rand(1, length, HEADS, generator=generator) * 0.1 + 1e-3
    A = -torch.rand(HEADS, generator=generator) * 15 - 1
    B, C = (torch.randn(1, length, 1, STATES, generator=generator) for _ in range(2))
    return [x, dt, A, B, C, torch.ones(HEADS)]


def ours(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return ssd(x, dt, A, B, C, D=D)[0]


def plain(*tensors: Tensor) -> Tensor:
    """Without the native kernels."""
    with kernels.use("torch"):
        return ours(*tensors)


def transformers_ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 256) -> Tensor:
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    y = mamba2_chunk_scan(x, dt, A, B, C, chunk, D=D)
    return y[0] if isinstance(y, tuple) else y


def reference(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Every token reads every earlier one, in float64."""
    total = (dt * A).cumsum(1).transpose(1, 2)  # (B, H, L)
    gaps = (total[..., :, None] - total[..., None, :]).tril()
    scores = torch.einsum("blgn,bsgn->bls", C, B)[:, None]
    weights = (gaps.exp() * scores).tril()
    return torch.einsum("bhls,bsh,bshp->blhp", weights, dt, x) + D[:, None] * x


def pair(length: int, train: bool = False, function: object = ours, chunk: int = 256) -> Pair:
    theirs = partial(transformers_ssd, chunk=chunk)
    return function_pair(function, theirs, reference, inputs(length), "y x dt A B C D", train)  # type: ignore[arg-type]


PEER, SMALL = "transformers' Mamba-2", "transformers' Mamba-2, chunks of 64"
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
train = partial(pair, train=True)
ROWS = [
    Row("ssd/forward", "Mamba-2's scan, forward", PEER, pair, 2048, 4, 10, lengths=LENGTHS),
    Row("ssd/train", "Mamba-2's scan, forward + backward", PEER, train, 2048, 3.5, 7, lengths=LENGTHS),
    Row("ssd/train", "Mamba-2's scan, forward + backward", SMALL, partial(train, chunk=64), 2048),
    Row("ssd/no-compiler/train", "the same in plain torch", PEER, partial(train, function=plain), 2048),
]
