"""Attention over edges against loops in float64, its gradients, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tokenmix.ops import edges as module
from tokenmix.ops.attend import attend
from tokenmix.ops.edges import attend_edges, edge_softmax
from tokenmix.ops.sources import Neighbours


def naive(q: Tensor, k: Tensor, v: Tensor, edges: Tensor, bias: Tensor | None = None) -> Tensor:
    """Loops over receivers, heads and edges."""
    nodes, heads, width = q.shape
    y = torch.zeros(nodes, heads, v.shape[2], dtype=torch.float64)
    for i in range(nodes):
        incoming = [e for e in range(edges.shape[1]) if int(edges[1, e]) == i]
        for h in range(heads):
            scores = []
            for e in incoming:
                j = int(edges[0, e])
                score = sum(float(q[i, h, d]) * float(k[j, h, d]) for d in range(width)) / math.sqrt(width)
                scores.append(score + (0.0 if bias is None else float(bias[e, h])))
            total = sum(math.exp(s) for s in scores)
            for e, s in zip(incoming, scores, strict=True):
                if s > -math.inf:
                    y[i, h] += math.exp(s) / total * v[int(edges[0, e]), h].double()
    return y


def problem(seed: int = 0, receivers: int = 7, senders: int = 9, count: int = 30) -> tuple[Tensor, ...]:
    """Unsorted edges with duplicates, and a receiver (the last) that none ends in."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    sender = torch.randint(senders, (count,), generator=g)
    receiver = torch.randint(receivers - 1, (count,), generator=g)
    edges = torch.stack([torch.cat([sender, sender[:2]]), torch.cat([receiver, receiver[:2]])])
    return normal(receivers, 2, 3), normal(senders, 2, 3), normal(senders, 2, 4), edges, normal(edges.shape[1], 2)


@pytest.mark.parametrize("chunk", [1, 20, 2**19])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_loops(chunk: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    q, k, v, edges, bias = problem()
    given = bias if with_bias else None
    expected = naive(q, k, v, edges, given)
    assert torch.allclose(attend_edges(q, k, v, edges, bias=given), expected, atol=1e-12)
    assert torch.allclose(
        attend_edges(q.float(), k.float(), v.float(), edges.int(), bias=given).double(), expected, atol=1e-6
    )
    assert (expected[-1] == 0).all()
    order = torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = attend_edges(q, k, v, edges[:, order], bias=None if given is None else given[order])
    assert torch.allclose(shuffled, expected, atol=1e-12)


def test_equals_attend_over_neighbours_where_degrees_are_equal() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 8, 4, generator=g) for _ in range(3))
    index = torch.randint(8, (8, 3), generator=g)  # with repetitions
    expected = attend(q, k, v, Neighbours(index))[0].transpose(0, 1)
    edges = torch.stack([index.flatten(), torch.arange(8).repeat_interleave(3)])
    found = attend_edges(*(x[0].transpose(0, 1) for x in (q, k, v)), edges)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_duplicate_edge_counts_twice_and_a_hidden_one_not() -> None:
    q, v = torch.zeros(1, 1, 1), torch.tensor([[[1.0]], [[4.0]]])
    edges = torch.tensor([[0, 1, 1], [0, 0, 0]])
    assert attend_edges(q, v, v, edges).item() == pytest.approx(3.0)
    hidden = torch.tensor([[0.0], [0.0], [-torch.inf]])
    assert attend_edges(q, v, v, edges, bias=hidden).item() == pytest.approx(2.5)
    v.requires_grad_()
    y = attend_edges(q, v, v, edges, bias=torch.full((3, 1), -torch.inf))
    y.sum().backward()
    assert y.item() == 0
    assert (v.grad == 0).all()


def test_softmax_is_stable_and_sums_to_one() -> None:
    scores = torch.tensor([[1e4, -1e4], [1e4 + 1, -1e4], [-1e4, 3e38]], dtype=torch.float32)
    weights = edge_softmax(scores, torch.tensor([1, 1, 3]), 4)
    assert torch.allclose(weights[:2, 0], torch.tensor([0.0, 1.0]).softmax(0))
    assert weights[:2, 1].tolist() == [0.5, 0.5]
    assert weights[2].tolist() == [1.0, 1.0]
    assert edge_softmax(scores.bfloat16(), torch.tensor([1, 1, 3]), 4).dtype == torch.float32


@pytest.mark.parametrize("chunk", [10, 2**19])
def test_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    q, k, v, edges, bias = problem(receivers=4, senders=3, count=6)
    leaves = [x.requires_grad_() for x in (q, k, v, bias)]

    def call(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return attend_edges(q, k, v, edges, bias=bias)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(lambda q, k, v: attend_edges(q, k, v, edges), leaves[:3])
    assert torch.autograd.gradcheck(lambda s: edge_softmax(s, edges[1], 4), [bias])


def test_half_precision_is_summed_in_float32() -> None:
    """4,096 equal edges into one node: sums in bfloat16 would stop at 256."""
    x = torch.ones(1, 1, 2, dtype=torch.bfloat16)
    edges = torch.zeros(2, 4096, dtype=torch.int64)
    y = attend_edges(x, x, x, edges)
    assert y.dtype == torch.bfloat16
    assert y.flatten().tolist() == [1.0, 1.0]


def test_no_edges_and_no_nodes() -> None:
    none = torch.zeros(2, 0, dtype=torch.int64)
    x = torch.ones(3, 2, 4, requires_grad=True)
    y = attend_edges(x, x, x, none)
    y.sum().backward()
    assert y.shape == (3, 2, 4)
    assert (y == 0).all()
    assert (x.grad == 0).all()
    assert attend_edges(x[:0], x[:0], x[:0], none).shape == (0, 2, 4)
    assert edge_softmax(torch.zeros(0, 2), none[0], 3).shape == (0, 2)


def test_no_tensor_of_edges_times_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 256)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(10, 2, 16, generator=g, requires_grad=True)
    edges = torch.randint(10, (2, 500), generator=g)
    largest = 0

    def pack(kept: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, kept.numel())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        attend_edges(x, x, x, edges)
    assert 0 < largest <= 2 * 500  # the weights; gathered rows would be 500 * 32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"edges": torch.tensor([[9], [0]])}, ValueError, "senders of edges: expected numbers from 0 to 8, found 9"),
        ({"edges": torch.tensor([[0], [7]])}, ValueError, "receivers of edges: expected numbers from 0 to 6, found 7"),
        ({"edges": torch.tensor([[0], [-1]])}, ValueError, "receivers of edges: .* from 0 to 6, found -1"),
        ({"edges": torch.tensor([[0.0], [0.0]])}, TypeError, "senders of edges: expected integers, found"),
        ({"edges": torch.tensor([0, 1])}, ValueError, r"edges: expected integers of shape \(2, E\), found"),
        ({"bias": torch.zeros(3, 2)}, ValueError, r"bias: expected floats of shape \(32, 2\), found torch.float32 of"),
        ({"q": torch.zeros(7, 2)}, ValueError, r"q: expected floats of shape \(N, H, D\), found .* \(7, 2\)"),
        ({"k": torch.zeros(9, 2, 5)}, ValueError, r"k, v: expected \(M, H=2, D=3\) and \(M, H, C\), found \(9, 2, 5\)"),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, Tensor], error: type[Exception], message: str) -> None:
    q, k, v, edges, _ = problem()
    given = {"q": q, "k": k, "v": v, "edges": edges, **change}
    with pytest.raises(error, match=message):
        attend_edges(**given)


def test_mistakes_of_the_softmax_are_named() -> None:
    with pytest.raises(ValueError, match=r"receiver: expected shape \(3,\), found \(2,\)"):
        edge_softmax(torch.zeros(3, 1), torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match="receiver: expected numbers from 0 to 1, found 2"):
        edge_softmax(torch.zeros(1, 1), torch.tensor([2]), 2)
    with pytest.raises(ValueError, match=r"scores: expected floats of shape \(E, H\), found torch.int64"):
        edge_softmax(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([0]), 2)
