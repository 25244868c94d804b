"""Vectors to codes: which code, which gradient, and when codes are read and moved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tokenmix.mixers.vector_quantiser import VectorQuantiser
from tokenmix.models.tokenisers import code_perplexity
from tokenmix.models.tokenisers.quantise import quantise


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(**options: float) -> VectorQuantiser:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(codes=7, dim=3, **options).double()
    for seed in range(3):
        quantiser.update(vectors(40, 3, seed=seed) * torch.tensor([1.0, 5.0, 0.2]) + 2)
    return quantiser


def test_gradients_and_values_equal_the_equations() -> None:
    quantiser = trained().eval()
    q, weight = vectors(2, 5, 3, seed=8).requires_grad_(), vectors(2, 5, 3, seed=9)
    found = quantise(quantiser, q)
    book, squares, values = quantiser.codebook(), 0.0, q.detach()
    for b in range(2):
        for t in range(5):
            distances = [
                sum(
                    (float(values[b, t, d]) - float(code[d])) ** 2 / (float(quantiser.variance[d]) + 1e-5)
                    for d in range(3)
                )
                for code in book
            ]
            assert int(found.tokens[b, t]) == min(range(7), key=distances.__getitem__)
            code = book[int(found.tokens[b, t])]
            torch.testing.assert_close(found.vectors[b, t], code)
            squares += float((values[b, t] - code).square().sum())
    assert float(found.commitment.detach()) == pytest.approx(squares / 30)
    (through,) = torch.autograd.grad((found.vectors.sin() * weight).sum(), q, retain_graph=True)
    codes = book[found.tokens].requires_grad_()
    (expected,) = torch.autograd.grad((codes.sin() * weight).sum(), codes)
    torch.testing.assert_close(through, expected, rtol=1e-12, atol=1e-12)
    (pulled,) = torch.autograd.grad(found.commitment, q)
    torch.testing.assert_close(pulled, 2 * (q - codes).detach() / 30)


def test_codes_are_read_before_they_move_and_after_they_are_made() -> None:
    torch.manual_seed(0)
    quantiser = VectorQuantiser(codes=7, dim=3, restart=1.0)  # every rare code leaves at once
    q = vectors(40, 3).float()
    first = quantise(quantiser, q)
    assert torch.equal(first.vectors, q + (quantiser.codebook()[first.tokens] - q))
    book = quantiser.codebook()
    second = quantise(quantiser, q)
    torch.testing.assert_close(second.vectors, book[second.tokens])
    moved = (quantiser.codebook() - book).norm(dim=1)
    assert (moved[second.tokens.unique()] > 0.5).any()  # some that were read have gone elsewhere since


def test_masked_vectors_change_nothing() -> None:
    q, mask = vectors(4, 6, 3), torch.arange(6) < torch.tensor([6, 2, 0, 5])[:, None]
    one, other = trained(), trained()
    garbage = q.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    found = quantise(one, garbage, mask)
    alone = quantise(other, q[mask])
    assert torch.equal(found.tokens[mask], alone.tokens)
    assert (found.tokens[~mask] == -1).all()
    assert not found.vectors[~mask].any()
    assert torch.equal(found.commitment.detach(), alone.commitment)
    assert torch.equal(found.perplexity, alone.perplexity)
    for name, value in one.named_buffers():
        assert torch.equal(value, other.get_buffer(name)), name
    (found.vectors.sum() + found.commitment).backward()
    assert garbage.grad is not None
    assert garbage.grad[mask].isfinite().all()


def test_perplexity() -> None:
    assert code_perplexity(torch.tensor([[3, 3], [3, -1]]), 5).item() == pytest.approx(1)
    assert code_perplexity(torch.arange(5).repeat(3), 5).item() == pytest.approx(5)
    shares = (0.5, 0.25, 0.25)
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert code_perplexity(torch.tensor([0, 0, 1, 4]), 5).item() == pytest.approx(expected)
    assert code_perplexity(torch.tensor([-1]), 5).item() == 0
