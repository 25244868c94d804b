"""How modules that know the modality of each token are called, and where their tokens are."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from tokenmix.layout import Layout
from tokenmix.ops.route import Route, route_tokens

_WANTED = "expected Layout(modality=...), (B, L) integers that say of which modality each token is"
Where = Layout | Route | None  # the layout of tokens, or the route that sorted them


class RoutedModule(nn.Module):
    """Base of modules that need to know the modality of each token: `forward(x, where)`.

    `where` is the layout of the tokens in their order, or a `Route` for (T, d) tokens that it has sorted.
    """

    modalities: int

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""


def per_token(module: nn.Module, x: Tensor, where: Where) -> Tensor:
    """Apply a module that reads each token by itself, routed or not: how mixers call their projections.

    Args:
        module: any; a `RoutedModule` is told where the tokens are.
        x: (B, L, ...) features, or (T, d) of sorted tokens.
        where: the layout, or the route that sorted them; None serves modules that are not routed.

    Raises:
        ValueError: a routed module, and None.

    Example:
        >>> import torch
        >>> layout = Layout(modality=torch.tensor([[0, 1]]))
        >>> per_token(nn.Linear(4, 3), torch.zeros(1, 2, 4), layout).shape
        torch.Size([1, 2, 3])
    """
    if isinstance(module, RoutedModule):
        if where is None:
            raise ValueError(f"layout: {_WANTED}, found None")
        y: Tensor = module(x, where)
    else:
        y = module(x)
    return y


def together(module: nn.Module, x: Tensor, where: Layout | Route) -> Tensor:
    """`per_token` for a module that is made of several routed ones: tokens are sorted before and put back behind all.

    Args:
        module: takes (x, where), such as a feed-forward.
        x: (B, L, d) features.
        where: their layout, or the route that sorted them.
    """
    count = modalities_of(module)
    if count is None or isinstance(where, Route):
        y: Tensor = module(x, where)
        return y
    route = route_of(where, count)
    return route.put(module(route.take(x), route.sorted()), x)


def route_of(layout: Layout, modalities: int) -> Route:
    """The route of a layout's tokens, made once for all layers that read it.

    Raises:
        ValueError: a layout without `modality`, or with one out of range.

    Example:
        >>> import torch
        >>> layout = Layout(modality=torch.tensor([[0, 1]]))
        >>> route_of(layout, 2) is route_of(layout, 2)
        True
    """
    if layout._route is not None and layout._route.count == modalities:
        return layout._route
    modality = token_modality(layout)
    return layout.remember(("route", modalities), layout.modality, lambda: route_tokens(modality, modalities))


def with_route(layout: Layout, modalities: int) -> Layout:
    """The layout with its route, for all layers of a stack: under torch.compile too, tokens are sorted once.

    Raises:
        ValueError: as `route_of`.
    """
    route = route_of(layout, modalities)
    routed = dataclasses.replace(layout)
    object.__setattr__(routed, "_aligned", layout._aligned)  # frozen for users
    object.__setattr__(routed, "_route", route)
    return routed


def modalities_of(module: nn.Module) -> int | None:
    """How many modalities the first routed module inside a module knows; None where there is none."""
    return next((part.modalities for part in module.modules() if isinstance(part, RoutedModule)), None)


def token_modality(layout: Layout) -> Tensor:
    """(B, L) int64 of a layout that must have it."""
    if layout.modality is None:
        found = ", ".join(layout.fields()) or "no field"
        raise ValueError(f"layout: {_WANTED} (dataclasses.replace adds it to a layout), found {found}")
    return layout.modality.long()
