"""Classic networks on graphs, for the whole graph at once: MLP, GCN, GraphSAGE and GAT."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenmix.ops.graph import Graph
from tokenmix.ops.sparse import SparseMatrix
from tokenmix.training.graph_baselines.matrices import adjacency

Kind = Literal["mlp", "gcn", "sage", "gat"]
Norm = Literal["none", "batch", "layer"]


class Projection(nn.Module):
    """x W + b, where x may be a constant sparse matrix.

    Args:
        inputs, outputs: widths.
        bias: add b.

    Example:
        >>> Projection(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor | SparseMatrix) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        product: Tensor = x @ self.weight
        return product if self.bias is None else product + self.bias


class GraphLayer(nn.Module):
    """One layer: `gcn` A x W + b; `sage` M x W + x V + b; `mlp` x W + b; `gat` torch_geometric's GATConv.

    A is the symmetric adjacency with self loops, M the mean of neighbours. Products are constant sparse matrices, for
    which the first two equal torch_geometric's GCNConv and SAGEConv.

    Args:
        kind: which.
        inputs, outputs: widths.
        heads: of `gat`; their outputs lie side by side, or are averaged where `average` is set.
        residual: add x V, with weights V of its own (`sage` has it anyway).
    """

    def __init__(
        self, kind: Kind, inputs: int, outputs: int, *, heads: int = 1, average: bool = False, residual: bool = False
    ) -> None:
        super().__init__()
        self.kind = kind
        self.own = Projection(inputs, outputs, bias=False) if residual or kind == "sage" else None
        if kind == "gat":
            width = outputs if average else outputs // heads
            self.attention = _gat_class()(inputs, width, heads=heads, concat=not average)
        else:
            self.project = Projection(inputs, outputs, bias=False)
            self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor | SparseMatrix, graph: Any) -> Tensor:
        """(N, inputs) -> (N, outputs), with what `prepare` made of the graph."""
        if self.kind == "gat":
            out: Tensor = self.attention(x, graph)
        elif self.kind == "mlp":
            out = self.project(x) + self.bias
        else:
            out = graph @ self.project(x) + self.bias
        return out if self.own is None else out + self.own(x)


class GraphNetwork(nn.Module):
    """Layers with norm, ReLU and dropout between them; the options of tuned classic GNNs.

    Args:
        kind: "mlp", "gcn", "sage" or "gat".
        inputs, outputs: number of features and of classes.
        hidden: width of the layers between; a multiple of `heads`.
        depth: layers, or layers before the linear head.
        dropout: of hidden features. input_dropout: of features, where they are dense.
        norm: "none", "batch" or "layer", before each ReLU.
        residual: add a linear map of its input to each layer's output.
        input_projection: begin with a linear layer and ReLU. `gat` needs it for sparse features.
        linear_head: end with a linear layer after `depth` layers, else the last layer gives the classes.
        heads: of `gat`.

    Raises:
        ValueError: an unknown kind or norm, or sizes that cannot be.

    Source: Luo, Shi and Wu 2024, "Classic GNNs are strong baselines", arXiv 2406.08993, for the options; GAT:
    Veličković et al. 2018, arXiv 1710.10903.

    Example:
        >>> network = GraphNetwork("gcn", 3, 2, hidden=8)
        >>> graph = network.prepare(Graph.from_edges(torch.tensor([[0], [1]]), 4))
        >>> network(torch.ones(4, 3), graph).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        kind: Kind,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 64,
        depth: int = 2,
        dropout: float = 0.5,
        input_dropout: float = 0.0,
        norm: Norm = "none",
        residual: bool = False,
        input_projection: bool = False,
        linear_head: bool = False,
        heads: int = 1,
    ) -> None:
        super().__init__()
        if kind not in ("mlp", "gcn", "sage", "gat"):
            raise ValueError(f"kind: expected 'mlp', 'gcn', 'sage' or 'gat', found {kind!r}")
        if norm not in ("none", "batch", "layer"):
            raise ValueError(f"norm: expected 'none', 'batch' or 'layer', found {norm!r}")
        if depth < 1 or heads < 1 or hidden < 1 or hidden % heads:
            found = f"{depth}, {hidden} and {heads}"
            raise ValueError(f"depth, hidden, heads: expected 1 or more and hidden a multiple of heads, found {found}")
        self.kind = kind
        self.dropout, self.input_dropout = dropout, input_dropout
        self.input = Projection(inputs, hidden) if input_projection else None
        widths = [hidden if input_projection else inputs] + [hidden] * depth
        if not linear_head:
            widths[-1] = outputs
        self.layers = nn.ModuleList(
            GraphLayer(
                kind,
                before,
                after,
                heads=heads,
                average=not linear_head and place == depth - 1,
                residual=residual,
            )
            for place, (before, after) in enumerate(itertools.pairwise(widths))
        )
        norms: dict[str, type[nn.Module]] = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        inner = depth if linear_head else depth - 1
        self.norms = nn.ModuleList(norms[norm](hidden) for _ in range(inner))
        self.head = Projection(hidden, outputs) if linear_head else None

    def prepare(self, graph: Graph) -> SparseMatrix | Tensor | None:
        """What `forward` reads of the graph, made once: a normalised adjacency, or edges both ways."""
        if self.kind == "gcn":
            return adjacency(graph, "symmetric", self_loops=True)
        if self.kind == "sage":
            return adjacency(graph, "mean", self_loops=False)
        if self.kind == "gat":
            return Graph.from_edges(graph.edges(), graph.num_nodes, undirected=True, self_loops="keep").edges()
        return None

    def forward(self, x: Tensor | SparseMatrix, graph: Any) -> Tensor:
        """(N, inputs) -> (N, outputs) logits.

        Args:
            x: features of all nodes.
            graph: of `prepare`.
        """
        if isinstance(x, Tensor):
            x = F.dropout(x, self.input_dropout, self.training)
        if self.input is not None:
            x = F.dropout(F.relu(self.input(x)), self.dropout, self.training)
        for place, layer in enumerate(self.layers):
            x = layer(x, graph)
            if place < len(self.norms):
                x = F.dropout(F.relu(self.norms[place](x)), self.dropout, self.training)
        if self.head is not None:
            return self.head(x)
        return x  # type: ignore[return-value]  # dense after the first layer


def _gat_class() -> Any:
    try:
        from torch_geometric.nn import GATConv
    except ImportError as error:
        message = "gat: needs torch_geometric, which cannot be imported; pip install tokenmix[graphs]"
        raise ImportError(message) from error
    return GATConv
