"""From the tokens of a block to its embeddings, each block by itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tokenmix.blocks import Stack
from tokenmix.layout import Layout
from tokenmix.models.block_transformer.config import BlockTransformerConfig


class Blocks(NamedTuple):
    """Tokens by block.

    Attributes:
        tokens: (B, N, L_B) int64; anything at empty places.
        filled: (B, N, L_B) bool, which places hold a token; None where all do, but for the last block of a row,
            whose embedding nobody reads.
    """

    tokens: Tensor
    filled: Tensor | None = None


class LookupEmbedder(nn.Module):
    """Embeddings of the tokens, side by side: b = [E[x_1] ... E[x_L_B]], with E of width D * block_embeddings / L_B.

    Args:
        config: sizes.

    Source:
        Ho et al. 2024, arXiv 2406.02657, section 2.3 ("lookup").
    """

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__()
        self.each = config.block_embeddings
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size * self.each // config.block_length)

    def forward(self, blocks: Blocks, slots: None = None) -> Tensor:
        """(B, N, block_embeddings, D) embeddings of the blocks; an empty place is a zero vector."""
        x = clear(self.embed_tokens(blocks.tokens), blocks.filled)
        return x.reshape(*x.shape[:2], self.each, -1)


class ProjectionEmbedder(nn.Module):
    """A linear layer over the embeddings of each L_B / block_embeddings tokens: a convolution of that stride.

    Args:
        config: sizes.

    Source:
        Ho et al. 2024, arXiv 2406.02657, appendix; uptraining starts from it.
    """

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__()
        self.each = config.block_embeddings
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.projection = nn.Linear(config.block_length // self.each * config.hidden_size, config.hidden_size)

    def forward(self, blocks: Blocks, slots: None = None) -> Tensor:
        """See `LookupEmbedder.forward`."""
        x = clear(self.embed_tokens(blocks.tokens), blocks.filled)
        y: Tensor = self.projection(x.reshape(*x.shape[:2], self.each, -1))
        return y


class ClsEmbedder(nn.Module):
    """An encoder over the block and `cls_tokens` tokens of its own, whose outputs, side by side, are the embeddings.

    A reconstruction: the authors take three layers of a RoBERTa, which norms after each branch, with copies of one
    start token told apart by their places; here the layers norm before, and the tokens have an embedding each.

    Args:
        config: sizes.

    Source:
        Ho et al. 2024, arXiv 2406.02657, appendix ("RoBERTa CLS").
    """

    def __init__(self, config: BlockTransformerConfig) -> None:
        super().__init__()
        self.each = config.block_embeddings
        self.cls_tokens = config.cls_tokens or 1  # the configuration has chosen one
        width = config.hidden_size * self.each // self.cls_tokens
        self.embed_tokens = nn.Embedding(config.vocab_size, width)
        self.embed_places = nn.Embedding(self.cls_tokens + config.block_length, width)
        mixer = {"mixer": "attention", "heads": config.cls_heads, "causal": False, "bias": True}
        self.encoder = Stack(
            width,
            {"a": mixer},
            "a",
            layers=config.cls_layers,
            feed_forward="gelu",
            feed_forward_bias=True,
            norm="layernorm",
            dropout=config.dropout,
        )

    def forward(self, blocks: Blocks, slots: None = None) -> Tensor:
        """See `LookupEmbedder.forward`; empty places are not read."""
        places, shape = self.embed_places.weight, blocks.tokens.shape
        tokens = blocks.tokens.flatten(0, 1)
        own = places[: self.cls_tokens].expand(tokens.shape[0], -1, -1)
        x = torch.cat([own, self.embed_tokens(tokens) + places[self.cls_tokens :]], dim=1)
        mask = None
        if blocks.filled is not None:
            filled = blocks.filled.flatten(0, 1)
            mask = torch.cat([filled.new_ones(filled.shape[0], self.cls_tokens), filled], dim=1)
        x = self.encoder(x, Layout(mask=mask))[:, : self.cls_tokens]
        return x.reshape(*shape[:2], self.each, -1)


def clear(x: Tensor, filled: Tensor | None) -> Tensor:
    """(..., D) features with zeros at empty places (...).

    Example:
        >>> clear(torch.ones(2, 1), torch.tensor([True, False])).flatten().tolist()
        [1.0, 0.0]
    """
    return x if filled is None else x.masked_fill(~filled[..., None], 0)


def build_embedder(config: BlockTransformerConfig) -> nn.Module:
    """The embedder that a configuration names.

    Example:
        >>> blocks = Blocks(torch.zeros(2, 3, 4, dtype=torch.int64))
        >>> build_embedder(BlockTransformerConfig(hidden_size=64))(blocks).shape
        torch.Size([2, 3, 1, 64])
    """
    kinds = {"lookup": LookupEmbedder, "projection": ProjectionEmbedder, "cls": ClsEmbedder}
    return kinds[config.embedder](config)
