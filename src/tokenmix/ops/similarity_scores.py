"""Scores of pairs of rows, a block at a time, and their quantiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenmix.ops.code_sets import CodeSets, overlaps

BLOCK = 1 << 22  # scores that are held at once
PAIRS = 4_000_000  # pairs that are drawn where a quantile is estimated


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """Rows of length 1 or 0, and their codes."""

    unit: Tensor
    codes: CodeSets | None
    alpha: float

    def __len__(self) -> int:
        return len(self.unit)

    def block(self, others: ScoredRows, low: int, high: int, first: int) -> Tensor:
        """(high - low, M - first) float32: rows low to high with the others from `first` on."""
        scores = (self.unit[low:high] @ others.unit[first:].T).clamp_(-1, 1).mul_(self.alpha)
        if self.codes is not None and others.codes is not None:
            shared = overlaps(self.codes, others.codes, low, high, first)
            scores.add_(shared, alpha=1 - self.alpha)
        return scores.float()

    def pairs(self, i: Tensor, j: Tensor) -> Tensor:
        """(n,) float32: S of pairs of rows."""
        scores = (self.unit[i] * self.unit[j]).sum(1).clamp_(-1, 1) * self.alpha
        if self.codes is not None:
            scores += (1 - self.alpha) * self.codes.jaccard(i, j)
        return scores.float()


def blocks(rows: ScoredRows, others: ScoredRows, *, half: bool) -> Iterator[tuple[int, Tensor]]:
    """Scores of a few rows with all others, or with those from the first of them on; and where they begin."""
    step = max(1, BLOCK // max(1, len(others)))
    for low in range(0, len(rows), step):
        high = min(low + step, len(rows))
        yield low, rows.block(others, low, high, low if half else 0)


def exact_quantile(rows: ScoredRows, quantile: float) -> float:
    """Of all pairs i < j, by counting: first the upper 16 bits of the scores, then the lower ones where it matters."""
    place = quantile * (len(rows) * (len(rows) - 1) // 2 - 1)
    ranks = [int(place), min(int(place) + 1, len(rows) * (len(rows) - 1) // 2 - 1)]
    upper = torch.zeros(1 << 16, dtype=torch.int64)
    for key in _keys(rows):
        upper += torch.bincount(key >> 16, minlength=1 << 16)
    ends = upper.cumsum(0)
    tops = [int(torch.searchsorted(ends, rank, right=True)) for rank in ranks]
    lower = {top: torch.zeros(1 << 16, dtype=torch.int64) for top in tops}
    for key in _keys(rows):
        for top, counts in lower.items():
            counts += torch.bincount(key[key >> 16 == top] & 0xFFFF, minlength=1 << 16)
    found = []
    for rank, top in zip(ranks, tops, strict=True):
        inside = rank - int(ends[top] - upper[top])
        low = int(torch.searchsorted(lower[top].cumsum(0), inside, right=True))
        found.append(_number(top << 16 | low))
    return found[0] + (place - ranks[0]) * (found[1] - found[0])


def _keys(rows: ScoredRows) -> Iterator[Tensor]:
    """Scores of pairs i < j as integers of 32 bits in the same order, int64."""
    for _, block in blocks(rows, rows, half=True):
        later = torch.ones(block.shape, dtype=torch.bool).triu_(1)
        bits = (block[later] + 0.0).view(torch.int32).long()  # -0 becomes 0
        yield torch.where(bits >= 0, bits + (1 << 31), (1 << 31) - 1 - (bits & 0x7FFFFFFF))


def _number(key: int) -> float:
    """The score of a key."""
    bits = key - (1 << 31) if key >= 1 << 31 else ((1 << 31) - 1 - key) | -(1 << 31)
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))


def drawn_quantile(rows: ScoredRows, quantile: float, seed: int) -> float:
    """Of pairs that are drawn, with replacement."""
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(len(rows), (PAIRS,), generator=generator)
    j = torch.randint(len(rows) - 1, (PAIRS,), generator=generator)
    j += j >= i
    step = max(1, BLOCK // max(1, rows.unit.shape[1]))
    scores = torch.cat([rows.pairs(i[at : at + step], j[at : at + step]) for at in range(0, PAIRS, step)])
    place = quantile * (PAIRS - 1)
    ordered = scores.sort().values[int(place) : int(place) + 2].double()
    return float(ordered[0] + (place - int(place)) * (ordered[-1] - ordered[0]))
