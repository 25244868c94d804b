"""Hop features against dense powers of the normalised adjacency in float64; files that appear whole or not at all."""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenmix import kernels
from tokenmix.ops import hop_features as module
from tokenmix.ops.graph import Graph, power_law_graph
from tokenmix.ops.hop_features import gather_rows, hop_features, normalised_adjacency, open_hop_features


def random_graph(num_nodes=30, num_edges=120, seed=0, **options):
    edges = torch.randint(0, num_nodes - 2, (2, num_edges), generator=torch.Generator().manual_seed(seed))
    return Graph.from_edges(edges, num_nodes, **options)  # the last two are isolated


GRAPHS = {
    "directed": random_graph(),
    "undirected": random_graph(undirected=True, self_loops="drop"),
    "duplicates and loops": random_graph(num_nodes=8, coalesce=False),
    "no edges": Graph.from_edges(torch.empty(2, 0, dtype=torch.int64), 5),
    "one node": Graph.from_edges(torch.tensor([[0], [0]]), 1),
}


def dense(graph):
    """Â from its equation."""
    matrix = torch.eye(graph.num_nodes, dtype=torch.float64)
    for sender, receiver in graph.edges().t().tolist():
        matrix[receiver, sender] += 1
    return torch.diag(matrix.sum(0) ** -0.5) @ matrix @ torch.diag(matrix.sum(1) ** -0.5)


def features(graph, width=7):
    return torch.randn(graph.num_nodes, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["auto", "torch"])
def path(request):
    with kernels.use(request.param):
        yield request.param


@pytest.mark.parametrize("name", GRAPHS)
def test_adjacency_is_that_of_its_equation(name):
    graph = GRAPHS[name]
    found = normalised_adjacency(graph)
    assert found.layout == torch.sparse_csr
    assert (found.to_dense() - dense(graph)).abs().max() < 1e-6
    columns, starts = found.col_indices(), found.crow_indices().tolist()
    for low, high in pairwise(starts):  # sorted, each once, with a loop
        assert (columns[low:high].diff() > 0).all()
    again = torch.sparse_csr_tensor(
        found.crow_indices(), columns, found.values(), found.shape, check_invariants=True
    )  # torch agrees
    assert torch.equal(again.to_dense(), found.to_dense())


def test_mixed_degrees_are_told_apart():
    """The sums exchanged would give 0.41 for the edge, row sums on both sides 0.58."""
    graph = Graph.from_edges(torch.tensor([[1, 2], [0, 0]]), 3)
    found = normalised_adjacency(graph).to_dense()
    assert found[0].tolist() == pytest.approx([3**-0.5, 1.0, 1.0])


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("blocks", [(3, 10), (1 << 16, 1 << 22)])
@pytest.mark.parametrize("hops", [0, 1, 3])
def test_hops_are_dense_powers(path, monkeypatch, name, blocks, hops):
    monkeypatch.setattr(module, "_ROWS", blocks[0])
    monkeypatch.setattr(module, "_EDGES", blocks[1])
    graph = GRAPHS[name]
    x = features(graph)
    found, exact = hop_features(graph, x, hops), x.double()
    assert found.shape == (graph.num_nodes, hops + 1, 7)
    assert found.dtype == torch.float32
    assert torch.equal(found[:, 0], x)
    for hop in range(1, hops + 1):
        exact = dense(graph) @ exact
        assert (found[:, hop] - exact).abs().max() < 1e-5


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 100, 127, 128, 129, 300])
@pytest.mark.parametrize("wide", [False, True])
def test_native_hops_of_every_width(level, width, wide):
    graph = GRAPHS["duplicates and loops"]
    if wide:
        graph = Graph(graph.indptr, graph.indices.long())
    x = features(graph, width)
    assert (hop_features(graph, x, 1)[:, 1] - dense(graph) @ x.double()).abs().max() < 1e-5


def test_float64_stays_and_half_becomes_float32(path):
    graph = GRAPHS["directed"]
    x = features(graph).double()
    found = hop_features(graph, x, 2)
    assert found.dtype == torch.float64
    assert (found[:, 2] - dense(graph) @ dense(graph) @ x).abs().max() < 1e-12
    assert hop_features(graph, x.half(), 1).dtype == torch.float32


def test_a_sparse_x_comes_out_dense(path):
    graph = GRAPHS["directed"]
    x = torch.where(features(graph) > 1, features(graph), 0)
    assert torch.equal(hop_features(graph, x.to_sparse_csr(), 2), hop_features(graph, x, 2))


def test_threads_change_no_bit():
    graph = power_law_graph(3000, 15_000)
    x, before = features(graph, 40), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(hop_features(graph, x, 2))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_from_files_to_a_file(path, tmp_path):
    graph = power_law_graph(2000, 9000)
    graph.save(tmp_path / "graph")
    x = features(graph)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    found = hop_features(Graph.open(tmp_path / "graph"), mapped, 2, out=tmp_path / "out")
    assert torch.equal(found, hop_features(graph, x, 2))
    assert torch.equal(open_hop_features(tmp_path / "out"), found)
    assert os.listdir(tmp_path / "out") == ["hop_features.npy"]


def test_an_empty_graph(path, tmp_path):
    graph = Graph.from_edges(torch.empty(2, 0, dtype=torch.int64), 0)
    assert hop_features(graph, torch.empty(0, 4), 2).shape == (0, 3, 4)
    assert hop_features(graph, torch.empty(0, 4), 2, out=tmp_path).shape == (0, 3, 4)
    assert normalised_adjacency(graph).shape == (0, 0)


def test_a_run_that_stops_leaves_what_was_there(tmp_path, monkeypatch):
    graph = GRAPHS["directed"]
    before = hop_features(graph, features(graph), 1, out=tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_finite", stop)
    with pytest.raises(KeyboardInterrupt):
        hop_features(graph, features(graph) + 1, 1, out=tmp_path)
    assert os.listdir(tmp_path) == ["hop_features.npy"]
    assert torch.equal(open_hop_features(tmp_path), before)


def test_a_file_that_is_not_there_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no hop_features\.npy"):
        open_hop_features(tmp_path)
    graph = power_law_graph(500, 900)
    hop_features(graph, features(graph), 1, out=tmp_path)
    path = tmp_path / "hop_features.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"hop_features\.npy is damaged"):
        open_hop_features(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("sparse", [False, True])
def test_features_that_are_not_finite(path, monkeypatch, number, sparse):
    monkeypatch.setattr(module, "_ROWS", 4)
    graph = GRAPHS["directed"]
    x = features(graph)
    x[13, 2] = x[14, 0] = number
    with pytest.raises(ValueError, match=f"x: expected finite features, found {number} in those of node 13"):
        hop_features(graph, x.to_sparse_csr() if sparse else x, 1)


def test_large_numbers_are_finite():
    x = torch.full((5, 3), 3e38)
    assert torch.equal(hop_features(GRAPHS["no edges"], x, 0)[:, 0], x)


@pytest.mark.parametrize(
    ("x", "hops", "error", "message"),
    [
        (torch.ones(4, 2), 1, ValueError, r"x: expected shape \(N, F\) with N = 5, found \(4, 2\)"),
        (torch.ones(5), 1, ValueError, "x: expected shape"),
        (torch.ones(5, 2).int(), 1, TypeError, "x: expected a floating point tensor"),
        (torch.ones(5, 2).to_sparse(), 1, TypeError, r"found torch\.float32 in torch\.sparse_coo"),
        (torch.ones(5, 2), -1, ValueError, "hops: expected at least 0, found -1"),
        (torch.ones(5, 2), 1.5, TypeError, r"hops: expected a whole number, found 1\.5"),
    ],
)
def test_refused(x, hops, error, message):
    with pytest.raises(error, match=message):
        hop_features(GRAPHS["no edges"], x, hops)


def test_what_is_too_large_for_memory():
    with pytest.raises(ValueError, match=r"out: expected a folder for a result of .* GiB, found None"):
        hop_features(GRAPHS["no edges"], torch.ones(1, 1).expand(5, 1 << 20), 1000)


@pytest.mark.parametrize("wrong", [5000, -1])
def test_a_damaged_row_is_an_error_and_never_a_crash(path, wrong):
    damaged = Graph(torch.tensor([0, 1, 1]), torch.tensor([wrong], dtype=torch.int32), check_indices=False)
    with pytest.raises(ValueError, match="graph: its files are damaged"):
        hop_features(damaged, torch.ones(2, 3), 1)


def test_gathered_rows():
    rows, nodes = torch.randn(6, 2, 3), torch.tensor([[5, 0], [5, 5]])
    assert torch.equal(gather_rows(rows, nodes), rows[nodes])
    kept = torch.full((2, 2, 2, 3), float("nan"))
    found = gather_rows(rows, nodes, kept)
    assert found.data_ptr() == kept.data_ptr()
    assert torch.equal(kept, rows[nodes])
    assert gather_rows(rows, nodes[:0]).shape == (0, 2, 2, 3)


@pytest.mark.parametrize(
    ("nodes", "out", "error", "message"),
    [
        (torch.tensor([0, 6]), None, ValueError, "nodes: expected ids from 0 to 5, found 6"),
        (torch.tensor([-1]), None, ValueError, "nodes: expected ids from 0 to 5, found -1"),
        (torch.tensor([0.0]), None, TypeError, "nodes: expected int32 or int64"),
        (
            torch.tensor([0]),
            torch.empty(2, 3),
            ValueError,
            r"out: expected contiguous torch\.float32 of shape \(1,",
        ),
        (torch.tensor([0]), torch.empty(3, 1).t().double(), ValueError, "out: expected contiguous"),
    ],
)
def test_refused_rows(nodes, out, error, message):
    with pytest.raises(error, match=message):
        gather_rows(torch.ones(6, 3), nodes, out)


@pytest.mark.parametrize("path", ["auto", "torch"])
def test_no_gradient_flows_on_either_path(path):
    x = torch.randn(6, 2, requires_grad=True)
    graph = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 6, undirected=True)
    with kernels.use(path):
        assert not hop_features(graph, x, 2).requires_grad
