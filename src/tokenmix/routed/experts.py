"""Any modules, one a modality."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.ops.route import Route
from tokenmix.routed.base import RoutedModule, route_of, token_modality


class Routed(RoutedModule):
    """Any modules, one a modality: each token passes the one of its modality.

    A module that reads each token by itself meets the tokens of its modality as one (T_m, d) slice. A `TokenMixer`
    meets them as rows in which all others are padding, so that they mix among themselves alone; mixers do not go with
    other modules.

    For projections, norms and feed-forwards of this library `untie` is faster, and it works under
    `torch.compile(fullgraph=True)`; this is for all others.

    Args:
        experts: one module a modality; they may differ in kind.

    Raises:
        ValueError: no module, or mixers and other modules.

    Example:
        >>> routed = Routed([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))])
        >>> routed(torch.zeros(1, 2, 4), Layout(modality=torch.tensor([[1, 0]]))).shape
        torch.Size([1, 2, 4])

    Source: Liang et al. 2024, arXiv 2411.04996.
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        from tokenmix.mixer import TokenMixer

        super().__init__()
        if not experts:
            raise ValueError("experts: expected one module a modality, found none")
        mixing = [isinstance(expert, TokenMixer) for expert in experts]
        if any(mixing) and not all(mixing):
            raise ValueError(f"experts: expected mixers alone or none, found {[type(e).__name__ for e in experts]}")
        self.experts = nn.ModuleList(experts)
        self.modalities, self.mixing = len(experts), mixing[0]

    @classmethod
    def from_dense(cls, module: nn.Module, modalities: int) -> Routed:
        """Copies of one module."""
        return cls([copy.deepcopy(module) for _ in range(modalities)])

    def forward(self, x: Tensor, where: Layout | Route) -> Tensor:
        """(B, L, d) -> (B, L, what the modules give), or the same of (T, d) sorted tokens."""
        if self.mixing:
            return self._mix(x, where)
        route = where if isinstance(where, Route) else route_of(where, self.modalities)
        tokens = x if isinstance(where, Route) else route.take(x)
        parts = [expert(part) for expert, part in zip(self.experts, tokens.split(route.sizes), strict=True)]
        y = torch.cat(parts) + self._touch(parts)
        return y if isinstance(where, Route) else route.put(y, x)

    def _touch(self, parts: list[Tensor]) -> Tensor | float:
        """0, which depends on the parameters of modalities without tokens: a gradient of 0, and not none."""
        idle = [expert for expert, part in zip(self.experts, parts, strict=True) if len(part) == 0]
        used = [p for expert in idle for p in expert.parameters() if p.requires_grad]
        return sum((p.flatten()[:1].sum() * 0 for p in used), 0.0) if torch.is_grad_enabled() else 0.0

    def _mix(self, x: Tensor, where: Layout | Route) -> Tensor:
        if isinstance(where, Route):
            raise TypeError("where: expected the layout of the tokens for mixers, found a Route of sorted tokens")
        ids, real, y = token_modality(where), where.mask, torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            here = ids == number if real is None else (ids == number) & real
            y = y + expert(x, dataclasses.replace(where, mask=here))
        return y
