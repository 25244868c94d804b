"""How tokens and latents of a group read each other."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tokenmix.cross_attention import CrossAttention
from tokenmix.models.fit.config import FITConfig


class GroupedTokens(NamedTuple):
    """Features of tokens by group.

    Attributes:
        x: (B, t, n, D).
        filled: (B, t, n) bool, which places hold a token; None where all do.
    """

    x: Tensor
    filled: Tensor | None = None


class NormedCrossAttention(CrossAttention):
    """x + CrossAttention(LN(x), LN(context)) with the heads and the width that the configuration gives both sides.

    Args:
        dim, context_dim: widths of what reads and of what is read.
        config: heads, biases, and whether what reads is normalised.
    """

    def __init__(self, dim: int, context_dim: int, config: FITConfig) -> None:
        super().__init__(dim, context_dim, heads=config.cross_heads or 1, bias=config.bias)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.cross_query_norm else nn.Identity()
        self.context_norm = nn.LayerNorm(context_dim, eps=config.norm_eps)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `CrossAttention`, for each group by itself.

        Args:
            x: (B, t, L, dim).
            context: (B, t, S, context_dim).
            mask: (B, t, S) bool, True where the context is real.

        Returns:
            (B, t, L, dim).
        """
        mask = None if mask is None else mask.flatten(0, 1)
        read = super().forward(self.norm(x).flatten(0, 1), self.context_norm(context).flatten(0, 1), mask)
        return x + read.view(x.shape)


class ReadTokens(nn.Module):
    """The gather: latents += CrossAttention(LN(latents), LN(x)), in each group; a group without tokens reads nothing.

    Args:
        config: sizes.
    """

    def __init__(self, config: FITConfig) -> None:
        super().__init__()
        self.cross = NormedCrossAttention(config.latent_size, config.hidden_size, config)

    def forward(self, tokens: GroupedTokens, latents: Tensor) -> Tensor:
        """(B, t, m, D_l) latents that have read the tokens of their group."""
        y: Tensor = self.cross(latents, tokens.x, tokens.filled)
        return y


class ReadLatents(nn.Module):
    """The scatter: x += CrossAttention(LN(x), LN(latents)), in each group.

    Args:
        config: sizes.
    """

    def __init__(self, config: FITConfig) -> None:
        super().__init__()
        self.cross = NormedCrossAttention(config.hidden_size, config.latent_size, config)

    def forward(self, tokens: GroupedTokens, latents: Tensor) -> Tensor:
        """(B, t, n, D) tokens that have read latents."""
        y: Tensor = self.cross(tokens.x, latents)
        return y


class ReadNothing(nn.Module):
    """The scatter of a last stage: its latents are an output, and no token reads them."""

    def forward(self, tokens: GroupedTokens, latents: Tensor) -> Tensor:
        """(B, t, n, D) tokens as they are."""
        return tokens.x
