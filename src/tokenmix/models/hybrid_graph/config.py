"""The description of a HybridGraph."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import check_probabilities, drop_code_fields, refuse_misspelt_fields


@strict
class HybridGraphConfig(PreTrainedConfig):
    """Configuration of `HybridGraphModel`.

    Args:
        num_features: F, width of a node's features.
        hidden_size: width of every layer.
        num_attention_heads: heads of the attention layers; their outputs lie side by side in `hidden_size`.
        gcn_layers, sage_layers, gat_layers: how many of each kind, in this order; at least one in all.
        dropout: after every layer.
        attention_dropout: on the weights of the attention layers.
        label_weight, severity_weight: of the two losses in their sum.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that are not positive, heads that do not divide the width, probabilities outside 0
            to 1.

    Example:
        >>> HybridGraphConfig(num_features=133).hidden_size
        64

    Source:
        arXiv 2508.00615, from its abstract and its authors' notes: a reconstruction, as there is no code.
    """

    model_type = "tokenmix_hybrid_graph"

    num_features: int = 133
    hidden_size: int = 64
    num_attention_heads: int = 4
    gcn_layers: int = 2
    sage_layers: int = 2
    gat_layers: int = 1
    dropout: float | int = 0.3
    attention_dropout: float | int = 0.0
    label_weight: float | int = 1.0
    severity_weight: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        for name in ("num_features", "hidden_size", "num_attention_heads"):
            check_positive(name, getattr(self, name))
        for name in ("gcn_layers", "sage_layers", "gat_layers", "label_weight", "severity_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected a finite number of 0 or more, found {getattr(self, name)}")
        if not self.gcn_layers + self.sage_layers + self.gat_layers:
            raise ValueError("gcn_layers, sage_layers, gat_layers: expected at least one layer, found none")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads: expected a divisor of hidden_size={self.hidden_size}, found "
                f"{self.num_attention_heads}"
            )
        check_probabilities(self, "dropout", "attention_dropout")
        super().__post_init__(**kwargs)
