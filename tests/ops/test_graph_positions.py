"""Encodings of places in a graph against dense float64 references."""

from __future__ import annotations

import builtins
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenmix.ops import graph_positions, graph_spectrum
from tokenmix.ops.graph import Graph
from tokenmix.ops.graph_positions import flip_signs, laplacian_encoding, node2vec_encoding, random_walk_encoding


def random_graph(nodes: int, edges: int, seed: int = 0, undirected: bool = True) -> Graph:
    g = torch.Generator().manual_seed(seed)
    return Graph.from_edges(torch.randint(nodes, (2, edges), generator=g), nodes, undirected=undirected)


def ring(nodes: int, isolated: int = 0, start: int = 0) -> Graph:
    place = torch.arange(nodes)
    return Graph.from_edges(
        torch.stack([place, (place + 1) % nodes]) + start, nodes + start + isolated, undirected=True
    )


def dense_walk(graph: Graph) -> Tensor:
    """P_ij = entries j in row i over all entries of row i; float64."""
    walk = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    sender, receiver = graph.edges()
    for i, j in zip(receiver.tolist(), sender.tolist(), strict=True):
        walk[i, j] += 1
    return walk / walk.sum(1, keepdim=True).clamp(min=1)


def naive_returns(graph: Graph, steps: int) -> Tensor:
    walk = dense_walk(graph)
    return torch.stack([torch.linalg.matrix_power(walk, k).diagonal() for k in range(1, steps + 1)], dim=1)


def dense_laplacian(graph: Graph) -> Tensor:
    """I - D^-1/2 A D^-1/2 in loops; 0 for isolated nodes."""
    linked = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    for j, i in graph.edges().T.tolist():
        if i != j:
            linked[i, j] = linked[j, i] = 1
    degree = linked.sum(1)
    laplacian = torch.diag((degree > 0).double())
    for i in range(graph.num_nodes):
        for j in range(graph.num_nodes):
            if linked[i, j]:
                laplacian[i, j] -= 1 / (degree[i] * degree[j]).sqrt()
    return laplacian


# ---------------------------------------------------------------------- random walks


@pytest.mark.parametrize("undirected", [True, False])
@pytest.mark.parametrize("block", [1, 2**22])
def test_exact_returns(undirected: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_positions, "BLOCK", block)
    graph = random_graph(20, 30, undirected=undirected)  # with self loops, and directed ones with dead ends
    assert torch.allclose(random_walk_encoding(graph, 5).double(), naive_returns(graph, 5), atol=1e-6)
    repeated = Graph.from_edges(torch.tensor([[0, 0, 1], [1, 1, 0]]), 2, coalesce=False)
    assert torch.allclose(random_walk_encoding(repeated, 2).double(), naive_returns(repeated, 2))


def test_returns_on_a_ring_and_of_isolated_nodes() -> None:
    found = random_walk_encoding(ring(5, isolated=2), 5)
    assert torch.allclose(found[:5], torch.tensor([0.0, 2 / 4, 0.0, 6 / 16, 2 / 32]).expand(5, 5))
    assert (found[5:] == 0).all()
    assert random_walk_encoding(Graph.from_edges(torch.zeros(2, 0, dtype=torch.int64), 0), 3).shape == (0, 3)


def test_estimated_returns_are_within_their_error() -> None:
    graph, walks = random_graph(20, 30, undirected=False), 4000
    expected = naive_returns(graph, 6)
    found = random_walk_encoding(graph, 6, exact=False, walks=walks).double()
    error = (expected * (1 - expected) / walks).sqrt()
    assert ((found - expected).abs() <= 5 * error + 1e-9).all()
    assert (found - expected).abs().max() > 0
    assert torch.equal(random_walk_encoding(graph, 6, exact=False, walks=walks).double(), found)
    other = random_walk_encoding(graph, 6, exact=False, walks=walks, seed=1).double()
    assert not torch.equal(other, found)
    assert ((other - expected).abs() <= 5 * error + 1e-9).all()


def test_estimates_of_blocks_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alike nodes in unlike blocks take unlike walks."""
    monkeypatch.setattr(graph_positions, "WALKERS", 128)
    found = random_walk_encoding(ring(6), 4, exact=False, walks=64)  # two nodes a block
    assert len(found[:, 1].unique()) > 2
    assert torch.allclose(found[:, 1].mean(), torch.tensor(0.5), atol=0.15)


def test_large_graphs_are_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_positions, "EXACT_NODES", 10)
    graph = ring(11)
    estimated = random_walk_encoding(graph, 2)
    assert torch.equal(estimated, random_walk_encoding(graph, 2, exact=False))
    assert not torch.equal(estimated, random_walk_encoding(graph, 2, exact=True))


# ---------------------------------------------------------------------- eigenvectors


@pytest.mark.parametrize("dense", [True, False])
def test_eigenvectors_of_the_laplacian(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three components and two isolated nodes; directed edges, self loops and repetitions are one link or none."""
    monkeypatch.setattr(graph_spectrum, "DENSE_NODES", 10**6 if dense else 0)
    g = torch.Generator().manual_seed(1)
    parts = [torch.randint(40, (2, 90), generator=g), torch.randint(5, (2, 12), generator=g) + 40]
    edges = torch.cat([*parts, torch.tensor([[45, 46, 45, 0], [46, 45, 45, 0]])], dim=1)
    graph = Graph.from_edges(edges, 49, coalesce=False)
    values, vectors = torch.linalg.eigh(dense_laplacian(graph))
    assert int((values.abs() < 1e-9).sum()) >= 5  # components and isolated nodes
    dim = 6
    expected = values[values.abs() > 1e-9][:dim]
    found = laplacian_encoding(graph, dim, tolerance=1e-10).double()
    assert torch.allclose(found.T @ found, torch.eye(dim, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(dense_laplacian(graph) @ found, found * expected, atol=1e-5)
    wanted = vectors[:, values.abs() > 1e-9][:, :dim]
    assert torch.allclose((wanted.T @ found).abs(), torch.eye(dim, dtype=torch.float64), atol=1e-4)
    isolated = graph_spectrum.smoothing_of(graph).nodes
    assert (found[~torch.isin(torch.arange(49), torch.from_numpy(isolated))] == 0).all()


def test_lanczos_residuals_and_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_spectrum, "DENSE_NODES", 100)
    graph = random_graph(200, 300, seed=2)
    found = laplacian_encoding(graph, 8).double()
    laplacian = dense_laplacian(graph)
    values = (found * (laplacian @ found)).sum(0)
    residual = (laplacian @ found - found * values).norm(dim=0)
    assert residual.max() < 1e-4 / 16
    exact = torch.linalg.eigvalsh(laplacian)
    assert torch.allclose(values, exact[exact > 1e-9][:8], atol=1e-4)
    assert torch.equal(laplacian_encoding(graph, 8).double(), found)


def test_degenerate_eigenvalues_are_the_same_for_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring's eigenvalues come in pairs: any basis of a pair is right, and a seed chooses one."""
    monkeypatch.setattr(graph_spectrum, "DENSE_NODES", 0)
    graph = ring(60)
    first, again, other = (laplacian_encoding(graph, 4, seed=seed, tolerance=1e-9) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    overlap = first[:, :2].T @ other[:, :2]
    assert torch.allclose(overlap @ overlap.T, torch.eye(2), atol=1e-4)  # one and the same plane


def test_signs() -> None:
    graph = random_graph(30, 60)
    fixed = laplacian_encoding(graph, 5)
    largest = fixed.abs().argmax(0)
    assert (fixed[largest, torch.arange(5)] > 0).all()
    flipped = laplacian_encoding(graph, 5, sign="random", seed=3)
    assert torch.equal(flipped.abs(), fixed.abs())
    signs = {tuple(flip_signs(torch.ones(2, 3), torch.Generator().manual_seed(seed))[0].tolist()) for seed in range(64)}
    assert len(signs) == 8  # every combination
    path = laplacian_encoding(Graph.from_edges(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, undirected=True), 1)
    assert path[0] > 0  # of two ends of equal magnitude, the first
    batch = flip_signs(torch.randn(4, 7, 3), torch.Generator().manual_seed(0))
    assert batch.shape == (4, 7, 3)


def test_more_columns_than_eigenvectors_and_empty_graphs() -> None:
    found = laplacian_encoding(ring(3, isolated=1), 5)
    assert (found[:, :2].norm(dim=0) > 0.99).all()
    assert (found[:, 2:] == 0).all()
    assert (found[3] == 0).all()
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert (laplacian_encoding(Graph.from_edges(none, 4), 3) == torch.zeros(4, 3)).all()
    assert laplacian_encoding(Graph.from_edges(none, 0), 3).shape == (0, 3)


def test_the_graph_is_not_written_to() -> None:
    graph = random_graph(30, 60)
    indptr, indices = graph.indptr.clone(), graph.indices.clone()
    laplacian_encoding(graph, 3)
    random_walk_encoding(graph, 3)
    random_walk_encoding(graph, 3, exact=False)
    assert torch.equal(graph.indptr, indptr)
    assert torch.equal(graph.indices, indices)


# ---------------------------------------------------------------------- node2vec, mistakes


def test_node2vec_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    typing = pytest.importorskip("torch_geometric.typing")
    monkeypatch.setattr(typing, "WITH_PYG_LIB", False)
    with pytest.raises(
        ImportError, match="node2vec_encoding needs pyg-lib beside torch_geometric, and it is not there"
    ):
        node2vec_encoding(ring(4), 8)
    hide(monkeypatch, "torch_geometric")
    with pytest.raises(ImportError, match=r"node2vec_encoding needs torch_geometric: pip install tokenmix\[graphs\]"):
        node2vec_encoding(ring(4), 8)


def test_node2vec_with_walks_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_geometric's Node2Vec, with a walk in place of pyg-lib's: nodes of one ring end up nearer to each other."""
    module = pytest.importorskip("torch_geometric.nn.models.node2vec")
    typing = pytest.importorskip("torch_geometric.typing")

    def walk(pointers: Tensor, column: Tensor, start: Tensor, length: int, *_: Any) -> Tensor:
        places = [start]
        for _ in range(length):
            low = pointers[places[-1]]
            step = torch.rand(len(start)) * (pointers[places[-1] + 1] - low)
            places.append(column[low + step.long()])
        return torch.stack(places, 1)

    for home in (module, typing):
        monkeypatch.setattr(home, "WITH_PYG_LIB", True)
    monkeypatch.setattr(torch.ops, "pyg", SimpleNamespace(random_walk=walk), raising=False)
    both = Graph.from_edges(torch.cat([ring(6).edges(), ring(6, start=6).edges()], dim=1), 12)
    options = {"walk_length": 10, "context_size": 5, "epochs": 30, "learning_rate": 0.05}
    state = torch.random.get_rng_state()
    found = node2vec_encoding(both, 16, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.shape == (12, 16)
    assert not found.requires_grad
    likeness = torch.nn.functional.normalize(found, dim=1)
    likeness = likeness @ likeness.T
    assert likeness[:6, :6].mean() > likeness[:6, 6:].mean() + 0.3
    assert torch.equal(node2vec_encoding(both, 16, **options), found)


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == package:
            raise ImportError(f"No module named {package!r}")
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ring(4)
    with pytest.raises(ValueError, match="steps: expected a positive integer, found 0"):
        random_walk_encoding(graph, 0)
    with pytest.raises(TypeError, match=r"walks: expected a positive integer, found 2\.5"):
        random_walk_encoding(graph, 2, walks=2.5)
    with pytest.raises(ValueError, match="dim: expected a positive integer, found 0"):
        laplacian_encoding(graph, 0)
    with pytest.raises(ValueError, match="sign: expected 'fixed' or 'random', found 'plus'"):
        laplacian_encoding(graph, 2, sign="plus")
    with pytest.raises(ValueError, match="tolerance: expected a positive number, found 0"):
        laplacian_encoding(graph, 2, tolerance=0)
    with pytest.raises(ValueError, match="dim: expected a positive integer, found -1"):
        node2vec_encoding(graph, -1)
    hide(monkeypatch, "scipy")
    with pytest.raises(ImportError, match=r"laplacian_encoding needs scipy: pip install tokenmix\[graphs\]"):
        laplacian_encoding(graph, 2)


def test_rough_functions_of_large_graphs_are_left_out():
    """A ring, whose functions are smooth, beside a thousand pairs, whose functions are as rough as can be."""
    ring, pairs = torch.arange(40), 40 + 2 * torch.arange(1000)
    edges = torch.cat([torch.stack([ring, (ring + 1) % 40]), torch.stack([pairs, pairs + 1])], dim=1)
    found = laplacian_encoding(Graph.from_edges(edges, 2040, undirected=True), 24).double()
    smooth = found.abs().sum(0) > 0
    assert 4 <= int(smooth.sum()) < 24
    assert found[40:].abs().max() < 1e-6
    kept = found[:40, smooth]
    assert torch.allclose(kept.T @ kept, torch.eye(int(smooth.sum()), dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("damage", [2_000_000_000, -7])
def test_a_damaged_graph_is_named_by_all_that_read_its_rows(tmp_path, damage):
    ring = torch.stack([torch.arange(2000), (torch.arange(2000) + 1) % 2000])
    Graph.from_edges(ring, 2000).save(tmp_path)
    numbers = np.load(tmp_path / "indices.npy")
    numbers[5] = damage
    np.save(tmp_path / "indices.npy", numbers)
    graph = Graph.open(tmp_path)
    readers = [
        lambda: random_walk_encoding(graph, 2, exact=True),
        lambda: random_walk_encoding(graph, 2, exact=False),
        lambda: laplacian_encoding(graph, 2),
        graph.edges,
    ]
    for read in readers:
        with pytest.raises(ValueError, match=f"indices: expected ids from 0 to 1999, found {damage}"):
            read()


@pytest.mark.parametrize("seed", [-1, 2**70])
def test_any_whole_number_is_a_seed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_spectrum, "DENSE_NODES", 10)  # where the start is drawn
    graph = random_graph(200, 600)
    first, again = (laplacian_encoding(graph, 3, seed=seed, sign="random") for _ in range(2))
    assert torch.equal(first, again)
