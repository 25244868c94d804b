"""Sets of codes, one a row, and how much two of them share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_INTEGER = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class CodeSets:
    """Sets of non-negative integers in compressed rows: sorted, every code once.

    Args:
        indptr: (N + 1,) int64.
        indices: (nnz,) int64.

    Example:
        >>> CodeSets.of([{7, 2}, set(), [2, 2]]).indices.tolist()
        [2, 7, 2]
    """

    indptr: Tensor
    indices: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.indptr) - 1

    @classmethod
    def of(cls, codes: CodeSets | Sequence[Collection[int]] | tuple[Tensor, Tensor], name: str = "codes") -> CodeSets:
        """From a list of sets, or from (indptr, indices).

        Args:
            codes: what is given; a code listed twice counts once.
            name: for errors.

        Raises:
            ValueError, TypeError: codes that are negative or no integers, or an indptr that does not fit.
        """
        if isinstance(codes, CodeSets):
            return codes
        if isinstance(codes, tuple) and len(codes) == 2 and all(isinstance(part, Tensor) for part in codes):
            indptr, indices = (part for part in codes if isinstance(part, Tensor))
            for part in (indptr, indices):
                if part.dtype not in _INTEGER or part.dim() != 1:
                    raise TypeError(f"{name}: expected (indptr, indices) of integers in one dimension, found {codes!r}")
            sizes = indptr.long().diff()
            if not len(indptr) or int(indptr[0]) or int(indptr[-1]) != len(indices) or bool((sizes < 0).any()):
                raise ValueError(f"{name}: expected indptr to rise from 0 to {len(indices)}, found {indptr.tolist()}")
            indices = indices.long()
        else:
            sets = [list(row) for row in codes]
            flat = [code for row in sets for code in row]
            wrong = next((code for code in flat if isinstance(code, bool) or not isinstance(code, int)), None)
            if wrong is not None:
                raise TypeError(f"{name}: expected sets of integers, found {wrong!r}")
            sizes, indices = torch.tensor([len(row) for row in sets]).long(), torch.tensor(flat).long()
        if len(indices) and int(indices.min()) < 0:
            raise ValueError(f"{name}: expected codes of 0 or more, found {int(indices.min())}")
        row = torch.repeat_interleave(sizes)
        both = torch.stack([row, indices]).unique(dim=1)
        counts = torch.bincount(both[0], minlength=len(sizes))
        return cls(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), both[1].contiguous())

    def sizes(self) -> Tensor:
        """(N,) int64: codes of each row."""
        return self.indptr.diff()

    def row_of(self) -> Tensor:
        """(nnz,) int64: the row of each code."""
        return torch.repeat_interleave(self.sizes())

    def jaccard(self, i: Tensor, j: Tensor) -> Tensor:
        """(n,) float64: what pairs of rows share, |c_i & c_j| / |c_i | c_j|, and 0 for two empty sets.

        Example:
            >>> CodeSets.of([{7, 2}, {2}, set()]).jaccard(torch.tensor([0, 2]), torch.tensor([1, 2])).tolist()
            [0.5, 0.0]
        """
        known, code = self.indices.unique(return_inverse=True)  # codes may be as large as hashes
        width = max(1, len(known))
        keys = self.row_of() * width + code  # sorted
        sizes = self.sizes()[i]
        pair = torch.repeat_interleave(sizes)
        inside = torch.arange(len(pair)) - (sizes.cumsum(0) - sizes)[pair]
        wanted = j[pair] * width + code[self.indptr[i][pair] + inside]
        place = torch.searchsorted(keys, wanted)
        there = (keys[place.clamp(max=max(len(keys) - 1, 0))] == wanted) if len(keys) else wanted.bool()
        shared = torch.bincount(pair, weights=there.double(), minlength=len(i))
        return shared / (sizes + self.sizes()[j] - shared).clamp(min=1)


def overlaps(rows: CodeSets, others: CodeSets, low: int, high: int, first: int) -> Tensor:
    """(high - low, M - first) float64: the Jaccard index of rows low to high with the others from `first` on.

    Example:
        >>> sets = CodeSets.of([{7, 2}, {2}, set()])
        >>> overlaps(sets, sets, 0, 2, 0).tolist()
        [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0]]
    """
    start, end = int(rows.indptr[low]), int(rows.indptr[high])
    known, place = rows.indices[start:end].unique(return_inverse=True)
    mine = torch.zeros(len(known) + 1, high - low, dtype=torch.float64)  # the last one: codes that no row here has
    mine[place, rows.row_of()[start:end] - low] = 1.0
    begin = int(others.indptr[first])
    codes = others.indices[begin:]
    at = torch.searchsorted(known, codes)
    at = torch.where(torch.cat([known, known.new_full((1,), -1)])[at] == codes, at, len(known))
    where = torch.stack([others.row_of()[begin:] - first, at])
    where = where[:, at < len(known)]
    size = (len(others) - first, len(known) + 1)
    theirs = torch.sparse_coo_tensor(
        where, torch.ones(where.shape[1], dtype=torch.float64), size, check_invariants=False
    )
    shared = torch.sparse.mm(theirs, mine).T
    union = rows.sizes()[low:high, None] + others.sizes()[first:] - shared
    return shared / union.clamp(min=1)
