"""To torch_geometric's Data and from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tokenmix.data.graphs.features import check_features
from tokenmix.data.graphs.node_data import NO_LABEL, NodeData, random_split
from tokenmix.ops.graph import Graph


def to_pyg(data: NodeData) -> Any:
    """A `torch_geometric.data.Data` with x, edge_index, y and a mask for each split.

    Args:
        data: the graph; sparse features stay sparse, memory-mapped ones stay on disk.

    Raises:
        ModuleNotFoundError: no torch_geometric.

    Example:
        >>> from tokenmix.data.graphs import load_graph
        >>> sizes = {"num_nodes": 100, "num_edges": 300, "communities": 5, "num_classes": 5}
        >>> to_pyg(load_graph("power_law", num_features=3, **sizes))
        Data(x=[100, 3], edge_index=[2, 600], y=[100], train_mask=[100], val_mask=[100], test_mask=[100])
    """
    masks = {}
    for name in ("train", "val", "test"):
        masks[f"{name}_mask"] = torch.zeros(data.graph.num_nodes, dtype=torch.bool)
        masks[f"{name}_mask"][getattr(data, name)] = True
    return _data_class()(x=data.features, edge_index=data.graph.edges(), y=data.labels, **masks)


def from_pyg(
    data: Any, name: str = "graph", *, classes: Sequence[str] | None = None, split: int = 0, split_seed: int = 0
) -> NodeData:
    """A graph for node classification from torch_geometric's Data.

    Args:
        data: with x (N, F) and y (N,) or (N, 1), and edge_index (2, E); NaN or a negative number in y is no label.
        name: of the data set.
        classes: their names; numbers by default.
        split: which column, where masks have several.
        split_seed: of a random 50/25/25 split of the nodes with a label, where `data` has no masks.

    Returns:
        The graph as it is: directed edges stay directed, equal ones are joined. Features of edges are left out.

    Raises:
        ValueError: a field is missing or does not fit, features that are NaN or infinite, classes that are fractions.

    Example:
        >>> from torch_geometric.data import Data
        >>> edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
        >>> from_pyg(Data(x=torch.eye(4), edge_index=edges, y=torch.tensor([0, 1, 0, 1])), "path")
        NodeData('path': 4 nodes, 3 directed edges, 4 features, 2 classes, 2/1/1)
    """
    for field in ("x", "edge_index", "y"):
        if getattr(data, field, None) is None:
            raise ValueError(f"data: expected x, edge_index and y, found no {field}")
    labels = torch.where(data.y.isnan(), -1, data.y).reshape(-1).double()
    wrong = labels[(labels != labels.round()) | labels.isinf()]
    if len(wrong):
        raise ValueError(f"data.y: expected classes, found {float(wrong[0])}")
    labels = torch.where(labels < 0, NO_LABEL, labels).long()
    if len(labels) != data.num_nodes:
        raise ValueError(f"data.y: expected one label for each of {data.num_nodes} nodes, found {tuple(data.y.shape)}")
    masks: list[Any] = [getattr(data, f"{part}_mask", None) for part in ("train", "val", "test")]
    if all(mask is not None for mask in masks):
        named = zip(("train_mask", "val_mask", "test_mask"), masks, strict=True)
        parts = [_ids(name, mask, split, len(labels)) for name, mask in named]
        where = f"its masks, column {split}" if masks[0].dim() > 1 else "its masks"
    elif any(mask is not None for mask in masks):
        missing = [f"{part}_mask" for part, mask in zip(("train", "val", "test"), masks, strict=True) if mask is None]
        raise ValueError(f"data: expected train_mask, val_mask and test_mask or none of them, found no {missing[0]}")
    else:
        parts = list(random_split((labels != NO_LABEL).nonzero().reshape(-1), split_seed))
        where = f"50/25/25 by seed {split_seed}"
    features = _float_features(data.x)
    check_features(features)
    count = max(0, int(labels.max()) + 1) if len(labels) else 0
    return NodeData(
        name,
        Graph.from_edges(data.edge_index.cpu(), data.num_nodes),
        features,
        labels,
        tuple(map(str, range(count))) if classes is None else tuple(classes),
        parts[0],
        parts[1],
        parts[2],
        f"a torch_geometric Data, split {where}",
    )


def _ids(name: str, mask: Tensor, split: int, nodes: int) -> Tensor:
    if mask.dim() > 1:
        if not 0 <= split < mask.shape[1]:
            raise ValueError(f"split: expected 0 to {mask.shape[1] - 1}, the columns of {name}, found {split}")
        mask = mask[:, split]
    if mask.dtype != torch.bool or len(mask) != nodes:
        expected = f"bool of shape ({nodes},) or ({nodes}, splits)"
        raise ValueError(f"data.{name}: expected {expected}, found {mask.dtype} of {tuple(mask.shape)}")
    return mask.nonzero().reshape(-1)


def _float_features(x: Tensor) -> Tensor:
    if x.layout == torch.sparse_coo:
        x = x.coalesce().to_sparse_csr()
    return x.float()


def _data_class() -> Any:
    try:
        from torch_geometric.data import Data
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("to_pyg needs torch_geometric: pip install 'tokenmix[graphs]'") from error
    return Data
