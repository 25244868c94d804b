"""Batches of nodes: the same for any workers, any batch, and the epoch that it is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tokenmix.data.node_batches import NodeCollator, NodeDataset
from tokenmix.models import LargeGTConfig
from tokenmix.ops.graph import Graph
from tokenmix.ops.hop_features import hop_features

NODES = 60


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph.from_edges(torch.randint(NODES, (2, 300), generator=torch.Generator().manual_seed(0)), NODES)


def tokens_of(batch: dict[str, Tensor]) -> Tensor:
    """(B, K, hops + 1, F), however the batch shares nodes."""
    return batch["features"][batch["places"]]


def gather(graph: Graph, features: Tensor, batch_size: int, workers: int, epoch: int, resample: bool) -> Tensor:
    dataset = NodeDataset(torch.arange(5, 45), torch.arange(NODES))
    dataset.set_epoch(epoch)
    collate = NodeCollator(graph, 9, features=features, seed=4, resample=resample)
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate)
    return torch.cat([tokens_of(batch) for batch in loader])


def test_samples_depend_on_neither_workers_nor_batches(graph: Graph) -> None:
    features = hop_features(graph, torch.randn(NODES, 3, generator=torch.Generator().manual_seed(1)), 2)
    whole = gather(graph, features, 40, 0, epoch=2, resample=True)
    for batch_size, workers in ((7, 0), (7, 1), (16, 2)):
        assert torch.equal(gather(graph, features, batch_size, workers, epoch=2, resample=True), whole)


def test_workers_that_stay_hear_of_a_new_epoch(graph: Graph) -> None:
    features = hop_features(graph, torch.randn(NODES, 3, generator=torch.Generator().manual_seed(1)), 2)
    dataset = NodeDataset(torch.arange(5, 45), torch.arange(NODES))
    collate = NodeCollator(graph, 9, features=features, seed=4, resample=True)
    loader = DataLoader(dataset, 7, num_workers=2, persistent_workers=True, collate_fn=collate)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        found = torch.cat([tokens_of(batch) for batch in loader])
        assert torch.equal(found, gather(graph, features, 40, 0, epoch=epoch, resample=True)), epoch


def test_a_loop_that_tells_no_epoch_is_refused_where_samples_depend_on_it(graph: Graph) -> None:
    dataset = NodeDataset(torch.arange(5), torch.arange(NODES))
    assert NodeCollator(graph, 3)([dataset[0]])["places"].shape == (1, 3)
    with pytest.raises(ValueError, match=r"items: expected the epoch.*call the data set's set_epoch"):
        NodeCollator(graph, 3, resample=True)([dataset[0]])
    dataset.set_epoch(0)
    assert NodeCollator(graph, 3, resample=True)([dataset[0]])["places"].shape == (1, 3)


def test_epochs_draw_anew_where_they_should(graph: Graph) -> None:
    features = hop_features(graph, torch.randn(NODES, 3, generator=torch.Generator().manual_seed(1)), 2)
    first, second = (gather(graph, features, 40, 0, epoch=epoch, resample=True) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first[:, 0], second[:, 0])  # the nodes themselves
    first, second = (gather(graph, features, 40, 0, epoch=epoch, resample=False) for epoch in (0, 1))
    assert torch.equal(first, second)


def test_tokens_are_the_hop_features_of_the_sampled_nodes(graph: Graph) -> None:
    features = torch.arange(NODES * 2.0).view(NODES, 1, 2)
    positions = torch.arange(NODES * 4.0).view(NODES, 4)
    batch = NodeCollator(graph, 6, features=features, positions=positions).sample(torch.tensor([9, 9, 31]))
    drawn = NodeCollator(graph, 6).sample(torch.tensor([9, 9, 31]))["places"]
    assert drawn[:, 0].tolist() == [9, 9, 31]
    assert torch.equal(tokens_of(batch), features[drawn])
    assert torch.equal(batch["positions"], positions[[9, 9, 31]])
    assert len(batch["features"]) == len(drawn.unique())


def test_labels_come_along(graph: Graph) -> None:
    labels = torch.full((NODES,), -100)
    labels[3] = 2
    dataset = NodeDataset(torch.tensor([3, 4]), labels)
    assert NodeCollator(graph, 2)([dataset[0], dataset[1]])["labels"].tolist() == [2, -100]


def test_bad_input_is_named(graph: Graph) -> None:
    with pytest.raises(ValueError, match="features: expected 60 rows, one a node, found 59"):
        NodeCollator(graph, 3, features=torch.zeros(59, 1, 2))
    for size, near in ((0, 0), (3, 3), (3, -1)):
        with pytest.raises(ValueError, match=f"size, near: .* found {size} and {near}"):
            NodeCollator(graph, size, near=near)
    with pytest.raises(ValueError, match="epoch: expected 0 or more, found -1"):
        NodeDataset(torch.tensor([1]), torch.zeros(5)).set_epoch(-1)
    with pytest.raises(ValueError, match="nodes: expected ids from 0 to 4, found 5"):
        NodeDataset(torch.tensor([1, 5]), torch.zeros(5))
    with pytest.raises(ValueError, match="nodes: expected ids of shape"):
        NodeDataset(torch.tensor([1.0]), torch.zeros(5))


def test_a_model_says_what_is_drawn(graph: Graph) -> None:
    sizes = {"num_features": 3, "num_nodes": NODES, "sample_size": 9, "near_nodes": 5}
    drawn = NodeCollator.of(LargeGTConfig(**sizes), graph, seed=4).sample(torch.arange(NODES))["places"]
    expected = NodeCollator(graph, 9, near=5, seed=4).sample(torch.arange(NODES))["places"]
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, NodeCollator(graph, 9, seed=4).sample(torch.arange(NODES))["places"])
    alone = NodeCollator.of(LargeGTConfig(mode="global", **sizes), graph).sample(torch.tensor([7]))
    assert alone["places"].tolist() == [[7]]
    with pytest.raises(ValueError, match="graph: expected num_nodes=61, found 60"):
        NodeCollator.of(LargeGTConfig(**sizes | {"num_nodes": 61}), graph)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_copies_tell_workers_that_stay_too(copied: Any) -> None:
    first = NodeDataset(torch.arange(6), torch.arange(NODES))
    first.set_epoch(5)
    dataset = copied(first)
    loader = DataLoader(dataset, 3, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        assert {row["epoch"] for rows in loader for row in rows} == {epoch}
    assert first[0]["epoch"] == 5


def test_edges_are_no_graph() -> None:
    config = LargeGTConfig(num_features=3, num_nodes=NODES)
    for make in (lambda edges: NodeCollator(edges, 3), lambda edges: NodeCollator.of(config, edges)):
        with pytest.raises(TypeError, match="graph: expected a Graph, found Tensor"):
            make(torch.zeros(2, 3, dtype=torch.int64))
