"""Compressed rows against lists of neighbours; files that are whole, cut short or damaged."""

import json
import pickle
import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from tokenmix.ops import graph_rows
from tokenmix.ops.graph import Graph, power_law_graph
from tokenmix.ops.graph_positions import laplacian_encoding, random_walk_encoding
from tokenmix.ops.hop_features import hop_features, normalised_adjacency


def edges_of(*pairs):
    return torch.tensor(pairs).view(-1, 2).t()


def rows(graph):
    ends = graph.indptr.tolist()
    return [graph.indices[low:high].tolist() for low, high in pairwise(ends)]


def naive(pairs, num_nodes, undirected, coalesce, self_loops):
    pairs = list(pairs) + [(b, a) for a, b in pairs if undirected and a != b]
    if self_loops != "keep":
        pairs = [(a, b) for a, b in pairs if a != b]
    if self_loops == "add":
        pairs += [(a, a) for a in range(num_nodes)]
    if coalesce:
        pairs = set(pairs)
    return [sorted(a for a, b in pairs if b == node) for node in range(num_nodes)]


@pytest.mark.parametrize("block", [3, 1 << 22])
@pytest.mark.parametrize("undirected", [False, True])
@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("self_loops", ["keep", "drop", "add"])
def test_rows_are_those_of_a_loop(monkeypatch, block, undirected, coalesce, self_loops):
    """Also where equal edges lie on both sides of the border of a block."""
    monkeypatch.setattr(graph_rows, "BLOCK", block)
    draw = random.Random(0)
    pairs = [(draw.randrange(6), draw.randrange(6)) for _ in range(40)]
    options = {"undirected": undirected, "coalesce": coalesce, "self_loops": self_loops}
    graph = Graph.from_edges(edges_of(*pairs), 9, **options)
    assert rows(graph) == naive(pairs, 9, **options)
    assert graph.indptr.dtype == torch.int64
    assert graph.indices.dtype == torch.int32
    assert graph.degrees().tolist() == [len(row) for row in rows(graph)]


def test_edges_and_back():
    graph = Graph.from_edges(edges_of((4, 0), (2, 0), (0, 3), (3, 3)), 5)
    assert graph.edges().tolist() == [[2, 4, 0, 3], [0, 0, 3, 3]]
    again = Graph.from_edges(graph.edges(), 5)
    assert torch.equal(again.indptr, graph.indptr)
    assert torch.equal(again.indices, graph.indices)


def test_transposed_keeps_duplicates():
    graph = Graph.from_edges(edges_of((4, 0), (4, 0), (0, 3)), 5, coalesce=False)
    assert rows(graph.transposed()) == [[3], [], [], [], [0, 0]]


@pytest.mark.parametrize("num_nodes", [0, 3])
def test_without_edges(num_nodes, tmp_path):
    graph = Graph.from_edges(torch.empty(2, 0, dtype=torch.int64), num_nodes, undirected=True)
    assert (graph.num_nodes, graph.num_edges) == (num_nodes, 0)
    assert graph.edges().shape == (2, 0)
    assert graph.transposed().num_nodes == num_nodes
    graph.save(tmp_path)
    assert Graph.open(tmp_path).num_nodes == num_nodes


@pytest.mark.parametrize(
    ("edges", "num_nodes", "error", "message"),
    [
        (edges_of((0, 1), (1, 5)), 5, ValueError, r"edges: expected ids from 0 to 4, found 5 in edges\[1, 1\]"),
        (edges_of((0, 1), (-1, 2)), 5, ValueError, r"edges: expected ids from 0 to 4, found -1 in edges\[0, 1\]"),
        (edges_of((0, 0)), 0, ValueError, "edges: expected none without nodes, found 0"),
        (edges_of((0, 0)).t(), 1, ValueError, r"edges: expected shape \(2, E\), found \(1, 2\)"),
        (edges_of((0, 0)).float(), 1, TypeError, "edges: expected a tensor of integers, found torch.float32"),
        ([[0], [0]], 1, TypeError, "edges: expected a tensor of integers, found list"),
        (edges_of((0, 0)), -1, ValueError, "num_nodes: expected a whole number from 0"),
        (edges_of((0, 0)), 1.0, ValueError, "num_nodes: expected a whole number from 0"),
    ],
)
def test_refused_edges(edges, num_nodes, error, message):
    with pytest.raises(error, match=message):
        Graph.from_edges(edges, num_nodes)


def test_unknown_self_loops():
    with pytest.raises(ValueError, match="self_loops: expected 'keep', 'drop' or 'add', found 'no'"):
        Graph.from_edges(edges_of((0, 0)), 1, self_loops="no")


@pytest.mark.parametrize(
    ("indptr", "indices", "error", "message"),
    [
        ([0, 2, 1, 2], [0, 1], ValueError, r"indptr: expected rising numbers, found \[2, 1\] at 1"),
        ([0, 1], [0, 0], ValueError, "indptr: expected numbers from 0 to 2"),
        ([1, 1], [0], ValueError, "indptr: expected numbers from 0 to 1"),
        ([], [], ValueError, "indptr: expected numbers from 0 to 0"),
        ([0, 1, 1], [2], ValueError, "indices: expected ids from 0 to 1, found 2"),
        ([0, 1, 1], [-1], ValueError, "indices: expected ids from 0 to 1, found -1"),
    ],
)
def test_refused_rows(indptr, indices, error, message):
    with pytest.raises(error, match=message):
        Graph(torch.tensor(indptr, dtype=torch.int64), torch.tensor(indices, dtype=torch.int32))


def test_refused_kinds_of_rows():
    with pytest.raises(TypeError, match=r"indices: expected a tensor of torch\.int32 or torch\.int64 on the CPU"):
        Graph(torch.tensor([0, 1]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match="indices: expected one contiguous axis"):
        Graph(torch.tensor([0, 1]), torch.zeros(1, 1, dtype=torch.int32))


@pytest.mark.parametrize("memory_map", [False, True])
def test_saved_and_opened(tmp_path, memory_map):
    graph = power_law_graph(2000, 9000)
    graph.save(tmp_path / "new" / "folder")
    found = Graph.open(tmp_path / "new" / "folder", memory_map=memory_map)
    assert torch.equal(found.indptr, graph.indptr)
    assert torch.equal(found.indices, graph.indices)
    again = pickle.loads(pickle.dumps(found))
    assert torch.equal(again.indices, graph.indices)
    assert (len(pickle.dumps(found)) < 500) == memory_map  # a mapped graph travels as the name of its folder


def test_what_is_mapped_cannot_be_written_to(tmp_path):
    power_law_graph(2000, 9000).save(tmp_path)
    Graph.open(tmp_path).indices.zero_()
    assert Graph.open(tmp_path).indices.any()


def test_no_graph_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no whole graph: there is no graph\.json"):
        Graph.open(tmp_path)


def test_a_save_that_stopped_half_way_is_no_graph(tmp_path, monkeypatch):
    power_law_graph(100, 300).save(tmp_path)
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        power_law_graph(100, 200).save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no whole graph"):
        Graph.open(tmp_path)


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("name", ["indptr.npy", "indices.npy", "graph.json"])
@pytest.mark.parametrize("keep", [0, 30, 0.9])
def test_cut_files_are_refused(tmp_path, name, keep, memory_map):
    power_law_graph(2000, 9000).save(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=r"folder: the graph in .* is damaged"):
        Graph.open(tmp_path, memory_map=memory_map)


def test_files_that_do_not_belong_together(tmp_path):
    power_law_graph(2000, 9000).save(tmp_path)
    sizes = json.loads((tmp_path / "graph.json").read_text())
    (tmp_path / "graph.json").write_text(json.dumps(sizes | {"num_nodes": 3}))
    with pytest.raises(ValueError, match="is damaged"):
        Graph.open(tmp_path)


def test_power_law_graph():
    graph = power_law_graph(5000, 20_000, seed=3)
    senders, receivers = graph.edges()
    assert graph.num_edges == 40_000
    assert (senders != receivers).all()
    assert {*zip(senders.tolist(), receivers.tolist(), strict=True)} == {
        *zip(receivers.tolist(), senders.tolist(), strict=True)
    }
    assert len({*zip(senders.tolist(), receivers.tolist(), strict=True)}) == 40_000
    assert torch.equal(power_law_graph(5000, 20_000, seed=3).indices, graph.indices)
    assert not torch.equal(power_law_graph(5000, 20_000, seed=4).indices, graph.indices)
    flat = power_law_graph(5000, 20_000, power=0, seed=3).degrees().max()
    assert graph.degrees().max() > 10 * flat


def test_power_law_graph_that_cannot_be():
    with pytest.raises(ValueError, match="num_edges: expected at most a quarter of the pairs of 4 nodes, found 5"):
        power_law_graph(4, 5)
    with pytest.raises(ValueError, match="power: expected from 0 to below 1, found 1"):
        power_law_graph(4, 1, power=1)
    assert power_law_graph(4, 3).num_edges == 6
    assert power_law_graph(0, 0).num_nodes == 0


@pytest.mark.parametrize(
    "read",
    [
        lambda edges: hop_features(edges, torch.ones(3, 2), 2),
        normalised_adjacency,
        lambda edges: laplacian_encoding(edges, 2),
        lambda edges: random_walk_encoding(edges, 2),
    ],
)
def test_edges_are_no_graph(read):
    with pytest.raises(TypeError, match=r"graph: expected a Graph, found Tensor; Graph\.from_edges makes one of edges"):
        read(torch.tensor([[0, 1], [1, 2]]))
