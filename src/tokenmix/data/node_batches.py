"""Nodes of a graph as batches of a model: the collator samples their neighbourhoods and fetches their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tokenmix.ops.common import is_integers
from tokenmix.ops.graph import Graph, check_graph
from tokenmix.ops.hop_features import gather_rows
from tokenmix.ops.neighbours import sample_two_hop

if TYPE_CHECKING:
    from tokenmix.models.large_gt import LargeGTConfig

_NO_EPOCH = -1


class NodeDataset(Dataset[dict[str, int]]):
    """Ids of nodes with their labels, and the epoch, on which the samples of the collator depend.

    The epoch is what `set_epoch` was told, also in workers that stay from epoch to epoch; before that, rows have none,
    and a collator that draws anew in every epoch refuses them. `tokenmix.training.epoch_sampler.EpochTrainer` tells it,
    and so does Hugging Face's Trainer in one process; its shuffled sampler of many processes does not.

    Args:
        nodes: (n,) ids.
        labels: (N,) of all nodes; -100 for none.

    Example:
        >>> dataset = NodeDataset(torch.tensor([4, 2]), torch.arange(5) * 10)
        >>> dataset.set_epoch(3)
        >>> dataset[0]
        {'nodes': 4, 'labels': 40, 'epoch': 3}
    """

    tells_workers = True
    """Workers that stay from epoch to epoch hear of a new one."""

    def __init__(self, nodes: Tensor, labels: Tensor) -> None:
        if not is_integers(nodes) or nodes.dim() != 1:
            raise ValueError(f"nodes: expected ids of shape (n,), found {nodes.dtype} of {tuple(nodes.shape)}")
        if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < len(labels):
            found = int(nodes.min()) if int(nodes.min()) < 0 else int(nodes.max())
            raise ValueError(f"nodes: expected ids from 0 to {len(labels) - 1}, found {found}")
        self.nodes, self.labels = nodes.long(), labels
        self._epoch = torch.tensor(_NO_EPOCH).share_memory_()  # workers that stay hear of a new one

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the rows from now on belong to, 0 or more."""
        if epoch < 0:
            raise ValueError(f"epoch: expected 0 or more, found {epoch}")
        self._epoch.fill_(epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # of a copy

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> dict[str, int]:
        node, epoch = int(self.nodes[index]), int(self._epoch)
        row = {"nodes": node, "labels": int(self.labels[node])}
        return row if epoch == _NO_EPOCH else row | {"epoch": epoch}


class NodeCollator:
    """Batches of LargeGT: sampled nodes, and the hop features of those that occur, each fetched once.

    What is drawn for a node depends on the seed, the epoch and the node alone: neither on its batch nor on the number
    of workers.

    Args:
        graph: N nodes.
        size: nodes a sequence, the target counted; 1 samples nothing.
        features: (N, hops + 1, F) of `hop_features`, which may be memory-mapped; None where the model has the graph in
            memory (`attach`).
        positions: (N, p) positional encodings.
        near: nodes of a sequence that are kept for direct neighbours, see `sample_two_hop`.
        seed: of the samples.
        resample: draw anew in every epoch; else once for all, as published.

    Raises:
        ValueError: rows for another number of nodes, no place for the target, or none left beside `near`.

    Example:
        >>> graph = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 3, undirected=True)
        >>> collate = NodeCollator(graph, size=3, features=torch.arange(6.0).view(3, 1, 2))
        >>> batch = collate([{"nodes": 1, "labels": 0, "epoch": 0}])
        >>> batch["places"].shape, batch["features"].shape, batch["nodes"].tolist(), batch["labels"].tolist()
        (torch.Size([1, 3]), torch.Size([2, 1, 2]), [1], [0])
    """

    def __init__(
        self,
        graph: Graph,
        size: int,
        *,
        features: Tensor | None = None,
        positions: Tensor | None = None,
        near: int = 0,
        seed: int = 0,
        resample: bool = False,
    ) -> None:
        check_graph(graph)
        for name, value in (("features", features), ("positions", positions)):
            if value is not None and len(value) != graph.num_nodes:
                raise ValueError(f"{name}: expected {graph.num_nodes} rows, one a node, found {len(value)}")
        if size < 1 or not 0 <= near < size:
            raise ValueError(f"size, near: expected 1 or more, and 0 to size - 1, found {size} and {near}")
        self.graph, self.size, self.features, self.positions = graph, size, features, positions
        self.near, self.seed, self.resample = near, seed, resample

    @classmethod
    def of(cls, config: LargeGTConfig, graph: Graph, **options: Any) -> NodeCollator:
        """The collator of a model: it draws what the model was made for, and no neighbours for a global half alone.

        Args:
            config: of the model.
            graph: N nodes.
            options: `features`, `positions`, `seed` and `resample`, as the class has them.

        Raises:
            ValueError: a graph of another number of nodes than the model.

        Example:
            >>> from tokenmix.models import LargeGTConfig
            >>> graph = Graph.from_edges(torch.tensor([[0, 1], [1, 2]]), 3, undirected=True)
            >>> config = LargeGTConfig(num_features=5, num_nodes=3, sample_size=4, near_nodes=2)
            >>> collate = NodeCollator.of(config, graph)
            >>> collate.size, collate.near
            (4, 2)
        """
        check_graph(graph)
        if graph.num_nodes != config.num_nodes:
            raise ValueError(f"graph: expected num_nodes={config.num_nodes}, found {graph.num_nodes}")
        size, near = (1, 0) if config.mode == "global" else (config.sample_size, config.near_nodes)
        return cls(graph, size, near=near, **options)

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of `LargeGTForNodeClassification`."""
        nodes = torch.tensor([item["nodes"] for item in items])
        if self.resample and "epoch" not in items[0]:
            raise ValueError(
                "items: expected the epoch, on which samples depend with resample=True, found none: call the data "
                "set's set_epoch, as tokenmix.training.epoch_sampler.EpochTrainer does; Trainer drops the epoch unless "
                "remove_unused_columns=False"
            )
        epoch = items[0]["epoch"] if self.resample else 0
        batch = self.sample(nodes, epoch)
        if "labels" in items[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in items])
        return batch

    def sample(self, nodes: Tensor, epoch: int = 0) -> dict[str, Tensor]:
        """The inputs for (B,) ids, without labels."""
        places = sample_two_hop(self.graph, nodes, self.size, near=self.near, seed=(self.seed << 20) + epoch)
        batch = {"places": places, "nodes": nodes}
        if self.features is not None:
            used, batch["places"] = places.unique(return_inverse=True)
            batch["features"] = gather_rows(self.features, used)
        if self.positions is not None:
            batch["positions"] = gather_rows(self.positions, nodes)
        return batch
