"""FIT's stages: layers inside groups, and what they exchange with the layers over latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tokenmix.blocks import Stack
from tokenmix.gather_scatter import GatherProcessScatter
from tokenmix.groups import TokenGroups
from tokenmix.layout import Layout
from tokenmix.models.fit.config import FITConfig
from tokenmix.models.fit.exchange import GroupedTokens, ReadLatents, ReadNothing, ReadTokens
from tokenmix.models.fit.layers import StageLayers, parse_layers


class FITStage(nn.Module):
    """Local layers, and an exchange with the latents where there are global layers.

        x = local(x) in each group
        latents += CrossAttention(latents, x) in each group;  latents = global(latents) over all groups
        x_k += CrossAttention(x_k, latents_(k - shift)), unless it is the last stage;  shift = 1 if causal, else 0

    Args:
        config: sizes and mixers.
        layers: how many of each kind.
        last: whether no stage follows.
    """

    def __init__(self, config: FITConfig, layers: StageLayers, last: bool) -> None:
        super().__init__()
        self.local = config.build_stack("local", layers.local) if layers.local else None
        self.exchange: GatherProcessScatter | None = None
        if layers.latent:
            self.exchange = GatherProcessScatter(
                ReadTokens(config),
                config.build_stack("latent", layers.latent),
                ReadNothing() if last else ReadLatents(config),
                shift=int(config.causal),
            )

    @property
    def latent(self) -> Stack | None:
        """The global layers."""
        process: Any = None if self.exchange is None else self.exchange.process
        return process

    @property
    def exchanges(self) -> bool:
        """Whether tokens read latents here."""
        return self.exchange is not None and isinstance(self.exchange.scatter, ReadLatents)

    def run_local(self, tokens: GroupedTokens) -> GroupedTokens:
        """Tokens after the local layers, in each group by itself."""
        if self.local is None:
            return tokens
        mask = None if tokens.filled is None else tokens.filled.flatten(0, 1)
        x = self.local(tokens.x.flatten(0, 1), Layout(mask=mask))
        return GroupedTokens(x.view(tokens.x.shape), tokens.filled)

    def forward(
        self, tokens: GroupedTokens, latents: Tensor | None, layout: Layout
    ) -> tuple[GroupedTokens, Tensor | None]:
        """Tokens and latents after the stage.

        Args:
            tokens: of all groups.
            latents: (B, t, m, D_l).
            layout: of the groups: `mask` (B, t) and `segments` (B, t).
        """
        tokens = self.run_local(tokens)
        if self.exchange is None:
            return tokens, latents
        x, latents = self.exchange(tokens, layout, latents)
        return GroupedTokens(x, tokens.filled), latents


def build_stages(config: FITConfig, latent_output: bool) -> nn.ModuleList:
    """The stages; without the last one's global layers where nobody asks for latents, since nothing else reads them."""
    layers = parse_layers(config.layers)
    if not latent_output:
        layers[-1] = StageLayers(layers[-1].local, 0)
    return nn.ModuleList(FITStage(config, stage, i == len(layers) - 1) for i, stage in enumerate(layers))


def run_stages(
    stages: nn.ModuleList, x: Tensor, latents: Tensor | None, groups: TokenGroups, filled: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """(B, t, n, D) tokens and (B, t, m, D_l) latents after all stages."""
    tokens = GroupedTokens(x, filled)
    for stage in stages:
        tokens, latents = stage(tokens, latents, groups.layout)
    return tokens.x, latents
