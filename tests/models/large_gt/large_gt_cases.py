"""A small LargeGT, graphs and batches that its tests share."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenmix.data.node_batches import NodeCollator
from tokenmix.models.large_gt import LargeGTConfig, LargeGTForNodeClassification
from tokenmix.ops.graph import Graph
from tokenmix.ops.hop_features import hop_features

NODES, FEATURES = 24, 5


def random_graph(nodes: int = NODES, edges: int = 40, seed: int = 0) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    return Graph.from_edges(torch.randint(nodes, (2, edges), generator=generator), nodes, undirected=True)


def path_graph(nodes: int) -> Graph:
    return Graph.from_edges(torch.stack([torch.arange(nodes - 1), torch.arange(1, nodes)]), nodes, undirected=True)


def build(mode: str = "full", **changes: object) -> LargeGTForNodeClassification:
    torch.manual_seed(0)
    fields = {
        "num_features": FEATURES, "num_nodes": NODES, "num_labels": 3, "mode": mode, "sample_size": 7, "hidden_size": 8,
        "num_attention_heads": 2, "position_size": 4, "code_size": 6, "codes": 5, "initializer_range": 0.4,
    }  # fmt: skip
    return LargeGTForNodeClassification(LargeGTConfig(**{**fields, **changes}))


def inputs(graph: Graph, features: Tensor, positions: Tensor | None, nodes: Tensor, size: int = 7) -> dict[str, Tensor]:
    hops = hop_features(graph, features, 2)
    return NodeCollator(graph, size, features=hops, positions=positions).sample(nodes)


def some_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(NODES, FEATURES, generator=generator)
    positions = torch.randn(NODES, 4, generator=generator)
    return inputs(random_graph(), features, positions, torch.tensor([3, 17, 8, 3, 21]))
