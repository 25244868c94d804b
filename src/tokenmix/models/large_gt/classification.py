"""LargeGT as a classifier of nodes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from tokenmix.models.large_gt.config import LargeGTConfig
from tokenmix.models.large_gt.model import LargeGTModel, LargeGTOutput, LargeGTPreTrainedModel
from tokenmix.models.node_norm import NodeNorm


class LargeGTForNodeClassification(LargeGTPreTrainedModel):
    """A LargeGT with a classifier of nodes.

    [linear, batch norm, relu, dropout] from the halves to h * d, the same to d, and a last linear layer.

    Args:
        config: sizes, mode and `num_labels`.

    Example:
        >>> config = LargeGTConfig(
        ...     num_features=5, num_nodes=9, num_labels=3, sample_size=2, hidden_size=8, position_size=0, codes=4
        ... )
        >>> model = LargeGTForNodeClassification(config)
        >>> places, nodes = torch.tensor([[0, 1], [1, 2]]), torch.tensor([7, 8])
        >>> output = model(places, nodes, torch.randn(3, 3, 5), labels=torch.tensor([2, -100]))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([2, 3]), torch.Size([]))

    Source:
        Dwivedi et al. 2023, arXiv 2312.11109.
    """

    def __init__(self, config: LargeGTConfig) -> None:
        super().__init__(config)
        dim, wide = config.hidden_size, config.hidden_size * config.num_attention_heads
        self.model = LargeGTModel(config)
        sizes = ((config.width, wide), (wide, dim))
        self.fusion = nn.ModuleList(FusionLayer(width, out, config.dropout) for width, out in sizes)
        self.classifier = nn.Linear(dim, int(config.num_labels or 0))
        self._ddp_params_and_buffers_to_ignore = [  # a code a node, the same in all processes: nothing to send
            name for name, _ in self.named_buffers() if name.startswith("model.global_half.node_codes.")
        ]
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        places: Tensor,
        nodes: Tensor,
        features: Tensor | None = None,
        positions: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> LargeGTOutput:
        """Classify nodes.

        Args:
            places, nodes, features, positions: as `LargeGTModel.forward`.
            labels: (B,) classes, -100 for none.

        Raises:
            ValueError, TypeError: input of another shape or type, or out of range.
        """
        if labels is not None:
            self._check_labels(labels, nodes)
        x = self.model(places, nodes, features, positions).last_hidden_state
        for layer in self.fusion:
            x = layer(x)
        logits = self.classifier(x)
        loss = None
        if labels is not None:
            real = labels != -100
            total = F.cross_entropy(logits.float(), labels, ignore_index=-100, reduction="sum")
            loss = total / real.sum().clamp(min=1)
        return LargeGTOutput(loss, logits)

    def _check_labels(self, labels: Tensor, nodes: Tensor) -> None:
        if labels.dtype != torch.int64 or labels.shape != nodes.shape:
            raise ValueError(
                f"labels: expected int64 of shape {tuple(nodes.shape)}, found {labels.dtype} of {tuple(labels.shape)}"
            )
        known, classes = labels[labels != -100], self.classifier.out_features
        if len(known) and not 0 <= int(known.min()) <= int(known.max()) < classes:
            found = int(known.min()) if int(known.min()) < 0 else int(known.max())
            raise ValueError(f"labels: expected -100, or 0 to {classes - 1}, found {found}")


class FusionLayer(nn.Module):
    """Linear, batch norm, relu, dropout."""

    def __init__(self, width: int, out: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.norm = NodeNorm(out)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, out)."""
        y: Tensor = self.drop(self.norm(self.linear(x)).relu())
        return y
