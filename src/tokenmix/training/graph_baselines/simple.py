"""Baselines without hidden layers: majority, label propagation, logistic regression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenmix.data.graphs import NodeData
from tokenmix.ops.sparse import SparseMatrix
from tokenmix.training.graph_baselines.matrices import Normalisation, adjacency, feature_matrix


def majority(data: NodeData) -> Tensor:
    """The class that most training nodes have, for every node; the first of equal ones.

    Returns:
        (N,) int64 classes.
    """
    counts = torch.bincount(data.labels[data.train], minlength=len(data.classes))
    return counts.argmax().expand(data.graph.num_nodes)


def label_propagation(
    data: NodeData, *, alpha: float = 0.9, steps: int = 50, normalisation: Normalisation = "symmetric"
) -> Tensor:
    """Labels of training nodes, spread along edges: F <- alpha A F + (1 - alpha) Y, from F = Y.

    Y holds the labels of training nodes, one-hot, and 0 elsewhere; A is the normalised adjacency without added self
    loops. Labels of validation nodes are not used, not even to predict the test nodes. A node that no label reaches
    gets the majority class.

    Args:
        data: the graph.
        alpha: share of what neighbours say, from 0 to 1.
        steps: how far labels go, in edges.
        normalisation: of A.

    Returns:
        (N,) int64 classes.

    Raises:
        ValueError: alpha or steps out of range.

    Source: Zhou et al. 2003, "Learning with local and global consistency" (NeurIPS 16).
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha: expected from 0 to 1, found {alpha}")
    if steps < 1:
        raise ValueError(f"steps: expected 1 or more, found {steps}")
    matrix = adjacency(data.graph, normalisation, self_loops=False).matrix
    known = torch.zeros(data.graph.num_nodes, len(data.classes))
    known[data.train, data.labels[data.train]] = 1.0
    spread = known
    for _ in range(steps):
        spread = (matrix @ spread).mul_(alpha).add_(known, alpha=1 - alpha)
    return torch.where(spread.amax(1) > 0, spread.argmax(1), majority(data))


def logistic_regression(data: NodeData, *, l2: float = 1e-5, steps: int = 100) -> tuple[Tensor, int]:
    """A linear softmax classifier of raw features: mean cross-entropy + l2 / 2 |W|^2, by L-BFGS from 0.

    Args:
        data: the graph, whose edges are not used.
        l2: weight of the penalty; the bias has none.
        steps: iterations of L-BFGS, at most.

    Returns:
        (N,) int64 classes; the number of parameters.

    Raises:
        ValueError: a negative l2, or no steps.
    """
    if l2 < 0:
        raise ValueError(f"l2: expected 0 or more, found {l2}")
    if steps < 1:
        raise ValueError(f"steps: expected 1 or more, found {steps}")
    features, labels = feature_matrix(data.features, data.train), data.labels[data.train]
    weight = torch.zeros(data.features.shape[1], len(data.classes), requires_grad=True)
    bias = torch.zeros(len(data.classes), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(features @ weight + bias, labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        every: Tensor | SparseMatrix = feature_matrix(data.features)
        return (every @ weight + bias).argmax(1), weight.numel() + bias.numel()
