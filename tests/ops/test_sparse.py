"""Products with sparse matrices, and their gradients."""

import pytest
import torch

from tokenmix.ops.sparse import SparseMatrix


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (1, 4), (4, 1)])
def test_products_and_gradients_are_those_of_the_dense_matrix(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    matrix = matrix * (torch.rand(shape, generator=generator) > 0.5)
    dense = torch.randn(shape[1], 3, generator=generator, dtype=torch.float64, requires_grad=True)
    sparse = SparseMatrix.of(matrix.to_sparse_csr())
    assert torch.equal(sparse.transposed.to_dense(), matrix.t())
    torch.testing.assert_close(sparse @ dense, matrix @ dense)
    assert torch.autograd.gradcheck(lambda x: sparse @ x, dense)


def test_empty_rows_and_columns() -> None:
    sparse = SparseMatrix.of(torch.zeros(3, 4))
    assert torch.equal(sparse @ torch.ones(4, 2), torch.zeros(3, 2))
    assert sparse.transposed.shape == (4, 3)


def test_only_matrices_of_floats() -> None:
    with pytest.raises(ValueError, match=r"matrix: expected floats of shape \(R, C\), found torch.int64"):
        SparseMatrix.of(torch.zeros(2, 2, dtype=torch.int64))
