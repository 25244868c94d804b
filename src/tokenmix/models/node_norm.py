"""Batch norm over the nodes of a graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.mixers.vector_quantiser import set_buffer
from tokenmix.ops.precision import at_least_float32


class NodeNorm(nn.BatchNorm1d):
    """Batch norm over nodes, of any number, whose statistics may come from some of them: those of training alone.

    One node has no spread: then the running statistics serve. Statistics of a checkpoint are kept, also if it lacks
    other tensors of the norm.

    Example:
        >>> norm, x = NodeNorm(1), torch.tensor([[1.0], [3.0], [99.0]])
        >>> norm(x, torch.tensor([True, True, False])).flatten().round().tolist()
        [-1.0, 1.0, 97.0]
    """

    def reset_running_stats(self) -> None:
        """Forget the statistics, but for those that were loaded from a checkpoint."""
        for name, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = getattr(self, name)
            set_buffer(buffer, torch.full_like(buffer, start))

    def forward(self, x: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Norm all of them.

        Args:
            x: (N, dim).
            nodes: (N,) bool, of whom the statistics are in training; default all. With fewer than two, the running
                statistics serve.
        """
        if not self.training:
            return super().forward(x)
        some = x if nodes is None else x[nodes]
        if len(some) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if nodes is None:
            return super().forward(x)
        super().forward(some.detach())  # for the running statistics
        wide = at_least_float32(some)
        mean, variance = wide.mean(0), wide.var(0, correction=0)
        y = (at_least_float32(x) - mean) * (variance + self.eps).rsqrt()
        return (y * self.weight + self.bias).to(x.dtype)
