"""One baseline with given settings and one seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tokenmix.data.graphs import NodeData
from tokenmix.nearest import nearest
from tokenmix.training.graph_baselines.fit import fit_network
from tokenmix.training.graph_baselines.simple import label_propagation, logistic_regression, majority
from tokenmix.training.graph_score import share_right

BASELINES = ("majority", "logistic_regression", "label_propagation", "mlp", "gcn", "sage", "gat")
WITHOUT_CHANCE = ("majority", "logistic_regression", "label_propagation")
"""Give the same for every seed."""


@dataclass(frozen=True, eq=False)
class BaselineResult:
    """What one run gave.

    Args:
        name: of the baseline.
        val, test: accuracies, of networks at the best validation epoch; NaN without such nodes.
        seconds: of wall time.
        parameters: numbers that were learned.
        settings: it was run with.
        seed: of weights and dropout.
        epochs: the best epoch of a network; 0 for others.
        predictions: (N,) int64 classes of all nodes.
    """

    name: str
    val: float
    test: float
    seconds: float
    parameters: int
    settings: dict[str, Any]
    seed: int
    epochs: int
    predictions: Tensor = field(repr=False)


def run_baseline(
    name: str,
    data: NodeData,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    report: Callable[[str], None] | None = None,
) -> BaselineResult:
    """Train one baseline and score it. Labels of test nodes enter the score alone.

    Args:
        name: one of `BASELINES`.
        data: the graph.
        settings: keywords of `label_propagation`, `logistic_regression` or `fit_network` and `GraphNetwork`; what is
            not named has its default.
        seed: of weights and dropout. On one thread, equal seeds give equal results.
        report: gets lines about the training.

    Raises:
        ValueError: an unknown name; no training or validation nodes.
        TypeError: an unknown setting. ImportError: `gat` without torch_geometric.

    Example:
        >>> from tokenmix.data.graphs import load_graph
        >>> round(run_baseline("majority", load_graph("wordnet")).test, 3)
        0.123
    """
    check_baseline(name, data)
    chosen, started = dict(settings or {}), time.perf_counter()
    parameters = epochs = 0
    if name == "majority":
        predictions = majority(data, **chosen)
    elif name == "label_propagation":
        predictions = label_propagation(data, **chosen)
    elif name == "logistic_regression":
        predictions, parameters = logistic_regression(data, **chosen)
    else:
        predictions, parameters, epochs = fit_network(name, data, seed, report=report, **chosen)  # type: ignore[arg-type]  # checked above
    seconds = time.perf_counter() - started
    val, test = (share_right(predictions[ids], data.labels[ids]) for ids in (data.val, data.test))
    return BaselineResult(name, val, test, seconds, parameters, chosen, seed, epochs, predictions)


def check_baseline(name: str, data: NodeData) -> None:
    """Refuse an unknown name, and a graph on which nothing can be trained or chosen."""
    if name not in BASELINES:
        raise ValueError(f"name: unknown baseline {name!r}; {nearest(name, BASELINES)}")
    for split in ("train", "val"):
        if not len(getattr(data, split)):
            raise ValueError(f"{split}: expected at least one node, found none")
