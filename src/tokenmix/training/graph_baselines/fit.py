"""Full-batch training of a network, where validation says which epoch counts and when to stop."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.data.graphs import NodeData
from tokenmix.training.graph_baselines.matrices import feature_matrix
from tokenmix.training.graph_baselines.network import GraphNetwork, Kind
from tokenmix.training.graph_score import share_right


def fit_network(
    kind: Kind,
    data: NodeData,
    seed: int,
    *,
    learning_rate: float = 0.01,
    weight_decay: float = 0.0,
    epochs: int = 200,
    patience: int = 50,
    every: int = 1,
    report: Callable[[str], None] | None = None,
    **options: object,
) -> tuple[Tensor, int, int]:
    """Train one network on the whole graph with AdamW, and predict with the weights of its best validation epoch.

    Args:
        kind: of the network.
        data: the graph.
        seed: of weights and dropout.
        learning_rate, weight_decay: of AdamW; the decay is AdamW's, times the learning rate.
        epochs: updates at most.
        patience: stop after so many epochs without a better validation accuracy.
        every: epochs between two looks at validation.
        report: gets a line at each look.
        options: of `GraphNetwork`.

    Returns:
        (N,) int64 classes; the number of parameters; the best epoch, from 1.

    Raises:
        ValueError: sizes that cannot be. FloatingPointError: the loss is no number.
    """
    if epochs < 1 or patience < 1 or every < 1:
        raise ValueError(f"epochs, patience, every: expected 1 or more, found {epochs}, {patience} and {every}")
    features = feature_matrix(data.features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GraphNetwork(kind, data.features.shape[1], len(data.classes), **options)  # type: ignore[arg-type]  # checked there
        graph = network.prepare(data.graph)
        optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
        best, best_epoch, found = -1.0, 0, torch.empty(0, dtype=torch.int64)
        for epoch in range(1, epochs + 1):
            network.train()
            optimiser.zero_grad()
            loss = F.cross_entropy(network(features, graph)[data.train], data.labels[data.train])
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"{kind}: the loss is {float(loss)} in epoch {epoch}")
            loss.backward()
            optimiser.step()
            if epoch % every and epoch != epochs:
                continue
            classes = _predict(network, features, graph)
            accuracy = share_right(classes[data.val], data.labels[data.val])
            if report is not None:
                report(f"{kind} epoch {epoch}: loss {float(loss):.4f}, validation {accuracy:.4f}")
            if accuracy > best:
                best, best_epoch, found = accuracy, epoch, classes
            if epoch - best_epoch >= patience:
                break
    return found, sum(weight.numel() for weight in network.parameters()), best_epoch


@torch.no_grad()
def _predict(network: nn.Module, features: object, graph: object) -> Tensor:
    network.eval()
    classes: Tensor = network(features, graph).argmax(1)
    return classes
