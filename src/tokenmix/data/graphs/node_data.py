"""A graph whose nodes are to be classified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokenmix.ops.graph import Graph

NO_LABEL = -100


@dataclass(frozen=True, eq=False)
class NodeData:
    """A graph with features, labels and splits of its nodes.

    Args:
        name: of the data set.
        graph: N nodes.
        features: (N, F) float32; dense, maybe memory-mapped, or of layout `torch.sparse_csr`.
        labels: (N,) int64, the number of a class; -100 where there is none.
        classes: names of the classes.
        train: (n,) int64 ids of nodes to train on, each with a label.
        val: (n,) to choose a model by.
        test: (n,) to report a score on.
        source: where it came from, with versions and choices, for the file of results.

    Raises:
        TypeError: another dtype. ValueError: another shape, a label, id or split that cannot be.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 3, undirected=True)
        >>> ids = torch.arange(3)
        >>> data = NodeData("path", graph, torch.eye(3), ids % 2, ("a", "b"), ids[:1], ids[1:2], ids[2:], "by hand")
        >>> data
        NodeData('path': 3 nodes, 4 directed edges, 3 features, 2 classes, 1/1/1)
    """

    name: str
    graph: Graph
    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    train: Tensor
    val: Tensor
    test: Tensor
    source: str

    def __post_init__(self) -> None:
        nodes = self.graph.num_nodes
        if self.features.dtype != torch.float32 or self.features.layout not in (torch.strided, torch.sparse_csr):
            found = f"{self.features.dtype} of layout {self.features.layout}"
            raise TypeError(f"features: expected torch.float32, dense or torch.sparse_csr, found {found}")
        if self.features.dim() != 2 or self.features.shape[0] != nodes:
            raise ValueError(f"features: expected shape ({nodes}, F), found {tuple(self.features.shape)}")
        for name in ("labels", "train", "val", "test"):
            value = getattr(self, name)
            if value.dtype != torch.int64:
                raise TypeError(f"{name}: expected torch.int64, found {value.dtype}")
            if value.dim() != 1:
                raise ValueError(f"{name}: expected one axis, found shape {tuple(value.shape)}")
        if len(self.labels) != nodes:
            raise ValueError(f"labels: expected one for each of {nodes} nodes, found {len(self.labels)}")
        wrong = ((self.labels != NO_LABEL) & ((self.labels < 0) | (self.labels >= len(self.classes)))).nonzero()
        if len(wrong):
            node = int(wrong[0])
            expected = f"-100 or 0 to {len(self.classes) - 1}"
            raise ValueError(f"labels: expected {expected}, found {int(self.labels[node])} at node {node}")
        _check_splits(self)

    def __repr__(self) -> str:
        sizes = "/".join(f"{len(ids):,}" for ids in (self.train, self.val, self.test))
        return (
            f"NodeData({self.name!r}: {self.graph.num_nodes:,} nodes, {self.graph.num_edges:,} directed edges, "
            f"{self.features.shape[1]:,} features, {len(self.classes)} classes, {sizes})"
        )


def random_split(nodes: Tensor, split_seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Half of the nodes to train on, a quarter to choose by, a quarter to test: numpy's generator with the seed.

    Args:
        nodes: (n,) ids, such as those with a label.
        split_seed: of the permutation, not of a model.

    Returns:
        Ids to train on, to choose by and to test, in random order.

    Example:
        >>> [len(part) for part in random_split(torch.arange(10), 0)]
        [5, 2, 3]
    """
    order = torch.from_numpy(np.random.default_rng(split_seed).permutation(len(nodes)))
    half, quarter = len(nodes) // 2, len(nodes) * 3 // 4
    return nodes[order[:half]], nodes[order[half:quarter]], nodes[order[quarter:]]


def _check_splits(data: NodeData) -> None:
    nodes = data.graph.num_nodes
    taken = torch.zeros(nodes, dtype=torch.bool)
    for name in ("train", "val", "test"):
        ids = getattr(data, name)
        if not len(ids):
            continue
        low, high = map(int, ids.aminmax())
        if low < 0 or high >= nodes:
            raise ValueError(f"{name}: expected ids from 0 to {nodes - 1}, found {low if low < 0 else high}")
        bare = (data.labels[ids] == NO_LABEL).nonzero()
        if len(bare):
            raise ValueError(f"{name}: expected nodes with a label, found node {int(ids[bare[0]])} without one")
        if bool(taken[ids].any()) or len(ids.unique()) != len(ids):
            twice = ids[taken[ids]] if bool(taken[ids].any()) else ids.sort().values[:-1][ids.sort().values.diff() == 0]
            raise ValueError(f"{name}: expected every node in one split, once; found node {int(twice[0])} again")
        taken[ids] = True
