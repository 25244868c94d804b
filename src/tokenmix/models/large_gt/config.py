"""The description of a LargeGT."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from tokenmix.mixer import check_positive
from tokenmix.models.config_fields import check_probabilities, drop_code_fields, refuse_misspelt_fields

MODES = ("full", "local", "global")


@strict
class LargeGTConfig(PreTrainedConfig):
    """Configuration of `LargeGTModel` and `LargeGTForNodeClassification`.

    The defaults are those of the authors' scripts for ogbn-products, but for the codebook (`vq_init`, `vq_normalised`).

    Args:
        num_features: F, width of a node's raw features.
        num_nodes: N, nodes of the graph; each has its code.
        num_labels: classes (transformers' own field; also through `id2label`).
        mode: "full", or one of its halves: "local" or "global".
        sample_size: K, nodes a sequence, the target counted.
        near_nodes: of the K - 1 sampled nodes, so many are neighbours of one hop; the others are drawn from both hops
            together, as all are with 0, the published sampling. The model does not read it: who makes its batches does.
        token_kinds: learned vectors tell the target, its near nodes and the others apart, and the tokens of each hop;
            False: tokens are known by their features alone, as published.
        hops: powers of the normalised adjacency beside the raw features; hops + 1 tokens a node.
        hidden_size: d.
        num_attention_heads: h; every head is as wide as d.
        position_size: width of the positional encodings, which the global half reads; 0 for none.
        code_size: width that a node's features have in the codebook; default position_size, or hidden_size / 4 without.
        codes: M, length of the codebook.
        dropout: after the first layer of each input, and in the fusion.
        local_dropout: on what the local attention gives, twice, as published.
        vq_decay: of the moving averages of the codebook.
        vq_init: "first_batch" (codes start at nodes of the first batch, and every node counts only once it has a code),
            or "normal" (as published: codes start at random with counts of 0, which makes those that no node falls into
            about 1e6 long; and every node starts with a random code).
        vq_restart: a code whose moving count falls below this share of their mean moves to a node of the batch; None
            for never, as published. Default 0.01 with "first_batch", and None with "normal".
        vq_normalised: the global half compares nodes and codes that are normalised, and gives what differs from the
            mean of all nodes; False: as published, see `GlobalHalf`.
        initializer_range: standard deviation of the weights of the local half.
        kwargs: what transformers keeps in every configuration.

    Raises:
        ValueError, TypeError: sizes that are not positive, an unknown mode, probabilities outside 0 to 1.

    Example:
        >>> config = LargeGTConfig(num_features=100, num_nodes=50, num_labels=3, hidden_size=32, position_size=0)
        >>> config.mode, config.code_size, config.num_labels
        ('full', 8, 3)

    Source:
        Dwivedi et al. 2023, arXiv 2312.11109.
    """

    model_type = "tokenmix_large_gt"

    num_features: int = 100
    num_nodes: int = 1
    mode: str = "full"
    sample_size: int = 100
    near_nodes: int = 0
    token_kinds: bool = False
    hops: int = 2
    hidden_size: int = 256
    num_attention_heads: int = 2
    position_size: int = 64
    code_size: int | None = None
    codes: int = 4096
    dropout: float | int = 0.5
    local_dropout: float | int = 0.3
    vq_decay: float = 0.99
    vq_init: str = "first_batch"
    vq_restart: float | int | str | None = "auto"
    vq_normalised: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        drop_code_fields(kwargs)
        refuse_misspelt_fields(type(self), kwargs)
        sizes = ("num_features", "num_nodes", "sample_size", "hidden_size", "num_attention_heads", "codes")
        for name in sizes:
            check_positive(name, getattr(self, name))
        for name in ("hops", "position_size", "near_nodes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.mode not in MODES:
            raise ValueError(f"mode: expected one of {', '.join(MODES)}, found {self.mode!r}")
        if self.near_nodes >= self.sample_size:
            raise ValueError(f"near_nodes: expected fewer than sample_size={self.sample_size}, found {self.near_nodes}")
        if self.vq_init not in ("first_batch", "normal"):
            raise ValueError(f"vq_init: expected 'first_batch' or 'normal', found {self.vq_init!r}")
        if self.mode != "global" and self.sample_size * (self.hops + 1) < 2:
            raise ValueError("sample_size, hops: expected more than one token a node, found sample_size=1 and hops=0")
        check_probabilities(self, "dropout", "local_dropout")
        if not 0 < self.vq_decay < 1:
            raise ValueError(f"vq_decay: expected a number between 0 and 1, found {self.vq_decay}")
        if not isinstance(self.vq_normalised, bool):
            raise TypeError(f"vq_normalised: expected True or False, found {self.vq_normalised!r}")
        if self.code_size is None:
            self.code_size = self.position_size or max(1, self.hidden_size // 4)
        check_positive("code_size", self.code_size)
        if self.vq_restart == "auto":
            self.vq_restart = 0.01 if self.vq_init == "first_batch" else None
        if isinstance(self.vq_restart, str) or (self.vq_restart is not None and not 0 <= self.vq_restart <= 1):
            raise ValueError(f"vq_restart: expected a share from 0 to 1, or None, found {self.vq_restart!r}")
        super().__post_init__(**kwargs)

    @property
    def width(self) -> int:
        """Of what the model gives: h * d for each half."""
        return self.num_attention_heads * self.hidden_size * (2 if self.mode == "full" else 1)
