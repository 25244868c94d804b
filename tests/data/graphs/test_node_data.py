"""What a graph with features, labels and splits must be."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tokenmix.data.graphs import NodeData, bag_of_words, check_features, features, random_split
from tokenmix.ops.graph import Graph


@pytest.fixture
def path_graph() -> NodeData:
    graph = Graph.from_edges(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), 5, undirected=True)
    labels = torch.tensor([0, 1, -100, 1, 0])
    ids = torch.arange(5)
    return NodeData("path", graph, torch.eye(5), labels, ("a", "b"), ids[:2], ids[3:4], ids[4:], "by hand")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": torch.eye(5).double()}, TypeError, "features: expected torch.float32, dense or torch.sparse_csr"),
        ({"features": torch.eye(5).to_sparse()}, TypeError, "found torch.float32 of layout torch.sparse_coo"),
        ({"features": torch.zeros(4, 5)}, ValueError, r"features: expected shape \(5, F\), found \(4, 5\)"),
        ({"labels": torch.zeros(5)}, TypeError, "labels: expected torch.int64, found torch.float32"),
        ({"labels": torch.zeros(5, 1).long()}, ValueError, r"labels: expected one axis, found shape \(5, 1\)"),
        ({"labels": torch.zeros(4).long()}, ValueError, "labels: expected one for each of 5 nodes, found 4"),
        ({"labels": torch.tensor([0, 1, 2, 0, 0])}, ValueError, "expected -100 or 0 to 1, found 2 at node 2"),
        ({"labels": torch.tensor([0, 1, 0, -1, 0])}, ValueError, "expected -100 or 0 to 1, found -1 at node 3"),
        ({"train": torch.tensor([0, 5])}, ValueError, "train: expected ids from 0 to 4, found 5"),
        ({"test": torch.tensor([-1])}, ValueError, "test: expected ids from 0 to 4, found -1"),
        ({"val": torch.tensor([2])}, ValueError, "val: expected nodes with a label, found node 2 without one"),
        ({"val": torch.tensor([1])}, ValueError, "val: expected every node in one split, once; found node 1 again"),
        ({"test": torch.tensor([4, 4])}, ValueError, "test: expected every node in one split, once; found node 4"),
        ({"test": torch.tensor([True])}, TypeError, "test: expected torch.int64, found torch.bool"),
    ],
)
def test_refused(path_graph: NodeData, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(path_graph, **change)


def test_allowed(path_graph: NodeData) -> None:
    assert replace(path_graph, features=torch.eye(5).to_sparse_csr(), val=torch.arange(0)).features.shape == (5, 5)
    none = torch.arange(0)
    empty = NodeData(
        "empty", Graph.from_edges(none.reshape(2, 0), 0), torch.zeros(0, 3), none, (), none, none, none, ""
    )
    assert empty.graph.num_nodes == 0


@pytest.mark.parametrize("nodes", [0, 1, 2, 3, 10, 13_604])
def test_the_split_is_numpys_permutation_in_a_half_and_two_quarters(nodes: int) -> None:
    order = np.random.default_rng(3).permutation(nodes)
    ids = torch.arange(nodes) * 2
    parts = [part.tolist() for part in random_split(ids, 3)]
    assert parts[0] == [2 * i for i in order[: nodes // 2]]
    assert parts[1] == [2 * i for i in order[nodes // 2 : nodes * 3 // 4]]
    assert sorted(parts[0] + parts[1] + parts[2]) == ids.tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_number_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: float, sparse: bool) -> None:
    monkeypatch.setattr(features, "_BLOCK", 12)  # three rows at a time
    table = torch.zeros(8, 4)
    table[:, 1] = 1.0
    table[7, 2] = value
    check_features(table[:7].to_sparse_csr() if sparse else table[:7])
    with pytest.raises(ValueError, match=f"features: expected finite numbers, found {value} at node 7, column 2"):
        check_features(table.to_sparse_csr() if sparse else table)


def test_large_finite_features_pass() -> None:
    check_features(torch.full((4, 4), 3e38))  # their sum is infinite


@pytest.mark.parametrize(
    ("indptr", "words", "message"),
    [
        ([0, 2], [0, 4], "words: expected columns from 0 to 3, found 0 to 4"),
        ([0, 3], [0, 1], "indptr: expected rising numbers from 0 to 2"),
        ([0, 2, 1, 2], [0, 1], "indptr: expected rising numbers"),
        ([], [], "indptr"),
    ],
)
def test_bags_that_cannot_be(indptr: list[int], words: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bag_of_words(np.array(indptr, np.int64), np.array(words, np.int64), 4)
