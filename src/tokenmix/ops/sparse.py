"""Products with a constant sparse matrix, whose gradient is a product with its transpose, made once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenmix.ops.common import without_autocast


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A constant sparse matrix, ready for products in both directions.

    Args:
        matrix: (R, C), sparse CSR.
        transposed: (C, R), sparse CSR.

    Example:
        >>> product = SparseMatrix.of(torch.tensor([[0.0, 2.0], [1.0, 0.0]])) @ torch.tensor([[3.0], [4.0]])
        >>> product.tolist()
        [[8.0], [3.0]]
    """

    matrix: Tensor
    transposed: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> SparseMatrix:
        """From a matrix of any layout.

        Raises:
            ValueError: not a matrix of floats.
        """
        if matrix.dim() != 2 or not matrix.is_floating_point():
            raise ValueError(f"matrix: expected floats of shape (R, C), found {matrix.dtype} of {tuple(matrix.shape)}")
        if matrix.layout != torch.sparse_csr:
            matrix = matrix.to_sparse_csr()
        matrix = csr(matrix.crow_indices(), matrix.col_indices(), matrix.values(), (matrix.shape[0], matrix.shape[1]))
        rows = torch.arange(matrix.shape[0], device=matrix.device).repeat_interleave(matrix.crow_indices().diff())
        columns, order = matrix.col_indices().sort(stable=True)
        counts = torch.bincount(columns, minlength=matrix.shape[1])
        pointers = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        size = (matrix.shape[1], matrix.shape[0])
        return cls(matrix, csr(pointers, rows[order], matrix.values()[order], size))

    def to(self, device: torch.device | str) -> SparseMatrix:
        """The same matrix on another device."""
        if self.matrix.device == torch.device(device):
            return self
        return SparseMatrix(self.matrix.to(device), self.transposed.to(device))

    def __matmul__(self, dense: Tensor) -> Tensor:
        """(C, n) -> (R, n); the gradient flows to `dense` alone."""
        product: Tensor = _Product.apply(self, dense)
        return product


def csr(
    pointers: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int], *, index: torch.dtype | None = None
) -> Tensor:
    """A sparse CSR matrix of tensors that are known to be in order.

    Args:
        pointers: (R + 1,) integers. columns, values: (n,).
        size: (R, C).
        index: integers that it keeps; default int32 where they suffice, which halves what products read, else int64.

    Example:
        >>> csr(torch.tensor([0, 0, 1]), torch.tensor([1]), torch.ones(1), (2, 2)).to_dense().tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    if index is None:
        index = torch.int32 if max(len(columns), *size) < 2**31 else torch.int64
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointers.to(index), columns.to(index), values, size, check_invariants=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sparse: SparseMatrix, dense: Tensor) -> Tensor:
        ctx.sparse = sparse
        with without_autocast(dense.device):
            return sparse.matrix @ dense

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        with without_autocast(grad.device):
            return None, ctx.sparse.transposed @ grad.contiguous()
