"""The model of a comparison: an embedding, a stack of mixers, and a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokenmix.blocks import Stack
from tokenmix.compare.task import Task
from tokenmix.layout import Layout
from tokenmix.mixer import check_positive


@dataclass
class ModelConfig:
    """What all stacks share."""

    hidden_size: int = 64
    num_hidden_layers: int = 2
    feed_forward: Literal["swiglu", "gelu"] | None = "swiglu"
    intermediate_size: int | None = None
    """Inner width of the feed-forward of the reference; the others' follow from the budget."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    position: Literal["none", "learned"] = "none"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that are none."""
        for name in ("hidden_size", "num_hidden_layers"):
            check_positive(name, getattr(self, name))
        if self.intermediate_size is not None:
            check_positive("intermediate_size", self.intermediate_size)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected 0 or more and less than 1, found {self.dropout}")


class TaskModel(nn.Module):
    """Inputs of a task to its predictions: embed, mix, read off.

        h = Stack(E(inputs) [+ P]),   predictions = W norm(h) + b, of each token or of the mean over a row's real ones

    Args:
        task: says what comes in and goes out.
        mixers: a description for each letter of the pattern.
        pattern: letters, repeated until there are `config.num_hidden_layers`.
        config: what all stacks share.
        feed_forward_dim: inner width of the feed-forward; default that of the config.

    Raises:
        ValueError: what `Stack` refuses.

    Example:
        >>> from tokenmix.compare import build_task
        >>> task = build_task({"task": "recall", "pairs": [2], "lengths": [16], "vocabulary": 32})
        >>> model = TaskModel(task, {"a": {"mixer": "attention", "heads": 4}}, "a", ModelConfig())
        >>> batch = task.batch("train", seed=0, number=0, rows=3)
        >>> model(batch.inputs).shape
        torch.Size([3, 16, 32])
    """

    def __init__(
        self,
        task: Task,
        mixers: Mapping[str, Mapping[str, Any]],
        pattern: str,
        config: ModelConfig,
        feed_forward_dim: int | None = None,
    ) -> None:
        super().__init__()
        dim = config.hidden_size
        self.per = task.per
        self.embed: nn.Module
        if task.vocab_size is not None:
            self.embed = nn.Embedding(task.vocab_size, dim)
        else:
            self.embed = nn.Linear(task.features or 1, dim)
        self.positions = nn.Embedding(task.max_length, dim) if config.position == "learned" else None
        self.stack = Stack(
            dim,
            mixers,
            pattern,
            layers=config.num_hidden_layers,
            feed_forward=config.feed_forward,
            feed_forward_dim=feed_forward_dim or config.intermediate_size,
            norm=config.norm,
            dropout=config.dropout,
        )
        self.head = nn.Linear(dim, task.outputs)
        for table in (self.embed, self.positions):
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, inputs: Tensor, layout: Layout | None = None) -> Tensor:
        """Predictions (B, L, outputs), or (B, outputs) where the task asks for one a row.

        Args:
            inputs: (B, L) int64 or (B, L, features).
            layout: where the tokens live.
        """
        layout = Layout() if layout is None else layout
        x = self.embed(inputs)
        if self.positions is not None:
            x = x + self.positions.weight[: x.shape[1]]
        x = self.stack(x, layout)
        if self.per == "row":
            x = mean_of_real(x, layout.mask)
        y: Tensor = self.head(x)
        return y


def mean_of_real(x: Tensor, mask: Tensor | None) -> Tensor:
    """(B, dim): the mean over the real tokens of each row.

    Example:
        >>> mean_of_real(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    if mask is None:
        return x.mean(1)
    weight = mask.to(x.dtype)
    return torch.einsum("bl,bld->bd", weight, x) / weight.sum(1, keepdim=True).clamp(min=1)
