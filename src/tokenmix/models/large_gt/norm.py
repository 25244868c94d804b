"""Batch norm for batches of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.mixers.vector_quantiser import set_buffer


class RowNorm(nn.BatchNorm1d):
    """Batch norm over rows, which takes a batch of one row too: it has no spread, so the running statistics serve.

    Example:
        >>> RowNorm(3)(torch.ones(1, 3)).round(decimals=2).tolist()
        [[1.0, 1.0, 1.0]]
    """

    def reset_running_stats(self) -> None:
        """Forget the statistics, but for those that were loaded from a checkpoint."""
        for name, start in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            buffer = getattr(self, name)
            set_buffer(buffer, torch.full_like(buffer, start))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim) -> (B, dim)."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
