"""Neighbourhood attention: each token reads the senders of its incoming edges."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.attention_weights import AttentionShape, AttentionWeights
from tokenmix.layout import Layout
from tokenmix.mixer import TokenMixer, check_positive, register_mixer
from tokenmix.mixers.projections import take_heads, width_of_heads
from tokenmix.ops.edges import attend_edges
from tokenmix.routed.base import RoutedModule, per_token
from tokenmix.state import MixerState


class ReadEdges(NamedTuple):
    """The edges that are read, sorted by receiver.

    Args:
        edges: (2, E) sender and receiver.
        rows: (E,) which row of the layout's `edge_attr` belongs to each; one past the last for an added self loop.
    """

    edges: Tensor
    rows: Tensor


@register_mixer("neighbourhood_attention")
class NeighbourhoodAttention(TokenMixer):
    """Multi-head attention over the edges of a graph.

        y_i = [sum over edges j -> i of softmax_j(q_hi . k_hj / sqrt(e) + (W_b a_ji)_h) v_hj]_h W_o

    Tokens are the nodes, and `Layout.edges` says who reads whom: the receiver reads the sender. An edge that is listed
    twice counts twice. An edge that touches padding, or joins two rows or segments, is not read. With `self_loops`,
    every token that has no edge to itself reads itself as well; without, a token that no edge ends in gives 0. Work and
    memory grow with the number of edges, whatever the largest degree.

    Args:
        dim: width of the features.
        heads: H, number of heads.
        head_dim: e, width of a head; default dim / heads.
        self_loops: let every token read itself.
        edge_dim: k, width of `Layout.edge_attr`; each head adds a learned linear function W_b of it to the score (0 for
            added self loops). Default: `edge_attr` is not read.
        bias: biases on the projections.

    Raises:
        ValueError, TypeError: sizes below 1 or that do not divide; a layout without edges, or whose `edge_attr` has
            another width.

    Example:
        >>> mixer = NeighbourhoodAttention(8, heads=2)
        >>> layout = Layout(edges=torch.tensor([[0, 1], [1, 2]]))
        >>> mixer(torch.zeros(1, 3, 8), layout).shape
        torch.Size([1, 3, 8])

    Source:
        Shi et al. 2021, arXiv 2009.03509 (without its gate), with additive edge scores as in Ying et al. 2021, arXiv
        2106.05234.
    """

    paper = "Shi et al. 2021, arXiv 2009.03509"
    causal = "never"
    needs: tuple[str, ...] = ("edges",)
    shared_modules = ("edge_proj",)
    cost = "L + E"
    equivariance = ("permutation",)
    ordered = False
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")
    residual_projection = "o_proj"

    def __init__(
        self,
        dim: int,
        heads: int = 8,
        *,
        head_dim: int | None = None,
        self_loops: bool = True,
        edge_dim: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(dim)
        head_dim = width_of_heads(dim, heads, head_dim)
        if not isinstance(self_loops, bool):
            raise TypeError(f"self_loops: expected True or False, found {self_loops!r}")
        self.heads, self.head_dim, self.self_loops, self.edge_dim = heads, head_dim, self_loops, edge_dim
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=bias)
        self.edge_proj: nn.Linear | None = None
        if edge_dim is not None:
            check_positive("edge_dim", edge_dim)
            self.edge_proj = nn.Linear(edge_dim, heads, bias=False)
            self.needs = ("edges", "edge_attr")

    def reset_parameters(self) -> None:
        """Draw the projections as `torch.nn.Linear` does."""
        for module in self.children():
            if isinstance(module, (nn.Linear, RoutedModule)):
                module.reset_parameters()

    @classmethod
    def options_like(cls, attention: AttentionShape) -> dict[str, Any]:
        """Its heads."""
        return {"heads": attention.heads, "head_dim": attention.head_dim, "bias": attention.bias}

    def take_attention(self, weights: AttentionWeights) -> tuple[str, ...]:
        """All of it, for as many heads of the same width."""
        return take_heads(self, weights)

    def mix(self, x: Tensor, layout: Layout, state: MixerState | None) -> Tensor:
        """See `TokenMixer.mix`."""
        batch, length, _ = x.shape
        read = self._edges(layout, batch, length)
        q, k, v = (
            self._split(per_token(project, x, layout)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B*L, H, e)
        y = attend_edges(q, k, v, read.edges, bias=self._bias(layout, read))
        return per_token(self.o_proj, y.reshape(batch, length, -1), layout)

    def reach(self, layout: Layout, length: int) -> Tensor:
        """See `TokenMixer.reach`."""
        edges = layout.edges
        if edges is None:
            raise ValueError("layout: NeighbourhoodAttention needs edges, found none")
        given = [x for x in (layout.mask, layout.segments, layout.positions, layout.coords) if x is not None]
        batch = len(given[0]) if given else int(edges.max()) // length + 1 if edges.numel() else 1
        sender, receiver = self._edges(layout, batch, length).edges
        reach = torch.zeros(batch, length, length, dtype=torch.bool, device=edges.device)
        reach[receiver // length, receiver % length, sender % length] = True
        # its own features choose among what it reads, which takes two different senders
        return reach | (torch.eye(length, dtype=torch.bool, device=edges.device) & (reach.sum(-1) > 1)[..., None])

    def extra_repr(self) -> str:
        """Heads and self loops."""
        return f"heads={self.heads}, self_loops={self.self_loops}"

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.heads, self.head_dim)

    def _edges(self, layout: Layout, batch: int, length: int) -> ReadEdges:
        """Found once for all layers that read a layout."""
        key = ("read_edges", batch, length, self.self_loops)
        return layout.remember(key, layout.edges, lambda: read_edges(layout, batch, length, self.self_loops))

    def _bias(self, layout: Layout, read: ReadEdges) -> Tensor | None:
        if self.edge_proj is None or layout.edge_attr is None:
            return None
        if layout.edge_attr.shape[1] != self.edge_dim:
            raise ValueError(
                f"Layout.edge_attr: expected width edge_dim={self.edge_dim}, found {layout.edge_attr.shape[1]}"
            )
        scores = self.edge_proj(layout.edge_attr.to(self.edge_proj.weight.dtype))
        return torch.cat([scores, scores.new_zeros(1, self.heads)]).index_select(0, read.rows)


@torch.compiler.disable  # how many edges are left depends on the layout's numbers
def read_edges(layout: Layout, batch: int, length: int, self_loops: bool) -> ReadEdges:
    """The edges of a layout that lie inside a row and a segment and do not touch padding.

    Args:
        layout: with edges.
        batch, length: B and L.
        self_loops: add an edge from each real token that has none to itself.

    Example:
        >>> layout = Layout(edges=torch.tensor([[0, 2], [1, 1]]), segments=torch.tensor([[0, 0, 1]]))
        >>> read_edges(layout, 1, 3, self_loops=True).edges.tolist()
        [[0, 0, 1, 2], [0, 1, 1, 2]]
    """
    if layout.edges is None:
        raise ValueError("layout: expected edges, found none")
    sender, receiver = layout.edges.long()
    device = sender.device
    real = torch.ones(batch * length, dtype=torch.bool, device=device)
    if layout.mask is not None:
        real = layout.mask.flatten()
    kept = (sender // length == receiver // length) & real[sender] & real[receiver]
    if layout.segments is not None:
        segments = layout.segments.flatten()
        kept &= segments[sender] == segments[receiver]
    rows = kept.nonzero()[:, 0]
    sender, receiver = sender[rows], receiver[rows]
    if self_loops:
        lacking = real.clone()
        lacking[receiver[sender == receiver]] = False
        added = lacking.nonzero()[:, 0]
        sender, receiver = torch.cat([sender, added]), torch.cat([receiver, added])
        rows = torch.cat([rows, rows.new_full((len(added),), layout.edges.shape[1])])
    receiver, order = receiver.sort(stable=True)
    return ReadEdges(torch.stack([sender[order], receiver]), rows[order])
