"""Accuracy of node classifiers, and inference over all nodes of a graph in chunks."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenmix.data.node_batches import NodeCollator


def classify_nodes(model: Any, collate: NodeCollator, nodes: Tensor, batch_size: int = 2048) -> Tensor:
    """Logits of many nodes, chunk by chunk; whichever the chunks are, they are the same to rounding.

    Args:
        model: a `LargeGTForNodeClassification`.
        collate: samples the neighbourhoods.
        nodes: (n,) ids; all of the graph for full-batch inference.
        batch_size: nodes a chunk.

    Returns:
        (n, classes) float32 on the CPU.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        chunks = [torch.empty(0, model.config.num_labels)]
        for part in nodes.split(batch_size) if len(nodes) else ():
            batch = {key: value.to(model.device) for key, value in collate.sample(part).items()}
            chunks.append(model(**batch).logits.float().cpu())
    model.train(training)
    return torch.cat(chunks)


def share_right(classes: Tensor, labels: Tensor) -> float:
    """Share of the labelled nodes (label -100: none) whose class is right; NaN where none is labelled.

    Example:
        >>> share_right(torch.tensor([1, 0, 3]), torch.tensor([1, 1, -100]))
        0.5
    """
    return float((classes == labels)[labels != -100].double().mean())


def accuracy(predictions: Tensor, labels: Tensor) -> float:
    """`share_right` of the classes whose logits are largest.

    Example:
        >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.5, 0.4]]), torch.tensor([1, 1, -100]))
        0.5
    """
    return share_right(predictions.argmax(1), labels)


def trainer_accuracy(evaluated: Any) -> dict[str, float]:
    """`compute_metrics` of Hugging Face's Trainer."""
    logits, labels = evaluated.predictions, evaluated.label_ids
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": accuracy(torch.as_tensor(logits), torch.as_tensor(labels))}


def peak_memory() -> float:
    """The most memory that this process has held so far, in GB, mapped files counted; NaN where that is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over seeds of every metric, and `<metric>_spread`, the standard deviation, where there are several.

    Example:
        >>> over_seeds([{"test": 0.5}, {"test": 0.7}])
        {'test': 0.6, 'test_spread': 0.14142135623730948}
    """
    found: dict[str, float] = {}
    for key in runs[0]:
        values = torch.tensor([run[key] for run in runs], dtype=torch.float64)
        found[key] = round(float(values.mean()), 12)
        if len(values) > 1:
            found[f"{key}_spread"] = float(values.std())
    return found
