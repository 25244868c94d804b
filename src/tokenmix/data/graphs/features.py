"""Features of nodes: bags of words as compressed sparse rows, and a look for numbers that are none."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.common import infinite_row
from tokenmix.ops.sparse import csr

_BLOCK = 1 << 24  # numbers that are looked at together


def bag_of_words(indptr: np.ndarray, words: np.ndarray, width: int, values: np.ndarray | None = None) -> Tensor:
    """Rows of a sparse matrix, (N, width) float32 of layout `torch.sparse_csr`.

    Args:
        indptr: (N + 1,) where the words of each node begin.
        words: (n,) columns, from 0 to width - 1.
        width: F.
        values: (n,) their values; 1 by default.

    Raises:
        ValueError: rows or columns that cannot be.

    Example:
        >>> bag_of_words(np.array([0, 2, 2]), np.array([0, 3]), 4).to_dense().tolist()
        [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """
    data = np.ones(len(words), np.float32) if values is None else np.asarray(values, np.float32)
    if len(data) != len(words):
        raise ValueError(f"values: expected one for each of {len(words)} words, found {len(data)}")
    if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(words) or (np.diff(indptr.astype(np.int64)) < 0).any():
        raise ValueError(f"indptr: expected rising numbers from 0 to {len(words)}, found another end or order")
    if len(words) and not 0 <= int(words.min()) <= int(words.max()) < width:
        raise ValueError(f"words: expected columns from 0 to {width - 1}, found {words.min()} to {words.max()}")
    rows, columns = torch.from_numpy(indptr.astype(np.int64)), torch.from_numpy(words.astype(np.int64))
    return csr(rows, columns, torch.from_numpy(data), (len(indptr) - 1, width), index=torch.int64)


def check_features(features: Tensor) -> None:
    """Refuse features that are NaN or infinite.

    Args:
        features: (N, F), dense or `torch.sparse_csr`; read block by block.

    Raises:
        ValueError: names the first such node and its column.

    Example:
        >>> check_features(torch.tensor([[0.0, 1.0], [2.0, float("nan")]]))
        Traceback (most recent call last):
        ...
        ValueError: features: expected finite numbers, found nan at node 1, column 1
    """
    if features.layout == torch.sparse_csr:
        values = features.values()
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            place = int(wrong[0])
            node = int(torch.searchsorted(features.crow_indices(), place, right=True)) - 1
            _refuse(float(values[place]), node, int(features.col_indices()[place]))
        return
    step = max(1, _BLOCK // max(1, features.shape[1]))
    for start in range(0, len(features), step):
        block = features[start : start + step]
        if (row := infinite_row(block)) is not None:
            column = int((~block[row].isfinite()).nonzero()[0])
            _refuse(float(block[row, column]), start + row, column)


def _refuse(value: float, node: int, column: int) -> None:
    raise ValueError(f"features: expected finite numbers, found {value} at node {node}, column {column}")
