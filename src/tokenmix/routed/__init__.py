"""Parameters for each modality: Mixture-of-Transformers for any module."""

from tokenmix.routed.base import RoutedModule, per_token, route_of, together, with_route
from tokenmix.routed.experts import Routed
from tokenmix.routed.leaves import RoutedLinear, RoutedNorm
from tokenmix.routed.untie import untie

__all__ = [
    "Routed",
    "RoutedLinear",
    "RoutedModule",
    "RoutedNorm",
    "per_token",
    "route_of",
    "together",
    "untie",
    "with_route",
]
