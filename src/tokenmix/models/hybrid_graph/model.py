"""HybridGraph, three kinds of graph convolutions over one graph, as a Hugging Face model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput, can_return_tuple

from tokenmix.models.hybrid_graph.config import HybridGraphConfig
from tokenmix.models.hybrid_graph.layers import (
    GraphAttention,
    GraphConvolution,
    GraphEdges,
    SampleConvolution,
)
from tokenmix.models.node_norm import NodeNorm
from tokenmix.models.safe_loading import SafeLoading
from tokenmix.ops.common import infinite_row, is_integers
from tokenmix.ops.precision import at_least_float32

NO_LABEL = -100


@dataclass
class HybridGraphOutput(ModelOutput):
    """What a HybridGraph gives.

    Args:
        loss: weighted sum of the mean binary cross-entropy over labelled nodes and of the mean squared error over those
            whose severity is known; where there are either.
        logits: (N,) of the event; its probability is their sigmoid.
        severity: (N,) the predicted continuous score.
        last_hidden_state: (N, hidden_size), what the heads read.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    severity: Tensor | None = None
    last_hidden_state: Tensor | None = None


class HybridGraphModel(SafeLoading, PreTrainedModel):
    """Nodes of a similarity graph: whether an event happens to them, and how severe their state is.

    GCN, GraphSAGE and GAT layers one after the other, each with batch norm, relu and dropout, then a linear head for
    each question. The whole graph is one batch: nodes without a label take part and are not in the loss. Memory is
    O(N hidden_size + E heads); no tensor of edges by features is made.

    Args:
        config: sizes.

    Example:
        >>> model = HybridGraphModel(HybridGraphConfig(num_features=5, hidden_size=8)).eval()
        >>> edges = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> output = model(torch.randn(4, 5), edges, labels=torch.tensor([1.0, 0.0, -100, -100]))
        >>> output.logits.shape, output.severity.shape, output.loss.shape
        (torch.Size([4]), torch.Size([4]), torch.Size([]))

    Source:
        HybridGraphMedGNN of arXiv 2508.00615: a reconstruction from its abstract and its authors' notes (two GCN, two
        SAGE and one attention layer of width 64), as there is no code. Order within the stack, heads and dropout are
        ours. Layers: arXiv 1609.02907, 1706.02216 and 1710.10903.
    """

    config: HybridGraphConfig
    config_class = HybridGraphConfig
    base_model_prefix = "model"
    main_input_name = "features"
    accepts_loss_kwargs = False  # the loss is a mean over nodes: Trainer averages it over accumulated batches

    def __init__(self, config: HybridGraphConfig) -> None:
        super().__init__(config)
        dim, heads = config.hidden_size, config.num_attention_heads
        kinds = ["gcn"] * config.gcn_layers + ["sage"] * config.sage_layers + ["gat"] * config.gat_layers
        widths = [config.num_features] + [dim] * (len(kinds) - 1)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for kind, width in zip(kinds, widths, strict=True):
            if kind == "gat":
                self.layers.append(GraphAttention(width, dim, heads, config.attention_dropout))
            else:
                self.layers.append((GraphConvolution if kind == "gcn" else SampleConvolution)(width, dim))
            self.norms.append(NodeNorm(dim))
        self.drop = nn.Dropout(config.dropout)
        self.label_head = nn.Linear(dim, 1)
        self.severity_head = nn.Linear(dim, 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the layers draw them."""
        if (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()

    @can_return_tuple
    def forward(
        self,
        features: Tensor,
        edges: Tensor,
        edge_weight: Tensor | None = None,
        labels: Tensor | None = None,
        severity: Tensor | None = None,
        train_nodes: Tensor | None = None,
    ) -> HybridGraphOutput:
        """Encode a graph, and answer both questions for every node.

        Args:
            features: (N, F).
            edges: (2, E) integers, sender over receiver.
            edge_weight: (E,) floats of 0 or more, which the GCN layers heed; default 1.
            labels: (N,) 0 to 1, -100 for none.
            severity: (N,) floats, NaN for none.
            train_nodes: (N,) bool, of whom the batch norm's statistics are in training; default all nodes.

        Raises:
            ValueError, TypeError: input of another shape or type, or out of range.
        """
        self._check(features, edges, edge_weight)
        nodes, features = len(features), features.to(self.label_head.weight.dtype)
        labels = self._targets("labels", labels, nodes)
        severity = self._targets("severity", severity, nodes)
        if train_nodes is not None and (_kind(train_nodes) != "torch.bool" or train_nodes.shape != (nodes,)):
            raise ValueError(f"train_nodes: expected bool of shape ({nodes},), found {_shape(train_nodes)}")
        graph = GraphEdges.of(edges, edge_weight, nodes, at_least_float32(features).dtype)
        x = features
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.drop(norm(layer(x, graph), train_nodes).relu())
        logits, predicted = self.label_head(x)[:, 0], self.severity_head(x)[:, 0]
        return HybridGraphOutput(self._loss(logits, predicted, labels, severity), logits, predicted, x)

    def _loss(self, logits: Tensor, predicted: Tensor, labels: Tensor | None, severity: Tensor | None) -> Tensor | None:
        found = []
        if labels is not None:
            real = labels != NO_LABEL
            total = F.binary_cross_entropy_with_logits(logits[real].float(), labels[real].float(), reduction="sum")
            found.append(self.config.label_weight * total / real.sum().clamp(min=1))
        if severity is not None:
            real = ~severity.isnan()
            total = F.mse_loss(predicted[real].float(), severity[real].float(), reduction="sum")
            found.append(self.config.severity_weight * total / real.sum().clamp(min=1))
        return torch.stack(found).sum() if found else None

    def _check(self, features: Tensor, edges: Tensor, edge_weight: Tensor | None) -> None:
        if not isinstance(features, Tensor) or not features.is_floating_point():
            raise TypeError(f"features: expected floats, found {_kind(features)}")
        if features.dim() != 2 or features.shape[1] != self.config.num_features:
            expected = f"(N, num_features={self.config.num_features})"
            raise ValueError(f"features: expected shape {expected}, found {tuple(features.shape)}")
        if (row := infinite_row(features.to(self.label_head.weight.dtype))) is not None:
            raise ValueError(f"features: expected finite numbers, found NaN or infinity at node {row}")
        if not is_integers(edges):
            raise TypeError(f"edges: expected integers, found {_kind(edges)}")
        if edges.dim() != 2 or len(edges) != 2:
            raise ValueError(f"edges: expected shape (2, E), found {tuple(edges.shape)}")
        if edges.numel():
            low, high = (int(end) for end in edges.long().aminmax())
            if low < 0 or high >= len(features):
                found = low if low < 0 else high
                raise ValueError(f"edges: expected nodes from 0 to {len(features) - 1}, found {found}")
        if edge_weight is not None:
            floats = isinstance(edge_weight, Tensor) and edge_weight.is_floating_point()
            if not floats or edge_weight.shape != edges.shape[1:]:
                expected = f"floats of shape ({edges.shape[1]},)"
                raise ValueError(f"edge_weight: expected {expected}, found {_shape(edge_weight)}")
            wrong = ~((edge_weight >= 0) & edge_weight.float().isfinite())
            if bool(wrong.any()):
                raise ValueError(f"edge_weight: expected numbers of 0 or more, found {float(edge_weight[wrong][0])}")

    def _targets(self, name: str, value: Tensor | None, nodes: int) -> Tensor | None:
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.shape != (nodes,):
            raise ValueError(f"{name}: expected shape ({nodes},), found {_shape(value)}")
        if name == "labels":
            wrong = (value != NO_LABEL) & ~((value >= 0) & (value <= 1))
            if bool(wrong.any()):
                raise ValueError(f"labels: expected 0 to 1, or {NO_LABEL} for none, found {float(value[wrong][0])}")
        elif bool(value.float().isinf().any()):
            raise ValueError(f"{name}: expected finite numbers, or NaN for none, found infinity")
        return value


def _shape(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _kind(value: Any) -> str:
    return str(getattr(value, "dtype", type(value).__name__))
