"""LargeGT, a transformer for large graphs, as Hugging Face models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput, can_return_tuple

from tokenmix.models.large_gt.codes import GlobalHalf
from tokenmix.models.large_gt.config import LargeGTConfig
from tokenmix.models.large_gt.inputs import FirstLayers, Projected, WholeGraph
from tokenmix.models.large_gt.local import LocalHalf
from tokenmix.models.safe_loading import SafeLoading
from tokenmix.ops.common import infinite_row, is_integers
from tokenmix.ops.graph import Graph


@dataclass
class LargeGTOutput(ModelOutput):
    """What a LargeGT gives.

    Args:
        loss: mean cross-entropy over the labelled nodes; where there are labels.
        logits: (B, classes); of the classifier alone.
        last_hidden_state: (B, width) of the nodes; of `LargeGTModel` alone.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


class LargeGTPreTrainedModel(SafeLoading, PreTrainedModel):
    """Base of `LargeGTModel` and of its head: initialisation, and the graph in memory."""

    config: LargeGTConfig
    config_class = LargeGTConfig
    base_model_prefix = "model"
    main_input_name = "places"
    accepts_loss_kwargs = False  # the loss is a mean over nodes: Trainer averages it over accumulated batches

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The local half as published; all else as torch draws it."""
        if isinstance(module, LocalHalf):
            std = self.config.initializer_range
            for linear in (module.local_in, module.qkv_proj, module.o_proj, module.residual, module.readout):
                nn.init.normal_(linear.weight, std=std)
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            if module.kinds is not None:
                nn.init.zeros_(module.kinds)
        elif (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()

    def attach(self, graph: Graph | None, features: Tensor | None = None) -> None:
        """Keep a graph with its raw features in memory, so that batches need not bring hop features.

        The way for graphs that fit, and the only one for thousands of sparse features. It is not saved with the model.

        Args:
            graph: of `config.num_nodes` nodes; None to forget it.
            features: (N, F), sparse CSR or dense.

        Raises:
            ValueError: another number of nodes or features than the configuration has.
        """
        model: Any = self.base_model
        if graph is None or features is None:
            model.graph = None
            return
        whole = WholeGraph(graph, features)
        for name, found in (("num_nodes", whole.num_nodes), ("num_features", whole.num_features)):
            if found != getattr(self.config, name):
                raise ValueError(f"graph: expected {name}={getattr(self.config, name)}, found {found}")
        model.graph = whole


class LargeGTModel(LargeGTPreTrainedModel):
    """Nodes of a large graph, each from a sample of its neighbourhood and from a codebook of the whole graph.

    Local half: K nodes are drawn from a node's neighbours of one and two hops, and each gives hops + 1 tokens, its raw
    features and their aggregates; a layer of attention among them reaches four hops with the work of two. Global half:
    the node reads a codebook that stands for all nodes. Both halves lie side by side in the output, local first.

    Args:
        config: sizes and mode.

    Example:
        >>> from tokenmix.ops.hop_features import hop_features
        >>> from tokenmix.ops.neighbours import sample_two_hop
        >>> graph = Graph.from_edges(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4, undirected=True)
        >>> config = LargeGTConfig(num_features=5, num_nodes=4, sample_size=3, hidden_size=8, position_size=0, codes=4)
        >>> model, nodes = LargeGTModel(config), torch.tensor([2, 0])
        >>> features = hop_features(graph, torch.randn(4, 5), hops=2)
        >>> model(sample_two_hop(graph, nodes, 3), nodes, features).last_hidden_state.shape
        torch.Size([2, 32])

    Source:
        Dwivedi et al. 2023, arXiv 2312.11109.
    """

    def __init__(self, config: LargeGTConfig) -> None:
        super().__init__(config)
        dim, heads = config.hidden_size, config.num_attention_heads
        self.graph: WholeGraph | None = None
        self.first = FirstLayers(config.num_features, dim, config.hops, config.mode)
        if config.mode != "global":
            told = config.hops if config.token_kinds else None
            near = config.near_nodes
            self.local_half = LocalHalf(dim, heads, config.dropout, config.local_dropout, hops=told, near=near)
        if config.mode != "local":
            self.global_half = GlobalHalf(
                dim,
                heads,
                config.code_size or dim,
                config.position_size,
                config.codes,
                config.num_nodes,
                config.dropout,
                decay=config.vq_decay,
                init=config.vq_init,
                restart=None if config.vq_restart is None else float(config.vq_restart),
                normalised=config.vq_normalised,
            )
        self.post_init()

    @can_return_tuple
    def forward(
        self, places: Tensor, nodes: Tensor, features: Tensor | None = None, positions: Tensor | None = None
    ) -> LargeGTOutput:
        """Encode nodes.

        Args:
            places: (B, K) sampled nodes, the node itself first: places in `features`; ids, where a graph is attached.
            nodes: (B,) ids.
            features: (U, hops + 1, F) hop features of the nodes that the batch samples.
            positions: (B, position_size) positional encodings.

        Raises:
            ValueError, TypeError: input of another shape or type, or out of range.
        """
        places, nodes = self._checked(places, nodes, features, positions)
        first = self._first(places[:, 0], features)
        halves = []
        if first.tokens is not None and self.first.token_in is not None:
            tokens = first.tokens.index_select(0, places.flatten())
            tokens = tokens.view(len(places), -1, tokens.shape[-1]) + self.first.token_in.bias
            halves.append(self.local_half(tokens))
        if first.nodes is not None:
            halves.append(self.global_half(first.nodes, nodes, positions))
        return LargeGTOutput(last_hidden_state=torch.cat(halves, dim=1))

    def _first(self, targets: Tensor, features: Tensor | None) -> Projected:
        if features is not None:
            return self.first(features, targets)
        if self.graph is None:
            raise ValueError("features: expected hop features, or a graph from `attach`, found neither")
        return self.first.of_graph(self.graph, targets)

    @torch.no_grad()
    def assign_codes(
        self, places: Tensor, nodes: Tensor, features: Tensor | None = None, positions: Any = None
    ) -> None:
        """Give nodes that training never saw as targets their codes, so that they count in the global half.

        The codebook stays as it is. Input is that of `forward`.
        """
        places, nodes = self._checked(places, nodes, features, positions)
        z = self._first(places[:, 0], features).nodes
        if z is not None:  # of mode "local"
            self.global_half.assign(z, nodes, positions)

    def _checked(
        self, places: Tensor, nodes: Tensor, features: Tensor | None, positions: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Places and nodes as int64."""
        config = self.config
        for name, value, dims in (("places", places, 2), ("nodes", nodes, 1)):
            if not is_integers(value):
                raise TypeError(f"{name}: expected integers, found {getattr(value, 'dtype', type(value).__name__)}")
            if value.dim() != dims or len(value) != len(nodes) or len(value) == 0:
                expected = "(B, K)" if dims == 2 else "(B,)"
                raise ValueError(
                    f"{name}: expected shape {expected} with B={len(nodes)} >= 1, found {tuple(value.shape)}"
                )
        if places.shape[1] * (config.hops + 1) < 2 and config.mode != "global":
            raise ValueError(f"places: expected more than one token a node, found K={places.shape[1]} and hops=0")
        known = config.num_nodes
        for name, given in (("features", features), ("positions", positions)):
            if given is not None and (not isinstance(given, Tensor) or given.layout != torch.strided):
                layout = given.layout if isinstance(given, Tensor) else type(given).__name__
                raise TypeError(f"{name}: expected a dense tensor, found {layout}")
        if features is not None:
            if features.dim() != 3 or features.shape[1:] != (config.hops + 1, config.num_features):
                raise ValueError(
                    f"features: expected shape (U, hops + 1={config.hops + 1}, num_features={config.num_features}), "
                    f"found {tuple(features.shape)}"
                )
            _refuse_nan("features", features)
            known = len(features)
        places, nodes = places.long(), nodes.long()  # of which small types cannot hold the bounds
        for name, value, high in (("places", places, known), ("nodes", nodes, config.num_nodes)):
            low, most = (int(x) for x in value.aminmax())
            if low < 0 or most >= high:
                raise ValueError(f"{name}: expected numbers from 0 to {high - 1}, found {low if low < 0 else most}")
        wanted = config.position_size if config.mode != "local" else 0
        if wanted and (positions is None or tuple(positions.shape) != (len(nodes), wanted)):
            found = None if positions is None else tuple(positions.shape)
            raise ValueError(
                f"positions: expected shape (B, position_size) = {(len(nodes), wanted)}, found {found}; a new model "
                "without positional encodings has position_size=0"
            )
        if not wanted and positions is not None and config.mode != "local":
            raise ValueError("positions: expected none, as position_size is 0, found some")
        if wanted and positions is not None:
            _refuse_nan("positions", positions)
        return places, nodes


def _refuse_nan(name: str, x: Tensor) -> None:
    if (row := infinite_row(x)) is not None:
        raise ValueError(f"{name}: expected finite numbers, found NaN or infinity in row {row}")
